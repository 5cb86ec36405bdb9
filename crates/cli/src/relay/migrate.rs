//! `potluck relay migrate`: moves a relay's records to PostgreSQL, or its blobs to a bucket.

use super::settings_of;
use crate::args::MigrateArgs;
use crate::error::CliError;
use crate::progress::Progress;
use potluck_relay::{MigrateError, migrate_blobs, migrate_records};
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
    let told = |what: &'static str| {
        let mut shown = None;
        move |done: u64, total: u64| {
            let progress = shown.get_or_insert_with(|| Progress::parts(what, total));
            progress.set(done, &format!("{done} of {total}"));
        }
    };
    // Each part is told as soon as it is done: the other one may fail.
    if let Some(place) = blobs {
        let copied =
            migrate_blobs(&config.data, place, store, told("blobs")).await.map_err(|error| failed(&error))?;
        if args.json {
            println!("{}", json!({ "data": config.data, "place": place.to_string(), "blobs": copied }));
        } else {
            match copied {
                Some(copied) => println!("blobs    {place}: {copied}, each read back; kept as blobs.moved"),
                None => println!("blobs    {place}: they moved before"),
            }
        }
    }
    if let Some(store) = store {
        let rows =
            migrate_records(&config.data, store, told("records")).await.map_err(|error| failed(&error))?;
        if args.json {
            println!("{}", json!({ "data": config.data, "store": store.to_string(), "rows": rows }));
        } else {
            match rows {
                Some(rows) => {
                    println!("records  {store}: {rows} rows, each read back; kept as potluck.db.moved");
                }
                None => println!("records  {store}: they moved before"),
            }
        }
    }
    if !args.json {
        println!("data     {}: the log, runs, matrices and the key stay there", config.data.display());
        eprintln!("start the relay with the same settings, and check with `potluck audit`");
    }
    Ok(())
}

fn failed(error: &MigrateError) -> CliError {
    let hint = match error {
        MigrateError::Blob { .. } => {
            "`potluck relay doctor --deep` names all that are damaged; a relay with `upkeep.backups` takes them from there"
        }
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
        _ => "it is where it was: try again, and report this if it happens twice",
    };
    CliError::Relay { message: error.to_string(), hint: hint.to_owned() }
}
