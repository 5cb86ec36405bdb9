//! `potluck models`: what people run, where it comes from, and who decided so.

use super::log::TheLog;
use super::moment;
use crate::args::ModelsArgs;
use crate::client::Client;
use crate::error::CliError;
use potluck_relay::api::{LineageInfo, ModelInfo, ModelSummary, VersionInfo, VoiceInfo};
use serde_json::json;

/// Shows all models, or one.
///
/// # Errors
/// The log cannot be read, or names no such model.
pub fn command(args: &ModelsArgs, client: &Client) -> Result<(), CliError> {
    let log = TheLog::open(&args.log, client)?;
    let (state, now_ms) = (log.state(), log.now_ms());
    let Some(name) = &args.name else {
        let models = ModelSummary::all(state, now_ms);
        for model in &models {
            if args.log.json {
                println!("{}", json!(model));
            } else {
                let current = model.current.as_deref().unwrap_or("no version yet");
                println!(
                    "{}: {current}; {} versions, {} candidates, {} runs{}",
                    model.name,
                    model.versions,
                    model.candidates,
                    model.runs,
                    if model.paused.is_some() { ", paused" } else { "" }
                );
            }
        }
        if models.is_empty() && !args.log.json {
            println!("no models; a run that trains one is proposed first: `potluck propose run --help`");
        }
        return Ok(());
    };
    let page = ModelInfo::of(state, name, now_ms).ok_or_else(|| CliError::Input {
        message: format!("the log names no model {name}"),
        hint: "`potluck models` lists them".into(),
    })?;
    if args.log.json {
        println!("{}", json!(page));
        return Ok(());
    }
    println!("{name}: {}", page.current.as_deref().unwrap_or("no version yet"));
    if let Some(target) = &page.rollback_target {
        println!("a rollback leads to {target}");
    }
    if let Some(pause) = &page.paused {
        println!("paused by entry {}: {} ({})", pause.id, pause.cause, pause.reason);
    }
    for version in &page.versions {
        show_version(version, now_ms);
    }
    for candidate in &page.candidates {
        println!("candidate {}", candidate.candidate);
        show_lineage(candidate);
    }
    for run in &page.runs {
        let rounds =
            run.rounds.map_or_else(|| "no round yet".to_owned(), |[_, last]| format!("{} rounds", last + 1));
        let paused = run.paused.as_ref().map(|pause| format!(", paused by entry {}", pause.id));
        println!("run {} ({}): {rounds}{}", run.run, run.name, paused.unwrap_or_default());
    }
    Ok(())
}

fn voices(what: &str, voices: &[VoiceInfo]) {
    for voice in voices {
        let reason = voice.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        println!("  {what} {}{reason}", voice.name);
    }
}

fn show_version(version: &VersionInfo, now_ms: u64) {
    let in_use = if version.in_use { ", in use" } else { "" };
    println!(
        "version {} promoted {} by entry {}{in_use}",
        version.lineage.candidate,
        moment(version.promoted_ms, now_ms),
        version.index
    );
    voices("approved by", &version.approvals);
    voices("dissent of", &version.dissent);
    voices("abstained:", &version.abstained);
    voices("card read by", &version.signed_off);
    for appeal in &version.appeals {
        println!("  appeal {appeal}");
    }
    show_lineage(&version.lineage);
}

fn show_lineage(lineage: &LineageInfo) {
    let rounds =
        lineage.rounds.map_or_else(String::new, |[first, last]| format!(", rounds {first} to {last}"));
    println!("  of run {} ({}){rounds}, from {}", lineage.run, lineage.run_name, lineage.started_from);
    for set in &lineage.data_sets {
        println!(
            "  data {} {}: {} tokens from {} ({})",
            set.id, set.name, set.tokens, set.source, set.license
        );
    }
    for left_out in &lineage.rebuilt_without {
        println!("  without {left_out}");
    }
    for contributor in &lineage.contributors {
        println!(
            "  volunteer {}: {} rounds, {:.1} % of the weight",
            contributor.volunteer,
            contributor.rounds,
            contributor.share_ppm as f64 / 1e4
        );
    }
    if let Some(card) = &lineage.card {
        println!("  eval card {}", card.card);
    }
    for check in &lineage.checks {
        let value = check.value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
        let sign = if check.passed { "ok " } else { "RED" };
        println!("  {sign} {}: {value} ({} {} {})", check.name, check.need, check.threshold, check.unit);
    }
    for auditor in &lineage.reproduced_by {
        println!("  derived again by {auditor}");
    }
    for auditor in &lineage.differed_for {
        println!("  came out otherwise for {auditor}");
    }
}
