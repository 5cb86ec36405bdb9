//! Candidates and their evals: what the machine asks for is carried out here, off the async threads.
//!
//! `intake.rs` makes a candidate of a run's parameters, cuts its eval into shards, and finds open ones again after a
//! restart; `card.rs` makes the eval card; `store.rs` has the records; `http.rs` is their part of the API, in the types of
//! `api.rs`. What is asked, whose answers are wrong and what stands on the card is decided in `potluck-eval`, who is asked
//! in `potluck-schedule`, and what follows from a card in `potluck-governance`.
//!
//! Architecture invariant: the machine hears that a shard is settled when its answers and their entries in the log are on disk.

pub mod api;
mod card;
pub(crate) mod http;
pub(crate) mod intake;
pub(crate) mod store;

use crate::blobs::Blobs;
use crate::core::Command;
use crate::db::Db;
use crate::log::Log;
use potluck_eval::plan::Plan;
use potluck_eval::{Checker, Items, draw, settle};
use potluck_schedule::{EvalAnswer, EvalInput, EvalOutput, Input};
use potluck_train::gpt::GptConfig;
use potluck_types::{BlobHash, JobId, VolunteerId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::EvalTerms;
use tokio::sync::{Semaphore, mpsc, watch};

/// The evals of a relay. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Evals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    log: Log,
    blobs: Blobs,
    commands: mpsc::WeakSender<Command>,
    changed: watch::Sender<u64>,
    /// Checks at once: each holds a model.
    cores: Semaphore,
    open: Mutex<HashMap<JobId, Arc<Open>>>,
}

/// An eval that goes on.
#[derive(Debug)]
struct Open {
    config: GptConfig,
    /// Models that are asked, by the hash of their parameters.
    models: HashMap<BlobHash, Arc<Vec<f32>>>,
    /// What is asked, shard by shard.
    shards: Vec<Items>,
    terms: EvalTerms,
    candidate: BlobHash,
    /// What it is made from, for the card.
    material: intake::Material,
    plan: Plan,
}

impl Open {
    /// Whose answers to a shard are wrong.
    fn settle(
        &self,
        shard: u32,
        parameters: &BlobHash,
        answers: &[EvalAnswer],
    ) -> Result<Vec<VolunteerId>, String> {
        let missing = || format!("shard {shard} is none of the eval's");
        let items = self.shards.get(shard as usize).ok_or_else(missing)?;
        let model = self.models.get(parameters).ok_or_else(missing)?;
        let mut checker = Checker::new(&self.config, model).map_err(|error| error.to_string())?;
        let whole = |answer: &&EvalAnswer| BlobHash::of(&answer.result) == answer.claim.hash;
        let (right, torn): (Vec<&EvalAnswer>, Vec<&EvalAnswer>) = answers.iter().partition(whole);
        let claims: Vec<BlobHash> = right.iter().map(|answer| answer.claim.hash).collect();
        let drawn = draw(&self.terms.secret, &claims, items.items().len());
        let results: Vec<&[u8]> = right.iter().map(|answer| answer.result.as_slice()).collect();
        let wrong = settle(&mut checker, items, &results, &drawn).map_err(|error| error.to_string())?;
        let wrong = wrong.into_iter().filter_map(|at| right.get(at)).chain(&torn);
        Ok(wrong.map(|answer| answer.volunteer).collect())
    }
}

/// The map is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Evals {
    pub(crate) fn new(
        db: Db,
        log: Log,
        blobs: Blobs,
        commands: mpsc::WeakSender<Command>,
        changed: watch::Sender<u64>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = Semaphore::new(cores);
        Self(Arc::new(Inner { db, log, blobs, commands, changed, cores, open: Mutex::default() }))
    }

    /// Starts what the machine asks for. How much of it waits is bounded by the machine's limits on evals.
    pub(crate) fn carry_out(&self, output: EvalOutput) {
        let this = self.clone();
        match output {
            EvalOutput::Settle { eval, shard, task, answers } => {
                tokio::spawn(async move {
                    let input = match this.settle(&eval, shard, &task.parameters.hash, answers).await {
                        Ok(refuted) => EvalInput::Settled { eval, shard, refuted },
                        Err(error) => {
                            tracing::error!(error, %eval, shard, "answers could not be settled");
                            EvalInput::Failed { eval, shard }
                        }
                    };
                    this.tell(input).await;
                    this.changed();
                });
            }
            EvalOutput::Completed { eval } => {
                tokio::spawn(async move { this.complete(eval).await });
            }
            // Whether it can be held was asked before it was added.
            EvalOutput::Refused { eval, error } => {
                tracing::error!(%error, %eval, "an eval cannot be held");
                tokio::spawn(async move { this.fail(eval, &error.to_string()).await });
            }
        }
    }

    async fn tell(&self, input: EvalInput) {
        // While the relay shuts down nobody listens; what is durable is found again at the next start.
        if let Some(commands) = self.0.commands.upgrade() {
            let _ = commands.send(Command::Input(Input::Eval(input))).await;
        }
    }

    fn changed(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }

    fn open(&self, eval: &JobId) -> Option<Arc<Open>> {
        lock(&self.0.open).get(eval).cloned()
    }

    async fn settle(
        &self,
        eval: &JobId,
        shard: u32,
        parameters: &BlobHash,
        answers: Vec<EvalAnswer>,
    ) -> Result<Vec<VolunteerId>, String> {
        let open = self.open(eval).ok_or("the eval is not open")?;
        let _core = self.0.cores.acquire().await.map_err(|error| error.to_string())?;
        let (answers, parameters) = (Arc::new(answers), *parameters);
        let judged = tokio::task::spawn_blocking({
            let answers = Arc::clone(&answers);
            move || open.settle(shard, &parameters, &answers)
        });
        let refuted = judged.await.map_err(|error| error.to_string())??;
        if refuted.is_empty() {
            let stored = self.0.db.settle_shard(&self.0.log, eval, shard, &answers).await;
            stored.map_err(|error| error.to_string())?;
        } else {
            tracing::info!(%eval, shard, ?refuted, "wrong answers");
        }
        Ok(refuted)
    }

    /// All answers are here: the card is made.
    async fn complete(&self, eval: JobId) {
        match self.make_card(&eval).await {
            Ok(card) => tracing::info!(%eval, %card, "eval card made"),
            Err(error) => {
                tracing::error!(error, %eval, "no eval card could be made");
                self.fail(eval, &error).await;
            }
        }
        lock(&self.0.open).remove(&eval);
        self.changed();
    }

    async fn fail(&self, eval: JobId, reason: &str) {
        let Some(open) = self.open(&eval) else { return };
        if let Err(error) = self.0.db.fail_candidate(&open.candidate, reason).await {
            tracing::error!(%error, %eval, "the end of an eval could not be recorded");
        }
        lock(&self.0.open).remove(&eval);
        self.changed();
    }
}
