//! What a run's model writes now, made on this machine's CPU beside the view.

use crate::client::Client;
use crate::client::runs::RunInfo;
use crate::error::CliError;
use crate::runs::{config_of, export};
use potluck_model::{TextWriter, promised, seed_bytes};
use potluck_train::data::Tokenizer;
use potluck_train::gpt::Sampling;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, channel, sync_channel};
use std::time::Duration;

/// Tokens of a sample.
pub const SAMPLE_TOKENS: usize = 120;
/// Rounds between samples.
const EVERY: u64 = 5;
/// How the sample is drawn: a little likelier than the model says.
const TEMPERATURE: f32 = 0.8;
/// Seed of the draws: the same for each sample, so that they differ by what was learned.
const SEED: u64 = 1;
/// How long the relay may be away before there is no sample this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// After how many rounds, and the text or why there is none.
pub type Sample = (u64, Result<String, String>);

/// A thread that makes samples.
pub struct Sampler {
    ask: SyncSender<RunInfo>,
    answers: Receiver<Sample>,
    /// The rounds after which the last sample was asked for.
    asked: Option<u64>,
    busy: bool,
}

impl Sampler {
    /// Starts the thread; it ends when this is dropped and its sample is done.
    ///
    /// # Errors
    /// The client's address is not one.
    pub fn start(client: &Client) -> Result<Self, CliError> {
        let own = Client::new(client.relay(), None, client.stop().clone())?.with_patience(PATIENCE, PATIENCE);
        let (ask, asked) = sync_channel::<RunInfo>(1);
        let (answer, answers) = channel();
        std::thread::spawn(move || {
            let mut tokenizer = None;
            while let Ok(run) = asked.recv() {
                let text = write(&own, &run, &mut tokenizer).map_err(|error| error.to_string());
                if answer.send((run.round, text)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { ask, answers, asked: None, busy: false })
    }

    /// Asks for a sample if it is time for one.
    pub fn offer(&mut self, run: &RunInfo) {
        let ended = run.state == "done" && self.asked != Some(run.round);
        let due = self.asked.is_none_or(|asked| run.round >= asked + EVERY);
        if !self.busy && run.round > 0 && (due || ended) && config_of(&run.model).is_some() {
            let run = RunInfo { history: Vec::new(), ..run.clone() };
            self.asked = Some(run.round);
            self.busy = self.ask.try_send(run).is_ok();
        }
    }

    /// The sample that is ready.
    pub fn take(&mut self) -> Option<Sample> {
        match self.answers.try_recv() {
            Ok(sample) => {
                self.busy = false;
                Some(sample)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.busy = false;
                None
            }
        }
    }

    /// Whether a sample is being made.
    pub fn busy(&self) -> bool {
        self.busy
    }
}

/// Downloads the newest parameters, and the tokenizer once, and writes.
fn write(client: &Client, run: &RunInfo, known: &mut Option<Tokenizer>) -> Result<String, CliError> {
    let tokenizer = match known.take() {
        Some(tokenizer) => tokenizer,
        None => export::tokenizer(client, run)?,
    };
    let text = text(client, run, &tokenizer);
    *known = Some(tokenizer);
    text
}

fn text(client: &Client, run: &RunInfo, tokenizer: &Tokenizer) -> Result<String, CliError> {
    let record = |cause: String| CliError::Record { what: "the model's text".to_owned(), cause };
    let parameters = export::parameters(client, run, run.round)?;
    let sampling = Sampling { temperature: TEMPERATURE, top_k: 0, seed: seed_bytes(SEED) };
    let config = config_of(&run.model).ok_or_else(|| record("it is no language model".to_owned()))?;
    let decoder = promised::decoder(config, &parameters).map_err(|cause| record(cause.to_string()))?;
    let writer = TextWriter::new(decoder, tokenizer.clone(), "", sampling);
    let mut writer = writer.map_err(|cause| record(cause.to_string()))?;
    let mut text = String::new();
    for _ in 0..SAMPLE_TOKENS {
        if client.stop().count() > 0 {
            return Err(CliError::Interrupted { job: None });
        }
        text += &writer.write().map_err(|cause| record(cause.to_string()))?;
    }
    Ok(text + &writer.finish())
}
