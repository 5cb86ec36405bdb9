//! What a client of the simulated relay may do, and what it can see.

use crate::product::{Order, Product, multiply};
use crate::run::{inputs, work};
use crate::store::Blobs;
use crate::watch::Products;
use potluck_proto::{BlobRef, EvalTask, Hello, MatmulTask, Task, TrainTask};
use potluck_types::BlobHash;
use potluck_volunteer::eval;
use std::sync::Arc;

/// What a client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Open a connection. There is none.
    Connect,
    /// Send a frame.
    Send(Vec<u8>),
    /// Close the connection.
    Close,
    /// Wake me after this time, in milliseconds.
    Wake {
        /// From now.
        after_ms: u64,
        /// Comes back.
        tag: u64,
    },
    /// A simulated device begins with a kernel, which ends after this time, in milliseconds.
    Compute {
        /// From now.
        after_ms: u64,
        /// Comes back with the result.
        run: u64,
        /// What the kernel makes.
        result: Result<Vec<u8>, Failure>,
    },
}

/// How a simulated kernel fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The device is gone.
    DeviceLost,
    /// The device has too little memory.
    OutOfMemory,
    /// The task cannot be done.
    BadTask,
}

/// What an adversary may know who fetched every blob before and listened on the network: all inputs of all jobs, and how
/// somebody else proved its name.
#[derive(Debug, Clone, Copy)]
pub struct Library<'a> {
    /// Jobs.
    pub products: &'a Products,
    /// What the relay has stored for runs and evals.
    pub blobs: &'a Blobs,
    /// The Hello of an honest session, the latest that reached the relay.
    pub overheard: Option<&'a Hello>,
}

impl Library<'_> {
    /// A panel.
    pub fn blob(&self, hash: &BlobHash) -> Option<&Arc<Vec<u8>>> {
        let panel = self.products.values().find_map(|product: &Product| product.blobs.get(hash));
        panel.or_else(|| self.blobs.get(hash))
    }

    /// The right result of a task; empty if an input is unknown.
    pub fn truth(&self, task: &Task, order: Order) -> Vec<u8> {
        match task {
            Task::Matmul(task) => self.tile(task, order),
            Task::Train(task) => self.update(task),
            Task::Eval(task) => self.answers(task),
        }
    }

    /// The right update of a worker; empty if an input is unknown.
    pub fn update(&self, task: &TrainTask) -> Vec<u8> {
        let inputs = inputs(task, |hash| self.blob(hash).cloned());
        inputs.and_then(|inputs| work(task, inputs, None).ok()).map_or_else(Vec::new, |done| done.result)
    }

    /// The right answers to a shard of an eval; empty if an input is unknown.
    fn answers(&self, task: &EvalTask) -> Vec<u8> {
        let inputs = self.blob(&task.parameters.hash).zip(self.blob(&task.items.hash));
        let answers = inputs.and_then(|(parameters, items)| {
            eval::prepare(task, parameters, items).and_then(eval::Evaluation::run).ok()
        });
        answers.unwrap_or_default()
    }

    fn tile(&self, task: &MatmulTask, order: Order) -> Vec<u8> {
        let all = |panels: &[BlobRef]| -> Option<Vec<u8>> {
            let blobs = panels.iter().map(|panel| self.blob(&panel.hash));
            blobs
                .collect::<Option<Vec<_>>>()
                .map(|blobs| blobs.into_iter().flat_map(|blob| blob.iter().copied()).collect())
        };
        match (all(&task.a), all(&task.bt)) {
            (Some(a), Some(bt)) => multiply(task, &a, &bt, order),
            _ => Vec::new(),
        }
    }
}
