//! `potluck receipt`: one entry of a log, with the proof that it stands there.

use super::known::{self, Known};
use crate::args::{ReceiptFetchArgs, ReceiptVerifyArgs};
use crate::client::Client;
use crate::error::CliError;
use potluck_ledger::{Checkpoint, MAX_RECEIPT_BYTES, Policy, Receipt, VerifierKey};
use serde_json::json;
use std::io::Read as _;

/// Checks a receipt without asking anybody.
///
/// # Errors
/// It cannot be read, no key of its log is known, or it does not prove what it claims.
pub fn verify(args: &ReceiptVerifyArgs) -> Result<(), CliError> {
    let failed = |cause| CliError::file(&args.file, "read", cause);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&args.file).map_err(failed)?;
    file.take(MAX_RECEIPT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let wrong = |error: &dyn std::error::Error| CliError::Input {
        message: format!("{}: {error}", args.file.display()),
        hint: "fetch it again: GET /api/v1/log/receipts/INDEX of the relay".into(),
    };
    let receipt = Receipt::parse(&bytes).map_err(|error| wrong(&error))?;
    let claimed: Checkpoint = receipt.checkpoint.text().parse().map_err(|error| wrong(&error))?;
    let root = args.remember.clone().unwrap_or_else(known::usual_root);
    let known = Known::read(&root, claimed.origin())?;
    let text = args.key.clone().or(known.key).ok_or_else(|| CliError::Usage {
        message: format!("no key of the log {} is known", claimed.origin()),
        hint: "give it with --key, or run `potluck audit` on the log first".into(),
    })?;
    let parsed = |text: &String| {
        text.parse::<VerifierKey>().map_err(|error| CliError::Usage {
            message: format!("{text:?} is not a key: {error}"),
            hint: "a key is written NAME+HASH+BASE64".into(),
        })
    };
    let witnesses = args.witness.iter().map(parsed).collect::<Result<Vec<_>, _>>()?;
    let quorum = args.quorum.unwrap_or(witnesses.len());
    let policy =
        Policy::new(claimed.origin(), parsed(&text)?, witnesses, quorum).map_err(|error| wrong(&error))?;
    let verified = receipt.verify(&policy).map_err(|error| wrong(&error))?;
    let entry = String::from_utf8_lossy(&receipt.entry).into_owned();
    let size = verified.checkpoint.head().size;
    if args.json {
        let entry: serde_json::Value = serde_json::from_str(&entry).unwrap_or(entry.into());
        println!(
            "{}",
            json!({
                "origin": claimed.origin(), "index": receipt.index, "of": size, "entry": entry,
                "cosigned": verified.cosigners.iter().map(|cosigner| &cosigner.name).collect::<Vec<_>>(),
            })
        );
    } else {
        println!("entry {} of the {size} of {}:\n{entry}", receipt.index, claimed.origin());
        for cosigner in &verified.cosigners {
            println!("cosigned by {}", cosigner.name);
        }
    }
    Ok(())
}

/// Fetches the receipt of an entry.
///
/// # Errors
/// The relay does not answer, or has not published the entry; the file cannot be written.
pub fn fetch(args: &ReceiptFetchArgs, client: &Client) -> Result<(), CliError> {
    let path = format!("/api/v1/log/receipts/{}", args.index);
    let response = client.download(&path, &[], |now| tracing::warn!(cause = %now.cause, "trying again"))?;
    let mut bytes = Vec::new();
    let answer =
        |cause: std::io::Error| CliError::Answer { request: format!("GET {path}"), cause: cause.to_string() };
    response
        .into_body()
        .into_reader()
        .take(MAX_RECEIPT_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(answer)?;
    std::fs::write(&args.out, bytes).map_err(|cause| CliError::file(&args.out, "written", cause))
}
