//! Pauses that stand in the log and what the operator switched off, carried to the machine: runs that are paused get no
//! rounds, and while everything is paused nobody gets work. They end as they begin, by an entry or by the clock.
//!
//! What a submitter asks for is in the run's record and stays there: a run goes on when neither stops it.

use super::Runs;
use super::store::RunState;
use crate::core::{Core, Gone};
use crate::log::{LogError, now_ms};
use potluck_governance::State;
use potluck_governance::state::{Cause, Pause};
use potluck_governance::statement::Scope;
use potluck_schedule::{Input, Kernel, RunInput};
use potluck_types::JobId;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Pause between two looks: entries come by the hundreds a second, and a pause that is this late is early enough.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Longest time without a look: a clock may be set.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the database fails: {0}")]
    Database(#[from] crate::db::DbError),
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// What a pause says, for people.
pub(crate) fn reason(state: &State, pause: &Pause) -> String {
    let (who, why) = match &pause.cause {
        Cause::Steward { name, reason } => (state.display_name(name), reason.clone()),
        Cause::Auditors { names, reason } => {
            let names: Vec<String> = names.iter().map(|name| state.display_name(name)).collect();
            (names.join(" and "), reason.clone())
        }
        Cause::Automatic { trigger, detail } => (format!("{trigger:?}"), detail.clone()),
    };
    format!("{} is paused by entry {} of the log ({who}: {why})", pause.scope, pause.id)
}

/// Looks once, so that nothing begins that is paused, and then whenever something changes.
pub(crate) async fn start(runs: Runs, core: Core) -> JoinHandle<()> {
    let mut appended = runs.0.log.appended();
    appended.mark_unchanged();
    let mut halted = false;
    let mut wait = look(&runs, &core, &mut halted).await;
    tokio::spawn(async move {
        loop {
            let until = match wait {
                Ok(until) => until.min(MAX_WAIT),
                Err(LookError::Gone(_)) => return,
                Err(error) => {
                    tracing::error!(%error, "pauses of the log could not be looked up; it is tried again");
                    Duration::from_secs(1)
                }
            };
            tokio::select! {
                changed = appended.changed() => if changed.is_err() { return },
                () = runs.0.look_again.notified() => {}
                () = tokio::time::sleep(until) => {}
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            appended.mark_unchanged();
            wait = look(&runs, &core, &mut halted).await;
        }
    })
}

/// Tells the machine what is paused and what no longer is. For how long that holds, if nothing is logged.
async fn look(runs: &Runs, core: &Core, halted: &mut bool) -> Result<Duration, LookError> {
    let open = runs.open_ids();
    let switches = runs.0.switches.switches();
    let stops = |run: &JobId, paused: bool| paused || switches.stop(Kernel::Train, run);
    let (paused, all, until) = runs
        .0
        .log
        .state(|state| {
            let now_ms = now_ms(state);
            let paused: Vec<JobId> =
                open.iter().copied().filter(|run| stops(run, state.paused(*run, now_ms).is_some())).collect();
            let in_force = || state.pauses().values().filter(|pause| pause.in_force(now_ms));
            let all = in_force().any(|pause| pause.scope == Scope::All);
            let ends = in_force().filter(|pause| pause.ratified_ms.is_none()).map(|pause| pause.expires_ms);
            let until =
                ends.min().map_or(MAX_WAIT, |ends| Duration::from_millis(ends.saturating_sub(now_ms)));
            (paused, all, until)
        })
        .await?;
    if std::mem::replace(halted, all) != all {
        tracing::warn!(halted = all, "a pause of everything begins or ends");
        core.input(Input::Halted { halted: all }).await?;
    }
    for run in &paused {
        // Said again, it changes nothing; said once, it could be lost to a run that just begins.
        core.input(Input::Run(RunInput::Paused { run: *run })).await?;
        runs.stop(*run);
    }
    for run in runs.stopped() {
        if paused.contains(&run) {
            continue;
        }
        if runs.0.db.run(&run).await?.is_some_and(|row| row.state == RunState::Running) {
            core.input(Input::Run(RunInput::Resumed { run })).await?;
        }
        runs.release(&run);
        runs.changed();
    }
    Ok(until)
}
