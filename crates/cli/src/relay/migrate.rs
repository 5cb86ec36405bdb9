//! `potluck relay migrate`: moves a relay's records to PostgreSQL, or its blobs to a bucket.

use super::settings_of;
use crate::args::MigrateArgs;
use crate::error::CliError;
use crate::progress::Progress;
use potluck_relay::{MigrateError, migrate};
use serde_json::json;
use std::path::Path;

/// Moves a relay's records, its blobs, or both.
///
/// # Errors
/// Nothing is named, the relay runs, the store has records, or a database fails.
pub async fn command(args: &MigrateArgs) -> Result<(), CliError> {
    let config = settings_of(&args.data, Path::new("."))?;
    let (store, blobs) = (config.store.as_ref(), config.blobs.as_ref());
    if store.is_none() && blobs.is_none() {
        return Err(CliError::Usage {
            message: "nothing is named to move to".to_owned(),
            hint: "say where records go, --store postgres://USER@HOST/NAME, or blobs, --blobs s3://BUCKET/FOLDER"
                .to_owned(),
        });
    }
    let mut shown: Option<(&str, Progress)> = None;
    let moved = migrate(&config.data, store, blobs, |what, done, total| {
        if shown.as_ref().is_none_or(|(before, _)| *before != what) {
            shown = Some((what, Progress::parts(what, total)));
        }
        if let Some((_, progress)) = &shown {
            progress.set(done, &format!("{done} of {total}"));
        }
    })
    .await
    .map_err(|error| failed(&error))?;
    drop(shown);
    if args.json {
        let [store, blobs] = [store.map(ToString::to_string), blobs.map(ToString::to_string)];
        let (rows, copied) = (moved.rows, moved.blobs);
        println!(
            "{}",
            json!({ "data": config.data, "store": store, "rows": rows, "place": blobs, "blobs": copied })
        );
        return Ok(());
    }
    if let (Some(rows), Some(store)) = (moved.rows, store) {
        println!("records  {store}: {rows} rows, each read back; kept as potluck.db.moved");
    }
    if let (Some(copied), Some(place)) = (moved.blobs, blobs) {
        println!("blobs    {place}: {copied}, each read back; kept as blobs.moved");
    }
    println!("data     {}: the log, runs, matrices and the key stay there", config.data.display());
    eprintln!("start the relay with the same settings, and check with `potluck audit`");
    Ok(())
}

fn failed(error: &MigrateError) -> CliError {
    let hint = match error {
        MigrateError::Blobs { .. } => {
            "check AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and that the bucket exists"
        }
        MigrateError::Start(_) => "stop the relay, and name its folder with --data",
        MigrateError::Nothing { .. } => "name the relay's data folder with --data",
        MigrateError::Moved(_) => "start the relay with that --store or --blobs",
        MigrateError::StoreInUse(_) | MigrateError::NotEmpty(_) => {
            "make a new database with `createdb`, and name it with --store"
        }
        MigrateError::Database(_) => {
            "check that PostgreSQL runs, and the user, the password and the name of the database in --store"
        }
        _ => "nothing has moved: try again, and report this if it happens twice",
    };
    CliError::Relay { message: error.to_string(), hint: hint.to_owned() }
}
