//! Who computed what: the map of a job, and the contributors of a run.

use super::api::{JobMap, Refusal, RunContributor, RunContributors};
use crate::api::ApiError;
use crate::db::{Db, DbError, bytes};
use crate::http::{Answer, Id, Shared};
use crate::runs::store::ACCEPTED;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use potluck_schedule::{AcceptedTile, Grid};
use potluck_types::limits::PICTURE_SIDE;
use potluck_types::{JobId, VolunteerId};
use sqlx::Row as _;
use std::collections::HashMap;
use std::ops::Range;

/// A place of the map where nothing is accepted.
const NOTHING: i32 = -2;
/// One where some is, but not all slices of K, or not all of its units.
const SOME: i32 = -1;
/// Contributors and reasons of one answer.
const MAX_ROWS: i64 = 1000;

/// Which parts of a job's product are done, and who computed them. At most 48 cells on a side.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/map", params(("id" = String, Path)),
    responses((status = 200, body = JobMap), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 429, body = ApiError)))]
pub(crate) async fn get_map(State(app): Shared, headers: HeaderMap, id: Id) -> Answer<JobMap> {
    app.authorize(&headers)?;
    let unknown = || ApiError::not_found("job");
    let id: JobId = id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(unknown)?;
    let row = app.db.job(&id).await?.ok_or_else(unknown)?;
    let grid = Grid::new(row.shape, row.dtype).map_err(ApiError::internal)?;
    let tiles = app.db.accepted(&id).await?;
    Ok(Json(map(&grid, &tiles)))
}

/// Units along a side that fall into each cell.
fn cells_of(units: u32) -> u32 {
    units.min(u32::from(PICTURE_SIDE))
}

/// Cells that a range of rows or columns touches, each with how many of its units are in the range.
fn touched(range: &Range<u32>, unit: u32, units: u32) -> impl Iterator<Item = (u32, u64)> {
    let cells = cells_of(units);
    let (first, end) = (range.start / unit, range.end.div_ceil(unit));
    // Cell c holds the units from c * units / cells on: as `schedule`'s picture cuts it.
    (0..cells).filter_map(move |cell| {
        let (from, to) = (cell * units / cells, (cell + 1) * units / cells);
        let inside = end.min(to).saturating_sub(first.max(from));
        (inside > 0).then_some((cell, u64::from(inside)))
    })
}

/// Tiles of shards never overlap in one slice, so each unit is counted once.
fn map(grid: &Grid, tiles: &[AcceptedTile]) -> JobMap {
    let (rows, cols) = (grid.row_units(), grid.col_units());
    let (height, width) = (cells_of(rows), cells_of(cols));
    let mut parts = vec![HashMap::<VolunteerId, u64>::new(); (height * width) as usize];
    for tile in tiles {
        let across: Vec<_> = touched(&tile.tile.cols, grid.unit_cols, cols).collect();
        let depth = &tile.tile.depth;
        let slices = u64::from(depth.end.saturating_sub(depth.start).div_ceil(grid.slice_depth.max(1)));
        for (y, high) in touched(&tile.tile.rows, grid.unit_rows, rows) {
            for (x, wide) in &across {
                *parts[(y * width + x) as usize].entry(tile.volunteer).or_default() += high * wide * slices;
            }
        }
    }
    let whole = |y: u32, x: u32| {
        let span =
            |cell: u32, units: u32, cells: u32| u64::from((cell + 1) * units / cells - cell * units / cells);
        span(y, rows, height) * span(x, cols, width) * u64::from(grid.slices())
    };
    let owners: Vec<Result<VolunteerId, i32>> = parts
        .iter()
        .zip(0..)
        .map(|(by, at): (_, u32)| {
            let most = by.iter().max_by_key(|(volunteer, units)| (**units, volunteer.0)).ok_or(NOTHING)?;
            if by.values().sum::<u64>() < whole(at / width, at % width) { Err(SOME) } else { Ok(*most.0) }
        })
        .collect();
    let mut counts = HashMap::<VolunteerId, u32>::new();
    owners.iter().flatten().for_each(|owner| *counts.entry(*owner).or_default() += 1);
    let mut volunteers: Vec<_> = counts.into_iter().collect();
    volunteers.sort_unstable_by_key(|(volunteer, count)| (std::cmp::Reverse(*count), volunteer.0));
    let places: HashMap<_, _> =
        volunteers.iter().zip(0..).map(|((volunteer, _), at)| (*volunteer, at)).collect();
    let cells =
        owners.into_iter().map(|owner| owner.map_or_else(|none| none, |owner| places[&owner])).collect();
    JobMap {
        columns: width,
        cells,
        volunteers: volunteers.into_iter().map(|(volunteer, _)| volunteer.to_string()).collect(),
    }
}

/// Who contributed to a run: updates of its closed rounds, the refused ones among them.
#[utoipa::path(get, path = "/api/v1/runs/{id}/contributors", params(("id" = String, Path)),
    responses((status = 200, body = RunContributors), (status = 404, body = ApiError), (status = 429, body = ApiError)))]
pub(crate) async fn get_contributors(State(app): Shared, id: Id) -> Answer<RunContributors> {
    let unknown = || ApiError::not_found("run");
    let id: JobId = id.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(unknown)?;
    app.db.run(&id).await?.ok_or_else(unknown)?;
    Ok(Json(app.db.run_contributors(&id).await?))
}

impl Db {
    /// Who contributed to a run, and what was refused.
    ///
    /// # Errors
    /// What the database says.
    async fn run_contributors(&self, run: &JobId) -> Result<RunContributors, DbError> {
        let rows = sqlx::query(
            "SELECT volunteer, backend, SUM(CASE WHEN verdict = $1 THEN 1 ELSE 0 END),
             SUM(CASE WHEN verdict = $1 THEN 0 ELSE 1 END), CAST(SUM(audited) AS BIGINT), CAST(SUM(bytes) AS BIGINT),
             CAST(SUM(weight) AS BIGINT)
             FROM updates WHERE run = $2 GROUP BY volunteer, backend ORDER BY 3 DESC, 1, 2 LIMIT $3",
        )
        .bind(ACCEPTED)
        .bind(&run.0[..])
        .bind(MAX_ROWS)
        .fetch_all(&self.pool)
        .await?;
        let contributors = rows.iter().map(|row| {
            let number = |at: usize| row.try_get::<i64, _>(at).map(i64::cast_unsigned);
            Ok(RunContributor {
                volunteer: VolunteerId(bytes(row, 0)?).to_string(),
                backend: row.try_get(1)?,
                accepted: number(2)?,
                refused: number(3)?,
                audited: number(4)?,
                bytes: number(5)?,
                weight: number(6)? as f64 / 1e6,
            })
        });
        let contributors = contributors.collect::<Result<_, DbError>>()?;
        let rows = sqlx::query(
            "SELECT verdict, COUNT(*) FROM updates WHERE run = $1 AND verdict <> $2 GROUP BY verdict
             ORDER BY 2 DESC, 1 LIMIT $3",
        )
        .bind(&run.0[..])
        .bind(ACCEPTED)
        .bind(MAX_ROWS)
        .fetch_all(&self.pool)
        .await?;
        let refusals = rows.iter().map(|row| {
            Ok(Refusal { reason: row.try_get(0)?, count: row.try_get::<i64, _>(1)?.cast_unsigned() })
        });
        let refusals = refusals.collect::<Result<_, DbError>>()?;
        let row = sqlx::query(
            "SELECT CAST(COALESCE(SUM(audited), 0) AS BIGINT), COUNT(*) FROM updates WHERE run = $1",
        )
        .bind(&run.0[..])
        .fetch_one(&self.pool)
        .await?;
        let number = |at: usize| row.try_get::<i64, _>(at).map(i64::cast_unsigned);
        Ok(RunContributors { contributors, refusals, audited: number(0)?, updates: number(1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_proto::{Backend, BlobRef};
    use potluck_types::{BlobHash, DType, MatmulShape, Tile};

    fn tile(rows: Range<u32>, cols: Range<u32>, depth: Range<u32>, volunteer: u8) -> AcceptedTile {
        AcceptedTile {
            job: JobId([0; 16]),
            shard: 0,
            tile: Tile { rows, cols, depth },
            result: BlobRef { hash: BlobHash([0; 32]), bytes: 0 },
            volunteer: VolunteerId([volunteer; 32]),
            backend: Backend::NativeCpu,
            compute_ms: 1,
        }
    }

    fn grid(m: u32, k: u32, n: u32) -> Grid {
        Grid::new(MatmulShape { m, k, n }, DType::F32).unwrap()
    }

    #[test]
    fn each_place_says_who_computed_it() {
        let grid = grid(100, 50, 130);
        let (rows, cols) = (grid.row_units() as usize, grid.col_units() as usize);
        assert!(rows >= 2 && cols >= 2, "{grid:?}");
        let empty = map(&grid, &[]);
        assert_eq!((empty.columns as usize, empty.cells), (cols, vec![NOTHING; rows * cols]));
        // The first row of units by one, the rest of the last column by another.
        let edge = grid.unit_rows.min(100);
        let last = (grid.col_units() - 1) * grid.unit_cols;
        let found = map(&grid, &[tile(0..edge, 0..130, 0..50, 7), tile(edge..100, last..130, 0..50, 8)]);
        assert_eq!(found.volunteers, [7, 8].map(|byte| VolunteerId([byte; 32]).to_string()));
        for (at, cell) in found.cells.iter().enumerate() {
            let expected = if at < cols {
                0
            } else if at % cols == cols - 1 {
                1
            } else {
                NOTHING
            };
            assert_eq!(*cell, expected, "cell {at} of {found:?}");
        }
    }

    #[test]
    fn a_place_counts_when_all_of_its_slices_do() {
        let grid = grid(64, 5000, 64);
        assert!(grid.slices() > 1);
        let first = tile(0..64, 0..64, 0..grid.slice_depth, 7);
        assert!(map(&grid, std::slice::from_ref(&first)).cells.iter().all(|cell| *cell == SOME));
        let rest = tile(0..64, 0..64, grid.slice_depth..5000, 8);
        let whole = map(&grid, &[first, rest]);
        // Two slices of three by the second volunteer.
        assert!(whole.cells.iter().all(|cell| *cell == 0), "{whole:?}");
        assert_eq!(whole.volunteers, [VolunteerId([8; 32]).to_string()]);
    }

    #[test]
    fn large_products_have_a_map_of_some_size() {
        let grid = grid(20_000, 64, 20_000);
        let side = u32::from(PICTURE_SIDE);
        let whole = map(&grid, &[tile(0..20_000, 0..20_000, 0..64, 7)]);
        assert_eq!(
            (whole.columns, whole.cells.len() as u32),
            (cells_of(grid.col_units()), cells_of(grid.row_units()) * cells_of(grid.col_units()))
        );
        assert!(whole.columns <= side && whole.cells.iter().all(|cell| *cell == 0));
    }
}
