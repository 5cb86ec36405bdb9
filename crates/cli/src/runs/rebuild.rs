//! `potluck model rebuild`: a run's parameters without what is left out of them, derived here from public data.

use super::derive::{Blobs, Rounds, data_set, write_file};
use super::without::{LeftOut, TokenPart, resolve};
use crate::args::RebuildArgs;
use crate::client::Client;
use crate::client::runs::{RoundRecord, RunInfo, UpdateRecord};
use crate::error::CliError;
use crate::runs::{find, short};
use potluck_proto::DataSetSpec;
use potluck_rounds::derive::{Place, Rebuilt};
use potluck_rounds::{ClosedRound, Counted, Derivation, rebuild, sizes};
use potluck_train::data::Spec;
use potluck_train::round::Batches;
use potluck_types::{BlobHash, JobId, VolunteerId};
use serde_json::{Value, json};
use ureq::http::Method;

/// Makes the parameters again, writes them, and offers them as a candidate if that is asked for.
///
/// # Errors
/// There is no such run or round; what the relay gives out does not lead to the run's own parameters; nothing or
/// everything is left out; the file cannot be written; the relay comes to other parameters.
pub fn command(args: &RebuildArgs, client: &Client) -> Result<(), CliError> {
    let run = find(client, &args.run)?;
    let rounds = args.round.unwrap_or(run.round);
    if rounds == 0 || rounds > run.round {
        return Err(CliError::Usage {
            message: format!("the run has done {} rounds, not {rounds}", run.round),
            hint: "give a --round of 1 to that, or leave it out for the newest".into(),
        });
    }
    let unnamed = |what: &&LeftOut| matches!(what, LeftOut::Tokens { part: TokenPart::Range(_), .. });
    if let Some(what) = args.without.iter().find(unnamed).filter(|_| args.offer.is_some()) {
        return Err(CliError::Usage {
            message: format!(
                "a candidate cannot be made without {what}: it has no name that the log could hold"
            ),
            hint: "leave out a part that the manifest names, the whole data set, or a volunteer".into(),
        });
    }
    let built = built(client, &run, rounds, args)?;
    if built.left_out == 0 {
        return Err(CliError::Usage {
            message: format!(
                "none of the {} updates is left out: the model would be the same",
                built.updates
            ),
            hint: format!("`potluck replay {} --round R` lists who took part", short(&run.id)),
        });
    }
    if built.left_out == built.updates {
        return Err(CliError::Usage {
            message: format!("all {} updates would be left out: nothing of the run remains", built.updates),
            hint: "leave out less, or start a run on other data".into(),
        });
    }
    let bytes: Vec<u8> = built.parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    write_file(&args.out, &bytes)?;
    let offered = match &args.offer {
        Some(model) => Some(offer(client, &run, rounds, model, args, &built)?),
        None => None,
    };
    let Rebuilt { hash, original, updates, left_out, emptied, untouched, .. } = &built;
    if args.json {
        println!(
            "{}",
            json!({
                "run": run.id, "round": rounds, "parameters": hash.to_string(), "original": original.to_string(),
                "updates": updates, "left_out": left_out, "rounds_without_step": emptied, "untouched_rounds": untouched,
                "again": args.again, "out": args.out,
                "candidate": offered,
            })
        );
    } else {
        println!("{hash}");
        if !args.again {
            eprintln!(
                "the updates that are left were computed with the others in the model: try it before you trust it, or use --again"
            );
        }
        let empty = match emptied {
            0 => String::new(),
            count => format!("; {count} rounds have none left and take no step"),
        };
        eprintln!(
            "{left_out} of {updates} updates of {rounds} rounds left out, none in the first {untouched}{empty}; written to {}",
            args.out.display()
        );
    }
    Ok(())
}

fn built(client: &Client, run: &RunInfo, rounds: u64, args: &RebuildArgs) -> Result<Rebuilt, CliError> {
    let id: JobId = run.id.parse().map_err(|_| CliError::NoSuchRun(run.id.clone()))?;
    let blobs = Blobs { folder: None, relay: Some(client) };
    let (start, parameters) = blobs.start(id, None)?;
    let most = Derivation::start(start.terms, parameters.clone())?.most_bytes();
    let first = record(client, run, 0)?;
    let tokens = first.data.tokens;
    let without = resolve(&args.without, &start.train, tokens, Some(client))?;
    let vocabulary = sizes::model(&start.terms.model).vocabulary() as u32;
    let spec = Spec { vocabulary, tokens, tree: first.data.tree };
    if spec.root() != start.train.0 {
        let cause = format!("its tasks are on another data set than {}", start.train);
        return Err(CliError::Record { what: format!("run {}", run.id), cause });
    }
    let data = if args.again { Some(data_set(client, spec)?) } else { None };
    let mut first = Some(first);
    let records = (0..rounds).map(|round| match first.take() {
        Some(first) => Ok(first.closed),
        None => record(client, run, round).map(|record| record.closed),
    });
    let mut progress = Rounds::new("rebuild", rounds);
    let built = rebuild(
        (start.terms, parameters),
        tokens,
        (without, data.as_ref().map(|data| data as &dyn Batches)),
        records,
        |_, counted: &Counted| {
            if client.stop().count() > 0 {
                return Err(CliError::Interrupted { job: None });
            }
            blobs.update(counted, most)
        },
        |_| progress.next(),
    )?;
    progress.finish(&format!("{rounds} rounds, each derived as it was and without what is left out"));
    Ok(built)
}

/// A round as the relay has it.
struct Recorded {
    closed: ClosedRound,
    /// The training data.
    data: DataSetSpec,
}

fn record(client: &Client, run: &RunInfo, round: u64) -> Result<Recorded, CliError> {
    let path = format!("/api/v1/runs/{}/rounds/{round}", run.id);
    let record: RoundRecord = client.get(&path, |_| {})?;
    let wrong = |what: &str| CliError::Answer { request: format!("GET {path}"), cause: what.to_owned() };
    let hash = |text: &str| text.parse::<BlobHash>().map_err(|_| wrong("a hash is none"));
    let mut data = None;
    let mut updates = Vec::new();
    for update in &record.updates {
        let task = update.task().map_err(|cause| wrong(&cause.to_string()))?;
        data = Some(task.data);
        if !update.refused() {
            updates.push(counted(update, &task.streak, hash(&update.result)?, hash(&update.volunteer)?));
        }
    }
    let data = data.ok_or_else(|| wrong("nobody had a part in it"))?;
    let text = |value: &Option<String>| value.as_deref().map(hash).transpose();
    let closed = ClosedRound {
        round: record.round,
        before: hash(&record.parameters_hash)?,
        after: text(&record.next_parameters_hash)?.ok_or_else(|| wrong("it does not say where it leads"))?,
        step: text(&record.step)?.ok_or_else(|| wrong("it names no step"))?,
        checkpoint: text(&record.checkpoint)?,
        restarted: record.combined.get("restarted").and_then(Value::as_bool).unwrap_or_default(),
        updates,
    };
    Ok(Recorded { closed, data })
}

fn counted(
    update: &UpdateRecord,
    streak: &[potluck_proto::PastUpdate],
    result: BlobHash,
    volunteer: BlobHash,
) -> Counted {
    Counted {
        worker: update.worker,
        volunteer: VolunteerId(volunteer.0),
        update: result,
        weight_ppm: (update.weight * 1e6).round() as u32,
        audited: update.audited,
        streak: Some(streak.iter().map(|past| Place { round: past.round, worker: past.worker }).collect()),
    }
}

/// Asks the relay to make the same parameters and to log them as a candidate.
fn offer(
    client: &Client,
    run: &RunInfo,
    rounds: u64,
    model: &str,
    args: &RebuildArgs,
    built: &Rebuilt,
) -> Result<Value, CliError> {
    let without: Vec<String> = args.without.iter().map(ToString::to_string).collect();
    // The log counts the round after which they stood.
    let body = json!({ "model": model, "round": rounds - 1, "without": without, "again": args.again });
    let path = format!("/api/v1/runs/{}/candidates", run.id);
    let answer: Value = client.send_json(&Method::POST, &path, &[], Some(&body), |_| {})?;
    match answer.get("parameters").and_then(Value::as_str) {
        Some(theirs) if theirs != built.hash.to_string() => Err(CliError::Record {
            what: format!("the candidate of run {}", short(&run.id)),
            cause: format!("the relay comes to parameters {theirs}, this machine to {}", built.hash),
        }),
        _ => Ok(answer),
    }
}
