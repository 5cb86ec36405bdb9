//! `potluck relay migrate`: moves a relay's records to PostgreSQL.

use super::settings_of;
use crate::args::MigrateArgs;
use crate::error::CliError;
use crate::progress::Progress;
use potluck_relay::{MigrateError, migrate};
use serde_json::json;
use std::path::Path;

/// Moves a relay's records.
///
/// # Errors
/// No store is named, the relay runs, the store has records, or a database fails.
pub async fn command(args: &MigrateArgs) -> Result<(), CliError> {
    let config = settings_of(&args.data, Path::new("."))?;
    let Some(store) = config.store else {
        return Err(CliError::Usage {
            message: "no store is named".to_owned(),
            hint: "say where the records go: --store postgres://USER@HOST/NAME".to_owned(),
        });
    };
    let mut progress = None;
    let rows = migrate(&config.data, &store, |done, total| {
        let progress = progress.get_or_insert_with(|| Progress::parts("records", total));
        progress.set(done, &format!("{done} of {total} rows"));
    })
    .await
    .map_err(|error| failed(&error))?;
    drop(progress);
    if args.json {
        println!("{}", json!({ "data": config.data, "store": store.to_string(), "rows": rows }));
        return Ok(());
    }
    println!("store   {store}: {rows} rows, each read back");
    println!(
        "data    {}: blobs, log and key stay there; potluck.db is kept as potluck.db.moved",
        config.data.display()
    );
    eprintln!("start the relay with the same --store, and check with `potluck audit`");
    Ok(())
}

fn failed(error: &MigrateError) -> CliError {
    let hint = match error {
        MigrateError::Start(_) => "stop the relay, and name its folder with --data",
        MigrateError::Nothing { .. } => "name the relay's data folder with --data",
        MigrateError::Moved(_) => "start the relay with that --store",
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
