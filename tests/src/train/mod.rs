//! Training experiments: whole runs through the real rounds, codecs, aggregation and outer step, in one process.
//!
//! The benchmark and the tests call the same code. Nothing is imitated but the network: uploads, steps and checkpoints
//! are the bytes that would travel, and workers train from what they decoded.

pub mod attack;
pub mod corpus;
pub mod drift;
pub mod early;
pub mod poison;
pub mod run;

mod cores;
mod oracle;

pub use corpus::Corpus;
pub use run::{Method, Outcome, Plan, Progress, run_all};

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The result of a future that is ready at once, as the CPU engine's are.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a CPU engine waits for nothing"),
    }
}

/// 32 bytes of a seed for one purpose.
fn seed(number: u64, purpose: &str) -> [u8; 32] {
    *blake3::Hasher::new().update(purpose.as_bytes()).update(&number.to_le_bytes()).finalize().as_bytes()
}
