//! How results become durable: a few statements for many of them, in one transaction with their entries of the log.

use crate::db::{Db, DbError, Writing, places, wall_ms};
use crate::embed::store::{Counts, count as count_sites};
use crate::log::{Log, LogError, records};
use crate::names;
use potluck_schedule::AcceptedTile;
use potluck_types::{JobId, VolunteerId};
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Results up to this length, in bytes, are rows of the database instead of files. A file is synchronized by itself, and its
/// folder too; rows are with their transaction. The price is that the database grows by them.
pub(crate) const MAX_SMALL_RESULT_BYTES: usize = 16 << 10;

/// Accepted results of jobs that were not canceled: a query for their hashes.
pub(crate) const ACCEPTED: &str =
    "SELECT hash FROM accepted WHERE job IN (SELECT id FROM jobs WHERE state <> 'canceled')";
/// Those of them that are files.
pub(crate) const ACCEPTED_FILES: &str = "SELECT hash FROM accepted
    WHERE job IN (SELECT id FROM jobs WHERE state <> 'canceled') AND NOT EXISTS
    (SELECT 1 FROM small_results WHERE small_results.job = accepted.job AND small_results.shard = accepted.shard)";

/// Rows of one statement. There are few such numbers, so that each statement is prepared once; 64 rows have 960 parameters, of
/// the 32,766 that SQLite takes, and the 65,535 that PostgreSQL does.
const ROWS: [usize; 3] = [64, 8, 1];

/// A verified result, as the store takes it.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) tile: AcceptedTile,
    /// What checking it took, in microseconds.
    pub(crate) check_us: u64,
    /// Its bytes, if they become durable with the record: [`MAX_SMALL_RESULT_BYTES`] at most.
    pub(crate) small: Option<Arc<Vec<u8>>>,
}

/// Parts of a list, each as long as one of [`ROWS`].
fn parts<T>(mut rest: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = *ROWS.iter().find(|size| **size <= rest.len())?;
        let (part, others) = rest.split_at(size);
        rest = others;
        Some(part)
    })
}

impl Db {
    /// Makes accepted tiles durable, all or none.
    ///
    /// # Errors
    /// What the database or the log says; a tile that was accepted before among them.
    pub(crate) async fn accept(
        &self,
        log: &Log,
        results: &[Accepted],
        sites: &Counts,
    ) -> Result<(), LogError> {
        let mut batch = log.begin().await?;
        for result in results {
            batch.add(records::accepted(&result.tile))?;
        }
        let mut tx = self.begin().await?;
        insert(&mut tx, results).await?;
        insert_small(&mut tx, results).await?;
        let mut counts = BTreeMap::<VolunteerId, i64>::new();
        for result in results {
            *counts.entry(result.tile.volunteer).or_default() += 1;
        }
        count(&mut tx, &counts.into_iter().collect::<Vec<_>>()).await?;
        count_sites(&mut tx, sites).await?;
        batch.write(&mut tx).await?;
        tx.commit().await?;
        batch.settle();
        Ok(())
    }

    /// The bytes of a result that is no file; `None` if it is one.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn small_result(
        &self,
        job: &JobId,
        shard: u32,
    ) -> Result<Option<bytes::Bytes>, DbError> {
        let bytes: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT bytes FROM small_results WHERE job = $1 AND shard = $2")
                .bind(&job.0[..])
                .bind(i64::from(shard))
                .fetch_optional(&self.pool)
                .await?;
        Ok(bytes.map(bytes::Bytes::from))
    }

    /// Removes the bytes of results that nobody can ask for any more.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn forget_small_results(&self) -> Result<u64, DbError> {
        let query = "DELETE FROM small_results WHERE job IN (SELECT id FROM jobs WHERE state = 'canceled')";
        let mut tx = self.begin().await?;
        let removed = sqlx::query(query).execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
        Ok(removed)
    }
}

async fn insert(tx: &mut Writing, results: &[Accepted]) -> Result<(), DbError> {
    let now = wall_ms();
    for part in parts(results) {
        let text = format!(
            "{} INTO accepted (job, shard, row_start, row_end, col_start, col_end, depth_start, depth_end, hash, bytes,
             volunteer, backend, compute_ms, check_us, accepted_ms) VALUES {}",
            tx.engine.insert_or_give_up(),
            places(part.len(), 15)
        );
        let mut insert = sqlx::query(AssertSqlSafe(text));
        for Accepted { tile, check_us, .. } in part {
            let area = &tile.tile;
            insert = insert.bind(&tile.job.0[..]).bind(i64::from(tile.shard));
            for side in [&area.rows, &area.cols, &area.depth] {
                insert = insert.bind(i64::from(side.start)).bind(i64::from(side.end));
            }
            insert = insert
                .bind(&tile.result.hash.0[..])
                .bind(tile.result.bytes.cast_signed())
                .bind(&tile.volunteer.0[..])
                .bind(names::backend(tile.backend))
                .bind(i64::from(tile.compute_ms))
                .bind(check_us.cast_signed())
                .bind(now);
        }
        insert.execute(&mut **tx).await?;
    }
    Ok(())
}

async fn insert_small(tx: &mut Writing, results: &[Accepted]) -> Result<(), DbError> {
    let small: Vec<_> =
        results.iter().filter_map(|result| Some((&result.tile, result.small.as_ref()?))).collect();
    for part in parts(&small) {
        let insert = tx.engine.insert_or_give_up();
        let text =
            format!("{insert} INTO small_results (job, shard, bytes) VALUES {}", places(part.len(), 3));
        let mut insert = sqlx::query(AssertSqlSafe(text));
        for (tile, bytes) in part {
            insert = insert.bind(&tile.job.0[..]).bind(i64::from(tile.shard)).bind(&bytes[..]);
        }
        insert.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Adds accepted results to volunteers' records, each volunteer once.
async fn count(tx: &mut Writing, counts: &[(VolunteerId, i64)]) -> Result<(), DbError> {
    for part in parts(counts) {
        let text = format!(
            "INSERT INTO volunteers (id, accepted, rejected) VALUES {}
             ON CONFLICT (id) DO UPDATE SET accepted = volunteers.accepted + excluded.accepted",
            places(part.len(), 3)
        );
        let mut insert = sqlx::query(AssertSqlSafe(text));
        for (volunteer, accepted) in part {
            insert = insert.bind(&volunteer.0[..]).bind(*accepted).bind(0_i64);
        }
        insert.execute(&mut **tx).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_few_lengths_and_leave_nothing_out() {
        for count in [0, 1, 7, 8, 63, 64, 200] {
            let all: Vec<_> = (0..count).collect();
            let parts: Vec<_> = parts(&all).collect();
            assert!(parts.iter().all(|part| ROWS.contains(&part.len())));
            assert_eq!(parts.concat(), all);
        }
    }
}
