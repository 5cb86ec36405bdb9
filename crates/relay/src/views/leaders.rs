//! Who gave most: teams, and those volunteers who want to be named. What people say of themselves comes as
//! [`Membership`]; when it counts is decided by the state machine.

use super::api::{Leader, Leaders, Team};
use crate::api::ApiError;
use crate::db::{Db, DbError, bytes, wall_ms};
use crate::http::{Answer, Shared};
use crate::switches::{MAX_TEAMS_OFF, SwitchKind};
use axum::Json;
use axum::extract::State;
use potluck_proto::Membership;
use potluck_types::VolunteerId;
use sqlx::Row as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc};

/// Teams, and volunteers, that are told.
const MAX_LEADERS: usize = 100;
/// The lists are made anew at most this often: they read the records of all who are in one.
const FRESH: Duration = Duration::from_secs(10);
/// Who has said nothing for so long is not told any more: somebody may have lost the key that takes it back.
const REMEMBERED_MS: i64 = 30 * 24 * 3600 * 1000;

/// The lists as they were made last. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Option<Made>>>);

/// When the lists were made, and what came out.
type Made = (Instant, Arc<Leaders>);

impl Board {
    /// The lists, made for everybody who asks meanwhile.
    async fn read(&self, db: &Db) -> Result<Arc<Leaders>, DbError> {
        let mut board = self.0.lock().await;
        if let Some((made, leaders)) = &*board
            && made.elapsed() < FRESH
        {
            return Ok(Arc::clone(leaders));
        }
        let leaders = Arc::new(db.leaders().await?);
        *board = Some((Instant::now(), Arc::clone(&leaders)));
        Ok(leaders)
    }
}

/// Records what volunteers let others see of them, in the order in which they said it. What waits is bounded by what sessions may
/// say.
pub(crate) fn record(db: Db, board: Board) -> mpsc::UnboundedSender<(VolunteerId, Membership)> {
    let (said, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        if let Err(error) = db.forget_memberships().await {
            tracing::warn!(%error, "teams of volunteers that are long gone could not be removed");
        }
        while let Some((volunteer, membership)) = heard.recv().await {
            if let Err(error) = db.remember(&volunteer, &membership).await {
                tracing::warn!(%error, "a volunteer's team could not be recorded");
            }
            if membership.is_hidden() {
                *board.0.lock().await = None;
            }
        }
    });
    said
}

/// Teams and volunteers by accepted results, most first. A volunteer's results count for the team that it is in now.
#[utoipa::path(get, path = "/api/v1/leaders",
    responses((status = 200, body = Leaders), (status = 429, body = ApiError)))]
pub(crate) async fn get_leaders(State(app): Shared) -> Answer<Leaders> {
    let leaders = app.board.read(&app.db).await?;
    let shown = |team: &str| !app.switches.is_off(SwitchKind::Team, team);
    let mut teams: Vec<Team> = leaders.teams.iter().filter(|team| shown(&team.name)).cloned().collect();
    teams.truncate(MAX_LEADERS);
    let mut volunteers = leaders.volunteers.clone();
    for one in &mut volunteers {
        one.team = one.team.take().filter(|team| shown(team));
    }
    Ok(Json(Leaders { teams, volunteers }))
}

impl Db {
    /// Remembers what others may see of a volunteer, or that nothing is.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn remember(&self, volunteer: &VolunteerId, said: &Membership) -> Result<(), DbError> {
        let change = if said.is_hidden() {
            sqlx::query("DELETE FROM memberships WHERE volunteer = $1").bind(&volunteer.0[..])
        } else {
            sqlx::query(
                "INSERT INTO memberships (volunteer, team, listed, said_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (volunteer)
                 DO UPDATE SET team = excluded.team, listed = excluded.listed, said_ms = excluded.said_ms",
            )
            .bind(&volunteer.0[..])
            .bind(&said.team)
            .bind(i64::from(said.listed))
            .bind(wall_ms())
        };
        let mut tx = self.begin().await?;
        change.execute(&mut *tx).await?;
        tx.commit().await
    }

    /// Removes what nobody has said for so long that it is not told any more.
    ///
    /// # Errors
    /// What the database says.
    async fn forget_memberships(&self) -> Result<(), DbError> {
        let old = sqlx::query("DELETE FROM memberships WHERE said_ms <= $1").bind(wall_ms() - REMEMBERED_MS);
        let mut tx = self.begin().await?;
        old.execute(&mut *tx).await?;
        tx.commit().await
    }

    /// Teams and listed volunteers, as many as are told, and teams that may be switched off besides.
    ///
    /// # Errors
    /// What the database says.
    async fn leaders(&self) -> Result<Leaders, DbError> {
        // Both are of the same moment.
        let mut read = self.read().await?;
        let since = wall_ms() - REMEMBERED_MS;
        let teams = sqlx::query(
            "SELECT m.team AS name, COUNT(*) AS members, CAST(SUM(v.accepted) AS BIGINT) AS accepted
             FROM memberships m JOIN volunteers v ON v.id = m.volunteer
             WHERE m.team <> '' AND m.said_ms > $1 GROUP BY m.team ORDER BY accepted DESC, name LIMIT $2",
        )
        .bind(since)
        .bind((MAX_LEADERS + MAX_TEAMS_OFF).cast_signed() as i64)
        .fetch_all(&mut *read)
        .await?;
        let volunteers = sqlx::query(
            "SELECT v.id, m.team, v.accepted FROM memberships m JOIN volunteers v ON v.id = m.volunteer
             WHERE m.listed = 1 AND m.said_ms > $1 AND v.accepted > 0 ORDER BY v.accepted DESC, v.id LIMIT $2",
        )
        .bind(since)
        .bind(MAX_LEADERS.cast_signed() as i64)
        .fetch_all(&mut *read)
        .await?;
        let count = |row: &sqlx::any::AnyRow, name| row.try_get::<i64, _>(name).map(i64::cast_unsigned);
        let team = |row| {
            Ok(Team {
                name: row_text(row, "name")?,
                members: count(row, "members")?,
                accepted: count(row, "accepted")?,
            })
        };
        let leader = |row| {
            Ok(Leader {
                volunteer: VolunteerId(bytes(row, 0)?).to_string(),
                team: Some(row_text(row, "team")?).filter(|team| !team.is_empty()),
                accepted: count(row, "accepted")?,
            })
        };
        Ok(Leaders {
            teams: teams.iter().map(team).collect::<Result<_, DbError>>()?,
            volunteers: volunteers.iter().map(leader).collect::<Result<_, DbError>>()?,
        })
    }
}

fn row_text(row: &sqlx::any::AnyRow, name: &str) -> Result<String, DbError> {
    row.try_get(name)
}
