//! Entries that wait to be published, and whose they are.

use super::Row;
use crate::db::{Db, DbError};
use potluck_types::VolunteerId;
use sqlx::{Row as _, Sqlite, Transaction};

/// Writes an entry down.
pub(super) async fn insert(tx: &mut Transaction<'_, Sqlite>, row: &Row) -> Result<(), DbError> {
    sqlx::query("INSERT INTO log_entries (position, entry) VALUES (?, ?)")
        .bind(row.index.cast_signed())
        .bind(&row.text)
        .execute(&mut **tx)
        .await?;
    if let Some(volunteer) = &row.about {
        sqlx::query("INSERT INTO log_receipts (volunteer, position) VALUES (?, ?)")
            .bind(&volunteer.0[..])
            .bind(row.index.cast_signed())
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

impl Db {
    /// Entries from an index on that wait to be published, in order.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) async fn log_rows(&self, from: u64, most: u32) -> Result<Vec<Row>, DbError> {
        let rows = sqlx::query(
            "SELECT position, entry FROM log_entries WHERE position >= ? ORDER BY position LIMIT ?",
        )
        .bind(from.cast_signed())
        .bind(i64::from(most))
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let index = row.try_get::<i64, _>(0)?.cast_unsigned();
                Ok(Row { index, text: row.try_get(1)?, about: None })
            })
            .collect()
    }

    /// Entries below an index are published, and durable in the log's files.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) async fn forget_log_rows(&self, below: u64) -> Result<(), DbError> {
        sqlx::query("DELETE FROM log_entries WHERE position < ?")
            .bind(below.cast_signed())
            .execute(&self.pool)
            .await
            .map(drop)
    }

    /// Indices of the entries about a volunteer, from one on.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) async fn receipts_of(
        &self,
        volunteer: &VolunteerId,
        from: u64,
        most: u32,
    ) -> Result<Vec<u64>, DbError> {
        let rows = sqlx::query(
            "SELECT position FROM log_receipts WHERE volunteer = ? AND position >= ? ORDER BY position LIMIT ?",
        )
        .bind(&volunteer.0[..])
        .bind(from.cast_signed())
        .bind(i64::from(most))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(row.try_get::<i64, _>(0)?.cast_unsigned())).collect()
    }
}
