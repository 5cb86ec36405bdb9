//! The demo's second half: the same tabs train a small language model, and what it writes before and after is shown.

use super::Client;
use crate::data;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// Rounds of ten inner steps.
const ROUNDS: u32 = 12;
/// Rounds with `--train`: what `tiny` needs to spell most words.
const LONG_ROUNDS: u32 = 120;
/// What samples begin with.
const PROMPT: &str = "The whale ";
/// Tokens of a sample.
const SAMPLE_TOKENS: &str = "160";
/// Columns of a sample.
const COLUMNS: usize = 72;

/// Trains `tiny` on the corpus of `cargo xtask data`, or on a text of the person's own.
pub(super) fn run(
    client: &Client<'_>,
    folder: &Path,
    corpus: Option<&Path>,
    tabs: u32,
    long: bool,
) -> Result<bool> {
    let corpus = match corpus {
        Some(path) => {
            path.canonicalize().with_context(|| format!("cannot find the corpus {}", path.display()))?
        }
        None => data::corpus()?,
    };
    let rounds = if long { LONG_ROUNDS } else { ROUNDS };
    let run_file = folder.join("run.toml");
    let path = Value::from(corpus.to_string_lossy().as_ref());
    let warmup = rounds.min(10) * 2;
    fs::write(
        &run_file,
        format!(
            "corpus = {path}\nrounds = {rounds}\nvolunteers = {tabs}\n[learning-rate]\npeak = 0.003\nwarmup = {warmup}\n"
        ),
    )?;
    println!(
        "  The run: {tabs} tabs train a language model of about 160,000 parameters on {}, {rounds} rounds.\n",
        corpus.file_name().unwrap_or_default().to_string_lossy()
    );
    let created = json(client, &["submit", "train", &run_file.to_string_lossy(), "--json"])?;
    let id = created["id"].as_str().context("potluck submit named no run")?.to_owned();
    let before = sample(client, folder, &id, 0)?;
    let mut watch = client.command();
    watch.args(["watch", &id]);
    ensure!(
        watch.status().context("cannot run potluck watch")?.success(),
        "the run failed; potluck says why above"
    );

    // A run that is done is told at once, a line a round and one at the end.
    let told = lines(client, &["watch", &id, "--json"])?;
    let history: Vec<&Value> = told.iter().filter(|line| line["validation_loss"].is_number()).collect();
    let (Some(first), Some(last)) = (history.first(), history.last()) else { bail!("the run has no rounds") };
    let loss = |round: &Value| round["validation_loss"].as_f64().unwrap_or(f64::NAN);
    let sum = |field: &str| history.iter().filter_map(|round| round[field].as_u64()).sum::<u64>();
    println!("\n  Outcome");
    println!(
        "    validation loss: {:.3} nats a character after the first round, {:.3} after {} rounds",
        loss(first),
        loss(last),
        history.len()
    );
    println!(
        "    {} tokens trained on; {:.2} MB came from the tabs, {:.2} MB went to them",
        sum("tokens"),
        sum("upload_bytes") as f64 / 1e6,
        sum("download_bytes") as f64 / 1e6
    );
    println!("    rejected updates: {}", sum("rejected"));
    println!("    the last round, repeated here from what the relay publishes:");
    let round = (history.len() - 1).to_string();
    for update in lines(client, &["replay", &id, "--round", &round, "--json"])? {
        let name: String = update["volunteer"].as_str().unwrap_or("?").chars().take(8).collect();
        println!(
            "      tab {name} on {}: {}, it deviates by {:.1e} of its norm",
            update["backend"].as_str().unwrap_or("?"),
            if update["confirmed"] == true { "confirmed" } else { "REFUTED" },
            update["whole"].as_f64().unwrap_or(f64::NAN)
        );
    }
    println!("\n  What it wrote before:\n{}", quoted(&before));
    println!(
        "\n  And after {} rounds:\n{}",
        history.len(),
        quoted(&sample(client, folder, &id, history.len())?)
    );
    let learned = loss(last) < loss(first);
    println!("\n  {}\n", if learned { "It learned." } else { "The loss did not fall: something is wrong." });
    Ok(learned && sum("rejected") == 0)
}

/// Runs a command of potluck that prints a JSON document a line.
fn lines(client: &Client<'_>, args: &[&str]) -> Result<Vec<Value>> {
    let output =
        client.command().args(args).stderr(Stdio::inherit()).output().context("cannot run potluck")?;
    ensure!(output.status.success(), "potluck {} failed; it says why above", args[0]);
    let parsed = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let parsed = parsed.map(serde_json::from_slice).collect::<Result<_, _>>();
    parsed.with_context(|| format!("potluck {} printed no JSON", args[0]))
}

/// Runs a command of potluck that prints one JSON document.
fn json(client: &Client<'_>, args: &[&str]) -> Result<Value> {
    lines(client, args)?.into_iter().next().with_context(|| format!("potluck {} printed nothing", args[0]))
}

/// What the model writes after so many rounds, by the commands that a person would use.
fn sample(client: &Client<'_>, folder: &Path, id: &str, round: usize) -> Result<String> {
    let out = folder.join(format!("model-{round}"));
    let out = out.to_string_lossy();
    json(client, &["model", "export", id, "--round", &round.to_string(), "--out", &out, "--json"])?;
    let said = json(
        client,
        &[
            "model",
            "generate",
            &out,
            "--prompt",
            PROMPT,
            "--tokens",
            SAMPLE_TOKENS,
            "--temperature",
            "0.7",
            "--json",
        ],
    )?;
    let text = said["text"].as_str().context("potluck generate wrote nothing")?;
    Ok(format!("{PROMPT}{text}"))
}

/// A text as indented lines, without what a terminal would act on.
fn quoted(text: &str) -> String {
    let plain: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let lines = plain.chunks(COLUMNS).map(|line| format!("    | {}", line.iter().collect::<String>()));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_cannot_move_the_cursor() {
        let long = "a\u{1b}[2Jb\n".repeat(20);
        let shown = quoted(&long);
        assert!(shown.lines().all(|line| line.starts_with("    | ") && line.chars().count() <= 6 + COLUMNS));
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}
