//! One GPU device: how it is requested, watched for errors, and waited for.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use potluck_types::DType;

use super::pool::{Pool, lock};
use crate::error::KernelError;
use crate::limits::{ASSUMED_FLOPS, MAX_PIPELINES};
use crate::wgsl::{self, Int8Path, ShaderKey, Variant};

/// How to choose an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuOptions {
    /// Prefer the adapter that saves power (integrated) over the fastest.
    pub low_power: bool,
    /// Unpack int8 by shifts even where the packed dot product exists. Tests compare the two.
    pub without_packed_dot: bool,
}

/// The adapter, as far as the platform tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterDescription {
    /// Name; browsers often leave it empty.
    pub name: String,
    /// Driver, or what the browser says about the architecture.
    pub driver: String,
    /// API: `vulkan`, `metal`, `dx12`, `webgpu`.
    pub api: String,
    /// The platform says that it is a CPU. Only a hint: calibration decides.
    pub is_software: bool,
}

/// A device with its caches. Cheap to keep, expensive to make (tens of milliseconds).
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) pool: Pool,
    pipeline_layout: wgpu::PipelineLayout,
    adapter: AdapterDescription,
    int8: Int8Path,
    lost: Arc<Mutex<Option<String>>>,
    /// Least recently used first.
    pipelines: Mutex<Vec<(ShaderKey, wgpu::ComputePipeline)>>,
    flops_per_s: Mutex<HashMap<(Variant, DType), f64>>,
}

impl Gpu {
    /// Asks the platform for a device.
    ///
    /// # Errors
    /// [`KernelError::NoAdapter`] where there is none, or it lacks the default limits of WebGPU.
    pub async fn request(options: GpuOptions) -> Result<Self, KernelError> {
        let no_adapter = |reason: String| KernelError::NoAdapter { reason };
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::PRIMARY;
        // wgpu validates in any case; the driver's own debug layers cost time and are often not installed.
        descriptor.flags = wgpu::InstanceFlags::empty();
        let instance = wgpu::Instance::new(descriptor);
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: if options.low_power {
                    wgpu::PowerPreference::LowPower
                } else {
                    wgpu::PowerPreference::HighPerformance
                },
                ..Default::default()
            })
            .await
            .map_err(|e| no_adapter(e.to_string()))?;
        let offered = adapter.limits();
        let limits = wgpu::Limits {
            max_buffer_size: offered.max_buffer_size,
            max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
            ..wgpu::Limits::default()
        };
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("potluck"),
                required_features: wgpu::Features::empty(),
                required_limits: limits,
                memory_hints: wgpu::MemoryHints::Performance,
                ..Default::default()
            })
            .await
            .map_err(|e| no_adapter(e.to_string()))?;
        let packed = instance
            .wgsl_language_features()
            .contains(wgpu::WgslLanguageFeatures::Packed4x8IntegerDotProduct);
        let int8 = if packed && !options.without_packed_dot { Int8Path::Packed } else { Int8Path::Unpacked };
        Ok(Self::with_device(device, queue, describe(&adapter.get_info()), int8))
    }

    fn with_device(
        device: wgpu::Device,
        queue: wgpu::Queue,
        adapter: AdapterDescription,
        int8: Int8Path,
    ) -> Self {
        let lost = Arc::new(Mutex::new(None));
        let mark = |lost: &Arc<Mutex<Option<String>>>| {
            let lost = Arc::clone(lost);
            move |reason: String| {
                lock(&lost).get_or_insert(reason);
            }
        };
        let on_lost = mark(&lost);
        device.set_device_lost_callback(move |reason, message| on_lost(format!("{reason:?}: {message}")));
        // An error outside all scopes is one nobody asked about: nothing this device says later is trusted.
        let on_error = mark(&lost);
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| on_error(format!("uncaught error: {e}"))));

        let buffer = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage = |binding, read_only| buffer(binding, wgpu::BufferBindingType::Storage { read_only });
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: None,
            entries: &[
                storage(0, true),
                storage(1, true),
                storage(2, false),
                buffer(3, wgpu::BufferBindingType::Uniform),
            ],
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        Self {
            device,
            queue,
            layout,
            pool: Pool::default(),
            pipeline_layout,
            adapter,
            int8,
            lost,
            pipelines: Mutex::default(),
            flops_per_s: Mutex::default(),
        }
    }

    /// The adapter behind the device.
    pub fn adapter(&self) -> &AdapterDescription {
        &self.adapter
    }

    /// The device itself, for other engines that share it. Work on it counts for [`Gpu::is_lost`] as well: errors belong
    /// into error scopes.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The device's queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Whether the device is gone or poisoned by an error that nobody expected. Request a new one then.
    pub fn is_lost(&self) -> bool {
        lock(&self.lost).is_some()
    }

    /// Destroys the device, as a browser may at any time; later products fail with [`KernelError::DeviceLost`].
    pub fn destroy(&self) {
        lock(&self.lost).get_or_insert_with(|| "destroyed on request".to_owned());
        self.device.destroy();
    }

    /// Whether this adapter can run `variant` at all.
    pub fn supports(&self, variant: Variant) -> bool {
        let (limits, tile) = (self.device.limits(), variant.tile());
        variant.workgroup_bytes() <= limits.max_compute_workgroup_storage_size
            && tile.threads_x * tile.threads_y <= limits.max_compute_invocations_per_workgroup
    }

    pub(super) fn check_alive(&self) -> Result<(), KernelError> {
        match &*lock(&self.lost) {
            None => Ok(()),
            Some(reason) => Err(KernelError::DeviceLost { reason: reason.clone() }),
        }
    }

    pub(super) fn key(&self, variant: Variant, dtype: DType, kw: u32) -> ShaderKey {
        ShaderKey { variant, dtype, int8: self.int8, kw }
    }

    /// The pipeline of `key`, compiled if it is not cached. Call inside error scopes.
    pub(super) fn pipeline(&self, key: ShaderKey) -> wgpu::ComputePipeline {
        let mut cache = lock(&self.pipelines);
        if let Some(at) = cache.iter().position(|(k, _)| *k == key) {
            let entry = cache.remove(at);
            let pipeline = entry.1.clone();
            cache.push(entry);
            return pipeline;
        }
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(key.variant.name()),
            source: wgpu::ShaderSource::Wgsl(wgsl::generate(key).into()),
        };
        // SAFETY: the text comes from our generator. Every index it makes is below the padded sizes in `key` and in the
        // uniform for every workgroup of the dispatch, which `GpuProduct` derives from the same sizes as the buffers it
        // binds, and every loop ends at a literal. (A browser ignores this and checks all the same.)
        let module = unsafe {
            self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(key.variant.name()),
            layout: Some(&self.pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        if cache.len() >= MAX_PIPELINES {
            cache.remove(0);
        }
        cache.push((key, pipeline.clone()));
        pipeline
    }

    /// The measured rate of a kernel on this device, or a careful guess.
    pub(super) fn rate(&self, variant: Variant, dtype: DType) -> f64 {
        lock(&self.flops_per_s).get(&(variant, dtype)).copied().unwrap_or(ASSUMED_FLOPS)
    }

    pub(super) fn set_rate(&self, variant: Variant, dtype: DType, flops_per_s: f64) {
        lock(&self.flops_per_s).insert((variant, dtype), flops_per_s);
    }

    /// Opens error scopes around the commands that follow. Close them before the next `await`, so that concurrent
    /// products cannot mix them up. Errors of other kinds than `filters` mark the device as lost.
    pub(super) fn open_scopes(&self, filters: &[wgpu::ErrorFilter]) -> Scopes {
        Scopes(filters.iter().map(|filter| self.device.push_error_scope(*filter)).collect())
    }

    /// After an error: nothing that was cached is reused.
    pub(super) fn forget_caches(&self) {
        self.pool.clear();
        lock(&self.pipelines).clear();
    }

    /// Waits until `submission` is done.
    #[cfg(not(target_arch = "wasm32"))]
    #[expect(clippy::unused_async, reason = "in a browser this does wait asynchronously")]
    pub(super) async fn finished(&self, submission: Submission) -> Result<(), KernelError> {
        use crate::limits::SUBMISSION_TIMEOUT;
        let poll = self.device.poll(wgpu::PollType::Wait {
            submission_index: Some(submission.index),
            timeout: Some(SUBMISSION_TIMEOUT),
        });
        self.check_alive()?;
        match poll {
            Ok(_) => Ok(()),
            Err(_) => Err(KernelError::Timeout { limit_ms: SUBMISSION_TIMEOUT.as_millis() as u64 }),
        }
    }

    /// Waits until `submission` is done.
    #[cfg(target_arch = "wasm32")]
    pub(super) async fn finished(&self, submission: Submission) -> Result<(), KernelError> {
        // Browsers settle this promise when the device is lost, too; a dropped sender means the same.
        let _ = submission.done.await;
        self.check_alive()
    }

    /// Submits commands.
    pub(super) fn submit(&self, commands: wgpu::CommandBuffer) -> Submission {
        #[cfg(not(target_arch = "wasm32"))]
        {
            Submission { index: self.queue.submit([commands]) }
        }
        #[cfg(target_arch = "wasm32")]
        {
            self.queue.submit([commands]);
            let (sender, done) = futures_channel::oneshot::channel();
            self.queue.on_submitted_work_done(move || {
                // The receiver is gone if the product was canceled.
                let _ = sender.send(());
            });
            Submission { done }
        }
    }
}

/// Commands that allocate and compile can fail in every way.
pub(super) const ALL_ERRORS: &[wgpu::ErrorFilter] =
    &[wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal];
/// Commands that only record and submit. Each scope is a message to the browser's GPU process and an answer.
pub(super) const SUBMIT_ERRORS: &[wgpu::ErrorFilter] = &[wgpu::ErrorFilter::Validation];

/// Open error scopes, the outermost first.
pub(super) struct Scopes(Vec<wgpu::ErrorScopeGuard>);

impl Scopes {
    /// Closes them at once; the future gives the verdict.
    pub(super) fn close(mut self) -> impl Future<Output = Result<(), KernelError>> {
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
                    Some(wgpu::Error::OutOfMemory { .. }) => Err(KernelError::OutOfMemory),
                    Some(other) => Err(KernelError::Validation { reason: other.to_string() }),
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

/// Work that was handed to the queue.
pub(super) struct Submission {
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) index: wgpu::SubmissionIndex,
    #[cfg(target_arch = "wasm32")]
    done: futures_channel::oneshot::Receiver<()>,
}

fn describe(info: &wgpu::AdapterInfo) -> AdapterDescription {
    AdapterDescription {
        name: info.name.clone(),
        driver: [info.driver.as_str(), info.driver_info.as_str()].join(" ").trim().to_owned(),
        api: info.backend.to_string(),
        is_software: info.device_type == wgpu::DeviceType::Cpu,
    }
}
