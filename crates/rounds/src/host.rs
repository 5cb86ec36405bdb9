//! The relay's side of a run: tasks of a round, what becomes of its updates, the step that follows.
//!
//! [`Host`] holds what the next round starts from. [`Host::close`] takes nothing for granted until the caller has made
//! it durable: only [`Host::commit`] changes the state, so that whatever fails in between leaves the round as it was.
//!
//! Determinism: tasks, steps and losses are functions of terms, data, secret and updates; f32 on the CPU.

use crate::combine::{Combined, Decoded, Group, Kind, Memory, sender};
use crate::error::HostError;
use crate::history::{History, Sent, Shadows};
use crate::sizes;
use crate::watch::Watch;
use crate::work::{Plan, TaskError};
use potluck_proto::{BlobRef, DataSetSpec, LearningRate, ModelSpec, TokenBlock, TrainTask, UpdateCodec};
use potluck_train::data::{BLOCK_TOKENS, DataSet, Order, Spec};
use potluck_train::outer::{Outer, OuterParams, OuterRule, STEP_CODEC};
use potluck_types::BlobHash;
use potluck_types::limits::MAX_TASK_BLOCKS;
use potluck_verify::{AggregateParams, Gate, GateAction, GateParams, Scope};
use std::sync::Arc;

/// Rounds in a row that may be taken back before the run stops: one bad round is an accident.
const MAX_REVERTED: u32 = 3;
/// First bytes of a stored state, with its version.
const STATE_MAGIC: [u8; 8] = *b"plstate1";

/// What the rounds of a run have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// The model.
    pub model: ModelSpec,
    /// Inner steps of a worker in a round.
    pub steps: u32,
    /// Sequences of a batch.
    pub sequences: u32,
    /// Tokens of a sequence.
    pub length: u32,
    /// Learning rate.
    pub rate: LearningRate,
    /// Seed of parameters and data order.
    pub seed: [u8; 32],
    /// Blocks that the order deals to a worker for a round; 0 for uniform draws.
    pub blocks_dealt: u32,
    /// How updates are encoded.
    pub codec: UpdateCodec,
    /// Rounds of a streak of codec S; 0 where nobody sends that. Where it is not the run's own codec, some send it.
    pub streak: u64,
    /// How the combined update moves the parameters.
    pub outer: OuterParams,
    /// How updates are combined; the cap follows from earlier rounds.
    pub aggregate: AggregateParams,
}

/// What a run trains on and is measured by.
#[derive(Debug, Clone)]
pub struct Data {
    /// For the workers.
    pub train: Arc<DataSet>,
    /// For the loss after each step, and the gate.
    pub validation: Arc<DataSet>,
}

/// An update that passed its checks.
#[derive(Debug, Clone, Copy)]
pub struct Submitted<'a> {
    /// What was to be done.
    pub task: &'a TrainTask,
    /// Losses and encoded update.
    pub result: &'a [u8],
    /// What its vote is worth. Above 0.
    pub weight: f64,
    /// Whether a replay has confirmed it.
    pub audited: bool,
}

/// One update's part in a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The worker.
    pub worker: u32,
    /// Norm of its update.
    pub norm: f64,
    /// By what it was multiplied; 0 if it took no part.
    pub clip: f64,
    /// What looked wrong with it, though a replay confirmed it.
    pub suspicion: Option<String>,
}

/// A round that could be closed, and what it leads to.
#[derive(Debug)]
pub struct Closed {
    /// The round.
    pub round: u64,
    /// The outer step, encoded: what volunteers follow.
    pub step: Vec<u8>,
    /// The checkpoint that the round ends with, if it ends with one.
    pub checkpoint: Option<Vec<u8>>,
    /// Hash of the parameters where it started.
    pub before: BlobHash,
    /// Hash of those that it leads to.
    pub after: BlobHash,
    /// How the updates of each kind were combined; empty if the gate took the step back.
    pub groups: Vec<Group>,
    /// What the gate did: `kept`, `audited only`, or `reverted`.
    pub gate: &'static str,
    /// Mean loss of the workers' batches, in nats a token.
    pub train_loss: f64,
    /// Loss on the validation data after the step, in nats a token.
    pub validation_loss: f64,
    /// Each update's part.
    pub parts: Vec<Part>,
    /// Whether it is the first that this host closed: norms of earlier rounds did not cap its step.
    pub fresh: bool,
    next: Next,
}

#[derive(Debug)]
struct Next {
    outer: Outer,
    gate: Gate,
    combined: Option<Combined>,
    /// What workers of codec S sent.
    sent: Vec<(u32, Sent)>,
}

/// A blob's hash and length.
pub fn named(blob: &[u8]) -> BlobRef {
    BlobRef { hash: BlobHash::of(blob), bytes: blob.len() as u64 }
}

/// The relay's side of a run.
#[derive(Debug)]
pub struct Host {
    terms: Terms,
    data: Data,
    order: Order,
    watch: Watch,
    outer: Outer,
    gate: Gate,
    checkpoint: BlobRef,
    steps: Vec<BlobRef>,
    memory: Memory,
    history: Arc<History>,
    shadows: Shadows,
    /// Rounds in a row that the gate took back.
    reverted: u32,
    /// No round was closed yet since the start.
    fresh: bool,
}

impl Host {
    /// Begins a run. Also gives the first checkpoint, to be stored.
    ///
    /// # Errors
    /// Terms or data that do not fit together; parameters whose loss is not finite.
    pub fn start(
        terms: Terms,
        parameters: Vec<f32>,
        data: Data,
        secret: [u8; 32],
    ) -> Result<(Self, Vec<u8>), HostError> {
        let outer = Outer::start(parameters, terms.outer)?;
        let checkpoint = outer.replica().checkpoint()?;
        let host = Self::of(terms, outer, data, secret, named(&checkpoint), Vec::new())?;
        Ok((host, checkpoint))
    }

    /// Goes on from [`Host::state`], the last checkpoint and the steps since.
    ///
    /// # Errors
    /// As [`Host::start`]; a state that is not whole; steps that do not lead to it.
    pub fn resume(
        terms: Terms,
        state: &[u8],
        data: Data,
        secret: [u8; 32],
        checkpoint: BlobRef,
        steps: Vec<BlobRef>,
    ) -> Result<Self, HostError> {
        let outer = decode_state(state, sizes::model(&terms.model).parameters(), terms.outer)?;
        let every = terms.outer.checkpoint_every.get();
        if outer.replica().round() % every != steps.len() as u64 {
            return Err(HostError::State("its steps do not lead from the last checkpoint to its round"));
        }
        Self::of(terms, outer, data, secret, checkpoint, steps)
    }

    fn of(
        terms: Terms,
        outer: Outer,
        data: Data,
        secret: [u8; 32],
        checkpoint: BlobRef,
        steps: Vec<BlobRef>,
    ) -> Result<Self, HostError> {
        let model = sizes::model(&terms.model);
        model.check()?;
        let (length, [least, most]) = (terms.length.into(), model.lengths().map(|length| length as u64));
        if !(least..=most).contains(&length) {
            return Err(TaskError::Size { field: "length", value: length, least, most }.into());
        }
        let vocabulary = model.vocabulary() as u32;
        let spec = data.train.spec();
        for (what, set) in [("training", spec), ("validation", data.validation.spec())] {
            if set.vocabulary != vocabulary {
                let (found, expected) = (set.vocabulary, vocabulary);
                return Err(HostError::Vocabulary { what, found, expected });
            }
        }
        let order =
            Order::of_records(terms.seed, spec, terms.length as usize, terms.blocks_dealt, model.record())?;
        let blocks = most_blocks(&terms, spec);
        if blocks > MAX_TASK_BLOCKS as u64 {
            return Err(HostError::Blocks { blocks });
        }
        let watch = Watch::new(model, &data.validation, terms.length as usize, secret)?;
        let round = outer.replica().round();
        let loss = watch.secret_loss(outer.replica().parameters(), round)?;
        let gate = Gate::new(loss, GateParams::default())?;
        let history = Arc::new(History::new(terms.streak, outer.replica()));
        let host = Self {
            terms,
            data,
            order,
            watch,
            outer,
            gate,
            checkpoint,
            steps,
            memory: Memory::default(),
            history,
            shadows: Shadows::default(),
            reverted: 0,
            fresh: true,
        };
        // What no volunteer could do is said before anybody is asked.
        if let Some(task) = host.tasks(1)?.first() {
            Plan::of(task)?;
        }
        Ok(host)
    }

    /// The round that is next: so many are over.
    pub fn round(&self) -> u64 {
        self.outer.replica().round()
    }

    /// The parameters where the next round starts.
    pub fn parameters(&self) -> &[f32] {
        self.outer.replica().parameters()
    }

    /// What is remembered of the rounds since streaks began.
    pub(crate) const fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// What workers kept, as replays found it.
    pub(crate) const fn shadows(&self) -> &Shadows {
        &self.shadows
    }

    /// What the run trains on.
    pub const fn data(&self) -> &Data {
        &self.data
    }

    /// The loss of the current parameters on the validation data, in nats a token.
    ///
    /// # Errors
    /// A loss that is not finite.
    pub fn validation_loss(&self) -> Result<f64, HostError> {
        self.watch.loss(self.parameters())
    }

    /// Memory that a worker of any round needs: its inputs, as a volunteer counts them, and the run itself.
    ///
    /// # Errors
    /// As [`Host::tasks`].
    pub fn memory_bytes(&self) -> Result<u64, HostError> {
        let Some(mut task) = self.tasks(1)?.pop() else { return Ok(0) };
        if self.terms.streak > 0 {
            task.codec = UpdateCodec::TopK;
        }
        let plan = Plan::of(&task)?;
        let steps = self.terms.outer.checkpoint_every.get() - 1;
        let step = STEP_CODEC.encoded_len(plan.parameters()) as u64;
        let spec = self.data.train.spec();
        let blocks = most_blocks(&self.terms, spec) * BLOCK_TOKENS as u64 * spec.token_bytes() as u64;
        let inputs = task.checkpoint.bytes + steps * step + blocks;
        Ok(plan.run_bytes().saturating_add(inputs))
    }

    /// Floating-point operations of a worker's part of any round.
    ///
    /// # Errors
    /// As [`Host::tasks`].
    pub fn flops(&self) -> Result<u64, HostError> {
        let Some(task) = self.tasks(1)?.pop() else { return Ok(0) };
        Ok(Plan::of(&task)?.flops())
    }

    /// The tasks of the next round, one a worker.
    ///
    /// # Errors
    /// Draws that the data do not hold: not after [`Host::start`] let the terms through.
    pub fn tasks(&self, workers: u32) -> Result<Vec<TrainTask>, HostError> {
        let Terms { model, steps, sequences, length, rate, seed, blocks_dealt, codec, outer, .. } =
            self.terms;
        let round = self.round();
        let spec = self.data.train.spec();
        let parameters = self.outer.replica().hash();
        (0..workers)
            .map(|worker| {
                let mut blocks = Vec::new();
                for index in self.order.blocks(round, worker, steps, sequences as usize)? {
                    let bytes = self.data.train.block(index)?.len() as u64;
                    let hash = self.data.train.names()[index as usize];
                    let proof = self.data.train.proof(index)?;
                    blocks.push(TokenBlock { index, blob: BlobRef { hash, bytes }, proof });
                }
                Ok(TrainTask {
                    model,
                    round,
                    worker,
                    steps,
                    steps_before: round.saturating_mul(steps.into()),
                    sequences,
                    length,
                    rate,
                    seed,
                    blocks_dealt,
                    codec,
                    streak: Vec::new(),
                    data: DataSetSpec { tokens: spec.tokens, tree: spec.tree },
                    blocks,
                    checkpoint_round: round - self.steps.len() as u64,
                    checkpoint_every: outer.checkpoint_every.get() as u32,
                    checkpoint: self.checkpoint,
                    outer_steps: self.steps.clone(),
                    parameters,
                })
            })
            .collect()
    }

    /// Places of the updates that have to be replayed before the round can be closed: those that look wrong, and where
    /// there are too few for a rule that a minority cannot move, all.
    ///
    /// # Errors
    /// Updates that were not checked.
    pub fn suspects(&self, updates: &[Submitted<'_>]) -> Result<Vec<usize>, HostError> {
        let decoded = decode(updates)?;
        let suspicions = self.memory.suspicions(&decoded)?;
        let few = |kind: Kind| {
            let of_kind = decoded.iter().filter(|update| update.kind == kind).count();
            of_kind < self.terms.aggregate.median_from
        };
        let suspect = |(at, update): (usize, &Submitted<'_>)| {
            (!update.audited && (few(decoded[at].kind) || suspicions[at].is_some())).then_some(at)
        };
        Ok(updates.iter().enumerate().filter_map(suspect).collect())
    }

    /// Combines the updates and takes the step. Nothing changes before [`Host::commit`].
    ///
    /// # Errors
    /// Updates that were not checked, or cannot be combined; a loss that is not finite, whatever was tried.
    pub fn close(&self, updates: &[Submitted<'_>]) -> Result<Closed, HostError> {
        let decoded = decode(updates)?;
        let suspicions = self.memory.suspicions(&decoded)?;
        let senders: Vec<_> = updates.iter().map(sender).collect();
        let mut gate = self.gate.clone();
        let mut scope = Scope::All;
        let mut last_loss = f64::NAN;
        let (combined, outer, step, did) = loop {
            let Some(combined) = self.memory.combine(&senders, &decoded, scope, &self.terms.aggregate)?
            else {
                gate.give_up();
                let (outer, step) = self.stand_still(last_loss)?;
                break (None, outer, step, "reverted");
            };
            let mut outer = self.outer.clone();
            let step = combined.step(&mut outer)?;
            last_loss =
                self.watch.secret_loss(outer.replica().parameters(), self.round()).unwrap_or(f64::NAN);
            match gate.judge(last_loss) {
                GateAction::Keep => {
                    let did = if scope == Scope::All { "kept" } else { "audited only" };
                    break (Some(combined), outer, step, did);
                }
                GateAction::AggregateAudited => scope = Scope::Audited,
                GateAction::Revert => {
                    let (outer, step) = self.stand_still(last_loss)?;
                    break (None, outer, step, "reverted");
                }
            }
        };
        if combined.is_none() && self.reverted + 1 >= MAX_REVERTED {
            return Err(HostError::Reverted { rounds: self.reverted + 1, loss: last_loss });
        }
        let replica = outer.replica();
        let validation_loss = self.watch.loss(replica.parameters())?;
        if self.watch.rotates_after(self.round()) {
            gate.rotate(self.watch.secret_loss(replica.parameters(), replica.round())?)?;
        }
        let losses: Vec<f64> =
            decoded.iter().flat_map(|update| &update.losses).map(|loss| f64::from(*loss)).collect();
        let share = |at: usize| combined.as_ref().map_or([0.0; 2], |combined: &Combined| combined.shares[at]);
        let parts = updates.iter().zip(suspicions).enumerate().map(|(at, (update, suspicion))| {
            let [norm, clip] = share(at);
            Part { worker: update.task.worker, norm, clip, suspicion }
        });
        let sparse = updates.iter().zip(&decoded).filter(|(_, decoded)| decoded.kind == Kind::Sparse);
        let sent = sparse.map(|(update, _)| (update.task.worker, Sent::new(update.result))).collect();
        Ok(Closed {
            round: self.round(),
            step,
            checkpoint: replica.checkpoint().ok(),
            before: self.outer.replica().hash(),
            after: replica.hash(),
            groups: combined.as_ref().map(Combined::groups).unwrap_or_default(),
            gate: did,
            train_loss: losses.iter().sum::<f64>() / losses.len().max(1) as f64,
            validation_loss,
            parts: parts.collect(),
            fresh: self.fresh,
            next: Next { outer, gate, combined, sent },
        })
    }

    /// A round without a step: what the downlink owes is sent all the same.
    fn stand_still(&self, loss: f64) -> Result<(Outer, Vec<u8>), HostError> {
        if !loss.is_finite() {
            return Err(HostError::NotFinite { loss });
        }
        let mut outer = self.outer.clone();
        let step = outer.step(&vec![0.0; self.parameters().len()], OuterRule::Plain)?;
        Ok((outer, step))
    }

    /// Takes a round that is durable as over.
    pub fn commit(&mut self, closed: Closed) {
        let Next { outer, gate, combined, sent } = closed.next;
        match closed.checkpoint {
            Some(checkpoint) => {
                self.checkpoint = named(&checkpoint);
                self.steps.clear();
            }
            None => self.steps.push(named(&closed.step)),
        }
        if self.terms.streak > 0 {
            Arc::make_mut(&mut self.history).push(&closed.step, outer.replica(), sent);
            if self.history.first().round() == outer.replica().round() {
                self.shadows.clear();
            }
        }
        (self.outer, self.gate, self.fresh) = (outer, gate, false);
        match combined {
            Some(combined) => {
                self.reverted = 0;
                self.memory.remember(combined);
            }
            None => self.reverted += 1,
        }
    }

    /// Everything that the next round needs and its blobs do not have, to be stored.
    pub fn state(&self) -> Vec<u8> {
        encode_state(&self.outer)
    }
}

/// Blocks that a worker of a round touches at most.
fn most_blocks(terms: &Terms, data: &Spec) -> u64 {
    let drawn = if terms.blocks_dealt == 0 {
        u64::from(terms.steps) * u64::from(terms.sequences)
    } else {
        terms.blocks_dealt.into()
    };
    // A sequence may reach into the next block.
    drawn.saturating_mul(2).min(data.blocks().into())
}

fn decode(updates: &[Submitted<'_>]) -> Result<Vec<Decoded>, HostError> {
    updates.iter().map(Decoded::of).collect()
}

impl Closed {
    /// The state after the round, as [`Host::state`] gives it once the round is over.
    pub fn state(&self) -> Vec<u8> {
        encode_state(&self.next.outer)
    }

    /// How the updates were combined, in a few words.
    pub fn rule(&self) -> String {
        match self.groups.as_slice() {
            [] => "none".to_owned(),
            [only] => only.rule.clone(),
            groups => {
                let of = |group: &Group| format!("{} of {}", group.rule, group.votes);
                groups.iter().map(of).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// Round and number of parameters (u64 each), then parameters, momentum and error (f32 each), all little-endian, then
/// the hash of it all.
pub(crate) fn encode_state(outer: &Outer) -> Vec<u8> {
    let parameters = outer.replica().parameters();
    let mut bytes = Vec::with_capacity(STATE_MAGIC.len() + 48 + 12 * parameters.len());
    bytes.extend(STATE_MAGIC);
    bytes.extend(outer.replica().round().to_le_bytes());
    bytes.extend((parameters.len() as u64).to_le_bytes());
    for values in [parameters, outer.momentum(), outer.error()] {
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes
}

fn decode_state(bytes: &[u8], parameters: usize, params: OuterParams) -> Result<Outer, HostError> {
    let expected = STATE_MAGIC.len() + 16 + 12 * parameters + 32;
    if bytes.len() != expected {
        return Err(HostError::State("it has the length of another model's"));
    }
    let (content, hash) = bytes.split_at(expected - 32);
    if blake3::hash(content).as_bytes() != hash {
        return Err(HostError::State("its hash is wrong"));
    }
    let Some(rest) = content.strip_prefix(&STATE_MAGIC) else {
        return Err(HostError::State("it has another version"));
    };
    let (numbers, values) = rest.split_at(16);
    let words = numbers.as_chunks().0;
    let [round, count] = [0, 1].map(|at| words.get(at).map_or(0, |word| u64::from_le_bytes(*word)));
    if count != parameters as u64 {
        return Err(HostError::State("it has another number of parameters"));
    }
    let mut vectors = values.chunks_exact(4 * parameters).map(|values| -> Vec<f32> {
        values.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
    });
    let mut next = || vectors.next().unwrap_or_default();
    let (parameters, momentum, error) = (next(), next(), next());
    Ok(Outer::resume(round, parameters, momentum, error, params)?)
}
