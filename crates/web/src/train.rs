//! Parts of training rounds in the tab, one inner step at a time, so that the Worker hears a Stop between two of them.

use crate::compute::{Ended, Shift};
use potluck_proto::TrainTask;
use potluck_train::gpt::CpuGpt;
use potluck_volunteer::train::{Prepared, TaskError, TrainRun};
use potluck_volunteer::{Failure, TrainInputs};
use std::time::Duration;
use web_time::Instant;

/// Progress is told at most this often.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

impl From<TaskError> for Ended {
    fn from(error: TaskError) -> Self {
        Self::Failed(Failure::from(&error))
    }
}

/// Takes a worker's inner steps. The result and the time that the device was busy; now and then `tell` hears how many
/// steps are done.
pub(crate) async fn run(
    task: &TrainTask,
    inputs: TrainInputs,
    shift: &Shift,
    mut tell: impl FnMut(u32),
) -> Result<(Vec<u8>, Duration), Ended> {
    let mut busy = Duration::ZERO;
    let mut work = |start: Instant| {
        let took = start.elapsed();
        busy += took;
        shift.owe(took);
    };
    let mut told = Instant::now();
    let start = Instant::now();
    let prepared = Prepared::new(task, inputs)?;
    // The place to choose another engine.
    let engine = CpuGpt::new(prepared.config()).map_err(TaskError::from)?;
    let mut training = TrainRun::start(&prepared, engine).await?;
    work(start);
    while !training.progress().complete() {
        shift.rest().await?;
        let start = Instant::now();
        let progress = training.step().await?;
        work(start);
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            tell(progress.done);
        }
    }
    shift.rest().await?;
    let start = Instant::now();
    let result = training.finish().await?;
    work(start);
    Ok((result, busy))
}
