//! The small picture of a job that volunteers see.

use crate::job::{Job, Unit};
use potluck_proto::{Picture, cell};
use potluck_types::VolunteerId;
use potluck_types::limits::{MAX_TEXT_BYTES, PICTURE_SIDE};

/// Draws a job for one volunteer: one cell a unit, or one cell for several where the grid is large. A cell
/// shows the least finished of its units, and is the viewer's if any of them is.
pub(crate) fn draw(job: &Job, viewer: &VolunteerId) -> Picture {
    let grid = &job.spec.grid;
    let (rows, cols) = (grid.row_units(), grid.col_units());
    let (height, width) = (rows.min(u32::from(PICTURE_SIDE)), cols.min(u32::from(PICTURE_SIDE)));
    let mut cells = Vec::with_capacity((height * width) as usize);
    for y in 0..height {
        for x in 0..width {
            let mut least = Unit::Accepted;
            let mut own = false;
            for row in y * rows / height..(y + 1) * rows / height {
                for col in x * cols / width..(x + 1) * cols / width {
                    for slice in 0..grid.slices() {
                        let (unit, owner) = job.unit(row, col, slice);
                        own |= owner.as_ref() == Some(viewer);
                        least = match (least, unit) {
                            (Unit::Free, _) | (_, Unit::Free) => Unit::Free,
                            (Unit::InFlight, _) | (_, Unit::InFlight) => Unit::InFlight,
                            _ => Unit::Accepted,
                        };
                    }
                }
            }
            cells.push(match (least, own) {
                (Unit::Free, _) => cell::FREE,
                (Unit::InFlight, false) => cell::LEASED,
                (Unit::InFlight, true) => cell::YOURS_LEASED,
                (Unit::Accepted, false) => cell::ACCEPTED,
                (Unit::Accepted, true) => cell::YOURS_ACCEPTED,
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

fn truncated(name: &str) -> String {
    let end = (0..=name.len().min(MAX_TEXT_BYTES)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    name[..end].to_owned()
}
