//! Parts of training rounds with all of their inputs, and what has to come out of them.

use potluck_proto::{BlobRef, DataSetSpec, LearningRate, ModelSizes, TokenBlock, TrainTask, UpdateCodec};
use potluck_train::codec::Codec;
use potluck_train::data::{DataSet, Order};
use potluck_train::gpt::{CpuGpt, GptConfig, Schedule, init};
use potluck_train::outer::{Outer, OuterParams, OuterRule};
use potluck_train::round::{Part, Round};
use potluck_types::BlobHash;
use potluck_volunteer::TrainInputs;
use std::future::Future;
use std::num::NonZeroU64;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

const SEED: [u8; 32] = [7; 32];
const CHECKPOINT_EVERY: u32 = 4;
const STEPS: u32 = 2;
const SEQUENCES: u32 = 2;
const BLOCKS_DEALT: u32 = 1;

/// The CPU engine never waits.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a CPU engine waits for nothing"),
    }
}

/// A task and everything that it names.
#[derive(Debug)]
pub(crate) struct Example {
    pub(crate) task: TrainTask,
    /// Checkpoint, outer steps, blocks.
    pub(crate) blobs: Vec<Vec<u8>>,
    config: GptConfig,
    parameters: Vec<f32>,
    data: DataSet,
}

fn named(blob: &[u8]) -> BlobRef {
    BlobRef { hash: BlobHash::of(blob), bytes: blob.len() as u64 }
}

/// A worker's part of the round after `rounds` others, in a data set of so many tokens.
pub(crate) fn example(config: GptConfig, tokens: u32, rounds: u64, worker: u32) -> Example {
    let vocabulary = config.vocabulary as u32;
    let tokens: Vec<u32> = (0..tokens).map(|at| at.wrapping_mul(at) % vocabulary).collect();
    let data = DataSet::new(&tokens, config.vocabulary).expect("a data set");
    let checkpoint_every = NonZeroU64::new(CHECKPOINT_EVERY.into()).expect("not 0");
    let params = OuterParams { checkpoint_every, ..OuterParams::default() };
    let mut outer = Outer::start(init(&config, &SEED), params).expect("finite parameters");
    let mut checkpoint = outer.replica().checkpoint().expect("round 0 has one");
    let mut steps = Vec::new();
    for round in 0..rounds {
        let update: Vec<f32> =
            outer.replica().parameters().iter().map(|value| 0.01 * value + 1e-4 * round as f32).collect();
        steps.push(outer.step(&update, OuterRule::Nesterov).expect("a finite step"));
        if let Ok(next) = outer.replica().checkpoint() {
            checkpoint = next;
            steps.clear();
        }
    }
    let length = config.context as u32;
    let order = Order::new(SEED, data.spec(), config.context, BLOCKS_DEALT).expect("an order");
    let touched = order.blocks(rounds, worker, STEPS, SEQUENCES as usize).expect("blocks");
    let blocks: Vec<_> = touched
        .iter()
        .map(|&index| TokenBlock {
            index,
            blob: named(data.block(index).expect("a block")),
            proof: data.proof(index).expect("a proof"),
        })
        .collect();
    let task = TrainTask {
        model: ModelSizes {
            vocabulary,
            context: length,
            layers: config.layers as u32,
            heads: config.heads as u32,
            width: config.width as u32,
            bias: config.bias,
        }
        .into(),
        round: rounds,
        worker,
        steps: STEPS,
        steps_before: rounds * u64::from(STEPS),
        sequences: SEQUENCES,
        length,
        rate: LearningRate {
            peak_nano: 2_000_000,
            least_nano: 100_000,
            warmup: 2,
            steps: 40,
            fresh_warmup: 2,
        },
        seed: SEED,
        blocks_dealt: BLOCKS_DEALT,
        codec: UpdateCodec::Int4,
        streak: Vec::new(),
        data: DataSetSpec { tokens: data.spec().tokens, tree: data.spec().tree },
        blocks,
        checkpoint_round: rounds - steps.len() as u64,
        checkpoint_every: CHECKPOINT_EVERY,
        checkpoint: named(&checkpoint),
        outer_steps: steps.iter().map(|step| named(step)).collect(),
        parameters: outer.replica().hash(),
    };
    let mut blobs = vec![checkpoint];
    blobs.append(&mut steps);
    blobs.extend(touched.iter().map(|&index| data.block(index).expect("a block").to_vec()));
    Example { task, blobs, config, parameters: outer.replica().parameters().to_vec(), data }
}

impl Example {
    /// As the engine gives them to an adapter.
    pub(crate) fn inputs(&self) -> TrainInputs {
        let mut blobs = self.blobs.iter().cloned().map(Arc::new);
        let checkpoint = blobs.next().expect("a checkpoint");
        let outer_steps = blobs.by_ref().take(self.task.outer_steps.len()).collect();
        TrainInputs { checkpoint, outer_steps, blocks: blobs.collect(), kept: None }
    }

    /// What crate `train` makes of it by itself, with the whole data set.
    pub(crate) fn result(&self) -> Vec<u8> {
        let TrainTask { round, worker, steps, steps_before, sequences, .. } = self.task;
        let order = Order::new(SEED, self.data.spec(), self.config.context, BLOCKS_DEALT).expect("an order");
        let schedule = Schedule { peak: 2e-3, least: 1e-4, warmup: 2, steps: 40, fresh_warmup: 2 };
        let sequences = sequences as usize;
        let part = Part { order, round, worker, steps, steps_before, sequences, schedule };
        let mut engine = CpuGpt::new(self.config).expect("a model");
        let update = now(async {
            let round = Round::start(part, &self.parameters, &mut engine).await?;
            round.finish(&mut engine, &self.data).await
        });
        let update = update.expect("a finite loss");
        let mut result: Vec<u8> = update.losses.iter().flat_map(|loss| loss.to_le_bytes()).collect();
        result.extend(Codec::Int4.encode(&update.delta).expect("a finite update"));
        result
    }
}
