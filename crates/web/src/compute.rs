//! Kernels in the tab: measured once, then run in slices, so that the Worker hears a Stop between two of them.

use crate::effort::Rest;
use crate::eval;
use crate::messages::Measured;
use crate::train;
use potluck_kernels::limits::STEP_TARGET;
use potluck_kernels::{
    Backend as Kernel, BackendChoice, CpuJob, Gpu, GpuOptions, KernelError, Operand, Progress, Variant,
    calibrate,
};
use potluck_proto::{Backend, MatmulTask};
use potluck_train::streak::Streak;
use potluck_volunteer::rest::Doing;
use potluck_volunteer::trainer::Trainer;
use potluck_volunteer::{Choice, Failure, Run, Workload, compute};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wasm_bindgen::JsCast as _;
use wasm_bindgen::prelude::Closure;
use wasm_bindgen_futures::JsFuture;
use web_time::Instant;

/// Rests shorter than this are saved up: timers of browsers are no finer.
const SHORTEST_REST: Duration = Duration::from_millis(4);

/// What computes.
#[derive(Clone)]
pub(crate) enum Device {
    Cpu,
    Gpu(Rc<GpuDevice>),
}

/// A GPU, its fastest kernel, and what is known about training on it.
pub(crate) struct GpuDevice {
    pub(crate) gpu: Gpu,
    variant: Variant,
    pub(crate) trainer: Trainer,
}

impl GpuDevice {
    fn new(gpu: Gpu, variant: Variant, choice: Choice) -> Self {
        let trainer = Trainer::new(&gpu, variant, choice);
        Self { gpu, variant, trainer }
    }
}

/// What calibration found.
pub(crate) struct Found {
    pub(crate) device: Device,
    pub(crate) backend: Backend,
    pub(crate) mflops: u32,
    pub(crate) measured: Vec<Measured>,
}

/// Measures what the person chose. `None` if nothing works.
pub(crate) async fn measure(chosen: Choice) -> Option<Found> {
    let choice = match chosen {
        Choice::Auto => BackendChoice::Auto,
        Choice::Gpu => BackendChoice::Gpu,
        Choice::Cpu => BackendChoice::Cpu,
    };
    let gpu = match choice {
        BackendChoice::Cpu => None,
        _ => Gpu::request(GpuOptions::default()).await.ok(),
    };
    let calibration = calibrate(gpu.as_ref(), choice).await.ok()?;
    let measured = calibration
        .candidates
        .iter()
        .map(|candidate| Measured {
            kernel: candidate.backend.to_string(),
            gflops: candidate.gflops,
            rejected: candidate.rejected.clone(),
        })
        .collect();
    let mflops = (calibration.gflops() * 1e3) as u32;
    let (device, backend) = match (calibration.backend, gpu) {
        (Kernel::Gpu(variant), Some(gpu)) => {
            (Device::Gpu(Rc::new(GpuDevice::new(gpu, variant, chosen))), Backend::WebGpu)
        }
        _ => (Device::Cpu, Backend::WasmSimd),
    };
    Some(Found { device, backend, mflops, measured })
}

/// Why a run has no result.
pub(crate) enum Ended {
    /// Nobody wants it any more.
    Canceled,
    Failed(Failure),
}

impl From<KernelError> for Ended {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::Cancelled => Self::Canceled,
            KernelError::OutOfMemory => Self::Failed(Failure::OutOfMemory),
            KernelError::ShapeMismatch { .. }
            | KernelError::TooLarge { .. }
            | KernelError::Unsupported { .. } => Self::Failed(Failure::Unsupported),
            _ => Self::Failed(Failure::DeviceLost),
        }
    }
}

/// A result.
pub(crate) struct Computed {
    /// Its bytes.
    pub(crate) result: Vec<u8>,
    /// With codec S, what the streak's next round goes on from.
    pub(crate) kept: Option<Arc<Streak>>,
    /// Time that the device was busy.
    pub(crate) busy: Duration,
    /// What computed it.
    pub(crate) backend: Backend,
}

/// When to work and when to rest.
pub(crate) struct Shift {
    share: f64,
    cancel: Rc<AtomicBool>,
    /// Rest that the device is still due, from the run before too.
    rest: Rc<Rest>,
}

impl Shift {
    pub(crate) const fn new(share: f64, cancel: Rc<AtomicBool>, rest: Rc<Rest>) -> Self {
        Self { share, cancel, rest }
    }

    /// Adds the rest after `busy`.
    pub(crate) fn owe(&self, busy: Duration) {
        self.rest.owe(busy, self.share);
    }

    /// Lets the Worker hear its messages, and takes the rest that is owed, but for what is too short for a timer.
    /// Whoever comes back from it computes, and says how long.
    pub(crate) async fn rest(&self) -> Result<(), Ended> {
        self.rest.turn(Doing::Nothing);
        loop {
            if self.rest.owed() < SHORTEST_REST {
                breathe().await;
            } else {
                self.rest.take().await;
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Ended::Canceled);
            }
            if self.rest.owed() < SHORTEST_REST {
                self.rest.turn(Doing::Computing);
                return Ok(());
            }
        }
    }
}

/// Takes the rest that the run before left in `rest`, and runs a product or a part of a round, of which `tell` hears how
/// far it is. `None` if it was canceled. Results need not wait for the rest after them.
pub(crate) async fn run(
    device: Device,
    run: Run,
    cancel: Rc<AtomicBool>,
    rest: Rc<Rest>,
    tell: impl FnMut(u32),
) -> Result<Option<Computed>, Failure> {
    let shift = Shift::new(run.share, cancel, rest);
    let with = |backend| move |(result, busy)| Computed { result, kept: None, busy, backend };
    let outcome = match shift.rest().await {
        Ok(()) => match (run.work, device) {
            (Workload::Matmul { task, a, bt }, Device::Cpu) => {
                on_cpu(&task, [&a, &bt], &shift).await.map(with(Backend::WasmSimd))
            }
            (Workload::Matmul { task, a, bt }, Device::Gpu(device)) => {
                on_gpu(&device, &task, [&a, &bt], &shift).await.map(with(Backend::WebGpu))
            }
            (Workload::Train { task, inputs }, device) => {
                train::run(&device, &task, inputs, &shift, tell).await
            }
            (Workload::Eval { task, parameters, items }, _) => {
                eval::run(&task, &parameters, &items, &shift).await
            }
        },
        Err(ended) => Err(ended),
    };
    shift.rest.turn(Doing::Nothing);
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(Ended::Canceled) => Ok(None),
        Err(Ended::Failed(failure)) => Err(failure),
    }
}

async fn on_cpu(
    task: &MatmulTask,
    [a, bt]: [&[Arc<Vec<u8>>]; 2],
    shift: &Shift,
) -> Result<(Vec<u8>, Duration), Ended> {
    let start = Instant::now();
    let assembled = compute::assemble(task, a, bt)?;
    let mut job = CpuJob::new(assembled.shape, Operand::pair(&assembled.a, &assembled.bt)?)?;
    let mut busy = start.elapsed();
    shift.owe(busy);
    loop {
        shift.rest().await?;
        let slice = Instant::now();
        let progress = job.step(STEP_TARGET);
        let took = slice.elapsed();
        busy += took;
        shift.owe(took);
        if progress == Progress::Finished {
            break;
        }
    }
    let last = Instant::now();
    let bytes = job.finish().to_le_bytes();
    let took = last.elapsed();
    shift.owe(took);
    Ok((bytes, busy + took))
}

async fn on_gpu(
    GpuDevice { gpu, variant, .. }: &GpuDevice,
    task: &MatmulTask,
    [a, bt]: [&[Arc<Vec<u8>>]; 2],
    shift: &Shift,
) -> Result<(Vec<u8>, Duration), Ended> {
    let start = Instant::now();
    let assembled = compute::assemble(task, a, bt)?;
    let operands = Operand::pair(&assembled.a, &assembled.bt)?;
    let output = gpu.matmul(assembled.shape, operands, *variant, &shift.cancel).await?;
    let bytes = output.to_le_bytes();
    let busy = start.elapsed();
    shift.owe(busy);
    Ok((bytes, busy))
}

/// A turn of the event loop without the 4 ms that timers cost.
async fn breathe() {
    let turn = js_sys::Promise::new(&mut |resolve, _| {
        let Ok(channel) = web_sys::MessageChannel::new() else {
            let _ = resolve.call0(&wasm_bindgen::JsValue::NULL);
            return;
        };
        let port = channel.port1();
        let heard = Closure::once_into_js(move || {
            port.set_onmessage(None);
            port.close();
            let _ = resolve.call0(&wasm_bindgen::JsValue::NULL);
        });
        channel.port1().set_onmessage(Some(heard.unchecked_ref()));
        let _ = channel.port2().post_message(&wasm_bindgen::JsValue::NULL);
    });
    let _ = JsFuture::from(turn).await;
}
