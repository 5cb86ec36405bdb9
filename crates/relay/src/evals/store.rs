//! Records of candidates and of the shards of their evals.

use crate::db::{Db, DbError, Writing, bytes, count_result, decode_error, maybe_hash, wall_ms};
use crate::embed::store::{by_site, count as count_sites};
use crate::log::{Log, LogError, records};
use potluck_governance::{Body, Key, entry};
use potluck_proto::BlobRef;
use potluck_schedule::EvalAnswer;
use potluck_types::limits::MAX_LISTED_JOBS;
use potluck_types::{BlobHash, JobId, VolunteerId};
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// How far a candidate's eval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EvalState {
    /// Volunteers answer.
    Evaluating,
    /// The card is made.
    Done,
    /// No card can be made.
    Failed,
}

impl EvalState {
    const ALL: [Self; 3] = [Self::Evaluating, Self::Done, Self::Failed];

    /// Its name in database and API.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Evaluating => "evaluating",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// What an eval's plan follows from, beside the run's data: kept, so that it can be made again after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EvalTerms {
    /// What windows and spot checks are drawn from.
    pub(crate) secret: [u8; 32],
    /// Whether it is a short one.
    pub(crate) hasty: bool,
    /// Shards of the secret windows that the gate asks for.
    pub(crate) least_shards: u32,
}

/// A candidate as it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct CandidateRow {
    pub(crate) parameters: BlobRef,
    pub(crate) model: String,
    pub(crate) run: JobId,
    /// The last round that is in it.
    pub(crate) round: u64,
    /// What it was made again without.
    pub(crate) without: Vec<String>,
    pub(crate) eval: JobId,
    pub(crate) incumbent: Option<BlobHash>,
    pub(crate) terms: EvalTerms,
    pub(crate) state: EvalState,
    pub(crate) reason: Option<String>,
    pub(crate) card: Option<BlobHash>,
}

impl CandidateRow {
    /// Whether an eval of it is to begin, now that `current` is the version in use: the last one failed, or compares it with
    /// another version. A version in use is not compared with itself.
    pub(crate) fn wants_eval(&self, current: Option<BlobHash>) -> bool {
        match self.state {
            EvalState::Evaluating => false,
            EvalState::Failed => true,
            EvalState::Done => current != self.incumbent && current != Some(self.parameters.hash),
        }
    }
}

/// A shard as it is recorded.
#[derive(Debug, Clone)]
pub(crate) struct ShardRow {
    pub(crate) parameters: BlobHash,
    pub(crate) items: BlobHash,
    /// The result that counts, and who computed it.
    pub(crate) answers: Option<(Vec<u8>, Vec<VolunteerId>)>,
}

const COLUMNS: &str =
    "parameters, bytes, model, run, round, without, eval, incumbent, secret, state, reason, card, hasty,
     least_shards";

fn candidate(row: &AnyRow) -> Result<CandidateRow, DbError> {
    let state: &str = row.try_get(9)?;
    let number = |at: usize| row.try_get::<i64, _>(at).map(i64::cast_unsigned);
    Ok(CandidateRow {
        parameters: BlobRef { hash: BlobHash(bytes(row, 0)?), bytes: number(1)? },
        model: row.try_get(2)?,
        run: JobId(bytes(row, 3)?),
        round: number(4)?,
        without: serde_json::from_str(row.try_get(5)?).map_err(decode_error)?,
        eval: JobId(bytes(row, 6)?),
        incumbent: maybe_hash(row, 7)?,
        terms: EvalTerms {
            secret: bytes(row, 8)?,
            hasty: number(12)? != 0,
            least_shards: number(13)? as u32,
        },
        state: EvalState::ALL
            .into_iter()
            .find(|known| known.name() == state)
            .ok_or(sqlx::Error::RowNotFound)?,
        reason: row.try_get(10)?,
        card: maybe_hash(row, 11)?,
    })
}

fn shard(row: &AnyRow) -> Result<ShardRow, DbError> {
    let answers: Option<Vec<u8>> = row.try_get(2)?;
    let volunteers: Option<&str> = row.try_get(3)?;
    let names: Vec<String> =
        volunteers.map(serde_json::from_str).transpose().map_err(decode_error)?.unwrap_or_default();
    let names: Result<Vec<VolunteerId>, _> = names.iter().map(|name| name.parse()).collect();
    Ok(ShardRow {
        parameters: BlobHash(bytes(row, 0)?),
        items: BlobHash(bytes(row, 1)?),
        answers: answers.zip(Some(names.map_err(decode_error)?)),
    })
}

/// Writes a candidate's row, in place of an earlier one of the same parameters.
async fn insert_candidate(tx: &mut Writing, row: &CandidateRow) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO candidates (parameters, bytes, model, run, round, without, eval, incumbent, secret, hasty,
         least_shards, state, reason, card, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         ON CONFLICT (parameters) DO UPDATE SET eval = excluded.eval, incumbent = excluded.incumbent,
         secret = excluded.secret, hasty = excluded.hasty, least_shards = excluded.least_shards,
         state = excluded.state, reason = excluded.reason, card = excluded.card",
    )
    .bind(&row.parameters.hash.0[..])
    .bind(row.parameters.bytes.cast_signed())
    .bind(&row.model)
    .bind(&row.run.0[..])
    .bind(row.round.cast_signed())
    .bind(serde_json::to_string(&row.without).map_err(decode_error)?)
    .bind(&row.eval.0[..])
    .bind(row.incumbent.as_ref().map(|hash| &hash.0[..]))
    .bind(&row.terms.secret[..])
    .bind(i64::from(row.terms.hasty))
    .bind(i64::from(row.terms.least_shards))
    .bind(row.state.name())
    .bind(row.reason.as_deref())
    .bind(row.card.as_ref().map(|hash| &hash.0[..]))
    .bind(wall_ms())
    .execute(&mut **tx)
    .await
    .map(drop)
}

impl Db {
    /// Records a candidate of the relay that is followed: it stands in the log.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn copy_candidate(&self, row: &CandidateRow) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        insert_candidate(&mut tx, row).await?;
        tx.commit().await
    }

    /// Records the eval of a candidate with its shards, in place of an earlier one's outcome, and logs it. The blobs are durable
    /// already; what volunteers answered before stays.
    ///
    /// # Errors
    /// What the log does not allow, and what the database says.
    pub(crate) async fn add_eval(
        &self,
        log: &Log,
        row: &CandidateRow,
        shards: &[(BlobHash, BlobHash)],
        entries: impl Iterator<Item = Body>,
    ) -> Result<(), LogError> {
        let mut batch = log.begin().await?;
        for entry in entries {
            batch.add(entry)?;
        }
        let mut tx = self.begin().await?;
        insert_candidate(&mut tx, row).await?;
        for (position, (parameters, items)) in shards.iter().enumerate() {
            sqlx::query("INSERT INTO eval_shards (eval, shard, parameters, items) VALUES ($1, $2, $3, $4)")
                .bind(&row.eval.0[..])
                .bind(position.cast_signed() as i64)
                .bind(&parameters.0[..])
                .bind(&items.0[..])
                .execute(&mut *tx)
                .await?;
        }
        batch.write(&mut tx).await?;
        tx.commit().await?;
        batch.settle();
        Ok(())
    }

    /// One candidate, by the hash of its parameters.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn candidate(&self, hash: &BlobHash) -> Result<Option<CandidateRow>, DbError> {
        let query = format!("SELECT {COLUMNS} FROM candidates WHERE parameters = $1");
        let row =
            sqlx::query(sqlx::AssertSqlSafe(query)).bind(&hash.0[..]).fetch_optional(&self.pool).await?;
        row.map(|row| candidate(&row)).transpose()
    }

    /// The newest candidates, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn candidates(&self) -> Result<Vec<CandidateRow>, DbError> {
        let query = format!("SELECT {COLUMNS} FROM candidates ORDER BY created_ms DESC, parameters LIMIT $1");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(MAX_LISTED_JOBS.cast_signed() as i64)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(candidate).collect()
    }

    /// Candidates whose evals are under way.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn open_candidates(&self) -> Result<Vec<CandidateRow>, DbError> {
        let query =
            format!("SELECT {COLUMNS} FROM candidates WHERE state = 'evaluating' ORDER BY created_ms");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&self.pool).await?;
        rows.iter().map(candidate).collect()
    }

    /// The shards of an eval, in order.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn eval_shards(&self, eval: &JobId) -> Result<Vec<ShardRow>, DbError> {
        let rows = sqlx::query(
            "SELECT parameters, items, answers, volunteers FROM eval_shards WHERE eval = $1 ORDER BY shard",
        )
        .bind(&eval.0[..])
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(shard).collect()
    }

    /// Makes a shard's answers durable, with an entry of the log for each volunteer.
    ///
    /// # Errors
    /// What the log or the database says.
    pub(crate) async fn settle_shard(
        &self,
        log: &Log,
        eval: &JobId,
        shard: u32,
        answers: &[EvalAnswer],
    ) -> Result<(), LogError> {
        let Some(first) = answers.first() else { return Ok(()) };
        let mut batch = log.begin().await?;
        for answer in answers {
            batch.add(entry::ResultAccepted {
                volunteer: Key(answer.volunteer.0),
                job: *eval,
                shard: shard.to_string(),
                result: answer.claim.hash,
                bytes: answer.claim.bytes,
                check: records::EVAL.to_owned(),
            })?;
        }
        let names: Vec<String> = answers.iter().map(|answer| answer.volunteer.to_string()).collect();
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE eval_shards SET answers = $1, volunteers = $2 WHERE eval = $3 AND shard = $4")
            .bind(&first.result[..])
            .bind(serde_json::to_string(&names).map_err(decode_error)?)
            .bind(&eval.0[..])
            .bind(i64::from(shard))
            .execute(&mut *tx)
            .await?;
        for answer in answers {
            count_result(&mut tx, &answer.volunteer, 1, 0).await?;
        }
        count_sites(&mut tx, &by_site(answers.iter().map(|answer| &answer.site))).await?;
        batch.write(&mut tx).await?;
        tx.commit().await?;
        batch.settle();
        Ok(())
    }

    /// Records a candidate's eval card, and logs it. The card is durable already.
    ///
    /// # Errors
    /// What the log or the database says.
    pub(crate) async fn add_card(&self, log: &Log, card: entry::Card) -> Result<(), LogError> {
        let (candidate, hash) = (card.candidate, card.card);
        let mut batch = log.begin().await?;
        batch.add(card)?;
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE candidates SET state = 'done', card = $1 WHERE parameters = $2")
            .bind(&hash.0[..])
            .bind(&candidate.0[..])
            .execute(&mut *tx)
            .await?;
        batch.write(&mut tx).await?;
        tx.commit().await?;
        batch.settle();
        Ok(())
    }

    /// Records that no card can be made.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn fail_candidate(&self, candidate: &BlobHash, reason: &str) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE candidates SET state = 'failed', reason = $1 WHERE parameters = $2")
            .bind(reason)
            .bind(&candidate.0[..])
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eval_is_held_again_if_it_failed_or_another_version_is_in_use() {
        let [own, old, new] = [1, 2, 3].map(|byte| BlobHash([byte; 32]));
        let row = |state, incumbent| CandidateRow {
            parameters: BlobRef { hash: own, bytes: 4 },
            model: "whale".to_owned(),
            run: JobId([1; 16]),
            round: 0,
            without: Vec::new(),
            eval: JobId([2; 16]),
            incumbent,
            terms: EvalTerms { secret: [0; 32], hasty: false, least_shards: 1 },
            state,
            reason: None,
            card: None,
        };
        let done = row(EvalState::Done, Some(old));
        assert!(!done.wants_eval(Some(old)));
        assert!(done.wants_eval(Some(new)) && done.wants_eval(None));
        assert!(!done.wants_eval(Some(own)), "it is in use itself");
        assert!(row(EvalState::Done, None).wants_eval(Some(new)));
        assert!(row(EvalState::Failed, Some(old)).wants_eval(Some(old)));
        assert!(!row(EvalState::Evaluating, Some(old)).wants_eval(Some(new)));
    }
}
