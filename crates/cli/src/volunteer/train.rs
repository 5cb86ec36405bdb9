//! Parts of training rounds on the CPU, in the thread that computes.

use super::kernel::{Done, Ended, rest_for, take_rest};
use potluck_proto::TrainTask;
use potluck_train::gpt::CpuGpt;
use potluck_volunteer::TrainInputs;
use potluck_volunteer::train::{Prepared, TaskError, TrainRun};
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

/// Takes a worker's inner steps. Between two of them it rests as `share` says, ends if canceled, and now and then calls
/// `tell` with the number of steps that are done.
pub(super) async fn run(
    task: &TrainTask,
    inputs: TrainInputs,
    share: f64,
    cancel: &AtomicBool,
    mut tell: impl FnMut(u32),
) -> Result<Done, Ended> {
    let mut shift = Shift { share, cancel, busy: Duration::ZERO, owed: Duration::ZERO };
    let mut told = Instant::now();
    let started = Instant::now();
    let prepared = Prepared::new(task, inputs)?;
    // The place to choose another engine.
    let engine = CpuGpt::new(prepared.config()).map_err(TaskError::from)?;
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
    Ok((result, shift.busy, shift.owed))
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

    #[test]
    fn a_round_gives_the_bytes_that_the_library_gives() {
        let example = tiny();
        let run = run(&example.task, example.inputs(), 1.0, &AtomicBool::new(false), |_| ());
        let (result, busy, owed) = now(run).unwrap();
        assert_eq!(result, example.result());
        assert!(busy > Duration::ZERO && owed == Duration::ZERO);
    }

    #[test]
    fn half_of_the_time_is_rested() {
        let example = tiny();
        let started = Instant::now();
        let run = run(&example.task, example.inputs(), 0.5, &AtomicBool::new(false), |_| ());
        let (_, busy, owed) = now(run).unwrap();
        assert!(started.elapsed() + owed >= busy * 2);
    }

    #[test]
    fn a_canceled_round_ends_and_a_bad_one_is_the_task_s_fault() {
        let example = tiny();
        let mut steps = 0;
        let cancel = AtomicBool::new(true);
        let canceled = run(&example.task, example.inputs(), 1.0, &cancel, |_| steps += 1);
        assert_eq!(now(canceled).map(drop), Err(Ended::Canceled));
        assert_eq!(steps, 0);
        cancel.store(false, Ordering::Relaxed);
        let mut inputs = example.inputs();
        inputs.outer_steps.clear();
        let bad = run(&example.task, inputs, 1.0, &cancel, |_| ());
        assert_eq!(now(bad).map(drop), Err(Ended::Failed(Failure::BadTask)));
    }
}
