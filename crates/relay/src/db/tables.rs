//! All records, copied from one database to another, whichever kind the two are: how a relay moves to PostgreSQL, and how its
//! records there get into a backup.

use super::engine::SCHEMA;
use super::{Db, DbError, Writing, places};
use futures_util::TryStreamExt as _;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

/// Values of one statement, at most: of the 32,766 and 65,535 that the two take.
const STATEMENT_VALUES: usize = 960;

/// Tables that are each database's own: what a relay's nodes know of each other.
const OWN: [&str; 2] = ["leader", "log_checkpoint"];

/// Numbers of the database itself.
const META: &str = "meta";

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Bytes,
}

/// A table.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    name: &'static str,
    columns: Vec<(&'static str, Kind)>,
}

/// Tables that are copied.
fn tables() -> Vec<Table> {
    all_tables().into_iter().filter(|table| !OWN.contains(&table.name)).collect()
}

/// The tables of the schema: what is said there once is not said again here.
fn all_tables() -> Vec<Table> {
    let tables = SCHEMA.split("CREATE TABLE IF NOT EXISTS ").skip(1);
    let column = |line: &'static str| {
        let mut words = line.split_whitespace();
        let (name, kind) = (words.next()?, words.next()?.trim_end_matches(','));
        let kind = match kind {
            "BIGINT" => Kind::Number,
            "TEXT" => Kind::Text,
            "BLOB" => Kind::Bytes,
            _ => return None,
        };
        Some((name, kind))
    };
    tables
        .filter_map(|text| {
            let (name, rest) = text.split_once(" (\n")?;
            let (columns, _) = rest.split_once("\n)")?;
            Some(Table { name, columns: columns.lines().filter_map(column).collect() })
        })
        .collect()
}

/// What a table holds: how many rows, and the sum of their hashes, which does not depend on their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Content {
    rows: u64,
    sum: u128,
}

impl Content {
    fn add(&mut self, table: &Table, row: &AnyRow) -> Result<(), DbError> {
        let mut hasher = blake3::Hasher::new();
        // The length first, and -1 for what is not there: no two rows have the same bytes.
        let mut part = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(-1, |bytes| bytes.len().cast_signed() as i64);
            hasher.update(&length.to_le_bytes()).update(bytes.unwrap_or_default());
        };
        for (at, (_, kind)) in table.columns.iter().enumerate() {
            match kind {
                Kind::Number => {
                    let number = row.try_get::<Option<i64>, _>(at)?.map(i64::to_le_bytes);
                    part(number.as_ref().map(|bytes| &bytes[..]));
                }
                Kind::Text => part(row.try_get::<Option<&str>, _>(at)?.map(str::as_bytes)),
                Kind::Bytes => part(row.try_get::<Option<&[u8]>, _>(at)?),
            }
        }
        let mut sum = [0; 16];
        sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        self.rows += 1;
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(sum));
        Ok(())
    }
}

impl Table {
    fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Its rows, but for numbers that are each database's own: who may write to it, and how often that was done.
    fn from(&self) -> String {
        let own = if self.name == META { " WHERE name NOT IN ('term', 'writes')" } else { "" };
        format!("FROM {}{own}", self.name)
    }

    fn select(&self) -> String {
        format!("SELECT {} {}", self.names(), self.from())
    }

    /// How many there are.
    async fn rows(&self, of: &mut AnyConnection) -> Result<u64, DbError> {
        let count = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) {}", self.from()));
        Ok(sqlx::query_scalar::<_, i64>(count).fetch_one(of).await?.cast_unsigned())
    }

    /// Writes rows down.
    async fn insert(&self, to: &mut Writing, rows: &[AnyRow]) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        let text = format!(
            "INSERT INTO {} ({}) VALUES {}",
            self.name,
            self.names(),
            places(rows.len(), self.columns.len())
        );
        let mut insert = sqlx::query(sqlx::AssertSqlSafe(text));
        for row in rows {
            for (at, (_, kind)) in self.columns.iter().enumerate() {
                insert = match kind {
                    Kind::Number => insert.bind(row.try_get::<Option<i64>, _>(at)?),
                    Kind::Text => insert.bind(row.try_get::<Option<String>, _>(at)?),
                    Kind::Bytes => insert.bind(row.try_get::<Option<Vec<u8>>, _>(at)?),
                };
            }
        }
        insert.execute(&mut **to).await.map(drop)
    }

    /// What it holds.
    async fn content(&self, of: &mut AnyConnection) -> Result<Content, DbError> {
        let mut content = Content::default();
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(self.select())).fetch(of);
        while let Some(row) = rows.try_next().await? {
            content.add(self, &row)?;
        }
        Ok(content)
    }
}

/// Why records cannot be copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// A database fails.
    #[error(transparent)]
    Database(#[from] DbError),
    /// There is something already.
    #[error("there are records in it already")]
    NotEmpty,
    /// What was read back is not what was written.
    #[error("the table {0} is not the same after it was copied")]
    Differs(&'static str),
}

/// Copies all records into a database that has none, as of one moment, and reads them back before they count. `told` hears how
/// many rows are copied, and of how many. Returns how many there were.
///
/// # Errors
/// What a database says, records that were there before, and records that differ when they are read back. Nothing is kept then.
pub(crate) async fn copy_all(from: &Db, to: &Db, mut told: impl FnMut(u64, u64)) -> Result<u64, CopyError> {
    let mut reading = from.read().await?;
    let mut writing = to.begin().await?;
    let tables = tables();
    for table in &tables {
        if table.name != META && table.rows(&mut writing).await? > 0 {
            return Err(CopyError::NotEmpty);
        }
    }
    let mut total = 0;
    for table in &tables {
        total += table.rows(&mut reading).await?;
    }
    let mut done = 0;
    for table in tables {
        let mut content = Content::default();
        let mut waiting = Vec::new();
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(table.select())).fetch(&mut *reading);
        while let Some(row) = rows.try_next().await? {
            content.add(&table, &row)?;
            waiting.push(row);
            if waiting.len() == STATEMENT_VALUES / table.columns.len() {
                table.insert(&mut writing, &waiting).await?;
                done += waiting.len() as u64;
                waiting.clear();
                told(done, total);
            }
        }
        table.insert(&mut writing, &waiting).await?;
        done += waiting.len() as u64;
        told(done, total);
        if table.content(&mut writing).await? != content {
            return Err(CopyError::Differs(table.name));
        }
    }
    reading.rollback().await?;
    writing.commit().await?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::super::{create_file, open_files};
    use super::*;

    #[test]
    fn the_schema_says_which_tables_and_columns_there_are() {
        assert_eq!(tables().len() + OWN.len(), all_tables().len());
        let tables = all_tables();
        assert_eq!(tables.len(), SCHEMA.matches("CREATE TABLE").count());
        assert!(tables.iter().all(|table| !table.columns.is_empty()));
        let receipts = tables.iter().find(|table| table.name == "log_receipts").unwrap();
        assert_eq!(receipts.columns, [("volunteer", Kind::Bytes), ("position", Kind::Number)]);
        let columns: usize = tables.iter().map(|table| table.columns.len()).sum();
        let lines = SCHEMA.lines().filter(|line| line.starts_with("    ") && !line.trim().starts_with("--"));
        let keys = lines.clone().filter(|line| line.contains(" KEY (") || line.contains("UNIQUE (")).count();
        assert_eq!(columns, lines.count() - keys);
    }

    #[tokio::test]
    async fn a_copy_is_whole_and_is_not_made_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let from = open_files(&folder.path().join("from.db")).await.unwrap();
        for _ in 0..3 {
            from.next_incarnation(&[7; 32]).await.unwrap();
        }
        let mut tx = from.begin().await.unwrap();
        for at in 0..1000_i64 {
            sqlx::query("INSERT INTO log_receipts (volunteer, position) VALUES ($1, $2)")
                .bind(&[at as u8; 32][..])
                .bind(at)
                .execute(&mut *tx)
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        let path = folder.path().join("to.db");
        let to = create_file(&path).await.unwrap();
        let mut last = (0, 0);
        let told = |done, total| last = (done, total);
        assert_eq!(copy_all(&from, &to, told).await.unwrap(), 1 + 3 + 1000);
        assert_eq!(last, (1004, 1004));
        assert!(matches!(copy_all(&from, &to, |_, _| {}).await, Err(CopyError::NotEmpty)));
        to.close().await;
        let to = Db::open_existing(&path, false).await.unwrap();
        let rows: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM log_receipts").fetch_one(&to.pool).await.unwrap();
        assert_eq!(rows, 1000);
    }
}
