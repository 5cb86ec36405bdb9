//! Checks of results, off the async threads: as many at once as there are cores.

use crate::blobs::Blobs;
use crate::core::Command;
use potluck_proto::{Backend, BlobRef, RejectReason};
use potluck_schedule::{Check, CheckVerdict};
use potluck_types::{BlobHash, MatmulShape};
use potluck_verify::{Params, Product, Secret, Verdict};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Semaphore, mpsc};

/// Inputs and result of a check that is done in place, in bytes: it takes some tens of microseconds, and another thread would not
/// have begun with it before.
const MAX_BYTES_IN_PLACE: usize = 64 << 10;

/// A panel in memory, or what to read.
type Input = Result<bytes::Bytes, BlobHash>;

#[derive(Debug, Clone)]
pub(crate) struct Checker {
    blobs: Blobs,
    secret: Arc<Secret>,
    cores: Arc<Semaphore>,
    done: mpsc::Sender<Command>,
}

impl Checker {
    pub(crate) fn new(blobs: Blobs, secret: Secret, done: mpsc::Sender<Command>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { blobs, secret: Arc::new(secret), cores: Arc::new(Semaphore::new(cores)), done }
    }

    /// Starts a check. How many wait is bounded by the machine's limit on results in memory.
    pub(crate) fn check(&self, check: Check) {
        let this = self.clone();
        // Taken now: the job may end, and let them go, while this check waits.
        let inputs = [&check.task.a, &check.task.bt].map(|panels| self.in_memory(panels));
        tokio::spawn(async move {
            let Ok(_core) = this.cores.acquire().await else { return };
            let ticket = check.ticket;
            let (verdict, check_us) = this.run(check, inputs).await;
            let _ = this.done.send(Command::Checked { ticket, verdict, check_us }).await;
        });
    }

    async fn run(&self, check: Check, [a, bt]: [Vec<Input>; 2]) -> (CheckVerdict, u64) {
        let (a, bt) = match tokio::try_join!(self.panels(a), self.panels(bt)) {
            Ok(panels) => panels,
            Err(error) => {
                tracing::error!(%error, job = %check.job, "inputs of a shard cannot be read, so it cannot be checked");
                return (CheckVerdict::Undecided, 0);
            }
        };
        let secret = Arc::clone(&self.secret);
        let bytes = a.iter().chain(&bt).map(bytes::Bytes::len).sum::<usize>() + check.result.len();
        let judge = move || {
            let start = Instant::now();
            let verdict = judge(&check, &a, &bt, &secret);
            (verdict, start.elapsed().as_micros() as u64)
        };
        let undecided = (CheckVerdict::Undecided, 0);
        if bytes <= MAX_BYTES_IN_PLACE {
            // On a thread of its own it would not take others along either.
            return catch_unwind(AssertUnwindSafe(judge)).unwrap_or(undecided);
        }
        let judged = tokio::task::spawn_blocking(judge);
        judged.await.unwrap_or(undecided)
    }

    fn in_memory(&self, panels: &[BlobRef]) -> Vec<Input> {
        panels.iter().map(|panel| self.blobs.in_memory(&panel.hash).ok_or(panel.hash)).collect()
    }

    async fn panels(&self, inputs: Vec<Input>) -> std::io::Result<Vec<bytes::Bytes>> {
        let mut read = Vec::with_capacity(inputs.len());
        for input in inputs {
            read.push(match input {
                Ok(bytes) => bytes,
                Err(hash) => self.blobs.get(&hash).await?,
            });
        }
        Ok(read)
    }
}

/// Hash first, then the product.
fn judge(check: &Check, a: &[bytes::Bytes], bt: &[bytes::Bytes], secret: &Secret) -> CheckVerdict {
    if potluck_verify::check_blob(&check.result, &check.claim.hash).is_err() {
        return CheckVerdict::Wrong(RejectReason::WrongHash);
    }
    let a: Vec<&[u8]> = a.iter().map(AsRef::as_ref).collect();
    let bt: Vec<&[u8]> = bt.iter().map(AsRef::as_ref).collect();
    let task = &check.task;
    let shape = MatmulShape { m: task.rows, k: task.depth, n: task.cols };
    let product = Product { dtype: task.dtype, shape, a: &a, bt: &bt };
    let seed = potluck_verify::probe_seed(secret, &check.claim.hash);
    let mut params = Params::default();
    let factor = f64::from(1_u32 << check.widened.min(16));
    params.lambda *= factor;
    params.lambda_blocked *= factor;
    // Our own kernels sum in blocks of 32, but for the native CPU's.
    let in_blocks = check.backend != Backend::NativeCpu;
    match potluck_verify::check_bytes(&product, &check.result, &seed, &params, in_blocks) {
        Ok(report) => match report.verdict {
            Verdict::Accepted => CheckVerdict::Right { cleared_rows: report.flagged_rows },
            Verdict::Rejected(reason) => {
                tracing::debug!(?reason, "wrong product");
                CheckVerdict::Wrong(match reason {
                    potluck_verify::RejectReason::WrongLength { .. } => RejectReason::WrongLength,
                    potluck_verify::RejectReason::WrongHash { .. } => RejectReason::WrongHash,
                    _ => RejectReason::WrongProduct,
                })
            }
        },
        Err(error) => {
            tracing::error!(%error, job = %check.job, "inputs of a shard do not fit its shape");
            CheckVerdict::Undecided
        }
    }
}
