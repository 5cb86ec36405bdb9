//! Kernels in the tab: measured once, then run in slices, so that the Worker hears a Stop between two of them.

use crate::messages::Measured;
use gloo_timers::future::TimeoutFuture;
use potluck_kernels::limits::STEP_TARGET;
use potluck_kernels::{
    Backend as Kernel, BackendChoice, CpuJob, Gpu, GpuOptions, KernelError, Operand, Progress, Variant, calibrate,
};
use potluck_proto::Backend;
use potluck_volunteer::{Choice, Failure, Run, compute};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wasm_bindgen::JsCast as _;
use wasm_bindgen::prelude::Closure;
use wasm_bindgen_futures::JsFuture;
use web_time::Instant;

/// Rests shorter than this are saved up: timers of browsers are no finer.
const SHORTEST_REST: Duration = Duration::from_millis(4);
/// A rest is cut into pieces of this length, so that a Stop is noticed soon.
const REST_PIECE_MS: u32 = 50;

/// What computes.
#[derive(Clone)]
pub(crate) enum Device {
    Cpu,
    Gpu(Rc<Gpu>, Variant),
}

/// What calibration found.
pub(crate) struct Found {
    pub(crate) device: Device,
    pub(crate) backend: Backend,
    pub(crate) mflops: u32,
    pub(crate) measured: Vec<Measured>,
}

/// Measures what the person chose. `None` if nothing works.
pub(crate) async fn measure(choice: Choice) -> Option<Found> {
    let choice = match choice {
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
        (Kernel::Gpu(variant), Some(gpu)) => (Device::Gpu(Rc::new(gpu), variant), Backend::WebGpu),
        _ => (Device::Cpu, Backend::WasmSimd),
    };
    Some(Found { device, backend, mflops, measured })
}

/// Runs a product. The result's bytes and the time that the device was busy; `None` if it was canceled.
pub(crate) async fn run(
    device: Device,
    run: Run,
    cancel: Rc<AtomicBool>,
) -> Result<Option<(Vec<u8>, Duration)>, Failure> {
    let outcome = match device {
        Device::Cpu => on_cpu(&run, &cancel).await,
        Device::Gpu(gpu, variant) => on_gpu(&gpu, variant, &run, &cancel).await,
    };
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(KernelError::Cancelled) => Ok(None),
        Err(KernelError::OutOfMemory) => Err(Failure::OutOfMemory),
        Err(
            KernelError::ShapeMismatch { .. } | KernelError::TooLarge { .. } | KernelError::Unsupported { .. },
        ) => Err(Failure::Unsupported),
        Err(_) => Err(Failure::DeviceLost),
    }
}

async fn on_cpu(run: &Run, cancel: &AtomicBool) -> Result<(Vec<u8>, Duration), KernelError> {
    let start = Instant::now();
    let assembled = compute::assemble(&run.task, &run.a, &run.bt)?;
    let mut job = CpuJob::new(assembled.shape, Operand::pair(&assembled.a, &assembled.bt)?)?;
    let mut busy = start.elapsed();
    let mut owed = Duration::ZERO;
    loop {
        let slice = Instant::now();
        let progress = job.step(STEP_TARGET);
        let took = slice.elapsed();
        busy += took;
        owed += took.mul_f64(1.0 / run.share.clamp(0.01, 1.0) - 1.0);
        if progress == Progress::Finished {
            break;
        }
        owed = rest(owed, cancel).await?;
    }
    let last = Instant::now();
    let bytes = job.finish().to_le_bytes();
    Ok((bytes, busy + last.elapsed()))
}

async fn on_gpu(gpu: &Gpu, variant: Variant, run: &Run, cancel: &AtomicBool) -> Result<(Vec<u8>, Duration), KernelError> {
    let start = Instant::now();
    let assembled = compute::assemble(&run.task, &run.a, &run.bt)?;
    let operands = Operand::pair(&assembled.a, &assembled.bt)?;
    let output = gpu.matmul(assembled.shape, operands, variant, cancel).await?;
    let bytes = output.to_le_bytes();
    let busy = start.elapsed();
    // The device was busy in bands; the rest that keeps the share comes after them.
    let mut owed = busy.mul_f64(1.0 / run.share.clamp(0.01, 1.0) - 1.0);
    while owed >= SHORTEST_REST {
        owed = rest(owed, cancel).await?;
    }
    Ok((bytes, busy))
}

/// Lets the Worker hear its messages, and takes a piece of the rest that is owed; what is still owed.
async fn rest(owed: Duration, cancel: &AtomicBool) -> Result<Duration, KernelError> {
    let piece = (owed.as_millis() as u32).min(REST_PIECE_MS);
    if owed < SHORTEST_REST {
        breathe().await;
    } else {
        TimeoutFuture::new(piece).await;
    }
    if cancel.load(Ordering::Relaxed) {
        return Err(KernelError::Cancelled);
    }
    Ok(if owed < SHORTEST_REST { owed } else { owed.saturating_sub(Duration::from_millis(u64::from(piece))) })
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
