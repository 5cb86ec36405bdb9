//! What the operator switched off, kept across restarts; what follows from it is decided by `potluck_schedule::Switches`.
//! Everybody can read it in `/.well-known/potluck.json`.

use crate::db::{Db, DbError, wall_ms};
use potluck_proto::Membership;
use potluck_schedule::{Kernel, Switches, is_origin};
use potluck_types::JobId;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use utoipa::ToSchema;

/// Kernels, projects and sites that may be off at once.
pub(crate) const MAX_OFF: usize = 1000;
/// Names of teams that may be off at once: as many again, so that they are in the way of nothing that matters more.
pub(crate) const MAX_TEAMS_OFF: usize = 1000;

/// What a switch is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SwitchKind {
    /// What volunteers compute, such as `matmul/f32`.
    Kernel,
    /// A job, run or eval, by its id.
    Project,
    /// A site that shows the widget, by its origin.
    Site,
    /// A team whose name is not shown. Its members lend as before.
    Team,
}

impl SwitchKind {
    const ALL: [Self; 4] = [Self::Kernel, Self::Project, Self::Site, Self::Team];

    const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Project => "project",
            Self::Site => "site",
            Self::Team => "team",
        }
    }

    /// The switch of a kind's name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether something can have this name.
    pub(crate) fn can_name(self, name: &str) -> bool {
        match self {
            Self::Kernel => Kernel::named(name).is_some(),
            Self::Project => name.parse::<JobId>().is_ok(),
            Self::Site => is_origin(name),
            Self::Team => {
                !name.is_empty() && Membership { team: name.to_owned(), listed: false }.mistake().is_none()
            }
        }
    }
}

/// Something that is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwitchedOff {
    /// What it is.
    pub kind: SwitchKind,
    /// Which one.
    pub name: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
}

/// The switches as they are now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Switchboard(Arc<RwLock<BTreeSet<(SwitchKind, String)>>>);

impl Switchboard {
    /// As they were when the relay stopped.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn load(db: &Db) -> Result<Self, DbError> {
        let off = db.switched_off().await?;
        Ok(Self(Arc::new(RwLock::new(off.into_iter().map(|one| (one.kind, one.name)).collect()))))
    }

    /// Remembers a switch that is in the database.
    pub(crate) fn set(&self, kind: SwitchKind, name: &str, off: bool) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if off {
            all.insert((kind, name.to_owned()));
        } else {
            all.remove(&(kind, name.to_owned()));
        }
    }

    /// Whether something is off.
    pub(crate) fn is_off(&self, kind: SwitchKind, name: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&(kind, name.to_owned()))
    }

    /// Whether as much is off as may be, of teams or of all else.
    pub(crate) fn is_full(&self, kind: SwitchKind) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let teams = all.iter().filter(|(kind, _)| *kind == SwitchKind::Team).count();
        if kind == SwitchKind::Team { teams >= MAX_TEAMS_OFF } else { all.len() - teams >= MAX_OFF }
    }

    /// As the machine takes them.
    pub(crate) fn switches(&self) -> Switches {
        let mut switches = Switches::default();
        for (kind, name) in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            match kind {
                SwitchKind::Kernel => switches.kernels.extend(Kernel::named(name)),
                SwitchKind::Project => switches.projects.extend(name.parse::<JobId>().ok()),
                SwitchKind::Site => _ = switches.sites.insert(name.clone()),
                // Only what is shown of it ends.
                SwitchKind::Team => {}
            }
        }
        switches
    }
}

impl Db {
    /// What is off, kernels first.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn switched_off(&self) -> Result<Vec<SwitchedOff>, DbError> {
        let rows = sqlx::query("SELECT kind, name, since_ms FROM switches ORDER BY kind, name LIMIT $1")
            .bind((MAX_OFF + MAX_TEAMS_OFF).cast_signed() as i64)
            .fetch_all(&self.pool)
            .await?;
        let mut off = Vec::new();
        for row in rows {
            if let Some(kind) = SwitchKind::named(row.try_get("kind")?) {
                off.push(SwitchedOff {
                    kind,
                    name: row.try_get("name")?,
                    since_ms: row.try_get("since_ms")?,
                });
            }
        }
        Ok(off)
    }

    /// Switches something off or on.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn switch(&self, kind: SwitchKind, name: &str, off: bool) -> Result<(), DbError> {
        let change = if off {
            "INSERT INTO switches (kind, name, since_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM switches WHERE kind = $1 AND name = $2"
        };
        let change = sqlx::query(change).bind(kind.name()).bind(name);
        let mut tx = self.begin().await?;
        if off { change.bind(wall_ms()) } else { change }.execute(&mut *tx).await?;
        tx.commit().await
    }
}
