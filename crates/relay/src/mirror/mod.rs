//! A relay that mirrors another one: it follows its log, keeps what runs need, shows both to everybody, and goes on with the
//! work if people appoint it.
//!
//! `source.rs` asks the other relay; `place.rs` remembers which it is, and how far this one is; `follower.rs` follows, waits and
//! takes over; `runs.rs` copies runs, `candidates.rs` candidates; `http.rs` says who mirrors whom. What a mirror may add to the log is `log::Stage`'s.
//!
//! A step from following to a draft, and from there to leading, is written down and made at the next start: nothing has to
//! change its mind while it runs. [`crate::Running::step_made`] says when to start again.

mod candidates;
mod follower;
pub mod http;
mod place;
mod runs;
mod source;

pub(crate) use follower::{Around, Follower};
pub(crate) use place::{FILE, Place, Step};
pub(crate) use source::Source;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// How it goes with following, for whoever asks.
#[derive(Debug, Clone)]
pub(crate) struct Status(Arc<Mutex<Followed>>);

/// The other relay, as this one sees it.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    /// Its address.
    pub(crate) of: String,
    /// When it answered last as it should.
    pub(crate) heard: Option<Instant>,
    /// What is wrong, if something is.
    pub(crate) trouble: Option<String>,
}

impl Status {
    fn new(of: &str) -> Self {
        Self(Arc::new(Mutex::new(Followed { of: of.to_owned(), heard: None, trouble: None })))
    }

    /// How it goes.
    pub(crate) fn now(&self) -> Followed {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn heard(&self) {
        let mut followed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        followed.heard = Some(Instant::now());
        followed.trouble = None;
    }

    fn trouble(&self, what: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).trouble = Some(what.to_owned());
    }
}
