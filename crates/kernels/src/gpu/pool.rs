//! Idle GPU buffers, kept by size class for the next product.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::{MAX_POOLED_BUFFERS, MAX_POOLED_BYTES};

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Read or written by shaders, filled from and copied to other buffers.
    Storage,
    /// Read by shaders, the same for all of their threads.
    Uniform,
    /// Mapped for reading.
    Readback,
}

/// Shared by a device and the buffers it lent.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Idle>>>);

struct Idle {
    kind: Use,
    buffer: wgpu::Buffer,
}

impl Pool {
    /// A buffer of at least `bytes`. What it holds is left from earlier: its user writes every byte it binds.
    pub(super) fn take(&self, device: &wgpu::Device, kind: Use, bytes: u64) -> Pooled {
        let size = size_class(bytes);
        let mut idle = lock(&self.0);
        let found = idle.iter().position(|i| i.kind == kind && i.buffer.size() == size);
        let buffer = if let Some(at) = found {
            idle.remove(at).buffer
        } else {
            let usage = match kind {
                Use::Storage => {
                    wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC
                }
                Use::Uniform => wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                Use::Readback => wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            };
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        Pooled { buffer: Some(buffer), kind, pool: self.clone() }
    }

    /// Forgets all idle buffers, after an error: what they are is not certain any more.
    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    fn give_back(&self, kind: Use, buffer: wgpu::Buffer) {
        let mut idle = lock(&self.0);
        idle.push(Idle { kind, buffer });
        // Oldest first. A buffer that is dropped while the GPU still uses it lives until it is done.
        while idle.len() > MAX_POOLED_BUFFERS
            || idle.iter().map(|i| i.buffer.size()).sum::<u64>() > MAX_POOLED_BYTES
        {
            idle.remove(0);
        }
    }
}

/// A buffer that returns to its pool when dropped.
pub(super) struct Pooled {
    buffer: Option<wgpu::Buffer>,
    kind: Use,
    pool: Pool,
}

impl Pooled {
    /// The buffer; `None` only after [`Pooled::discard`].
    pub(super) fn get(&self) -> Option<&wgpu::Buffer> {
        self.buffer.as_ref()
    }

    /// Drops the buffer instead of keeping it: for one that may still be mapped.
    pub(super) fn discard(mut self) {
        self.buffer = None;
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give_back(self.kind, buffer);
        }
    }
}

/// Sizes are rounded up to eight steps a doubling (12.5 % waste at most), 256 bytes at the least.
pub(super) fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let step = (1 << bytes.ilog2()) / 8;
    bytes.next_multiple_of(step).next_multiple_of(256)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The data behind these locks is a cache: whole whatever a panicking thread did.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
