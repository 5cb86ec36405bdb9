//! What a person reads before it signs an eval card.

use super::log::TheLog;
use crate::error::CliError;
use crate::runs::read_bytes;
use potluck_governance::gate::gate;
use potluck_governance::model::lineage;
use potluck_types::BlobHash;
use std::io::{IsTerminal as _, Write as _};

/// Longest eval card that is shown, in bytes.
const MAX_CARD_BYTES: u64 = 1 << 20;
/// Characters of a card's own text that are shown at once.
const MAX_SHOWN_CHARS: usize = 16_000;
/// What a person answers.
const YES: &str = "yes";

/// Shows what the log says of a candidate and its card, and the card itself if the relay has it.
///
/// # Errors
/// The candidate's card is another one.
pub(super) fn show(log: &TheLog<'_>, candidate: &BlobHash, read: &BlobHash) -> Result<(), CliError> {
    let state = log.state();
    let Some(found) = lineage(state, candidate) else { return Ok(()) };
    let Some(card) = found.card.as_ref().filter(|card| card.card == *read) else {
        return Err(CliError::Input {
            message: format!("{read} is not the eval card that the log has of this candidate"),
            hint: "`potluck models NAME` shows the card's hash; read that one".into(),
        });
    };
    println!("candidate {candidate}");
    println!("  of run {} ({}), started from {}", found.run, found.run_name, found.started_from);
    for set in &found.data_sets {
        println!("  data {}: {} tokens from {} ({})", set.name, set.tokens, set.source, set.license);
    }
    println!("card {}, computed by {} volunteers", card.card, card.computed_by.len());
    for check in gate(state, candidate) {
        println!("  {} {check}", if check.passed { "ok  " } else { "RED " });
    }
    // The card is believed because of its hash, so whoever serves it does not matter.
    match read_bytes(log.client, &format!("/api/v1/blobs/{read}"), MAX_CARD_BYTES) {
        Ok(bytes) if BlobHash::of(&bytes) == *read => {
            let text = String::from_utf8_lossy(&bytes);
            let shown: String =
                text.chars().filter(|c| !c.is_control() || *c == '\n').take(MAX_SHOWN_CHARS).collect();
            println!("{shown}");
        }
        Ok(_) => {
            return Err(CliError::Record {
                what: format!("the eval card {read}"),
                cause: "the relay gives out something else under this hash".into(),
            });
        }
        Err(_) => {
            println!("  the card itself is not with the relay: ask for it where the candidate was made");
        }
    }
    Ok(())
}

/// Asks whether the person read it.
///
/// # Errors
/// It says no, or nobody can be asked.
pub(super) fn ask() -> Result<(), CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage {
            message: "a person has to say that it read the card, and there is none here to ask".into(),
            hint: "run it on a terminal, or give --yes".into(),
        });
    }
    eprint!("Did you read this card and try the candidate? Write {YES} to sign: ");
    // Where this cannot be written, the question cannot be read; the answer then is what counts.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|cause| CliError::System { what: "the answer could not be read", cause })?;
    if answer.trim().eq_ignore_ascii_case(YES) {
        return Ok(());
    }
    Err(CliError::Usage { message: "nothing was signed".into(), hint: format!("write {YES} to sign") })
}
