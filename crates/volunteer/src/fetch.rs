//! A public blob instead of work: fetched from peers where they have it, and passed on.
//!
//! The order: consent, `Fetch`, `JoinMesh`. So the relay knows what is wanted when it chooses neighbors, and has named them
//! before it answers with the blob's tree; only then is the blob asked for, of peers first. A session that ended, or consent
//! that was withdrawn, begins this anew; meanwhile peers go on.

use crate::engine::{Engine, Person};
use crate::io::Action;
use crate::link::Link;
use potluck_proto::{BlobRef, BlobTree, Fetch, Preset};
use potluck_types::{BlobHash, ConsentToken, Duration};
use std::sync::Arc;

/// What is fetched, and how far it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetching {
    pub(crate) blob: BlobRef,
    /// Whether the relay has been asked, and not answered.
    asked: bool,
    /// Whether it is here: then it is passed on.
    pub(crate) here: bool,
}

impl Engine {
    pub(crate) fn start_fetch(&mut self, blob: BlobRef, valid_for: Duration) {
        // What was agreed before was something else: consent for this is asked for anew, and `Fetch` follows it.
        self.withdraw();
        self.end_fetch();
        self.agreed_until = self.now + valid_for;
        // It takes next to nothing of the device.
        self.preset = Preset::Quiet;
        self.fetch = Some(Fetching { blob, asked: false, here: false });
        if let Link::Refused(_) = self.link {
            self.link = Link::Down { failures: 0, retry_at: self.now };
        }
        self.person = Person::Lending;
    }

    /// Nothing is fetched any more.
    pub(crate) fn end_fetch(&mut self) {
        if let Some(fetch) = self.fetch.take()
            && !fetch.here
        {
            self.mesh.unwant(&fetch.blob.hash);
        }
    }

    /// The relay would give nothing of it until it is asked again.
    pub(crate) fn hold_fetch(&mut self) {
        if let Some(fetch) = &mut self.fetch {
            fetch.asked = false;
            self.mesh.hold(&fetch.blob.hash);
        }
    }

    /// The relay granted consent: it is asked for what is fetched, if something is.
    pub(crate) fn ask_fetch(&mut self, consent: ConsentToken) {
        if let Some(fetch) = &mut self.fetch {
            fetch.asked = true;
            let blob = fetch.blob;
            self.send(Fetch { consent, blob });
        }
    }

    /// The relay gives it out: now it can come, from wherever it is.
    pub(crate) fn fetch_granted(&mut self, tree: &BlobTree) {
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.blob.hash == tree.hash) else { return };
        if std::mem::take(&mut fetch.asked) && !fetch.here {
            self.mesh.want_from_peers(fetch.blob);
        }
    }

    /// The relay does not have a blob. Whether that was its answer to `Fetch`.
    pub(crate) fn fetch_denied(&mut self, hash: &BlobHash) -> bool {
        let denied = self.fetch.is_some_and(|fetch| fetch.asked && fetch.blob.hash == *hash);
        if denied {
            self.fetch_ended(hash, None);
        }
        denied
    }

    /// It came, or will not: then there is nothing to stay for.
    pub(crate) fn fetch_ended(&mut self, hash: &BlobHash, bytes: Option<&Arc<Vec<u8>>>) {
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.blob.hash == *hash && !fetch.here) else {
            return;
        };
        fetch.here = bytes.is_some();
        self.out.push(Action::Fetched(*hash, bytes.cloned()));
        if bytes.is_none() {
            self.stop(Person::Stopped);
        }
    }
}
