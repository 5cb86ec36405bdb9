//! Candidates: a run's parameters are stored, logged, and their eval is cut into shards; open evals are found again after a
//! restart.

use super::api::{NewCandidate, NewSample};
use super::store::{CandidateRow, EvalState, EvalTerms, ShardRow};
use super::{Evals, Open, lock};
use crate::api::ApiError;
use crate::http::App;
use crate::runs::intake::{data_of, le_bytes};
use crate::runs::parameters::parameters_after;
use crate::runs::rebuild::rebuilt;
use crate::runs::store::RunRow;
use crate::runs::tokenizer;
use axum::body::Bytes;
use axum::http::StatusCode;
use potluck_eval::plan::{HeldOut, Inputs, MAX_SOURCES, Plan, Settings};
use potluck_eval::scan::Part;
use potluck_eval::{COPIES, Evaluation, Items};
use potluck_governance::statement::Target;
use potluck_governance::{Body, entry};
use potluck_model::{TextWriter, promised, seed_bytes};
use potluck_proto::{BlobRef, EvalTask, ModelSpec};
use potluck_rounds::sizes;
use potluck_schedule::EvalSpec;
use potluck_train::Model;
use potluck_train::data::Tokenizer;
use potluck_train::gpt::{GptConfig, Sampling};
use potluck_types::limits::{MAX_CHECKPOINT_BYTES, MAX_JOB_NAME_CHARS};
use potluck_types::{BlobHash, JobId};
use std::collections::HashMap;
use std::sync::Arc;

/// Most that a candidate may be made again without.
const MAX_WITHOUT: usize = potluck_governance::limits::MAX_EXCLUDED;
/// Tokens of one sample.
const MAX_SAMPLE_TOKENS: u32 = 256;
/// Bytes of a sample's prompt.
const MAX_PROMPT_BYTES: usize = 4 << 10;

fn refused(code: &str, message: impl Into<String>, hint: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, message, hint)
}

/// The sizes of a run's model, if it can be asked questions.
pub(crate) fn config_of(run: &RunRow) -> Result<GptConfig, ApiError> {
    let spec: ModelSpec = run.request.model.into();
    match sizes::model(&spec) {
        Model::Gpt(config) => Ok(config),
        Model::Digits => Err(refused(
            "no_text",
            "the model writes no text: its eval would ask it nothing",
            "only runs of text models make candidates",
        )),
    }
}

pub(crate) async fn tokenizer_of(app: &App, run: &RunRow) -> Result<Tokenizer, ApiError> {
    let needed = || {
        refused(
            "no_tokenizer",
            "the run has no tokenizer: its model cannot be asked in words",
            "submit the run with one",
        )
    };
    let hash = run.tokenizer.ok_or_else(needed)?;
    let bytes = app.blobs.get(&hash).await.map_err(ApiError::internal)?;
    let file = serde_json::from_slice(&bytes)
        .map_err(|error| refused("bad_tokenizer", error.to_string(), "submit the run with another one"))?;
    tokenizer::from_json(&file)
        .map_err(|error| refused("bad_tokenizer", error.to_string(), "submit the run with another one"))
}

/// What an eval is made from, besides the parameters.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) config: GptConfig,
    pub(super) tokenizer: Tokenizer,
    training: Vec<u32>,
    parts: Vec<Part>,
    held_out: Vec<(String, Vec<u32>)>,
}

impl Material {
    async fn of(app: &App, run: &RunRow) -> Result<Self, ApiError> {
        let (config, tokenizer) = (config_of(run)?, tokenizer_of(app, run).await?);
        let data = data_of(app, &run.request).await?;
        let ranges = |id: &str| {
            let id: Option<BlobHash> = id.parse().ok();
            async move {
                let manifest = match id {
                    Some(id) => app.db.manifest(&id).await?,
                    None => None,
                };
                Ok::<_, ApiError>(manifest.map(|manifest| manifest.ranges()).unwrap_or_default())
            }
        };
        let (of_training, of_validation) =
            (ranges(&run.request.train).await?, ranges(&run.request.validation).await?);
        let part = |(name, range): (String, std::ops::Range<u64>)| Part {
            name,
            range: range.start as usize..range.end as usize,
        };
        let parts = of_training.into_iter().map(part).take(MAX_SOURCES).collect();
        let validation = data.validation.tokens();
        // A source that is too short for two windows is no source of its own.
        let least = 2 * (config.context + 1);
        let mut held_out: Vec<(String, Vec<u32>)> = of_validation
            .into_iter()
            .filter_map(|(name, range)| {
                let tokens = validation.get(range.start as usize..range.end as usize)?;
                (tokens.len() >= least).then(|| (name, tokens.to_vec()))
            })
            .take(MAX_SOURCES)
            .collect();
        if held_out.is_empty() {
            held_out.push((run.request.validation.clone(), validation));
        }
        Ok(Self { config, tokenizer, training: data.train.tokens(), parts, held_out })
    }

    /// Hands on what a plan and its card are made from.
    pub(super) fn inputs<T>(&self, terms: &EvalTerms, make: impl FnOnce(&Inputs<'_>) -> T) -> T {
        let held_out: Vec<HeldOut<'_>> =
            self.held_out.iter().map(|(name, tokens)| HeldOut { name, tokens }).collect();
        let usual = if terms.hasty { Settings::hasty() } else { Settings::default() };
        let settings = Settings { shards: usual.shards.max(terms.least_shards), ..usual };
        make(&Inputs {
            config: &self.config,
            tokenizer: &self.tokenizer,
            held_out: &held_out,
            training: &self.training,
            parts: &self.parts,
            secret: &terms.secret,
            settings: &settings,
        })
    }

    /// The plan. Seconds of work.
    fn plan(&self, terms: &EvalTerms) -> Result<Plan, ApiError> {
        let plan = self.inputs(terms, Plan::new);
        plan.map_err(|error| refused("no_eval", error.to_string(), "change the run's data, or its model"))
    }
}

/// Makes a candidate of a run's parameters and begins its eval, or finds it. One that was evaluated before is evaluated again
/// if that failed, or if it is to be compared with another version by now. Also whether an eval begins.
///
/// # Errors
/// A run that trains no model, a round that is not closed, something that cannot be left out, an eval that cannot be held.
pub(super) async fn create(
    app: &App,
    run: &JobId,
    new: &NewCandidate,
) -> Result<(CandidateRow, bool), ApiError> {
    let run = app.db.run(run).await?.ok_or_else(|| ApiError::not_found("run"))?;
    let model = app.log.state(|state| state.runs().get(&run.id).and_then(|run| run.entry.model.clone()));
    let model = model.await.map_err(ApiError::internal)?.ok_or_else(|| {
        refused(
            "no_model",
            "the run trains no model that people decide about",
            "submit a run with a model and the proposal that allowed it",
        )
    })?;
    if let Some(other) = new.model.as_ref().filter(|other| **other != model) {
        return Err(refused("other_model", format!("the run trains {model}, not {other}"), "name that"));
    }
    let round = new.round.or_else(|| run.round.checked_sub(1)).filter(|round| *round < run.round);
    let round = round.ok_or_else(|| {
        refused(
            "no_round",
            format!("{} rounds of the run are closed, counted from 0", run.round),
            "name one of these, or wait for it",
        )
    })?;
    let mut targets = Vec::new();
    for text in &new.without {
        let target: Target = text.replacen("dataset:", "data_set:", 1).parse().map_err(|error| {
            refused("bad_without", format!("{error}"), "write volunteer:KEY or data_set:ID")
        })?;
        targets.push(target);
    }
    targets.sort();
    targets.dedup();
    if targets.len() > MAX_WITHOUT {
        let what = format!("{} things to leave out: {MAX_WITHOUT} are possible", targets.len());
        return Err(refused("bad_without", what, "leave out less"));
    }
    // Loaded once at a time: data sets and models are large.
    let _slot = app.ingests.acquire().await.map_err(ApiError::internal)?;
    let parameters = if targets.is_empty() {
        parameters_after(&app.db, &app.blobs, &run, round + 1).await?
    } else {
        rebuilt(app, &run, round + 1, &targets, new.again).await?
    };
    let bytes = le_bytes(&parameters);
    let name = BlobRef { hash: BlobHash::of(&bytes), bytes: bytes.len() as u64 };
    let incumbent = incumbent_of(app, &model).await?;
    let before = app.db.candidate(&name.hash).await?;
    let logged = before.is_some();
    if let Some(row) = before.filter(|row| !row.wants_eval(incumbent)) {
        return Ok((row, false));
    }
    if name.bytes > MAX_CHECKPOINT_BYTES as u64 {
        let what =
            format!("{} bytes of parameters: {MAX_CHECKPOINT_BYTES} can be sent to volunteers", name.bytes);
        return Err(refused("too_large", what, "only smaller models can be evaluated"));
    }
    app.evals.put(&bytes).await.map_err(ApiError::internal)?;
    let least_shards = app.log.state(|state| state.constitution().gate.shards);
    let least_shards = least_shards.await.map_err(ApiError::internal)?;
    let mut secret = [0; 32];
    let mut eval = [0; 16];
    getrandom::fill(&mut secret).and_then(|()| getrandom::fill(&mut eval)).map_err(ApiError::internal)?;
    let without = targets.iter().map(ToString::to_string).collect();
    let row = CandidateRow {
        parameters: name,
        model,
        run: run.id,
        round,
        without,
        eval: JobId(eval),
        incumbent,
        terms: EvalTerms { secret, hasty: new.hasty, least_shards },
        state: EvalState::Evaluating,
        reason: None,
        card: None,
    };
    let (open, spec) = app.evals.begin(app, &run, &row, parameters).await?;
    let asked: Vec<(BlobHash, BlobHash)> =
        spec.shards.iter().map(|task| (task.parameters.hash, task.items.hash)).collect();
    let mut digest = blake3::Hasher::new();
    for (parameters, items) in &asked {
        digest.update(&parameters.0).update(&items.0);
    }
    let candidate = entry::Candidate {
        model: row.model.clone(),
        run: row.run,
        round: row.round,
        parameters: name.hash,
        checkpoint: name.hash,
        rebuilt_without: targets.into_iter().map(entry::Source).collect(),
    };
    let job = entry::Job {
        job: row.eval,
        name: spec.name.clone(),
        spec: BlobHash(*digest.finalize().as_bytes()),
        submitter: None,
    };
    let candidate: Option<Body> = (!logged).then(|| candidate.into());
    let entries = candidate.into_iter().chain([job.into()]);
    app.db.add_eval(&app.log, &row, &asked, entries).await?;
    lock(&app.evals.0.open).insert(row.eval, open);
    if let Err(error) = app.core.add_eval(spec, Vec::new()).await? {
        app.evals.fail(row.eval, &error.to_string()).await;
        return Err(ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "no_room",
            error.to_string(),
            "wait for another eval to end, and ask for this one again",
        ));
    }
    tracing::info!(candidate = %name.hash, model = row.model, shards = asked.len(), again = logged, "eval begun");
    Ok((row, true))
}

/// The version of a model that is in use, if this relay has its parameters.
async fn incumbent_of(app: &App, model: &str) -> Result<Option<BlobHash>, ApiError> {
    let current = app.log.state(|state| {
        let current = state.models().get(model).and_then(|model| model.current());
        current.map(|version| version.candidate)
    });
    match current.await.map_err(ApiError::internal)? {
        Some(hash) => Ok(app.db.candidate(&hash).await?.map(|row| row.parameters.hash)),
        None => Ok(None),
    }
}

impl Evals {
    /// Makes bytes durable under their hash.
    pub(super) async fn put(&self, bytes: &[u8]) -> std::io::Result<BlobRef> {
        let hash = BlobHash::of(bytes);
        self.0.blobs.put_durable(&hash, bytes::Bytes::copy_from_slice(bytes)).await?;
        Ok(BlobRef { hash, bytes: bytes.len() as u64 })
    }

    /// Cuts an eval into shards: a function of the candidate's record and the run's data.
    async fn begin(
        &self,
        app: &App,
        run: &RunRow,
        row: &CandidateRow,
        parameters: Vec<f32>,
    ) -> Result<(Arc<Open>, EvalSpec), ApiError> {
        let material = Material::of(app, run).await?;
        let (config, parameters) = (material.config, Arc::new(parameters));
        let mut models = HashMap::from([(row.parameters.hash, Arc::clone(&parameters))]);
        if let Some(hash) = row.incumbent {
            let bytes = self.0.blobs.get(&hash).await.map_err(ApiError::internal)?;
            let values = potluck_eval::parameters(&bytes, &config).map_err(|error| {
                refused(
                    "other_sizes",
                    error.to_string(),
                    "the version in use has other sizes: it cannot be compared",
                )
            })?;
            models.insert(hash, Arc::new(values));
        }
        let (terms, own) = (row.terms, Arc::clone(&parameters));
        let planned = tokio::task::spawn_blocking(move || {
            let plan = material.plan(&terms)?;
            // A broken candidate would fail at every volunteer.
            if let Some(item) = plan.shards.first().and_then(|shard| shard.items.items().first()) {
                let tried = Items::new(vec![item.clone()], &config)
                    .and_then(|items| Evaluation::new(&config, &own, items))
                    .and_then(Evaluation::run);
                tried.map_err(|error| refused("broken", error.to_string(), "take another round"))?;
            }
            Ok::<_, ApiError>((material, plan))
        });
        let (material, plan) = planned.await.map_err(ApiError::internal)??;
        let model: ModelSpec = run.request.model.into();
        let mut shards = Vec::new();
        let mut tasks = Vec::new();
        let mut ask = async |parameters: BlobRef, items: &Items| {
            let blob = self.put(&items.encode()).await.map_err(ApiError::internal)?;
            tasks.push(EvalTask {
                model,
                parameters,
                items: blob,
                result_bytes: items.result_bytes() as u32,
                memory_bytes: items.memory_bytes(&config),
                flops: items.flops(&config),
            });
            shards.push(items.clone());
            Ok::<_, ApiError>(())
        };
        for shard in &plan.shards {
            ask(row.parameters, &shard.items).await?;
        }
        if let Some(hash) = row.incumbent {
            let incumbent = BlobRef { hash, bytes: row.parameters.bytes };
            for shard in plan.incumbent() {
                ask(incumbent, &plan.shards[shard].items).await?;
            }
        }
        let name: String = format!("eval of {}, round {}", row.model, row.round + 1);
        let name = name.chars().take(MAX_JOB_NAME_CHARS).collect();
        let spec = EvalSpec { id: row.eval, name, shards: tasks, copies: COPIES };
        spec.check().map_err(|error| refused("no_eval", error.to_string(), "evaluate a smaller model"))?;
        let candidate = row.parameters.hash;
        Ok((Arc::new(Open { config, models, shards, terms, candidate, material, plan }), spec))
    }

    /// Goes on with the evals that were under way.
    ///
    /// # Errors
    /// What the database says. An eval that cannot go on has failed, with the reason.
    pub(crate) async fn resume(&self, app: &App) -> Result<(), crate::db::DbError> {
        for row in self.0.db.open_candidates().await? {
            if let Err(error) = self.resume_one(app, &row).await {
                let reason = format!("it could not go on after a restart: {}", error.message);
                tracing::error!(eval = %row.eval, reason);
                self.0.db.fail_candidate(&row.parameters.hash, &reason).await?;
            }
        }
        Ok(())
    }

    async fn resume_one(&self, app: &App, row: &CandidateRow) -> Result<(), ApiError> {
        let run = app.db.run(&row.run).await?.ok_or_else(|| ApiError::not_found("run"))?;
        let bytes = self.0.blobs.get(&row.parameters.hash).await.map_err(ApiError::internal)?;
        let parameters = potluck_eval::parameters(&bytes, &config_of(&run)?).map_err(ApiError::internal)?;
        let (open, spec) = self.begin(app, &run, row, parameters).await?;
        let shards = self.0.db.eval_shards(&row.eval).await?;
        let same = |(task, shard): (&EvalTask, &ShardRow)| {
            (task.parameters.hash, task.items.hash) == (shard.parameters, shard.items)
        };
        if shards.len() != spec.shards.len() || !spec.shards.iter().zip(&shards).all(same) {
            return Err(ApiError::internal("its shards are not those that were cut before"));
        }
        let done = shards.iter().enumerate().filter(|(_, shard)| shard.answers.is_some());
        let done: Vec<u32> = done.map(|(shard, _)| shard as u32).collect();
        lock(&self.0.open).insert(row.eval, open);
        tracing::info!(eval = %row.eval, done = done.len(), of = shards.len(), "eval goes on");
        app.core.add_eval(spec, done).await?.map_err(|error| refused("no_room", error.to_string(), "wait"))
    }
}

/// What the model of a run writes after a prompt, with these parameters: f32, little-endian.
///
/// # Errors
/// A prompt that cannot be encoded, or too much that is asked for.
pub(crate) async fn write(app: &App, run: &RunRow, bytes: Bytes, new: NewSample) -> Result<String, ApiError> {
    if new.prompt.is_empty() || new.prompt.len() > MAX_PROMPT_BYTES {
        let what = format!("a prompt of {} bytes: 1 to {MAX_PROMPT_BYTES} are possible", new.prompt.len());
        return Err(refused("bad_prompt", what, "send a shorter one"));
    }
    if !(1..=MAX_SAMPLE_TOKENS).contains(&new.tokens) {
        let what = format!("{} tokens: 1 to {MAX_SAMPLE_TOKENS} can be written", new.tokens);
        return Err(refused("bad_tokens", what, "ask for fewer"));
    }
    let (config, tokenizer) = (config_of(run)?, tokenizer_of(app, run).await?);
    tokenizer
        .encode(&new.prompt)
        .map_err(|error| refused("bad_prompt", error.to_string(), "use characters that the model knows"))?;
    let written = tokio::task::spawn_blocking(move || {
        let decoder = promised::decoder(config, &bytes).map_err(|error| error.to_string())?;
        drop(bytes);
        let sampling = Sampling { temperature: new.temperature, top_k: 0, seed: seed_bytes(new.seed) };
        let writer = TextWriter::new(decoder, tokenizer, &new.prompt, sampling);
        let mut writer = writer.map_err(|error| error.to_string())?;
        let mut text = String::new();
        for _ in 0..new.tokens {
            text += &writer.write().map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(text + &writer.finish())
    });
    written
        .await
        .map_err(ApiError::internal)?
        .map_err(|error| refused("no_text", error, "try another prompt"))
}
