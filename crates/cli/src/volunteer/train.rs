//! Parts of training rounds, in the thread that computes: on the GPU where that pays, else on the CPU.

use super::kernel::{Device, Done, Ended, rest_for, take_rest};
use potluck_proto::{Backend, TrainTask};
use potluck_volunteer::TrainInputs;
use potluck_volunteer::train::{Prepared, TaskError, TrainRun};
use potluck_volunteer::trainer::{AnyGpt, Pace};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Progress is told at most this often.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

impl From<TaskError> for Ended {
    fn from(error: TaskError) -> Self {
        tracing::warn!(%error, "a part of a round failed");
        Self::Failed(error.failure())
    }
}

/// Time at work, and rest that is owed for it.
struct Shift<'a> {
    began: Instant,
    share: f64,
    cancel: &'a AtomicBool,
    busy: Duration,
    owed: Duration,
}

impl Shift<'_> {
    /// Counts the time since `started` as work.
    fn worked(&mut self, started: Instant) {
        let took = started.elapsed();
        self.busy += took;
        self.owed += rest_for(took, self.share);
    }

    fn rest(&mut self) -> Result<(), Ended> {
        if take_rest(std::mem::take(&mut self.owed), self.cancel) { Ok(()) } else { Err(Ended::Canceled) }
    }
}

impl Pace for Shift<'_> {
    type Stop = Ended;

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn rest(&mut self, started: Duration) -> Result<(), Ended> {
        self.worked(self.began + started);
        self.rest()
    }
}

/// Takes a worker's inner steps, on a GPU if there is one and it pays; also says what computed them. Between two of them it rests as `share` says, ends if canceled, and now and then calls
/// `tell` with the number of steps that are done.
pub(super) async fn run(
    device: Option<&Device>,
    task: &TrainTask,
    inputs: TrainInputs,
    share: f64,
    cancel: &AtomicBool,
    mut tell: impl FnMut(u32),
) -> Result<(Done, Backend), Ended> {
    let mut shift =
        Shift { began: Instant::now(), share, cancel, busy: Duration::ZERO, owed: Duration::ZERO };
    let mut told = Instant::now();
    let started = Instant::now();
    let prepared = Prepared::new(task, inputs)?;
    shift.worked(started);
    let batch = [task.sequences as usize, task.length as usize];
    let engine = match device {
        Some(Device { gpu, trainer, .. }) => {
            trainer.engine(gpu, prepared.config(), batch, &mut shift).await?
        }
        None => AnyGpt::cpu(prepared.config())?,
    };
    if let AnyGpt::Cpu { why: Some(why), .. } = &engine {
        tracing::info!(%why, "this round runs on the CPU");
    }
    let backend = if engine.is_on_gpu() { Backend::NativeGpu } else { Backend::NativeCpu };
    let started = Instant::now();
    let mut training = TrainRun::start(&prepared, engine).await?;
    shift.worked(started);
    while !training.progress().complete() {
        shift.rest()?;
        let started = Instant::now();
        let progress = training.step().await?;
        shift.worked(started);
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            tell(progress.done);
        }
    }
    shift.rest()?;
    let started = Instant::now();
    let result = training.finish().await?;
    shift.worked(started);
    Ok(((result, shift.busy, shift.owed), backend))
}

#[cfg(test)]
#[path = "../../../volunteer/tests/rounds/mod.rs"]
mod rounds;

#[cfg(test)]
mod tests {
    use super::rounds::{self, now};
    use super::*;
    use potluck_train::gpt::GptConfig;
    use potluck_volunteer::Failure;
    use std::sync::atomic::Ordering;

    fn tiny() -> rounds::Example {
        rounds::example(GptConfig::tiny(65), 20_000, 2, 1)
    }

    fn train(example: &rounds::Example, share: f64, cancel: &AtomicBool) -> Result<Done, Ended> {
        now(run(&example.task, example.inputs(), share, cancel, |_| ()))
    }

    #[test]
    fn a_round_gives_the_bytes_that_the_library_gives() {
        let example = tiny();
        let (result, busy, owed) = train(&example, 1.0, &AtomicBool::new(false)).unwrap();
        assert_eq!(example.task.steps, 2);
        assert_eq!(result, example.result());
        assert!(busy > Duration::ZERO && owed == Duration::ZERO);
    }

    #[test]
    fn half_of_the_time_is_rested() {
        let started = Instant::now();
        let (_, busy, owed) = train(&tiny(), 0.5, &AtomicBool::new(false)).unwrap();
        assert!(started.elapsed() + owed >= busy * 2);
    }

    #[test]
    fn a_round_can_be_canceled_before_it_begins_and_on_its_way() {
        let example = tiny();
        let cancel = AtomicBool::new(true);
        assert_eq!(train(&example, 1.0, &cancel).map(drop), Err(Ended::Canceled));
        cancel.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            // At a hundredth of the time, the rests between the steps are far longer than this.
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                cancel.store(true, Ordering::Relaxed);
            });
            assert_eq!(train(&example, 0.01, &cancel).map(drop), Err(Ended::Canceled));
        });
    }

    #[test]
    fn a_bad_round_is_not_the_device_s_fault() {
        let example = tiny();
        let mut inputs = example.inputs();
        inputs.outer_steps.clear();
        let cancel = AtomicBool::new(false);
        let bad = now(run(&example.task, inputs, 1.0, &cancel, |_| ()));
        assert_eq!(bad.map(drop), Err(Ended::Failed(Failure::BadTask)));
    }
}
