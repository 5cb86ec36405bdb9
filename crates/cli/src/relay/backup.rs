//! `potluck relay backup` and `potluck relay restore`.

use super::settings_of;
use crate::args::{BackupArgs, RestoreArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::ledger::source::{Reader, Source};
use potluck_ledger::{SignedCheckpoint, VerifierKey, root_at};
use potluck_relay::backup::{Backup, BackupError, BackupOptions, LogState, Made, backup, restore};
use serde_json::json;
use std::path::Path;

/// Damaged files that are named on a line each.
const MAX_SHOWN: usize = 20;

/// Makes a backup.
///
/// # Errors
/// There is none; or it lacks what the relay's own disk holds damaged.
pub async fn make(args: &BackupArgs) -> Result<(), CliError> {
    let config = settings_of(&args.data, Path::new("."))?;
    let options = BackupOptions {
        data: config.data,
        store: config.store,
        blobs: config.blobs,
        to: args.to.clone(),
        with_keys: args.with_keys,
        quick: args.quick,
        keep: args.keep,
    };
    let made = backup(&options).await.map_err(|error| failed(&error))?;
    show(&made, args.json);
    if made.damaged.is_empty() {
        return Ok(());
    }
    Err(CliError::Relay {
        message: format!(
            "the backup was made, but the relay lacks {} files or has them damaged",
            made.damaged.len()
        ),
        hint: "`potluck relay doctor --deep` says which, and what can be done".into(),
    })
}

fn show(made: &Made, as_json: bool) {
    if as_json {
        let said = json!({
            "backup": made.stamp, "log_published": made.log.published.size, "log_entries": made.log.entries,
            "with_keys": made.with_keys, "files": made.files, "bytes": made.bytes, "copied_files": made.copied_files,
            "copied_bytes": made.copied_bytes, "damaged": made.damaged, "removed": made.removed,
        });
        println!("{said}");
        return;
    }
    println!("backup  {}", made.stamp);
    println!("files   {}, {} bytes, all checked", made.files, made.bytes);
    println!("copied  {}, {} bytes; the rest was there", made.copied_files, made.copied_bytes);
    println!("log     {}", log_line(&made.log));
    if !made.with_keys {
        println!("keys    not in it: keep relay.key elsewhere, or use --with-keys");
    }
    for removed in &made.removed {
        println!("removed {removed}");
    }
    show_damaged(&made.damaged);
}

fn log_line(log: &LogState) -> String {
    format!("{} entries, {} of them published", log.entries, log.published.size)
}

fn show_damaged(damaged: &[String]) {
    for what in damaged.iter().take(MAX_SHOWN) {
        println!("damaged {what}");
    }
    if damaged.len() > MAX_SHOWN {
        println!("damaged {} more", damaged.len() - MAX_SHOWN);
    }
}

/// Looks whether a copy of the log went on after the backup.
///
/// # Errors
/// The copy cannot be read, is of another log, or has entries that would be forgotten.
pub fn compare(args: &RestoreArgs, open: impl Fn(&str) -> Result<Client, CliError>) -> Result<(), CliError> {
    let Some(place) = &args.newer_log else { return Ok(()) };
    let found = Backup::find(&args.from, args.backup.as_deref()).map_err(|error| failed(&error))?;
    let folder = Path::new(place);
    let client = if folder.is_dir() { None } else { Some(open(place)?) };
    let source = match &client {
        Some(client) => Source::Relay(client),
        None => Source::Folder(folder.to_owned()),
    };
    let log = &found.log;
    let Ok(key) = log.key.parse::<VerifierKey>() else {
        return Err(CliError::Usage {
            message: "the backup's log had no checkpoint yet, so that nothing can be compared".into(),
            hint: "leave --newer-log away".into(),
        });
    };
    let record = |what: &str, cause: String| CliError::Record { what: what.to_owned(), cause };
    let newer = SignedCheckpoint::open(&source.checkpoint()?, &log.origin, &key)
        .map_err(|error| record("the log's copy is not the log of the backup", error.to_string()))?
        .head();
    let mut reader = Reader { source: &source, failed: None };
    if newer.size < log.published.size {
        say(args, &format!("the log's copy is older than the backup: it has {} entries", newer.size));
        return Ok(());
    }
    if log.published.size > 0 {
        let then = root_at(log.published.size, &newer, &mut reader);
        let then = then.map_err(|error| {
            reader.failed.take().unwrap_or_else(|| record("the log's copy", error.to_string()))
        })?;
        if then.0 != log.published {
            return Err(CliError::Forked {
                message:
                    "the log's copy does not go on from the backup's log: one of them was forked already"
                        .into(),
                hint: "find out which of them others saw: `potluck audit` on both".into(),
            });
        }
    }
    let forgotten = newer.size.saturating_sub(log.entries);
    if forgotten == 0 {
        say(args, &format!("the log's copy has {} entries, and the backup all of them", newer.size));
        return Ok(());
    }
    let message = format!(
        "the log went on after the backup: {} entries were published, the backup has {}, and a relay that goes on from it \
         writes others in the place of {forgotten}",
        newer.size, log.entries
    );
    if args.fork {
        say(args, &message);
        return Ok(());
    }
    Err(CliError::Forked {
        message,
        hint: "restore a later backup (--backup) or the old disk's data. Volunteers and witnesses that saw these entries refuse \
               a relay that forgets them, for good; entries cannot be taken over without the results that they stand for. \
               --fork goes on all the same"
            .into(),
    })
}

fn say(args: &RestoreArgs, text: &str) {
    if !args.json {
        println!("log     {text}");
    }
}

/// Restores a backup.
///
/// # Errors
/// It is damaged, the folder is not empty, or the key is missing.
pub async fn bring_back(args: &RestoreArgs) -> Result<(), CliError> {
    let data = settings_of(&args.data, Path::new("."))?.data;
    let found = Backup::find(&args.from, args.backup.as_deref()).map_err(|error| failed(&error))?;
    let restored = restore(&found, &data, args.key.as_deref()).await.map_err(|error| failed(&error))?;
    if args.json {
        let said = json!({
            "backup": restored.stamp, "data": data, "log_published": restored.log.published.size,
            "log_entries": restored.log.entries, "files": restored.files, "bytes": restored.bytes,
            "damaged": restored.damaged,
        });
        println!("{said}");
        return Ok(());
    }
    println!("backup  {}", restored.stamp);
    println!("data    {}: {} files, {} bytes, all checked", data.display(), restored.files, restored.bytes);
    println!("log     {}", log_line(&restored.log));
    if args.newer_log.is_none() {
        println!(
            "        What the relay accepted after that is forgotten. If any of it was published, whoever saw it finds a fork:\n\
             \x20       compare with a copy of the log by --newer-log before the relay starts."
        );
    }
    show_damaged(&restored.damaged);
    Ok(())
}

fn failed(error: &BackupError) -> CliError {
    let hint = match error {
        BackupError::NoData { .. } => "name the relay's data folder with --data",
        BackupError::Nested { .. } => "choose a folder elsewhere, best on another disk",
        BackupError::NotBackups { .. } => "name a new folder, or one that earlier backups made",
        BackupError::InUse { .. } => "wait for the other one",
        BackupError::NoBackup { .. } => "name a folder that `potluck relay backup` wrote to",
        BackupError::DamagedDatabase { .. } => {
            "restore the last backup; `sqlite3 potluck.db .recover` may save more, with the relay stopped"
        }
        BackupError::Moving => "try again",
        BackupError::Log(_) => "audit the log with `potluck audit DIR/log`, and try again",
        BackupError::Damaged { .. } => "take an older backup with --backup; this one cannot be trusted",
        BackupError::NotEmpty { .. } => "name an empty folder with --data; nothing is overwritten",
        BackupError::KeyNeeded => "give its copy with --key",
        BackupError::OtherKey { .. } => "give the key of that relay with --key",
        _ => "check that the folders may be used and have space",
    };
    CliError::Relay { message: error.to_string(), hint: hint.to_owned() }
}
