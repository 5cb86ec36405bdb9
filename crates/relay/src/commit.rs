//! Group commit: results that arrive within a few milliseconds become durable together.

use crate::accepted::{Accepted, MAX_SMALL_RESULT_BYTES};
use crate::blobs::Blobs;
use crate::core::Command;
use crate::db::Db;
use crate::embed::store::by_site;
use crate::log::Log;
use futures_util::future::join_all;
use potluck_schedule::{AcceptedTile, Input, Ticket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long a commit waits for company. One flush of a disk takes about as long.
const GATHER: Duration = Duration::from_millis(4);
/// Results in one commit at most: at 10,000 a second, what came in 50 ms.
const MAX_BATCH: usize = 512;

/// A verified result.
#[derive(Debug)]
pub(crate) struct ToCommit {
    pub(crate) ticket: Ticket,
    pub(crate) tile: AcceptedTile,
    pub(crate) result: Arc<Vec<u8>>,
    pub(crate) check_us: u64,
    /// The site for which it counts.
    pub(crate) site: Option<Arc<str>>,
}

/// Bytes of a result without a copy.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug)]
pub(crate) struct Committer {
    // Unbounded, but what waits here is bounded by the machine's limit on results in memory.
    queue: Option<mpsc::UnboundedSender<ToCommit>>,
    task: Option<JoinHandle<()>>,
}

impl Committer {
    pub(crate) fn start(db: Db, log: Log, blobs: Blobs, done: &mpsc::Sender<Command>) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let task = tokio::spawn(run(waiting, db, log, blobs, done.downgrade()));
        Self { queue: Some(queue), task: Some(task) }
    }

    pub(crate) fn commit(&self, result: ToCommit) {
        if let Some(queue) = &self.queue {
            // The task ends only after `finish`.
            let _ = queue.send(result);
        }
    }

    /// Makes durable what waits, then ends.
    pub(crate) async fn finish(&mut self) {
        self.queue = None;
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

async fn run(
    mut waiting: mpsc::UnboundedReceiver<ToCommit>,
    db: Db,
    log: Log,
    blobs: Blobs,
    done: mpsc::WeakSender<Command>,
) {
    while let Some(first) = waiting.recv().await {
        let mut batch = vec![first];
        let end = tokio::time::Instant::now() + GATHER;
        while batch.len() < MAX_BATCH {
            match tokio::time::timeout_at(end, waiting.recv()).await {
                Ok(Some(next)) => batch.push(next),
                Ok(None) | Err(_) => break,
            }
        }
        let begins = std::time::Instant::now();
        let puts = batch.iter().map(async |item| {
            if item.result.len() <= MAX_SMALL_RESULT_BYTES {
                return Ok(Some(Arc::clone(&item.result)));
            }
            let bytes = bytes::Bytes::from_owner(Shared(Arc::clone(&item.result)));
            blobs.put_durable(&item.tile.result.hash, bytes).await.map(|()| None)
        });
        let on_disk = join_all(puts).await;
        let durable = batch.iter().zip(&on_disk).filter(|(_, put)| put.is_ok());
        let sites = by_site(durable.map(|(item, _)| &item.site));
        let (mut good, mut answers) = (Vec::new(), Vec::new());
        for (ToCommit { ticket, tile, check_us, .. }, put) in batch.into_iter().zip(on_disk) {
            answers.push((ticket, put.as_ref().err().map(ToString::to_string)));
            good.extend(put.ok().map(|small| Accepted { tile, check_us, small }));
        }
        let committed = db.accept(&log, &good, &sites).await;
        let durable = if committed.is_ok() { good.len() } else { 0 };
        crate::metrics::committed(durable, answers.len() - durable, begins.elapsed());
        for (ticket, failure) in answers {
            let failure = failure.or_else(|| committed.as_ref().err().map(ToString::to_string));
            let input = match failure {
                None => Input::Stored { ticket },
                Some(error) => {
                    tracing::error!(error, "a result could not be stored; its shard is leased again");
                    Input::StoreFailed { ticket }
                }
            };
            // While the relay shuts down nobody listens; what is durable is found again at the next start.
            if let Some(done) = done.upgrade() {
                let _ = done.send(Command::Input(input)).await;
            }
        }
    }
}
