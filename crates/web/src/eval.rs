//! Shards of evals in the tab: one forward pass at a time in wasm, so that the Worker hears a Stop between two of them.

use crate::compute::{Computed, Ended, Shift};
use potluck_eval::EvalError;
use potluck_proto::{Backend, EvalTask};
use potluck_volunteer::{Failure, eval};
use std::time::Duration;
use web_time::Instant;

/// Passes shorter than this are made together: a turn of the event loop costs as much.
const SLICE: Duration = Duration::from_millis(10);

impl From<EvalError> for Ended {
    fn from(error: EvalError) -> Self {
        Self::Failed(Failure::from(&error))
    }
}

/// Answers the questions of a shard.
pub(crate) async fn run(
    task: &EvalTask,
    parameters: &[u8],
    items: &[u8],
    shift: &Shift,
) -> Result<Computed, Ended> {
    let start = Instant::now();
    let mut evaluation = eval::prepare(task, parameters, items)?;
    let mut busy = start.elapsed();
    shift.owe(busy);
    while !evaluation.done() {
        shift.rest().await?;
        let slice = Instant::now();
        while !evaluation.done() && slice.elapsed() < SLICE {
            evaluation.step()?;
        }
        let took = slice.elapsed();
        busy += took;
        shift.owe(took);
    }
    Ok(Computed { result: evaluation.finish()?, kept: None, busy, backend: Backend::WasmSimd })
}
