//! Entries that wait to be published, and whose they are.
//!
//! A transaction that accepts results pays for one row more, however many these are: entries that become durable together
//! lie in one row. Whose they are is looked up once they are published, apart from that transaction.

use super::{Published, Row};
use crate::db::{Db, DbError, Writing, places};
use potluck_governance::{Body, Entry};
use potluck_types::VolunteerId;
use sqlx::{AssertSqlSafe, Row as _};

/// Entries of one row at most.
const ROW_ENTRIES: usize = 256;
/// Rows that are read at once: 4,096 entries of 350 bytes are 1.4 MB.
const READ_ROWS: i64 = 16;
/// Receipts of one statement: two parameters each, of the 32,766 that SQLite takes, and the 65,535 that PostgreSQL does.
const STATEMENT_RECEIPTS: usize = 512;
/// Between two entries of a row. Canonical JSON has none of it.
const SEPARATOR: u8 = b'\n';

/// Writes entries down that follow each other.
pub(super) async fn insert(tx: &mut Writing, rows: &[Row]) -> Result<(), DbError> {
    for rows in rows.chunks(ROW_ENTRIES) {
        let texts: Vec<&[u8]> = rows.iter().map(|row| &row.text[..]).collect();
        sqlx::query("INSERT INTO log_entries (position, entry) VALUES ($1, $2)")
            .bind(rows[0].index.cast_signed())
            .bind(texts.join(&SEPARATOR))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// The last entry that there is a row of.
pub(super) async fn last(db: &Db) -> Result<Option<Vec<u8>>, DbError> {
    let row = sqlx::query("SELECT entry FROM log_entries ORDER BY position DESC LIMIT 1")
        .fetch_optional(&db.pool)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let texts: &[u8] = row.try_get(0)?;
    Ok(texts.rsplit(|byte| *byte == SEPARATOR).next().map(<[u8]>::to_vec))
}

/// Entries below the checkpoint that is kept.
pub(super) async fn shared_size(db: &Db) -> Result<Option<u64>, DbError> {
    let size: Option<i64> =
        sqlx::query_scalar("SELECT size FROM log_checkpoint").fetch_optional(&db.pool).await?;
    Ok(size.map(i64::cast_unsigned))
}

/// Whose work an entry is about: who gets a receipt for it.
fn about(text: &[u8]) -> Option<VolunteerId> {
    let key = match Entry::decode(text).ok()?.body {
        Body::ResultAccepted(result) => result.volunteer,
        Body::ResultRejected(result) => result.volunteer,
        Body::UpdateAccepted(update) => update.volunteer,
        Body::UpdateRejected(update) => update.volunteer,
        Body::Audit(audit) => audit.volunteer,
        _ => return None,
    };
    Some(VolunteerId(key.0))
}

impl Db {
    /// Entries from an index on that wait to be published, in order: those of the next rows. A row is published whole.
    ///
    /// # Errors
    /// What the database says.
    pub(super) async fn log_rows(&self, from: u64) -> Result<Vec<Row>, DbError> {
        let rows = sqlx::query(
            "SELECT position, entry FROM log_entries WHERE position >= $1 ORDER BY position LIMIT $2",
        )
        .bind(from.cast_signed())
        .bind(READ_ROWS)
        .fetch_all(&self.pool)
        .await?;
        let mut entries = Vec::new();
        for row in rows {
            let first = row.try_get::<i64, _>(0)?.cast_unsigned();
            let texts: &[u8] = row.try_get(1)?;
            let texts = texts.split(|byte| *byte == SEPARATOR);
            entries.extend((first..).zip(texts).map(|(index, text)| Row { index, text: text.to_vec() }));
        }
        Ok(entries)
    }

    /// Remembers whose entries these are, before they are published: nothing is lost if the relay dies in between. Entries
    /// below `published` are durable in the log's files, and are forgotten here.
    ///
    /// # Errors
    /// What the database says.
    pub(super) async fn index_receipts(&self, rows: &[Row], published: u64) -> Result<(), DbError> {
        let about: Vec<_> = rows.iter().filter_map(|row| Some((about(&row.text)?, row.index))).collect();
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM log_entries WHERE position < $1")
            .bind(published.cast_signed())
            .execute(&mut *tx)
            .await?;
        for about in about.chunks(STATEMENT_RECEIPTS) {
            let places = places(about.len(), 2);
            let text = format!(
                "INSERT INTO log_receipts (volunteer, position) VALUES {places} ON CONFLICT DO NOTHING"
            );
            let mut insert = sqlx::query(AssertSqlSafe(text)).persistent(false);
            for (volunteer, index) in about {
                insert = insert.bind(&volunteer.0[..]).bind(index.cast_signed());
            }
            insert.execute(&mut *tx).await?;
        }
        tx.commit().await
    }

    /// Keeps the last checkpoint of a log whose files other relays can reach.
    ///
    /// # Errors
    /// What the database says.
    pub(super) async fn keep_checkpoint(&self, published: &Published) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM log_checkpoint").execute(&mut *tx).await?;
        sqlx::query("INSERT INTO log_checkpoint (size, note) VALUES ($1, $2)")
            .bind(published.head.size.cast_signed())
            .bind(published.note.as_bytes())
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    /// What was kept so.
    ///
    /// # Errors
    /// What the database says.
    pub(super) async fn checkpoint(&self) -> Result<Option<Vec<u8>>, DbError> {
        let row = sqlx::query("SELECT note FROM log_checkpoint").fetch_optional(&self.pool).await?;
        row.map(|row| Ok(row.try_get::<&[u8], _>(0)?.to_vec())).transpose()
    }

    /// Forgets entries from an index on, and whose they are: a log that follows another has what that one signed, and nothing of a
    /// draft that came to nothing.
    ///
    /// # Errors
    /// What the database says.
    pub(super) async fn forget_beyond(&self, size: u64) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        for query in
            ["DELETE FROM log_entries WHERE position >= $1", "DELETE FROM log_receipts WHERE position >= $1"]
        {
            sqlx::query(query).bind(size.cast_signed()).execute(&mut *tx).await?;
        }
        tx.commit().await
    }

    /// Indices of the entries about a volunteer, from one on.
    ///
    /// # Errors
    /// What the database says.
    pub(super) async fn receipts_of(
        &self,
        volunteer: &VolunteerId,
        from: u64,
        most: u32,
    ) -> Result<Vec<u64>, DbError> {
        let rows = sqlx::query(
            "SELECT position FROM log_receipts WHERE volunteer = $1 AND position >= $2 ORDER BY position LIMIT $3",
        )
        .bind(&volunteer.0[..])
        .bind(from.cast_signed())
        .bind(i64::from(most))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(row.try_get::<i64, _>(0)?.cast_unsigned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_governance::{Key, entry};
    use potluck_types::{BlobHash, JobId};

    /// An accepted result of one of three volunteers.
    fn row(index: u64) -> Row {
        let result = entry::ResultAccepted {
            volunteer: Key([(index % 3) as u8; 32]),
            job: JobId([1; 16]),
            shard: index.to_string(),
            result: BlobHash([2; 32]),
            bytes: 4096,
            check: "freivalds".to_owned(),
        };
        Row { index, text: Entry::new(1_700_000_000_000 + index, result).encode().unwrap() }
    }

    async fn db() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::db::open_files(&folder.path().join("potluck.db")).await.unwrap();
        (folder, db)
    }

    async fn write(db: &Db, rows: &[Row]) {
        let mut tx = db.begin().await.unwrap();
        insert(&mut tx, rows).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn entries_come_back_in_order_however_they_were_written() {
        let (_folder, db) = db().await;
        let rows: Vec<Row> = (5..5 + 3 * ROW_ENTRIES as u64).map(row).collect();
        // One by itself, more than one row, and the rest.
        for rows in [&rows[..1], &rows[1..2 * ROW_ENTRIES], &rows[2 * ROW_ENTRIES..]] {
            write(&db, rows).await;
        }
        let read = db.log_rows(5).await.unwrap();
        assert_eq!(read.len(), rows.len());
        assert!(read.iter().zip(&rows).all(|(read, row)| read.index == row.index && read.text == row.text));
        assert_eq!(db.log_rows(6).await.unwrap()[0].index, 6, "the first row was published");
    }

    #[tokio::test]
    async fn receipts_are_indexed_once_and_what_is_published_is_forgotten() {
        let (_folder, db) = db().await;
        let rows: Vec<Row> = (0..2000).map(row).collect();
        write(&db, &rows).await;
        db.index_receipts(&rows, 0).await.unwrap();
        // A publisher that failed comes again.
        db.index_receipts(&rows, 0).await.unwrap();
        let whose = VolunteerId([1; 32]);
        assert_eq!(db.receipts_of(&whose, 5, 3).await.unwrap(), [7, 10, 13]);
        assert_eq!(db.receipts_of(&whose, 0, 10_000).await.unwrap().len(), 667);
        assert_eq!(db.log_rows(0).await.unwrap().len(), 2000, "nothing is published yet");
        let more = [row(2000)];
        write(&db, &more).await;
        db.index_receipts(&more, 2000).await.unwrap();
        let left = db.log_rows(0).await.unwrap();
        assert_eq!(left.iter().map(|row| row.index).collect::<Vec<_>>(), [2000]);
    }
}
