//! What the engine asks of a wgpu device: buffers, bind groups, error scopes, and waiting for a small read-back.

use crate::engine::TrainError;

/// A step that takes this long is given up (native only; a browser loses the device by itself).
#[cfg(not(target_arch = "wasm32"))]
const TIMEOUT: std::time::Duration = std::time::Duration::from_mins(2);

/// Commands that allocate and compile can fail in every way.
pub(super) const ALL_ERRORS: &[wgpu::ErrorFilter] =
    &[wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal];
/// Commands that only record and submit. Each scope is a message to the browser's GPU process and an answer.
pub(super) const SUBMIT_ERRORS: &[wgpu::ErrorFilter] = &[wgpu::ErrorFilter::Validation];

/// A device and its queue. The callbacks for loss and uncaught errors stay those of the caller who made it.
pub(super) struct Device {
    pub(super) device: wgpu::Device,
    queue: wgpu::Queue,
}

impl Device {
    pub(super) fn new(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self { device, queue }
    }

    /// Whether a buffer of this size can be bound whole.
    pub(super) fn check_size(&self, what: &str, bytes: u64) -> Result<(), TrainError> {
        let limits = self.device.limits();
        // Kernels count elements in u32.
        let limit =
            limits.max_buffer_size.min(limits.max_storage_buffer_binding_size).min(u64::from(u32::MAX));
        if bytes > limit {
            return Err(TrainError::Device(format!(
                "{what} needs a buffer of {bytes} bytes, the device's limit is {limit}: \
                 use a smaller batch or model, or train on the CPU"
            )));
        }
        Ok(())
    }

    fn create(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    }

    /// A buffer for kernels, zero at first, of whole vec4.
    pub(super) fn storage(&self, bytes: u64) -> wgpu::Buffer {
        use wgpu::BufferUsages as Use;
        self.create(bytes.next_multiple_of(16), Use::STORAGE | Use::COPY_DST | Use::COPY_SRC)
    }

    pub(super) fn uniforms(&self, bytes: u64) -> wgpu::Buffer {
        self.create(bytes, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST)
    }

    /// A buffer that is mapped for reading.
    pub(super) fn staging(&self, bytes: u64) -> wgpu::Buffer {
        self.create(bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
    }

    pub(super) fn write(&self, buffer: &wgpu::Buffer, offset: u64, words: &[u32]) {
        self.queue.write_buffer(buffer, offset, bytemuck::cast_slice(words));
    }

    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    pub(super) fn submit(&self, commands: wgpu::CommandBuffer) -> wgpu::SubmissionIndex {
        self.queue.submit([commands])
    }

    /// Uniforms at binding 0 (buffer, offset, bytes), storage from 1 on.
    pub(super) fn bind(
        &self,
        pipeline: &wgpu::ComputePipeline,
        (uniforms, offset, size): (&wgpu::Buffer, u64, u64),
        storage: &[&wgpu::Buffer],
    ) -> wgpu::BindGroup {
        let slot = wgpu::BufferBinding { buffer: uniforms, offset, size: wgpu::BufferSize::new(size) };
        let mut entries =
            vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(slot) }];
        entries.extend(
            storage.iter().zip(1..).map(|(buffer, binding)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            }),
        );
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        })
    }

    /// Opens error scopes around the commands that follow. Close them before the next `await`, so that others who use
    /// the device cannot mix them up.
    pub(super) fn open_scopes(&self, filters: &[wgpu::ErrorFilter]) -> Scopes {
        Scopes(filters.iter().map(|filter| self.device.push_error_scope(*filter)).collect())
    }

    /// Submits commands one by one, then a copy of a buffer's first bytes to a staging buffer, which is mapped.
    pub(super) fn copy_and_map(
        &self,
        commands: Vec<wgpu::CommandBuffer>,
        from: &wgpu::Buffer,
        staging: &wgpu::Buffer,
        bytes: u64,
    ) -> Reading {
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(from, 0, staging, 0, bytes);
        let copy = encoder.finish();
        let mut commands = commands.into_iter().peekable();
        let mut last = Vec::with_capacity(2);
        while let Some(buffer) = commands.next() {
            if commands.peek().is_some() {
                self.submit(buffer);
            } else {
                last.push(buffer);
            }
        }
        last.push(copy);
        let submission = self.queue.submit(last);
        let (sender, mapped) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            // The receiver is gone if nobody waits any more.
            let _ = sender.send(result.map_err(|e| e.to_string()));
        });
        Reading { submission, mapped }
    }
}

/// Commands under way, whose last is a copy to a buffer that is then mapped.
pub(super) struct Reading {
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "only native code polls"))]
    submission: wgpu::SubmissionIndex,
    mapped: futures_channel::oneshot::Receiver<Result<(), String>>,
}

impl Reading {
    #[cfg_attr(target_arch = "wasm32", expect(unused_variables, reason = "only native code polls"))]
    pub(super) async fn wait(self, device: &Device) -> Result<(), TrainError> {
        #[cfg(not(target_arch = "wasm32"))]
        {
            let index = Some(self.submission);
            let wait = wgpu::PollType::Wait { submission_index: index, timeout: Some(TIMEOUT) };
            device
                .device
                .poll(wait)
                .map_err(|e| TrainError::Device(format!("waiting for the device: {e}")))?;
        }
        match self.mapped.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(TrainError::Device(format!("it was lost, request a new one ({why})"))),
            Err(_) => Err(TrainError::Device("it was lost, request a new one".into())),
        }
    }
}

/// Takes the bytes of a mapped buffer, and unmaps it.
pub(super) fn copy_mapped(staging: &wgpu::Buffer, bytes: u64, to: &mut [u8]) -> Result<(), TrainError> {
    {
        let view = staging
            .get_mapped_range(0..bytes)
            .map_err(|e| TrainError::Device(format!("the result could not be read: {e}")))?;
        to.copy_from_slice(&view);
    }
    staging.unmap();
    Ok(())
}

/// Open error scopes, the outermost first.
pub(super) struct Scopes(Vec<wgpu::ErrorScopeGuard>);

impl Scopes {
    /// Closes them at once; the future gives the verdict.
    pub(super) fn close(mut self) -> impl Future<Output = Result<(), TrainError>> {
        let mut verdicts = Vec::with_capacity(self.0.len());
        while let Some(scope) = self.0.pop() {
            verdicts.push(scope.pop());
        }
        async move {
            let mut result = Ok(());
            for verdict in verdicts {
                let error = verdict.await;
                result = result.and(match error {
                    None => Ok(()),
                    Some(wgpu::Error::OutOfMemory { .. }) => Err(TrainError::Device(
                        "it ran out of memory: use a smaller batch or model, or train on the CPU".into(),
                    )),
                    Some(other) => Err(TrainError::Device(format!("it refused the work: {other}"))),
                });
            }
            result
        }
    }
}

impl Drop for Scopes {
    fn drop(&mut self) {
        // Innermost first, as they must be closed.
        while self.0.pop().is_some() {}
    }
}
