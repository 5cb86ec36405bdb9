//! The thread that computes: measures the device, runs one product or part of a round at a time, rests as much as the
//! preset says.

use super::burn::Burn;
use super::{eval, train};
use potluck_kernels::{
    Backend as Kernel, BackendChoice, CpuJob, Gpu, GpuOptions, KernelError, Operand, Progress, Variant,
    calibrate,
};
use potluck_proto::{Backend, MatmulTask};
use potluck_types::Duration as Millis;
use potluck_volunteer::train::Finished;
use potluck_volunteer::trainer::Trainer;
use potluck_volunteer::{Choice, Event, Failure, Run, RunId, Workload, compute};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Events that may wait for the engine: one per command, and the engine has at most a run and a calibration out.
const MAX_QUEUED_EVENTS: usize = 16;
/// A native step is longer than a tab's: no frame has to be drawn meanwhile, a Stop is still heard within a quarter of a
/// second, and short steps cost the kernel up to a fifth of its speed.
const NATIVE_STEP: Duration = Duration::from_millis(50);
/// A rest is cut into pieces of this length, so that a Stop is noticed soon.
const REST_PIECE: Duration = Duration::from_millis(20);

enum Order {
    Calibrate(Choice),
    Run(Run, Arc<AtomicBool>),
}

/// A result, the time that it took without rests, and the rest that is still owed for it.
pub(super) type Done = (Finished, Duration, Duration);

/// Why a run has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nobody wants it any more.
    Canceled,
    /// The reason was logged.
    Failed(Failure),
}

impl From<KernelError> for Ended {
    fn from(error: KernelError) -> Self {
        if matches!(error, KernelError::Cancelled) {
            return Self::Canceled;
        }
        tracing::warn!(%error, hint = error.hint(), "a product failed");
        Self::Failed(match error {
            KernelError::OutOfMemory => Failure::OutOfMemory,
            KernelError::ShapeMismatch { .. }
            | KernelError::TooLarge { .. }
            | KernelError::Unsupported { .. } => Failure::Unsupported,
            _ => Failure::DeviceLost,
        })
    }
}

/// Gives orders to the thread. Dropping it cancels what runs and lets the thread end.
pub(super) struct KernelThread {
    orders: blocking::Sender<Order>,
    current: Option<(RunId, Arc<AtomicBool>)>,
}

impl KernelThread {
    /// Starts the thread; its answers come through the receiver.
    pub(super) fn start() -> std::io::Result<(Self, mpsc::Receiver<Event>)> {
        let (orders, inbox) = blocking::channel();
        let (events, answers) = mpsc::channel(MAX_QUEUED_EVENTS);
        let worker = Worker { runtime: Handle::current(), events, gpu: None, untold: Duration::ZERO };
        std::thread::Builder::new().name("kernel".into()).spawn(move || worker.serve(&inbox))?;
        Ok((Self { orders, current: None }, answers))
    }

    pub(super) fn calibrate(&self, choice: Choice) {
        // The thread ends only after `self` is gone, or by a panic, which closes its events.
        let _ = self.orders.send(Order::Calibrate(choice));
    }

    pub(super) fn run(&mut self, run: Run) {
        let cancel = Arc::new(AtomicBool::new(false));
        self.current = Some((run.id, Arc::clone(&cancel)));
        let _ = self.orders.send(Order::Run(run, cancel));
    }

    pub(super) fn cancel(&self, run: RunId) {
        if let Some((current, cancel)) = &self.current
            && *current == run
        {
            cancel.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for KernelThread {
    fn drop(&mut self) {
        if let Some((_, cancel)) = &self.current {
            cancel.store(true, Ordering::Relaxed);
        }
    }
}

/// A GPU, its fastest kernel, what the person chose, and what is known about training on it.
pub(super) struct Device {
    pub(super) gpu: Gpu,
    variant: Variant,
    pub(super) choice: Choice,
    pub(super) trainer: Trainer,
    pub(super) burn: Burn,
}

impl Device {
    pub(super) fn new(gpu: Gpu, variant: Variant, choice: Choice) -> Self {
        let trainer = Trainer::new(&gpu, variant, choice);
        Self { gpu, variant, choice, trainer, burn: Burn::default() }
    }
}

struct Worker {
    runtime: Handle,
    events: mpsc::Sender<Event>,
    gpu: Option<Device>,
    /// Busy time below a millisecond that was not told yet: small shards would else count as no time at all.
    untold: Duration,
}

impl Worker {
    fn serve(mut self, inbox: &blocking::Receiver<Order>) {
        while let Ok(order) = inbox.recv() {
            let served = match order {
                Order::Calibrate(choice) => {
                    let event = self.calibrate(choice);
                    self.tell(event)
                }
                Order::Run(run, cancel) => self.serve_run(run, &cancel),
            };
            if !served {
                return;
            }
        }
    }

    fn calibrate(&mut self, chosen: Choice) -> Event {
        let choice = match chosen {
            Choice::Auto => BackendChoice::Auto,
            Choice::Gpu => BackendChoice::Gpu,
            Choice::Cpu => BackendChoice::Cpu,
        };
        self.gpu = None;
        let gpu = if choice == BackendChoice::Cpu {
            None
        } else {
            self.runtime
                .block_on(Gpu::request(GpuOptions::default()))
                .inspect_err(|error| tracing::info!(%error, "no GPU"))
                .ok()
        };
        let outcome = self.runtime.block_on(calibrate(gpu.as_ref(), choice));
        match outcome {
            Ok(calibration) => {
                for tried in &calibration.candidates {
                    tracing::debug!(kernel = %tried.backend, gflops = tried.gflops, rejected = ?tried.rejected, "measured");
                }
                let mflops = (calibration.gflops() * 1e3) as u32;
                let backend = match (calibration.backend, gpu) {
                    (Kernel::Gpu(variant), Some(gpu)) => {
                        self.gpu = Some(Device::new(gpu, variant, chosen));
                        Backend::NativeGpu
                    }
                    _ => Backend::NativeCpu,
                };
                Event::Calibrated { backend, mflops }
            }
            Err(error) => {
                tracing::warn!(%error, hint = error.hint(), "calibration failed");
                Event::CalibrationFailed
            }
        }
    }

    /// `false` if nobody listens any more.
    fn tell(&self, event: Event) -> bool {
        self.events.blocking_send(event).is_ok()
    }

    /// Computes, says how it went, and takes the rest that is still owed then.
    fn serve_run(&mut self, run: Run, cancel: &AtomicBool) -> bool {
        let Run { id, backend, share, work } = run;
        let outcome = match work {
            Workload::Matmul { task, a, bt } if backend == Backend::NativeGpu => {
                self.run_on_gpu(&task, [&a, &bt], share, cancel)
            }
            Workload::Matmul { task, a, bt } => run_on_cpu(&task, [&a, &bt], share, cancel),
            Workload::Train { task, inputs } => {
                // Only for who looks on: where events queue up, this one need not be among them.
                let tell = |steps| drop(self.events.try_send(Event::KernelProgress { run: id, steps }));
                let device = self.gpu.as_ref().filter(|_| backend == Backend::NativeGpu);
                self.runtime.block_on(train::run(device, &task, inputs, share, cancel, tell)).and_then(
                    |(done, on)| {
                        // If nobody listens any more, the result is not told either.
                        let moved = on != backend && !self.tell(Event::RunsOn { run: id, backend: on });
                        if moved { Err(Ended::Canceled) } else { Ok(done) }
                    },
                )
            }
            Workload::Eval { task, parameters, items } => {
                let moved = backend != Backend::NativeCpu
                    && !self.tell(Event::RunsOn { run: id, backend: Backend::NativeCpu });
                if moved {
                    Err(Ended::Canceled)
                } else {
                    eval::run(&task, &parameters, &items, share, cancel)
                }
            }
        };
        match outcome {
            Ok((Finished { result, kept }, busy, owed)) => {
                self.untold += busy;
                let busy = Millis(self.untold.as_millis().try_into().unwrap_or(u64::MAX));
                self.untold -= Duration::from_millis(busy.0);
                let listens = self.tell(Event::KernelDone { run: id, result, busy, kept });
                take_rest(owed, cancel);
                listens
            }
            Err(Ended::Canceled) => true,
            Err(Ended::Failed(failure)) => {
                if failure == Failure::DeviceLost {
                    // A device that failed once computes nothing that can be trusted: calibration makes a new one.
                    self.gpu = None;
                }
                self.tell(Event::KernelFailed { run: id, failure })
            }
        }
    }

    fn run_on_gpu(
        &self,
        task: &MatmulTask,
        [a, bt]: [&[Arc<Vec<u8>>]; 2],
        share: f64,
        cancel: &AtomicBool,
    ) -> Result<Done, Ended> {
        let Some(Device { gpu, variant, .. }) = &self.gpu else {
            return Err(KernelError::DeviceLost { reason: "there is no device any more".into() }.into());
        };
        let started = Instant::now();
        let assembled = compute::assemble(task, a, bt)?;
        let operands = Operand::pair(&assembled.a, &assembled.bt)?;
        let product = gpu.matmul(assembled.shape, operands, *variant, cancel);
        let output = self.runtime.block_on(product)?;
        let busy = started.elapsed();
        Ok((output.to_le_bytes().into(), busy, rest_for(busy, share)))
    }
}

fn run_on_cpu(
    task: &MatmulTask,
    [a, bt]: [&[Arc<Vec<u8>>]; 2],
    share: f64,
    cancel: &AtomicBool,
) -> Result<Done, Ended> {
    let started = Instant::now();
    let assembled = compute::assemble(task, a, bt)?;
    let mut job = CpuJob::new(assembled.shape, Operand::pair(&assembled.a, &assembled.bt)?)?;
    let mut busy = started.elapsed();
    let mut owed = rest_for(busy, share);
    loop {
        if !take_rest(owed, cancel) {
            return Err(Ended::Canceled);
        }
        let step = Instant::now();
        let progress = job.step(NATIVE_STEP);
        let took = step.elapsed();
        busy += took;
        owed = rest_for(took, share);
        if progress == Progress::Finished {
            return Ok((job.finish().to_le_bytes().into(), busy, owed));
        }
    }
}

/// The rest after `busy`, so that busy / (busy + rest) = share.
pub(super) fn rest_for(busy: Duration, share: f64) -> Duration {
    if share >= 1.0 {
        return Duration::ZERO;
    }
    busy.mul_f64(1.0 / share.clamp(0.01, 1.0) - 1.0)
}

/// Rests, unless canceled: then `false`.
pub(super) fn take_rest(rest: Duration, cancel: &AtomicBool) -> bool {
    let until = Instant::now() + rest;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(REST_PIECE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_keep_the_share() {
        let busy = Duration::from_millis(10);
        assert_eq!(rest_for(busy, 1.0), Duration::ZERO);
        assert_eq!(rest_for(busy, 0.5), busy);
        assert_eq!(rest_for(busy, 0.25), busy * 3);
        assert!(rest_for(busy, 0.0) < Duration::from_secs(2));
    }

    #[test]
    fn a_canceled_rest_ends_at_once() {
        assert!(!take_rest(Duration::from_mins(1), &AtomicBool::new(true)));
        assert!(take_rest(Duration::from_millis(1), &AtomicBool::new(false)));
    }
}
