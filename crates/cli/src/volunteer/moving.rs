//! Where a volunteer goes when its relay is gone, or was replaced: to the mirror that people appointed in the log.
//!
//! The list of mirrors is asked for while the relay answers. A mirror that says that it leads is believed only after its whole log
//! was read: it has to go on from what this machine saw of the log, and to hold the vote.

use crate::client::Client;
use crate::error::CliError;
use crate::ledger::read::read;
use crate::stop::Stop;
use potluck_relay::mirror::http::MirrorsInfo;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Pause between two looks at the relay.
const LOOK: Duration = Duration::from_secs(5);
/// A relay that did not answer for so long is gone, or as good as: a restart takes less.
const SILENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at mirrors while the relay answers: it may have been voted out.
const MIRRORS_LOOK: Duration = Duration::from_mins(1);
/// How long a relay that does not answer is tried at each look.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks for where to go. It ends when this is dropped.
pub(super) struct Moving {
    stop: Stop,
    found: oneshot::Receiver<String>,
}

impl Moving {
    /// Begins to look. `root` is where logs are remembered.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(relay: &str, root: PathBuf) -> Result<Self, CliError> {
        let stop = Stop::default();
        let (relay, within) = (relay.to_owned(), stop.clone());
        let (sender, found) = oneshot::channel();
        std::thread::Builder::new()
            .name("mirrors".to_owned())
            .spawn(move || {
                if let Some(url) = look(&relay, &root, &within) {
                    // Nobody listens any more when the command ends.
                    let _ = sender.send(url);
                }
            })
            .map_err(|cause| CliError::System {
                what: "the thread for mirrors could not be started",
                cause,
            })?;
        Ok(Self { stop, found })
    }

    /// The address of the relay that leads now; never, while that is the one at hand.
    pub(super) async fn found(&mut self) -> String {
        match (&mut self.found).await {
            Ok(url) => url,
            // It ended without one: it was told to.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.stop.request();
    }
}

fn ask(url: &str, stop: &Stop) -> Result<MirrorsInfo, CliError> {
    let client = Client::new(url, None, stop.clone())?.with_patience(PATIENCE, PATIENCE);
    client.get("/api/v1/mirrors", |_| {})
}

fn look(relay: &str, root: &Path, stop: &Stop) -> Option<String> {
    let (mut listed, mut heard) = (None::<MirrorsInfo>, Instant::now());
    let mut asked = Instant::now();
    loop {
        if let Ok(info) = ask(relay, stop) {
            heard = Instant::now();
            listed = Some(info);
        }
        if heard.elapsed() >= SILENCE || asked.elapsed() >= MIRRORS_LOOK {
            asked = Instant::now();
            let urls = listed.iter().flat_map(|info| info.mirrors.iter().map(|mirror| &mirror.url));
            let leads =
                urls.filter(|url| url.as_str() != relay).find(|url| leads(url, listed.as_ref(), root, stop));
            if let Some(url) = leads {
                return Some(url.clone());
            }
        }
        if !stop.sleep(LOOK) {
            return None;
        }
    }
}

/// Whether a mirror leads the same log, by a decision that stands in it.
fn leads(url: &str, listed: Option<&MirrorsInfo>, root: &Path, stop: &Stop) -> bool {
    let said = ask(url, stop).is_ok_and(|info| {
        info.stage == "leading" && listed.is_some_and(|listed| listed.origin == info.origin)
    });
    if !said {
        return false;
    }
    let read = Client::new(url, None, stop.clone())
        .map(|client| client.with_patience(PATIENCE, PATIENCE))
        .and_then(|client| read(&client, None, Some(root)));
    match read {
        Ok(log) => log.leads && log.state().successions().last().is_some_and(|last| last.mirror.url == url),
        Err(error) => {
            tracing::warn!(%error, url, "a mirror says that it leads, and its log does not show it");
            false
        }
    }
}
