//! Threads that compute at the same time: as many as there are cores.

use std::sync::{Condvar, Mutex, PoisonError};

/// Counts the cores that are free. Threads beyond that wait, so that runs side by side do not keep throwing each
/// other's data out of the caches.
#[derive(Debug)]
pub(super) struct Cores {
    free: Mutex<usize>,
    changed: Condvar,
}

/// A core, until it is dropped.
#[derive(Debug)]
pub(super) struct Core<'a>(&'a Cores);

impl Cores {
    /// All cores of this machine.
    pub(super) fn all() -> Self {
        let free = std::thread::available_parallelism().map_or(1, usize::from);
        Self { free: Mutex::new(free), changed: Condvar::new() }
    }

    /// Waits for a core.
    pub(super) fn take(&self) -> Core<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Core(self)
    }
}

impl Drop for Core<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_one();
    }
}
