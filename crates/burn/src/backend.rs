//! Where a model runs.

use burn::tensor::Device;
use potluck_train::TrainError;

/// Why no engine can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// There is no GPU that can be used.
    #[error("no GPU can be used here: {0}; train on the CPU instead")]
    NoGpu(String),
    /// A model whose output is not a function of its parameters and its input.
    #[error(
        "the model's {0} keeps a state or draws at random (as dropout and batch norm do): replay could not repeat it"
    )]
    Stateful(String),
}

/// A device of burn's, and what went wrong on it.
#[derive(Debug, Clone)]
pub struct Backend {
    device: Device,
    #[cfg(feature = "gpu")]
    errors: gpu::Errors,
}

impl Backend {
    /// This machine's processor, one thread.
    ///
    /// Determinism: bitwise for the same program on the same kind of processor.
    #[cfg(feature = "cpu")]
    pub fn cpu() -> Self {
        Self {
            device: Device::flex(),
            #[cfg(feature = "gpu")]
            errors: gpu::Errors::default(),
        }
    }

    /// Burn's device.
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// The first error of the device. It stays: what comes from the device after it cannot be trusted.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        #[cfg(feature = "gpu")]
        self.errors.check()?;
        Ok(())
    }
}

#[cfg(feature = "gpu")]
mod gpu {
    use super::{Backend, SetupError};
    use burn::tensor::Device;
    use burn::tensor::wgpu::{WgpuSetup, wgpu};
    use potluck_train::TrainError;
    use std::sync::{Arc, OnceLock};

    /// The first error that nobody waited for.
    #[derive(Debug, Clone, Default)]
    pub(super) struct Errors(Arc<OnceLock<String>>);

    impl Errors {
        pub(super) fn check(&self) -> Result<(), TrainError> {
            match self.0.get() {
                None => Ok(()),
                Some(why) => {
                    Err(TrainError::Device(format!("it refused the work, request a new one ({why})")))
                }
            }
        }
    }

    impl Backend {
        /// A GPU of this machine, on a device of its own: WebGPU in a browser, else what the platform has.
        ///
        /// The runtime that burn keeps for the device lives as long as the program (or Worker): make few.
        ///
        /// # Errors
        /// [`SetupError::NoGpu`].
        pub async fn gpu() -> Result<Self, SetupError> {
            let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
            descriptor.backends = wgpu::Backends::PRIMARY;
            descriptor.flags = wgpu::InstanceFlags::empty();
            let instance = wgpu::Instance::new(descriptor);
            let options = wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            };
            let adapter = instance.request_adapter(&options).await.map_err(no_gpu)?;
            // All that the adapter has: burn asks the adapter, not the device, what it may use.
            let refused = wgpu::Features::all_experimental_mask() | wgpu::Features::MAPPABLE_PRIMARY_BUFFERS;
            let wanted = wgpu::DeviceDescriptor {
                required_features: adapter.features().difference(refused),
                required_limits: adapter.limits(),
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                ..Default::default()
            };
            let (device, queue) = adapter.request_device(&wanted).await.map_err(no_gpu)?;
            let backend = adapter.get_info().backend;
            Self::with_setup(WgpuSetup { instance, adapter, device, queue, backend })
        }

        /// A GPU device that is there already. Its callbacks for loss and uncaught errors are replaced. It must have
        /// the features and limits of its adapter.
        ///
        /// # Errors
        /// [`SetupError::NoGpu`] if burn does not want it.
        pub fn with_setup(setup: WgpuSetup) -> Result<Self, SetupError> {
            let handle = setup.device.clone();
            let device = Device::wgpu_options().setup(setup).init().map_err(no_gpu)?;
            let errors = Errors::default();
            // Burn's own handler, which this replaces, panics: in a browser that ends the Worker without a word.
            let slot = errors.clone();
            handle.on_uncaptured_error(Arc::new(move |error| {
                let _ = slot.0.set(error.to_string());
            }));
            Ok(Self { device, errors })
        }
    }

    fn no_gpu(why: impl std::fmt::Display) -> SetupError {
        SetupError::NoGpu(why.to_string())
    }
}
