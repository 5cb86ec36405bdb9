//! What a person reads before it signs an eval card.

use super::log::TheLog;
use crate::error::CliError;
use crate::runs::read_bytes;
use potluck_eval::card::{EvalCard, MAX_CARD_BYTES};
use potluck_governance::gate::gate;
use potluck_governance::model::{Lineage, lineage};
use potluck_types::BlobHash;
use std::io::{IsTerminal as _, Write as _};

/// Samples that are shown at once.
const SAMPLES: usize = 5;
/// What a person answers.
const YES: &str = "yes";

/// Shows what the log says of a candidate and its card, and the card itself if the relay has it.
///
/// # Errors
/// The candidate's card is another one.
pub(super) fn show(log: &mut TheLog<'_>, candidate: &BlobHash, read: &BlobHash) -> Result<(), CliError> {
    let is_read = |found: &Lineage| found.card.as_ref().is_some_and(|card| card.card == *read);
    let Some(found) = log.find(|state| lineage(state, candidate).filter(is_read))? else {
        return Err(CliError::Input {
            message: format!("{read} is not the eval card that the log has of this candidate"),
            hint: "`potluck models NAME` shows the card's hash; read that one".into(),
        });
    };
    let state = log.state();
    println!("candidate {candidate}");
    println!("  of run {} ({}), started from {}", found.run, found.run_name, found.started_from);
    for set in &found.data_sets {
        println!("  data {}: {} tokens from {} ({})", set.name, set.tokens, set.source, set.license);
    }
    let computed_by = found.card.as_ref().map_or(0, |card| card.computed_by.len());
    println!("card {read}, computed by {computed_by} volunteers");
    for check in gate(state, candidate) {
        println!("  {} {check}", if check.passed { "ok  " } else { "RED " });
    }
    // The card is believed because of its hash, so whoever serves it does not matter.
    let bytes = match read_bytes(log.client, &path(read), MAX_CARD_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(error) => {
            println!(
                "  the card itself cannot be had from this relay ({error}): ask for it where the candidate was made"
            );
            return Ok(());
        }
    };
    let wrong = |cause: String| CliError::Record { what: format!("the eval card {read}"), cause };
    if BlobHash::of(&bytes) != *read {
        return Err(wrong("the relay gives out something else under this hash".into()));
    }
    let card = EvalCard::decode(&bytes).map_err(|error| wrong(error.to_string()))?;
    for line in card.summary() {
        println!("  {line}");
    }
    println!("what it writes ({} of {} samples):", card.samples.texts.len().min(SAMPLES), card.samples.count);
    for sample in card.samples.texts.iter().take(SAMPLES) {
        // Texts of a model are shown with their control characters escaped.
        println!("  {:?} -> {:?}", sample.prompt, sample.text);
    }
    println!("methods, limits and all that was found: {}{}", log.client.relay(), path(read));
    Ok(())
}

fn path(card: &BlobHash) -> String {
    format!("/api/v1/blobs/{card}")
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
