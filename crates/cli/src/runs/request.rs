//! From a run file to what the relay is asked for.

use crate::client::runs::{self, NamedModel, NewRun, Rate};
use crate::error::CliError;
use crate::run_file::{Aggregation, Audit, CodecName, Outer, RunFile};
use potluck_model::seed_bytes;
use potluck_rounds::sizes;
use potluck_train::Model;
use potluck_train::gpt::FRESH_WARMUP;
use potluck_types::BlobHash;
use potluck_types::limits::{MAX_JOB_NAME_CHARS, MAX_RUN_WORKERS};
use serde_json::{Value, json};
use std::path::Path;

/// Most bytes that a step of a tab may take: a quarter of what wasm can address.
pub const TAB_STEP_BYTES: u64 = 1 << 30;
/// A round is complete without those of its volunteers that left, down to this share, in percent.
const ENOUGH_PERCENT: u32 = 60;
/// The fewest volunteers of a round whose updates can be told apart, if the run waits for as many.
const FEWEST: u32 = 3;

/// What the relay holds for a run before it is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploads {
    /// Data set to train on.
    pub train: String,
    /// Data set to validate with.
    pub validation: String,
    /// `tokenizer.json`, of a language model.
    pub tokenizer: Option<String>,
    /// Parameters to start from.
    pub init: Option<String>,
}

/// Checks what only a relay's run must fulfill: `path` is the run file, for messages.
///
/// # Errors
/// A model that a tab cannot train; settings that runs on a relay do not have.
pub fn check(path: &Path, run: &RunFile, model: &Model) -> Result<(), CliError> {
    let refuse = |keys: &[&str], what: &str, hint: &str| Err(RunFile::refuse(path, keys, what, hint).into());
    model.check().map_err(|cause| -> CliError {
        RunFile::refuse(path, &["model"], &format!("model: {cause}"), "take smaller sizes").into()
    })?;
    let [_, length] = model.lengths();
    let bytes = model.step_bytes(run.batch, length);
    if bytes > TAB_STEP_BYTES {
        let what = format!(
            "a step of this model with batches of {} takes {} MiB; a tab has {}",
            run.batch,
            bytes >> 20,
            TAB_STEP_BYTES >> 20
        );
        return refuse(&["model"], &what, "take a smaller batch, context or model");
    }
    if matches!(run.codec, CodecName::TopK | CodecName::Auto) && *model == Model::Digits {
        let what = "with this codec volunteers keep AdamW's moments, which models of burn do not give away";
        return refuse(&["codec"], what, "use \"int4\"");
    }
    Ok(())
}

/// The policy by its name, or its rates.
fn audit(audit: &Audit) -> Value {
    let Audit { first_rounds, start, decay, least } = *audit;
    if *audit == Audit::default() {
        json!("default")
    } else if start >= 1.0 && least >= 1.0 {
        json!("all")
    } else if start <= 0.0 && least <= 0.0 && first_rounds == 0 {
        json!("none")
    } else {
        json!({ "first": first_rounds, "start": start, "decay": decay, "least": least })
    }
}

/// Fewest and most workers of a round, when the run waits for so many volunteers.
fn workers(volunteers: u32) -> (u32, u32) {
    let enough = (volunteers * ENOUGH_PERCENT).div_ceil(100);
    (enough.max(FEWEST.min(volunteers)), (2 * volunteers).min(MAX_RUN_WORKERS))
}

/// A request for a run file that [`check`] let through.
pub fn new_run(run: &RunFile, model: &Model, name: &str, uploads: Uploads) -> NewRun {
    let (min_workers, max_workers) = workers(run.volunteers);
    let [_, length] = model.lengths();
    let codec = match run.codec {
        CodecName::F32 => "f32",
        CodecName::F16 => "f16",
        CodecName::Int8 => "int8",
        CodecName::Int4 => "int4",
        CodecName::TopK => "topk",
        CodecName::Auto => "auto",
    };
    NewRun {
        name: name.chars().filter(|c| !c.is_control()).take(MAX_JOB_NAME_CHARS).collect(),
        model: match model {
            Model::Gpt(config) => runs::Model::Gpt(sizes::of_config(config)),
            Model::Digits => runs::Model::Named(NamedModel::Digits),
        },
        train: uploads.train,
        validation: uploads.validation,
        tokenizer: uploads.tokenizer,
        seed: BlobHash(seed_bytes(run.seed)).to_string(),
        rounds: run.rounds,
        inner_steps: run.steps,
        sequences: run.batch as u32,
        length: length as u32,
        rate: Rate {
            peak: decimal(run.learning_rate.peak),
            least: decimal(run.learning_rate.least),
            warmup: run.learning_rate.warmup,
            fresh_warmup: Some(run.learning_rate.fresh_warmup).filter(|steps| *steps != FRESH_WARMUP),
        },
        codec: codec.to_owned(),
        blocks: run.blocks,
        min_workers,
        max_workers,
        audit: audit(&run.audit),
        outer: (run.outer != Outer::default())
            .then(|| json!({ "rate": decimal(run.outer.rate), "momentum": decimal(run.outer.momentum) })),
        aggregation: (run.aggregation != Aggregation::default()).then(|| {
            let Aggregation { trim, trim_from, median_from } = run.aggregation;
            json!({ "trim": trim, "trim_from": trim_from, "median_from": median_from })
        }),
        init: uploads.init,
        model_name: run.model_name.clone(),
        proposal: run.proposal.clone(),
    }
}

/// The f64 that is written as the f32 was: 0.002, not 0.0020000000949949026.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_train::gpt::GptConfig;

    fn parse(text: &str) -> RunFile {
        RunFile::parse(Path::new("run.toml"), text).unwrap()
    }

    fn uploads(init: Option<String>) -> Uploads {
        Uploads { train: "aa".into(), validation: "bb".into(), tokenizer: Some("{}".into()), init }
    }

    #[test]
    fn the_smallest_run_file_asks_for_this() {
        let run = parse("corpus = \"a.txt\"");
        let model = Model::Gpt(GptConfig::tiny(65));
        check(Path::new("run.toml"), &run, &model).unwrap();
        let request = new_run(&run, &model, "a\u{7}.txt", uploads(None));
        let golden = json!({
            "name": "a.txt",
            "model": { "vocabulary": 65, "context": 64, "layers": 3, "heads": 4, "width": 64, "bias": false },
            "train": "aa", "validation": "bb", "tokenizer": "{}",
            "seed": "0100000000000000000000000000000000000000000000000000000000000000",
            "rounds": 60, "inner_steps": 10, "sequences": 8, "length": 64,
            "rate": { "peak": 0.002, "least": 0.0001, "warmup": 100 },
            "codec": "int4", "blocks": 8, "min_workers": 3, "max_workers": 8, "audit": "default",
        });
        assert_eq!(json!(request), golden);
    }

    #[test]
    fn everything_that_a_relay_takes_is_passed_on() {
        let run = parse(
            "corpus = \"a\"\nmodel = \"mini\"\nsteps = 20\nrounds = 9\nvolunteers = 10\nbatch = 4\nblocks = 0\n\
             seed = 258\ncodec = \"f16\"\n[learning-rate]\npeak = 0.001\nleast = 0.0\nwarmup = 5\n\
             [audit]\nstart = 1.0\nleast = 1.0\n[outer]\nrate = 0.5\n[aggregation]\ntrim = 0.1\n",
        );
        let model = Model::Gpt(GptConfig { bias: true, ..GptConfig::mini(300) });
        let request = json!(new_run(&run, &model, "n", uploads(Some("cc".into()))));
        for (field, expected) in [
            ("inner_steps", json!(20)),
            ("rounds", json!(9)),
            ("min_workers", json!(6)),
            ("max_workers", json!(20)),
            ("sequences", json!(4)),
            ("blocks", json!(0)),
            ("codec", json!("f16")),
            ("audit", json!("all")),
            ("outer", json!({ "rate": 0.5, "momentum": 0.9 })),
            ("aggregation", json!({ "trim": 0.1, "trim_from": 6, "median_from": 4 })),
            ("init", json!("cc")),
            ("rate", json!({ "peak": 0.001, "least": 0.0, "warmup": 5 })),
        ] {
            assert_eq!(request[field], expected, "{field}");
        }
        let some = parse("corpus = \"a\"\ncodec = \"auto\"\naudit.start = 0.7\n");
        let some = json!(new_run(&some, &model, "n", uploads(None)));
        assert_eq!(some["audit"], json!({ "first": 5, "start": 0.7, "decay": 0.8, "least": 0.05 }));
        assert_eq!(some["codec"], "auto");
        assert!(request["seed"].as_str().unwrap().starts_with("020100000"));
        assert_eq!((workers(1), workers(2), workers(256).1), ((1, 2), (2, 4), MAX_RUN_WORKERS));
    }

    #[test]
    fn what_no_tab_could_train_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        for (line, expected) in [
            ("batch = 4096", "run.toml:1:1: a step of this model"),
            ("batch = 4096\nmodel = \"small\"", "run.toml:3:9: a step of this model"),
        ] {
            let text = format!("corpus = \"a\"\n{line}\n");
            std::fs::write(&path, &text).unwrap();
            let error = check(&path, &parse(&text), &GptConfig::small(65).into()).unwrap_err();
            assert!(error.to_string().contains(expected), "{line}: {error}");
            assert_eq!(error.exit(), crate::error::Exit::RefusedInput);
            assert!(error.hint().is_some());
        }
    }
}
