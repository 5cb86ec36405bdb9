//! Data sets, parameters and runs on their way in, and runs after a restart.

use super::api::{AggregationRules, Audit, AuditRates, DataSetInfo, NewRun, OuterRules, ParametersInfo};
use super::manifest::{MAX_MANIFEST_BYTES, Manifest, NewManifest};
use super::store::{DataSetRow, RunRow, RunState};
use super::{Open, Runs, allowed, derive, lock};
use crate::api::ApiError;
use crate::blobs::Blobs;
use crate::core::Core;
use crate::db::Db;
use crate::http::App;
use crate::log::records;
use crate::uploads::{Received, to_disk};
use axum::body::Body;
use axum::http::StatusCode;
use potluck_proto::{BlobRef, DataSetSpec, LearningRate, UpdateCodec};
use potluck_rounds::{Data, Host, HostError, Terms, sizes};
use potluck_schedule::{AuditPolicy, Input, RunInput, RunSpec, SparsePolicy};
use potluck_train::Model;
use potluck_train::data::{DataError, DataSet, MAX_TOKENS};
use potluck_train::gpt::MAX_PARAMETERS;
use potluck_train::outer::{CHECKPOINT_CODEC, OuterParams};
use potluck_train::streak::streak_rounds;
use potluck_types::limits::{MAX_CHECKPOINT_BYTES, MAX_JOB_NAME_CHARS};
use potluck_types::{BlobHash, JobId};
use potluck_verify::AggregateParams;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Most rounds of a run: with one a minute, two years.
const MAX_ROUNDS: u64 = 1 << 20;
/// Largest learning rate: what billionths in 32 bits can say, rounded down.
const MAX_RATE: f64 = 4.0;

/// Where the tokens of a data set lie.
pub(crate) fn dataset_path(data: &Path, id: &BlobHash) -> PathBuf {
    data.join("datasets").join(format!("{id}.tokens"))
}

/// Where uploaded parameters lie.
pub(crate) fn parameters_path(data: &Path, id: &BlobHash) -> PathBuf {
    data.join("datasets").join(format!("{id}.f32"))
}

pub(super) fn refused(code: &str, message: impl Into<String>, hint: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, message, hint)
}

impl From<DataError> for ApiError {
    fn from(error: DataError) -> Self {
        refused("bad_data", error.to_string(), "tokens are whole numbers below the size of the vocabulary")
    }
}

impl From<HostError> for ApiError {
    fn from(error: HostError) -> Self {
        refused("bad_run", error.to_string(), "change the run's settings and submit it again")
    }
}

/// Cuts a data set out of its tokens, as they are uploaded and kept.
pub(crate) fn tokens_of(bytes: &[u8], vocabulary: u32) -> Result<DataSet, ApiError> {
    let tokens: Vec<u32> = if vocabulary <= 1 << 16 {
        if !bytes.len().is_multiple_of(2) {
            return Err(refused("bad_data", "half a token at the end", "each token has two bytes"));
        }
        bytes.as_chunks().0.iter().map(|two| u32::from(u16::from_le_bytes(*two))).collect()
    } else {
        if !bytes.len().is_multiple_of(4) {
            return Err(refused("bad_data", "part of a token at the end", "each token has four bytes"));
        }
        bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four)).collect()
    };
    Ok(DataSet::new(&tokens, vocabulary as usize)?)
}

/// What is said about a data set, on the line before its tokens.
fn split_manifest(bytes: &[u8]) -> Result<(NewManifest, &[u8]), ApiError> {
    let head = &bytes[..bytes.len().min(MAX_MANIFEST_BYTES)];
    let wrong = |message: String| {
        refused(
            "bad_manifest",
            message,
            "send a line of JSON with name, source, license and parts, then the tokens",
        )
    };
    let end = head.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| wrong(format!("no line ends within {MAX_MANIFEST_BYTES} bytes")))?;
    let manifest = serde_json::from_slice(&bytes[..end]).map_err(|error| wrong(error.to_string()))?;
    Ok((manifest, &bytes[end + 1..]))
}

/// Takes tokens in: two bytes each, or four if the vocabulary needs them, little-endian; with a line of JSON before them
/// if that is announced.
pub(crate) async fn receive_dataset(
    app: &App,
    vocabulary: u32,
    described: bool,
    body: Body,
) -> Result<DataSetInfo, ApiError> {
    let width = if vocabulary <= 1 << 16 { 2 } else { 4 };
    let most = MAX_TOKENS * width + if described { MAX_MANIFEST_BYTES as u64 } else { 0 };
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("a data set may have {MAX_TOKENS} tokens"),
            "train on a part of the corpus",
        )
    };
    let folder = app.config.data.join("datasets");
    let Received { path, .. } = to_disk(&folder, body, most, too_large).await?;
    let _slot = app.ingests.acquire().await.map_err(ApiError::internal)?;
    let data = app.config.data.clone();
    let work = tokio::task::spawn_blocking(move || {
        let bytes = std::fs::read(&path).map_err(ApiError::internal)?;
        let (stated, tokens) = if described {
            let (stated, tokens) = split_manifest(&bytes)?;
            (Some(stated), tokens)
        } else {
            (None, &bytes[..])
        };
        let set = tokens_of(tokens, vocabulary)?;
        let row = DataSetRow { id: BlobHash(set.spec().root()), vocabulary, tokens: set.spec().tokens };
        let manifest = stated.map(|stated| Manifest::new(&row, stated)).transpose()?;
        if described {
            // The line about it is no part of it.
            std::fs::write(&path, tokens).map_err(ApiError::internal)?;
            let file = std::fs::File::open(&path).map_err(ApiError::internal)?;
            file.sync_data().map_err(ApiError::internal)?;
        }
        path.persist(dataset_path(&data, &row.id)).map_err(ApiError::internal)?;
        Ok::<_, ApiError>((row, manifest, set))
    });
    let (row, manifest, set) = work.await.map_err(ApiError::internal)??;
    let path = dataset_path(&app.config.data, &row.id);
    app.blobs.share(&app.config.data, &path).await.map_err(ApiError::internal)?;
    put_blocks(&app.blobs, &set).await.map_err(ApiError::internal)?;
    let sources = app.db.add_dataset(&app.log, &row, set.names(), manifest).await?;
    let sources = sources.ok_or_else(|| {
        ApiError::new(
            StatusCode::CONFLICT,
            "stated_before",
            format!("something else was said about data set {} before", row.id),
            "GET /api/v1/datasets/{id}/parts says what; what stands in the log is not changed",
        )
    })?;
    let DataSetRow { id, vocabulary, tokens } = row;
    Ok(DataSetInfo { id: id.to_string(), tokens, vocabulary, blocks: set.spec().blocks(), sources })
}

/// Stores the blocks that are not there. They can be cut again, so nothing waits for the disk.
async fn put_blocks(blobs: &Blobs, set: &DataSet) -> io::Result<()> {
    for (index, name) in (0..).zip(set.names()) {
        if !blobs.has(name).await? {
            let block = set.block(index).map_err(io::Error::other)?;
            blobs.put_quick(name, bytes::Bytes::copy_from_slice(block)).await?;
        }
    }
    Ok(())
}

/// Takes parameters in: f32, little-endian.
pub(crate) async fn receive_parameters(app: &App, body: Body) -> Result<ParametersInfo, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("a model may have {MAX_PARAMETERS} parameters"),
            "start from a smaller model",
        )
    };
    let folder = app.config.data.join("datasets");
    let most = 4 * MAX_PARAMETERS as u64;
    let Received { path, hash, bytes } = to_disk(&folder, body, most, too_large).await?;
    if bytes == 0 || !bytes.is_multiple_of(4) {
        return Err(refused(
            "bad_parameters",
            format!("{bytes} bytes are no f32 values"),
            "send four bytes each",
        ));
    }
    let target = parameters_path(&app.config.data, &hash);
    path.persist(&target).map_err(ApiError::internal)?;
    app.blobs.share(&app.config.data, &target).await.map_err(ApiError::internal)?;
    Ok(ParametersInfo { id: hash.to_string(), parameters: bytes / 4 })
}

/// What a request says, checked.
#[derive(Debug, Clone)]
struct Draft {
    terms: Terms,
    model: Model,
    parameters: usize,
    train: BlobHash,
    validation: BlobHash,
    init: Option<BlobHash>,
    audit: AuditPolicy,
}

/// Checks what a request says.
///
/// # Errors
/// What is wrong, and what to do.
pub(crate) fn check(new: &NewRun) -> Result<(), ApiError> {
    draft(new).map(drop)
}

fn draft(new: &NewRun) -> Result<Draft, ApiError> {
    allowed::check_names(new)?;
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > MAX_JOB_NAME_CHARS || name.chars().any(char::is_control) {
        return Err(refused(
            "bad_name",
            "the name is not 1 to 80 printable characters",
            "choose a shorter name",
        ));
    }
    let id = |what: &str, text: &str| {
        text.parse::<BlobHash>().map_err(|error| {
            let short: String = text.chars().take(80).collect();
            refused("bad_id", format!("{what} {short:?}: {error}"), "64 hexadecimal digits")
        })
    };
    let codec = match new.codec.as_str() {
        "f32" => UpdateCodec::F32,
        "f16" => UpdateCodec::F16,
        "int8" => UpdateCodec::Int8,
        "int4" | "auto" => UpdateCodec::Int4,
        "topk" => UpdateCodec::TopK,
        _ => {
            let known = "auto, f32, f16, int8, int4 or topk";
            return Err(refused("bad_codec", "there is no such codec", known));
        }
    };
    let sparse = matches!(new.codec.as_str(), "auto" | "topk");
    let audit = audit(&new.audit)?;
    let (outer, aggregate) = rules(new)?;
    let rate = new.rate;
    if !(0.0 < rate.peak && rate.peak <= MAX_RATE && 0.0 <= rate.least && rate.least <= rate.peak) {
        let what = format!("learning rates of {} falling to {}", rate.peak, rate.least);
        return Err(refused("bad_rate", what, "0 <= least <= peak <= 4, and peak above 0"));
    }
    if !(1..=MAX_ROUNDS).contains(&new.rounds) {
        let what = format!("{} rounds", new.rounds);
        return Err(refused("bad_rounds", what, "a run has 1 to 1,048,576 rounds"));
    }
    let steps = new.rounds.saturating_mul(new.inner_steps.into());
    let steps = u32::try_from(steps)
        .map_err(|_| refused("bad_rounds", format!("{steps} steps in all"), "take fewer rounds or steps"))?;
    let nano = |rate: f64| (rate * 1e9).round() as u32;
    let spec = new.model.into();
    let model = sizes::model(&spec);
    model.check().map_err(HostError::from)?;
    let parameters = model.parameters();
    if sparse && model == Model::Digits {
        let what = "workers of codec S keep AdamW's moments, and models of burn do not give them away";
        return Err(refused("bad_codec", what, "take int4"));
    }
    let bytes = CHECKPOINT_CODEC.encoded_len(parameters);
    if bytes > MAX_CHECKPOINT_BYTES {
        let what = format!(
            "a checkpoint of {parameters} parameters has {bytes} bytes; {MAX_CHECKPOINT_BYTES} can be sent"
        );
        return Err(refused("too_large", what, "choose a smaller model"));
    }
    Ok(Draft {
        terms: Terms {
            model: spec,
            steps: new.inner_steps,
            sequences: new.sequences,
            length: new.length,
            rate: LearningRate {
                peak_nano: nano(rate.peak),
                least_nano: nano(rate.least),
                warmup: rate.warmup,
                steps,
                fresh_warmup: rate.fresh_warmup,
            },
            seed: id("the seed", &new.seed)?.0,
            blocks_dealt: new.blocks,
            codec,
            outer,
            aggregate,
            streak: if sparse { streak_rounds(parameters, new.max_workers) } else { 0 },
        },
        model,
        parameters,
        train: id("the training data", &new.train)?,
        validation: id("the validation data", &new.validation)?,
        init: new.init.as_deref().map(|init| id("the parameters", init)).transpose()?,
        audit,
    })
}

/// What decides a run's parameters, beside the updates of its rounds.
#[derive(Debug, Clone)]
pub struct RunStart {
    /// What its rounds have in common.
    pub terms: Terms,
    /// Hash of the parameters that it starts from; fresh ones follow from the seed in its terms.
    pub init: Option<BlobHash>,
    /// Id of the data set that it trains on.
    pub train: BlobHash,
}

/// Reads a run's request as a relay does: the bytes whose hash stands in the log.
///
/// # Errors
/// What is no request, or asks for what no relay runs; the message says why.
pub fn run_start(request: &[u8]) -> Result<RunStart, String> {
    let new: NewRun = serde_json::from_slice(request).map_err(|error| error.to_string())?;
    let Draft { terms, init, train, .. } = draft(&new).map_err(|error| error.message)?;
    Ok(RunStart { terms, init, train })
}

/// The parameters that were uploaded for a run to start from: f32, little-endian.
pub(crate) async fn uploaded(blobs: &Blobs, data: &Path, id: &BlobHash) -> io::Result<Vec<u8>> {
    let path = parameters_path(data, id);
    blobs.fetch(data, &path).await?;
    tokio::fs::read(path).await
}

/// Makes sure that the parameters that a run starts from are in the data folder, if they were uploaded.
pub(crate) async fn fetch_start(blobs: &Blobs, data: &Path, new: &NewRun) -> Result<(), ApiError> {
    if let Some(id) = draft(new)?.init {
        blobs.fetch(data, &parameters_path(data, &id)).await.map_err(ApiError::internal)?;
    }
    Ok(())
}

/// Whose updates are replayed.
fn audit(audit: &Audit) -> Result<AuditPolicy, ApiError> {
    let AuditRates { first, start, decay, least } = match audit {
        Audit::Named(name) => {
            return match name.as_str() {
                "default" => Ok(AuditPolicy::default()),
                "all" => Ok(AuditPolicy { first: u32::MAX, ..AuditPolicy::default() }),
                "none" => Ok(AuditPolicy { first: 0, rate: 0, least: 0, ..AuditPolicy::default() }),
                _ => Err(refused(
                    "bad_audit",
                    "there is no such policy",
                    "default, all, none, or { first, start, decay, least }",
                )),
            };
        }
        Audit::Rates(rates) => *rates,
    };
    let shares = [("start", start), ("decay", decay), ("least", least)];
    if let Some((name, share)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
        return Err(refused("bad_audit", format!("the policy's {name} is {share}"), "shares are 0 to 1"));
    }
    let millionths = |share: f64| (share * 1e6).round() as u32;
    Ok(AuditPolicy { first, rate: millionths(start), decay: millionths(decay), least: millionths(least) })
}

/// How updates are combined, and how they move the parameters.
fn rules(new: &NewRun) -> Result<(OuterParams, AggregateParams), ApiError> {
    let (mut outer, mut aggregate) = (OuterParams::default(), AggregateParams::default());
    if let Some(OuterRules { rate, momentum }) = new.outer {
        if !(0.001..=10.0).contains(&rate) || !(0.0..=0.999).contains(&momentum) {
            let what = format!("an outer rate of {rate} with a momentum of {momentum}");
            return Err(refused("bad_outer", what, "a rate of 0.001 to 10, a momentum of 0 to 0.999"));
        }
        (outer.rate, outer.momentum) = (rate as f32, momentum as f32);
    }
    if let Some(AggregationRules { trim, trim_from, median_from }) = new.aggregation {
        if !(0.0..=0.49).contains(&trim) || trim_from < 3 || !(1..=trim_from).contains(&median_from) {
            let what = format!(
                "aggregation that trims {trim} from {trim_from} updates on, median from {median_from}"
            );
            let hint = "trim 0 to 0.49, trim_from at least 3, median_from 1 to trim_from";
            return Err(refused("bad_aggregation", what, hint));
        }
        (aggregate.trim, aggregate.trim_from, aggregate.median_from) =
            (trim, trim_from as usize, median_from as usize);
    }
    Ok((outer, aggregate))
}

/// The run as the machine knows it.
fn run_spec(id: JobId, new: &NewRun, draft: &Draft, host: &Host) -> Result<RunSpec, HostError> {
    let Terms { model, steps, sequences, length, rate, seed, blocks_dealt, codec, streak, .. } = draft.terms;
    let update_bytes = |codec| sizes::update_bytes(codec, draft.parameters);
    let train = host.data().train.spec();
    Ok(RunSpec {
        id,
        name: new.name.trim().to_owned(),
        model,
        rounds: new.rounds,
        steps,
        sequences,
        length,
        rate,
        seed,
        blocks_dealt,
        codec,
        update_bytes: update_bytes(codec),
        streak,
        sparse: (streak > 0 && codec != UpdateCodec::TopK)
            .then(|| SparsePolicy::new(update_bytes(UpdateCodec::TopK))),
        memory_bytes: host.memory_bytes()?,
        flops: host.flops()?,
        data: DataSetSpec { tokens: train.tokens, tree: train.tree },
        min_workers: new.min_workers,
        max_workers: new.max_workers,
        short_rounds: false,
        audit: draft.audit,
    })
}

/// Loads a data set, and stores the blocks that are missing.
pub(crate) async fn load(
    db: &Db,
    blobs: &Blobs,
    data: &Path,
    id: &BlobHash,
) -> Result<Arc<DataSet>, ApiError> {
    let Some(row) = db.dataset(id).await? else {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_dataset",
            format!("data set {id} was not uploaded"),
            "upload it with POST /api/v1/datasets",
        ));
    };
    let path = dataset_path(data, id);
    blobs.fetch(data, &path).await.map_err(ApiError::internal)?;
    let set = tokio::task::spawn_blocking(move || {
        tokens_of(&std::fs::read(path).map_err(ApiError::internal)?, row.vocabulary)
    });
    let set = set.await.map_err(ApiError::internal)??;
    if set.spec().root() != id.0 {
        return Err(ApiError::internal(format!("the file of data set {id} holds another one")));
    }
    put_blocks(blobs, &set).await.map_err(ApiError::internal)?;
    Ok(Arc::new(set))
}

/// Both data sets of a run.
async fn load_both(db: &Db, blobs: &Blobs, data: &Path, draft: &Draft) -> Result<Data, ApiError> {
    let train = load(db, blobs, data, &draft.train).await?;
    let validation = if draft.validation == draft.train {
        Arc::clone(&train)
    } else {
        load(db, blobs, data, &draft.validation).await?
    };
    Ok(Data { train, validation })
}

fn initial(draft: &Draft, data: &Path) -> Result<Vec<f32>, ApiError> {
    let Some(id) = &draft.init else { return Ok(draft.model.init(&draft.terms.seed)) };
    let bytes = match std::fs::read(parameters_path(data, id)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ApiError::new(
                StatusCode::NOT_FOUND,
                "unknown_parameters",
                format!("parameters {id} were not uploaded"),
                "upload them with POST /api/v1/parameters",
            ));
        }
        Err(error) => return Err(ApiError::internal(error)),
    };
    let (found, expected) = (bytes.len() / 4, draft.parameters);
    if found != expected {
        let what = format!("{found} parameters for a model of {expected}");
        return Err(refused("bad_parameters", what, "give the sizes of the model that they belong to"));
    }
    Ok(bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect())
}

/// A run's terms and training data, and the parameters that it started from before they were rounded.
///
/// # Errors
/// Parameters that were uploaded and are gone.
pub(crate) fn beginning(new: &NewRun, data: &Path) -> Result<(RunStart, Vec<f32>), ApiError> {
    let draft = draft(new)?;
    let parameters = initial(&draft, data)?;
    Ok((RunStart { terms: draft.terms, init: draft.init, train: draft.train }, parameters))
}

/// The data sets of a run: training, validation.
///
/// # Errors
/// Files that are gone or damaged.
pub(crate) async fn data_of(app: &App, new: &NewRun) -> Result<Data, ApiError> {
    load_both(&app.db, &app.blobs, &app.config.data, &draft(new)?).await
}

/// Creates a run: everything that it needs is on disk before it is recorded, and it is recorded before it begins.
pub(crate) async fn create(app: &App, new: NewRun, key: Option<&str>) -> Result<JobId, ApiError> {
    let draft = draft(&new)?;
    let runs = &app.runs;
    let inputs = load_both(&app.db, &app.blobs, &app.config.data, &draft).await?;
    allowed::may_begin(app, &new).await?;
    fetch_start(&app.blobs, &app.config.data, &new).await?;
    let (folder, secret) = (app.config.data.clone(), runs.0.secret);
    let begun = {
        let draft = draft.clone();
        let _slot = app.ingests.acquire().await.map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(move || {
            Ok::<_, ApiError>(Host::start(draft.terms, initial(&draft, &folder)?, inputs, secret)?)
        })
        .await
    };
    let (host, checkpoint) = begun.map_err(ApiError::internal)??;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(ApiError::internal)?;
    let id = JobId(id);
    let spec = run_spec(id, &new, &draft, &host)?;
    spec.check().map_err(|error| refused("bad_run", error.to_string(), "change the run's settings"))?;

    let checkpoint = runs.put(&checkpoint).await.map_err(ApiError::internal)?;
    let tokenizer = match new.tokenizer.as_deref() {
        Some(text) => Some(runs.put(text.as_bytes()).await.map_err(ApiError::internal)?.hash),
        None => None,
    };
    runs.write_state(id, 0, host.state()).await.map_err(ApiError::internal)?;
    let row = RunRow {
        id,
        state: RunState::Running,
        reason: None,
        request: NewRun { tokenizer: None, ..new },
        checkpoint,
        tokenizer,
        round: 0,
    };
    let parameters = parameters_hash(host.parameters());
    let recorded = match app.db.add_run(&app.log, &row, parameters, key).await {
        Err(error) => return Err(allowed::refused(error, &row)),
        Ok(recorded) => recorded,
    };
    if recorded != id {
        // Another request with the key was first.
        return Ok(recorded);
    }
    runs.admit(id, host, &draft.terms);
    if let Err(error) = app.core.add_run(spec, 0).await? {
        runs.forget(&id);
        app.db.set_run_state(&id, RunState::Canceled, Some(&error.to_string())).await?;
        return Err(ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "no_room",
            error.to_string(),
            "wait for another run to end, or ask for less",
        ));
    }
    runs.look_again();
    tracing::info!(run = %id, parameters = draft.parameters, rounds = row.request.rounds, "run created");
    Ok(id)
}

impl Runs {
    /// Holds a run from now on.
    fn admit(&self, id: JobId, host: Host, terms: &Terms) {
        let tokens = [terms.steps, terms.sequences, terms.length];
        let tokens = tokens.iter().fold(1_u64, |product, factor| product.saturating_mul((*factor).into()));
        lock(&self.0.open).insert(id, Arc::new(Mutex::new(Open::new(host, tokens))));
    }

    /// Goes on with the runs that were under way.
    ///
    /// # Errors
    /// What the database says. A run that cannot go on pauses with the reason.
    pub(crate) async fn resume(&self, core: &Core, data: &Path) -> Result<(), crate::db::DbError> {
        for row in self.0.db.open_runs().await? {
            let id = row.id;
            if let Err(error) = self.resume_one(core, data, &row).await {
                let reason = format!("it could not go on after a restart: {}", error.message);
                tracing::error!(run = %id, reason);
                self.0.db.set_run_state(&id, RunState::Paused, Some(&reason)).await?;
            }
        }
        Ok(())
    }

    /// Finds an open run again. One that pauses stays so.
    pub(crate) async fn resume_one(&self, core: &Core, data: &Path, row: &RunRow) -> Result<(), ApiError> {
        let draft = draft(&row.request)?;
        let inputs = load_both(&self.0.db, &self.0.blobs, data, &draft).await?;
        let rounds = self.0.db.rounds(&row.id, 0).await?;
        let (mut checkpoint, mut steps): (BlobRef, Vec<BlobRef>) = (row.checkpoint, Vec::new());
        for round in &rounds {
            match round.checkpoint {
                Some(next) => {
                    checkpoint = next;
                    steps.clear();
                }
                None => steps.push(round.step),
            }
        }
        let expected = rounds.last().map(|round| round.next_parameters);
        let unread = |error: &dyn std::fmt::Display| {
            ApiError::internal(format!("the state before round {} cannot be had: {error}", row.round))
        };
        let secret = self.0.secret;
        let hosted = async |state: Vec<u8>| {
            let (terms, inputs, steps) = (draft.terms, inputs.clone(), steps.clone());
            let host = tokio::task::spawn_blocking(move || {
                Host::resume(terms, &state, inputs, secret, checkpoint, steps)
            });
            let host = host.await.map_err(ApiError::internal)??;
            let found = parameters_hash(host.parameters());
            if host.round() != row.round || expected.is_some_and(|expected| expected != found) {
                return Err(ApiError::internal("the stored state is not that of the last closed round"));
            }
            Ok((host, found))
        };
        let stored = match self.read_state(row.id, row.round).await {
            Ok(state) => hosted(state).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unread(&error)),
            Err(error) => return Err(unread(&error)),
        };
        let (host, found) = match stored {
            Ok(hosted) => hosted,
            // It was with the relay that led before, or another node wrote one for a round that it could not close any more.
            Err(error) => {
                tracing::warn!(run = %row.id, error = error.message, "the state of a run is derived again");
                let state = derive::state(&self.0.db, &self.0.blobs, data, row).await;
                let state = state.map_err(|error| unread(&error))?;
                let right = hosted(state.clone()).await?;
                self.write_state(row.id, row.round, state).await.map_err(ApiError::internal)?;
                right
            }
        };
        self.forget_other_states(row.id, row.round).await;
        // A run that was there before the log.
        if !self.0.log.state(|state| state.runs().contains_key(&row.id)).await? {
            let sources = self.0.db.sources(&row.request).await?;
            self.0.log.append(records::run(row, found, sources)).await?;
        }
        let spec = run_spec(row.id, &row.request, &draft, &host)?;
        self.admit(row.id, host, &draft.terms);
        tracing::info!(run = %row.id, round = row.round, "run goes on");
        if let Err(error) = core.add_run(spec, row.round).await? {
            self.forget(&row.id);
            return Err(refused("no_room", error.to_string(), "wait for another run to end"));
        }
        if row.state == RunState::Paused {
            core.input(Input::Run(RunInput::Paused { run: row.id })).await?;
        }
        Ok(())
    }
}

/// The name of parameters.
fn parameters_hash(parameters: &[f32]) -> BlobHash {
    BlobHash::of(&le_bytes(parameters))
}

/// Values as they are hashed and sent.
pub(crate) fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
