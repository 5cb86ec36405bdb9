//! Parts of training rounds in the tab, on the GPU where that pays, else in wasm; one inner step at a time, so that the
//! Worker hears a Stop between two of them.

use crate::compute::{Computed, Device, Ended, Shift};
use potluck_proto::{Backend, TrainTask};
use potluck_volunteer::TrainInputs;
use potluck_volunteer::train::{Prepared, TaskError, TrainRun};
use potluck_volunteer::trainer::{AnyGpt, Pace};
use std::time::Duration;
use web_time::Instant;

/// Progress is told at most this often.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

impl From<TaskError> for Ended {
    fn from(error: TaskError) -> Self {
        Self::Failed(error.failure())
    }
}

/// Time at work, within a shift.
struct Work<'a> {
    shift: &'a Shift,
    began: Instant,
    busy: Duration,
}

impl Work<'_> {
    /// Counts the time since `started` as work.
    fn worked(&mut self, started: Duration) {
        let took = self.now().saturating_sub(started);
        self.busy += took;
        self.shift.owe(took);
    }
}

impl Pace for Work<'_> {
    type Stop = Ended;

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn rest(&mut self, started: Duration) -> Result<(), Ended> {
        self.worked(started);
        self.shift.rest().await
    }
}

/// Takes a worker's inner steps, on the GPU if there is one and it pays; now and then `tell` hears how many are done.
pub(crate) async fn run(
    device: &Device,
    task: &TrainTask,
    inputs: TrainInputs,
    shift: &Shift,
    mut tell: impl FnMut(u32),
) -> Result<Computed, Ended> {
    let mut work = Work { shift, began: Instant::now(), busy: Duration::ZERO };
    let mut told = Instant::now();
    let prepared = Prepared::new(task, inputs)?;
    work.rest(Duration::ZERO).await?;
    let batch = [task.sequences as usize, task.length as usize];
    let engine = match device {
        Device::Gpu(device) => {
            device.trainer.engine(&device.gpu, prepared.config(), batch, &mut work).await?
        }
        Device::Cpu => AnyGpt::cpu(prepared.config())?,
    };
    let backend = if engine.is_on_gpu() { Backend::WebGpu } else { Backend::WasmSimd };
    let mut started = work.now();
    let mut training = TrainRun::start(&prepared, engine).await?;
    while !training.progress().complete() {
        work.rest(started).await?;
        started = work.now();
        let progress = training.step().await?;
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            tell(progress.done);
        }
    }
    work.rest(started).await?;
    started = work.now();
    let result = training.finish().await?;
    work.worked(started);
    Ok(Computed { result, busy: work.busy, backend })
}
