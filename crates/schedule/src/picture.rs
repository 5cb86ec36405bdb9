//! The small picture of a job or a run that volunteers see.

use crate::eval::Eval;
use crate::job::{Job, Unit};
use crate::round::{Phase, Run, SlotState};
use potluck_proto::{Picture, cell};
use potluck_types::VolunteerId;
use potluck_types::limits::{MAX_TEXT_BYTES, PICTURE_SIDE};

/// Draws a job for one volunteer: one cell for all slices of K of an output tile, or of several where the grid is
/// large. A cell is free if all of its units are, accepted if all of them are, and else leased; it is the viewer's
/// if any of its units is.
pub(crate) fn draw(job: &Job, viewer: &VolunteerId) -> Picture {
    let grid = &job.spec.grid;
    let (rows, cols) = (grid.row_units(), grid.col_units());
    let (height, width) = (rows.min(u32::from(PICTURE_SIDE)), cols.min(u32::from(PICTURE_SIDE)));
    let mut cells = Vec::with_capacity((height * width) as usize);
    for y in 0..height {
        for x in 0..width {
            let (mut untouched, mut complete, mut own) = (true, true, false);
            for row in y * rows / height..(y + 1) * rows / height {
                for col in x * cols / width..(x + 1) * cols / width {
                    for slice in 0..grid.slices() {
                        let (unit, owner) = job.unit(row, col, slice);
                        own |= owner.as_ref() == Some(viewer);
                        untouched &= unit == Unit::Free;
                        complete &= unit == Unit::Accepted;
                    }
                }
            }
            cells.push(match (untouched, complete, own) {
                (true, ..) => cell::FREE,
                (_, true, false) => cell::ACCEPTED,
                (_, true, true) => cell::YOURS_ACCEPTED,
                (_, _, false) => cell::LEASED,
                (_, _, true) => cell::YOURS_LEASED,
            });
        }
    }
    let progress = job.progress();
    Picture {
        job: job.spec.id,
        name: truncated(&job.spec.name),
        columns: width as u16,
        cells,
        accepted_permille: (u64::from(progress.accepted) * 1000 / u64::from(progress.units.max(1))) as u16,
        volunteers: progress.volunteers,
    }
}

/// Columns of a run's picture.
const RUN_COLUMNS: usize = 16;

/// Draws a run for one volunteer: one cell for each worker of the round. Between rounds the last durable one is
/// shown.
pub(crate) fn draw_run(run: &Run, viewer: &VolunteerId) -> Picture {
    let between = matches!(run.phase, Phase::Preparing | Phase::Gathering { .. } | Phase::Paused);
    let workers = run.spec.max_workers as usize;
    let cells = (0..workers).map(|worker| {
        if between {
            return match run.last.get(worker).copied().flatten() {
                None => cell::FREE,
                Some(volunteer) if volunteer == *viewer => cell::YOURS_ACCEPTED,
                Some(_) => cell::ACCEPTED,
            };
        }
        let slot = run.slots.get(worker);
        match slot.map(|slot| (&slot.state, slot.volunteer())) {
            None | Some((SlotState::Free, _)) => cell::FREE,
            Some((_, volunteer)) if volunteer == Some(*viewer) => cell::YOURS_LEASED,
            Some(_) => cell::LEASED,
        }
    });
    Picture {
        job: run.id(),
        name: truncated(&run.spec.name),
        columns: workers.min(RUN_COLUMNS) as u16,
        cells: cells.collect(),
        accepted_permille: (u128::from(run.round) * 1000 / u128::from(run.spec.rounds.max(1))).min(1000)
            as u16,
        volunteers: run.leased(),
    }
}

/// Draws an eval for one volunteer: one cell for each shard.
pub(crate) fn draw_eval(eval: &Eval, viewer: &VolunteerId) -> Picture {
    let cells = eval.shards.iter().map(|shard| {
        let own = shard.leases.values().any(|volunteer| volunteer == viewer)
            || shard.answers.iter().any(|answer| answer.volunteer == *viewer);
        match (shard.done, own) {
            (true, _) => cell::ACCEPTED,
            (false, true) => cell::YOURS_LEASED,
            (false, false) if shard.leases.is_empty() && shard.answers.is_empty() => cell::FREE,
            (false, false) => cell::LEASED,
        }
    });
    let progress = eval.progress();
    Picture {
        job: eval.spec.id,
        name: truncated(&eval.spec.name),
        columns: eval.shards.len().min(RUN_COLUMNS) as u16,
        cells: cells.collect(),
        accepted_permille: (u64::from(progress.done) * 1000 / u64::from(progress.shards.max(1))) as u16,
        volunteers: progress.leased,
    }
}

fn truncated(name: &str) -> String {
    let end = (0..=name.len().min(MAX_TEXT_BYTES)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    name[..end].to_owned()
}
