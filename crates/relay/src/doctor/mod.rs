//! What an operator wants to know of a deployment before volunteers do: each finding says what to do.
//!
//! `mod.rs` looks at data, database, blobs and log; `machine.rs` at what the system gives. It changes nothing, and the relay may
//! run meanwhile.

mod machine;

pub(crate) use machine::disk_bytes;

use crate::backup::source::{log_span, named_blobs, quick_check};
use crate::backup::{Backup, RESTORED, RESTORING};
use crate::blobs::{ASIDE, BlobPlace, Blobs};
use crate::config::Config;
use crate::db::{Db, DbError, Engine, Records, wall_ms};
use crate::log::copy;
use crate::log::copy::SignedNote;
use crate::{identity, log};
use potluck_governance::Entry;
use potluck_ledger::Appender;
use potluck_types::BlobHash;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What to do about a place for blobs that does not answer.
const S3_HINT: &str =
    "check the folder, or the bucket: that it exists, AWS_ENDPOINT_URL, AWS_REGION, and the access key";
/// Blobs that are read unless all are: spread over their hashes, which are spread over everything.
const SAMPLE: usize = 64;
/// Blobs that are named in a finding.
const MAX_NAMED: usize = 5;
/// How far the log's last entry may lie ahead of the clock: a clock that is set right steps by less.
const MAX_AHEAD_MS: i64 = 60_000;
/// The clock of a machine that lost its battery shows a time before this one, in ms since 1970: the start of 2026.
const EARLIEST_MS: i64 = 1_767_225_600_000;
/// A backup that is older than this missed at least one day.
const OLD_BACKUP: Duration = Duration::from_hours(48);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// It works, and could be better.
    Warning,
    /// To be fixed.
    Wrong,
}

impl Level {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
        }
    }
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A short stable name of what was looked at.
    pub what: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do; empty if it is good.
    pub hint: String,
}

impl Finding {
    /// As it should be.
    pub fn good(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, level: Level::Good, text: text.into(), hint: String::new() }
    }

    /// Could be better.
    pub fn warning(what: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what, level: Level::Warning, text: text.into(), hint: hint.into() }
    }

    /// To be fixed.
    pub fn wrong(what: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what, level: Level::Wrong, text: text.into(), hint: hint.into() }
    }
}

/// How thoroughly to look.
#[derive(Debug, Clone, Default)]
pub struct DoctorOptions {
    /// Read everything, not a sample.
    pub deep: bool,
    /// Where backups lie, if the settings do not say it.
    pub backups: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Examined {
    /// All findings.
    pub findings: Vec<Finding>,
    /// Whether a relay uses the data now.
    pub runs: bool,
}

/// Examines a deployment.
pub async fn examine(config: &Config, options: &DoctorOptions) -> Examined {
    let data = &config.data;
    let mut found = Vec::new();
    settings(config, &mut found);
    machine::limits(config, &mut found);
    let backups = options.backups.as_ref().or(config.upkeep.backups.as_ref());
    let places = Records::of(data, config.store.as_ref())
        .and_then(|records| Ok((records, BlobPlace::of(data, config.blobs.as_ref())?)));
    let (place, blob_place) = match places {
        Ok(places) => places,
        Err(error) => {
            found.push(Finding::wrong("data", error.to_string(), error.hint()));
            return Examined { findings: found, runs: false };
        }
    };
    if !place.exist(data) {
        if data.join(RESTORING).exists() {
            found.push(Finding::wrong(
                "data",
                format!("a backup was being restored into {}, and that was cut short", data.display()),
                "empty the folder and restore again",
            ));
        } else {
            found.push(Finding::warning(
                "data",
                format!("{} holds no relay's data yet", data.display()),
                "start the relay once, or name its folder with --data",
            ));
        }
        return Examined { findings: found, runs: false };
    }
    if data.join(RESTORING).exists() {
        found.push(Finding::wrong(
            "data",
            "a backup was being restored, and that was cut short: no relay starts on this folder",
            "empty the folder and restore again",
        ));
    }
    machine::disk(data, &mut found);
    machine::secrets(data, &mut found);
    let runs = machine::is_locked(data);
    if !runs {
        machine::port(config, &mut found);
    }
    match place.look().await {
        Ok(db) => {
            if let Err(error) = records(&db, data, &blob_place, options, &mut found).await {
                found.push(Finding::wrong(
                    "database",
                    format!("it cannot be read: {error}"),
                    "restore the last backup; if the relay is of another version than this command, use the relay's",
                ));
            }
            db.close().await;
        }
        Err(error) => found.push(Finding::wrong(
            "database",
            format!("it cannot be opened: {error}"),
            match place {
                Records::File(_) => "restore the last backup with `potluck relay restore`",
                Records::Server(_) => "start PostgreSQL, and check --store: the user, the password, the name",
            },
        )),
    }
    if let Some(folder) = backups {
        age(folder, data, &mut found);
    } else {
        found.push(Finding::warning(
            "backups",
            "no backups are known",
            "make one a day with `potluck relay backup`, and name their folder with `upkeep.backups` in the settings file",
        ));
    }
    if let Ok(note) = std::fs::read_to_string(data.join(RESTORED)) {
        found.push(Finding::good("restored", format!("the data was restored: {}", note.trim())));
    }
    Examined { findings: found, runs }
}

fn settings(config: &Config, found: &mut Vec<Finding>) {
    let usual = Config::default();
    if config.operator == usual.operator || config.contact.is_empty() {
        found.push(Finding::warning(
            "settings",
            "volunteers are not told who runs the relay, or how to reach them",
            "set `operator` and `contact` in the settings file",
        ));
    }
    let open = !config.listen.ip().is_loopback();
    if open && config.behind_proxy {
        found.push(Finding::warning(
            "settings",
            format!("the relay listens on {} and believes a proxy: whoever reaches it past the proxy can claim any address", config.listen),
            "listen on 127.0.0.1, or let a firewall pass nobody but the proxy",
        ));
    } else if open {
        found.push(Finding::warning(
            "settings",
            format!("the relay listens on {} without TLS; away from localhost, browsers give pages WebGPU over https alone", config.listen),
            "put a proxy in front that does TLS, listen on 127.0.0.1, and set `behind_proxy = true`: see docs/operating.md",
        ));
    } else {
        found.push(Finding::good("settings", format!("the relay listens on {}", config.listen)));
    }
}

/// Database, blobs and log.
async fn records(
    db: &Db,
    data: &Path,
    blob_place: &BlobPlace,
    options: &DoctorOptions,
    found: &mut Vec<Finding>,
) -> Result<(), DbError> {
    // Whether there are tables at all.
    db.incarnation().await?;
    match quick_check(db).await? {
        None => found.push(Finding::good(
            "database",
            match db.engine {
                Engine::Sqlite => "SQLite finds nothing wrong with it",
                Engine::Postgres => "PostgreSQL answers, and has the tables",
            },
        )),
        Some(wrong) => {
            found.push(Finding::wrong(
                "database",
                format!("SQLite finds it damaged: {wrong}"),
                "stop the relay, keep the folder, and restore the last backup with `potluck relay restore`",
            ));
            return Ok(());
        }
    }
    blobs(db, blob_place, options.deep, found).await?;
    clock(db, found).await?;
    whole_log(db, data, options.deep, found).await
}

async fn blobs(db: &Db, place: &BlobPlace, deep: bool, found: &mut Vec<Finding>) -> Result<(), DbError> {
    let all = named_blobs(db).await?;
    let store = match Blobs::look(place) {
        Ok(store) => store,
        Err(error) => {
            found.push(Finding::wrong("blobs", format!("they cannot be opened: {error}"), S3_HINT));
            return Ok(());
        }
    };
    let there: HashSet<_> = match store.all().await {
        Ok(there) => there.into_iter().collect(),
        Err(error) => {
            found.push(Finding::wrong("blobs", format!("they cannot be listed: {error}"), S3_HINT));
            return Ok(());
        }
    };
    let gone: Vec<_> = all.iter().filter(|hash| !there.contains(hash)).collect();
    let step = if deep { 1 } else { all.len().div_ceil(SAMPLE).max(1) };
    let mut read = 0;
    let (mut damaged, mut unread) = (Vec::new(), None);
    for hash in all.iter().step_by(step).filter(|hash| there.contains(hash)) {
        read += 1;
        match store.peek(hash).await {
            Ok(_) => {}
            // A service that does not answer says nothing of the blob; what a disk cannot read is as good as damaged.
            Err(error)
                if matches!(place, BlobPlace::Bucket(_)) && error.kind() != io::ErrorKind::InvalidData =>
            {
                unread = Some(error);
                break;
            }
            Err(_) => damaged.push(hash),
        }
    }
    if let Some(error) = unread {
        found.push(Finding::wrong("blobs", format!("they cannot be read: {error}"), S3_HINT));
        return Ok(());
    }
    let named = |blobs: &[&BlobHash]| {
        blobs.iter().take(MAX_NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let hint = "name backups that have them with `upkeep.backups`, and the relay takes them from there; jobs whose results are \
                damaged have to be submitted again";
    if !gone.is_empty() {
        let text = format!(
            "{} of {} blobs that the database names are gone: {}",
            gone.len(),
            all.len(),
            named(&gone)
        );
        found.push(Finding::wrong("blobs", text, hint));
    }
    if !damaged.is_empty() {
        let text =
            format!("{} of {read} blobs that were read are damaged: {}", damaged.len(), named(&damaged));
        found.push(Finding::wrong("blobs", text, format!("{hint}. Check the disk, or the service")));
    }
    if gone.is_empty() && damaged.is_empty() {
        let how = if deep { "all" } else { "--deep reads all" };
        found.push(Finding::good(
            "blobs",
            format!("{} are there, {read} were read and are right; {how}", all.len()),
        ));
    }
    let BlobPlace::Folder(folder) = place else { return Ok(()) };
    let aside = std::fs::read_dir(folder.join(ASIDE)).map_or(0, Iterator::count);
    if aside > 0 {
        found.push(Finding::warning(
            "disk",
            format!("{aside} blobs were damaged, and put aside in blobs/{ASIDE}"),
            "check the disk with its own tools (smartctl, the file system's check); remove the folder when you have seen it",
        ));
    }
    Ok(())
}

/// Whether the clock is ahead of what the log says that it was.
async fn clock(db: &Db, found: &mut Vec<Finding>) -> Result<(), DbError> {
    let now = wall_ms();
    let last =
        log::last_entry(db).await?.and_then(|text| Some(Entry::decode(&text).ok()?.at_ms.cast_signed()));
    let hint =
        "set the clock, and keep it by NTP; until it is past that time, all entries carry the same one";
    if now < EARLIEST_MS {
        found.push(Finding::wrong(
            "clock",
            format!("it shows {now} ms since 1970, which is long past"),
            hint,
        ));
    } else if let Some(ahead) = last.map(|last| last - now).filter(|ahead| *ahead > MAX_AHEAD_MS) {
        let text = format!("the log's last entry is {} s ahead of it: it was set back", ahead / 1000);
        found.push(Finding::wrong("clock", text, hint));
    } else {
        found.push(Finding::good("clock", "it is not behind the log's last entry"));
    }
    Ok(())
}

async fn whole_log(db: &Db, data: &Path, deep: bool, found: &mut Vec<Finding>) -> Result<(), DbError> {
    let folder = data.join("log");
    let damaged = |text: String| {
        let hint = "stop the relay and audit the folder with `potluck audit`; take the log's files from a mirror or a backup \
                    of the same moment";
        Finding::wrong("log", text, hint)
    };
    // The checkpoint first: the database may only be ahead of it.
    let note = match copy::checkpoint(&folder).await {
        Ok(note) => note,
        Err(error) => {
            found.push(damaged(error));
            return Ok(());
        }
    };
    let head = note.as_ref().map(SignedNote::head);
    let size = head.map_or(0, |head| head.size);
    let (first, entries) = log_span(db).await?;
    if let Some(note) = &note
        && let Ok(identity) = identity::read_file(&data.join(identity::FILE))
        && identity.public() != *note.key().public_key()
    {
        found.push(Finding::wrong(
            "log",
            "its checkpoint is signed by another key than relay.key",
            "put the key back with which the log began: its copy, or a backup's",
        ));
    }
    // Older versions had no such table, and no nodes.
    let shared = if size < first { log::shared_size(db).await.unwrap_or(None) } else { None };
    if let Some(shared) = shared.filter(|shared| *shared >= first) {
        let text = format!(
            "{size} entries are in this folder, and {shared} in the bucket, where another node leads"
        );
        found.push(Finding::good("log", text));
        return Ok(());
    }
    if size < first || size > entries {
        let text =
            format!("its checkpoint has {size} entries, and the database those from {first} to {entries}");
        found.push(damaged(text));
        return Ok(());
    }
    let Some(head) = head else { return Ok(()) };
    let runtime = tokio::runtime::Handle::current();
    let checked = tokio::task::spawn_blocking(move || {
        let mut reader = copy::reader(&folder, head.size, &runtime).map_err(|error| error.to_string())?;
        if deep {
            copy::check(&head, &mut reader)
        } else {
            Appender::restore(&head, &mut reader).map(drop).map_err(|error| error.to_string())
        }
    });
    match checked.await {
        Ok(Ok(())) => {
            let how = if deep { "every hash leads to its root" } else { "its end leads to its root" };
            found.push(Finding::good("log", format!("{size} entries are published; {how}")));
        }
        Ok(Err(error)) => found.push(damaged(error)),
        Err(error) => found.push(damaged(error.to_string())),
    }
    Ok(())
}

/// How old the last backup is, and whether it would survive the disk.
fn age(folder: &Path, data: &Path, found: &mut Vec<Finding>) {
    let hint = "make one a day: docs/operating.md has a timer for it";
    let backup = match Backup::find(folder, None) {
        Ok(backup) => backup,
        Err(error) => return found.push(Finding::wrong("backups", error.to_string(), hint)),
    };
    let made = std::fs::metadata(folder.join(&backup.stamp)).and_then(|folder| folder.modified());
    let old = made.ok().and_then(|made| SystemTime::now().duration_since(made).ok());
    match old {
        Some(old) if old > OLD_BACKUP => {
            let text = format!("the last one is {} hours old", old.as_secs() / 3600);
            found.push(Finding::wrong("backups", text, hint));
        }
        _ => found.push(Finding::good("backups", format!("the last one is {}", backup.stamp))),
    }
    if !backup.damaged.is_empty() {
        let text = format!("the last one lacks {} files that the disk had damaged", backup.damaged.len());
        found.push(Finding::warning("backups", text, "keep an older one that has them"));
    }
    if !backup.with_keys {
        let text = "they hold no keys: without relay.key nobody can go on with the log";
        found.push(Finding::warning(
            "backups",
            text,
            "keep a copy of relay.key elsewhere, or use --with-keys",
        ));
    }
    if machine::same_device(folder, data) {
        let text = "they lie on the data's own disk, and go when it goes";
        found.push(Finding::warning("backups", text, "write them to another disk or machine"));
    }
}
