//! `potluck submit train` and `potluck model import`: read the corpus, send it, create the run.

use crate::args::TrainArgs;
use crate::client::runs::{DataSetInfo, NewRun, ParametersInfo, RunInfo};
use crate::client::{Client, interrupted};
use crate::error::CliError;
use crate::model;
use crate::progress::{Counted, Progress};
use crate::run_file::{About, Corpus, ModelChoice, RunFile, RunFileError, TokenizerChoice};
use crate::runs::digits;
use crate::runs::request::{Uploads, check, new_run};
use crate::runs::watch;
use crate::submit::idempotency_key;
use potluck_relay::runs::api::NewManifest;
use potluck_train::Model;
use potluck_train::data::{Characters, DataError, DataSet, Tokenizer, VALIDATION_SHARE, split};
use potluck_train::gpt::GptConfig;
use potluck_types::BlobHash;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::path::Path;
use ureq::http::Method;

/// What a run begins with.
struct Start {
    model: Model,
    tokens: Vec<u32>,
    tokenizer: Option<Tokenizer>,
    parameters: Option<Vec<f32>>,
}

/// A run file with everything that it names, read and checked.
pub(crate) struct Prepared {
    run: RunFile,
    model: Model,
    name: String,
    train: DataSet,
    validation: DataSet,
    tokenizer: Option<String>,
    parameters: Option<Vec<f32>>,
}

impl Prepared {
    /// Reads a run file. With `folder` its model is taken, whatever the run file says.
    ///
    /// # Errors
    /// Run file, corpus or folder are refused.
    pub(crate) fn read(path: &Path, folder: Option<&Path>, name: Option<&str>) -> Result<Self, CliError> {
        let run = RunFile::read(path)?;
        let Start { model, tokens, tokenizer, parameters } = start(path, &run, folder)?;
        let refused = |cause: DataError| CliError::from(RunFileError::Data(cause));
        let (training, validating) = parts(&model, &tokens).map_err(refused)?;
        let vocabulary = model.vocabulary();
        let text =
            |tokenizer: &Tokenizer| String::from_utf8_lossy(&model::write_tokenizer(tokenizer)).into_owned();
        let first = run.corpus.first().and_then(|file| file.file_name());
        let name = name.map(str::to_owned).or_else(|| Some(first?.to_string_lossy().into_owned()));
        Ok(Self {
            name: name.unwrap_or_else(|| "run".to_owned()),
            train: DataSet::new(training, vocabulary).map_err(refused)?,
            validation: DataSet::new(validating, vocabulary).map_err(refused)?,
            tokenizer: tokenizer.as_ref().map(text),
            parameters,
            model,
            run,
        })
    }

    /// What the relay is asked for. Everything in it is named by its hash, so nothing has to be sent for that.
    pub(crate) fn request(&self) -> NewRun {
        let root = |set: &DataSet| BlobHash(set.spec().root()).to_string();
        let uploads = Uploads {
            train: root(&self.train),
            validation: root(&self.validation),
            tokenizer: self.tokenizer.clone(),
            init: self.parameters.as_ref().map(|parameters| BlobHash::of(&bytes_of(parameters)).to_string()),
        };
        new_run(&self.run, &self.model, &self.name, uploads)
    }

    fn send(&self, client: &Client) -> Result<(), CliError> {
        let about = self.run.data.as_ref();
        upload_data(client, "training", &self.train, about)?;
        upload_data(client, "validation", &self.validation, about)?;
        if let Some(parameters) = &self.parameters {
            upload_parameters(client, parameters)?;
        }
        Ok(())
    }
}

/// Starts a run. With `folder` its model is taken, whatever the run file says.
///
/// # Errors
/// Run file, corpus or folder are refused, the relay does not answer or refuses.
pub fn train(args: &TrainArgs, folder: Option<&Path>, client: &Client) -> Result<(), CliError> {
    let prepared = Prepared::read(&args.run, folder, args.name.as_deref())?;
    prepared.send(client)?;
    let mut request = prepared.request();
    request.proposal = args.proposal.clone().or(request.proposal);

    let key = idempotency_key()?;
    let headers = [("idempotency-key", key.as_str())];
    let created: RunInfo =
        client.send_json(&Method::POST, "/api/v1/runs", &headers, Some(&json!(request)), |trouble| {
            tracing::info!(cause = %trouble.cause, "the relay does not answer; trying again");
        })?;
    if args.json {
        println!("{}", json!(created));
    } else {
        println!("{}", created.id);
    }
    if args.watch {
        return watch::follow(client, &created.id, args.json);
    }
    if !args.json {
        eprintln!(
            "{} parameters, {} rounds; `potluck watch {}` shows how it goes",
            created.parameters, created.rounds, created.id
        );
    }
    Ok(())
}

/// The tokenizer that a run file asks for, with the characters of the corpus.
pub(crate) fn tokenizer(run: &RunFile, corpus: &Corpus) -> Result<Tokenizer, CliError> {
    match &run.tokenizer {
        TokenizerChoice::Characters => {
            Ok(Characters::of(&corpus.text).map(Tokenizer::Characters).map_err(RunFileError::Data)?)
        }
        TokenizerChoice::Bytes => Ok(Tokenizer::Bytes),
        TokenizerChoice::File(path) => Ok(model::read_tokenizer(path)?),
    }
}

fn start(path: &Path, run: &RunFile, folder: Option<&Path>) -> Result<Start, CliError> {
    let folder = folder.or(match &run.model {
        ModelChoice::Folder(folder) => Some(folder),
        ModelChoice::Sizes(_) | ModelChoice::Digits => None,
    });
    if folder.is_none() && run.model == ModelChoice::Digits {
        check(path, run, &Model::Digits)?;
        let tokens = digits::read(&run.corpus)?;
        return Ok(Start { model: Model::Digits, tokens, tokenizer: None, parameters: None });
    }
    let corpus = Corpus::read(&run.corpus)?;
    let (config, tokenizer, parameters) = if let Some(folder) = folder {
        let model::Model { config, parameters, tokenizer } = model::import(folder)?;
        (config, tokenizer, Some(parameters))
    } else {
        let tokenizer = tokenizer(run, &corpus)?;
        let vocabulary = tokenizer.vocabulary();
        let config = match &run.model {
            ModelChoice::Sizes(sizes) => sizes.config(vocabulary),
            ModelChoice::Folder(_) | ModelChoice::Digits => GptConfig::tiny(vocabulary),
        };
        (config, tokenizer, None)
    };
    let model = Model::Gpt(config);
    check(path, run, &model)?;
    let tokens = tokenizer.encode(&corpus.text).map_err(RunFileError::Data)?;
    Ok(Start { model, tokens, tokenizer: Some(tokenizer), parameters })
}

/// What is trained on, and what the loss is measured on: whole records in both.
fn parts<'a>(model: &Model, tokens: &'a [u32]) -> Result<(&'a [u32], &'a [u32]), DataError> {
    let record = model.record();
    if record == 1 {
        let [_, context] = model.lengths();
        return split(tokens, VALIDATION_SHARE, context);
    }
    let records = tokens.len() / record;
    let held_out = records.div_ceil(VALIDATION_SHARE);
    if records < 2 {
        return Err(DataError::TooShort { part: "training", tokens: tokens.len(), needed: 2 * record });
    }
    Ok(tokens.split_at((records - held_out) * record))
}

/// Sends a data set, after a line that says what it is; the relay must come to the same root.
fn upload_data(
    client: &Client,
    label: &str,
    data: &DataSet,
    about: Option<&About>,
) -> Result<String, CliError> {
    let spec = data.spec();
    let mut bytes = Vec::with_capacity(spec.tokens as usize * spec.token_bytes());
    let mut query = format!("vocabulary={}", spec.vocabulary);
    if let Some(about) = about {
        let manifest = NewManifest {
            name: format!("{} ({label})", about.name),
            source: about.source.clone(),
            license: about.license.clone(),
            proposed_by: about.proposed_by.clone(),
            parts: Vec::new(),
        };
        bytes.extend_from_slice(json!(manifest).to_string().as_bytes());
        bytes.push(b'\n');
        query.push_str("&manifest=true");
    }
    for index in 0..spec.blocks() {
        bytes.extend_from_slice(data.block(index).map_err(RunFileError::Data)?);
    }
    let path = format!("/api/v1/datasets?{query}");
    let info: DataSetInfo = upload(client, label, &path, &bytes)?;
    let expected = BlobHash(spec.root()).to_string();
    same(&path, &info.id, &expected)?;
    Ok(info.id)
}

/// Values as they are hashed and sent.
fn bytes_of(parameters: &[f32]) -> Vec<u8> {
    parameters.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn upload_parameters(client: &Client, parameters: &[f32]) -> Result<String, CliError> {
    let bytes = bytes_of(parameters);
    let path = "/api/v1/parameters";
    let info: ParametersInfo = upload(client, "parameters", path, &bytes)?;
    same(path, &info.id, &BlobHash::of(&bytes).to_string())?;
    Ok(info.id)
}

fn same(path: &str, found: &str, expected: &str) -> Result<(), CliError> {
    if found == expected {
        return Ok(());
    }
    let cause = format!("it names what was sent {found}, and it is {expected}");
    Err(CliError::Answer { request: format!("POST {path}"), cause })
}

fn upload<T: DeserializeOwned>(
    client: &Client,
    label: &str,
    path: &str,
    bytes: &[u8],
) -> Result<T, CliError> {
    let progress = Progress::bytes(label, bytes.len() as u64);
    let stop = client.stop().clone();
    let keep_going = || if stop.count() == 0 { Ok(()) } else { Err(interrupted()) };
    let open = || Ok(Counted::new(bytes, &progress, &keep_going));
    let info =
        client.upload(&Method::POST, path, bytes.len() as u64, open, |trouble| progress.trouble(&trouble))?;
    progress.finish("sent");
    Ok(info)
}
