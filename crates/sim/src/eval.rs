//! Evals with real questions in them, small enough for thousands of seeds: a model, its questions, the right answers, and
//! lies about them.

use crate::plan::PlannedEval;
use crate::rng::Rng;
use potluck_eval::{Answers, Checker, EvalError, Evaluation, Item, Items, compare, draw, parameters, settle};
use potluck_proto::{BlobRef, EvalTask, ModelSizes, ModelSpec};
use potluck_rounds::{named, sizes};
use potluck_schedule::{EvalAnswer, EvalSpec};
use potluck_train::gpt::{GptConfig, Sampling};
use potluck_train::{Model, TrainError};
use potluck_types::{BlobHash, JobId, VolunteerId};
use std::collections::BTreeMap;
use std::sync::Arc;

const SIZES: ModelSizes =
    ModelSizes { vocabulary: 17, context: 8, layers: 1, heads: 2, width: 8, bias: false };
/// Parameters lie within this of 0: logits come out a few units apart, so that an invented token is wrong for certain.
const SPREAD: f32 = 1.5;
/// By how much another device's loss of a token differs, in millionths of a nat: half of what a check allows for.
const DRIFT: u64 = 5;
/// By how much a liar's score is off, in millionths of a nat: at least ten times what a comparison of two allows for.
const LIE: std::ops::RangeInclusive<u64> = 50_000..=3_000_000;

/// All evals of a seed.
pub type Exams = BTreeMap<JobId, Arc<Exam>>;

/// An eval: its model and its questions.
#[derive(Debug)]
pub struct Exam {
    /// What the machine is told.
    pub spec: EvalSpec,
    config: GptConfig,
    parameters: Arc<Vec<u8>>,
    shards: Vec<Shard>,
    /// What spot checks are drawn from. Durable: it stays the same when the relay starts again.
    secret: [u8; 32],
}

#[derive(Debug)]
struct Shard {
    items: Items,
    encoded: Arc<Vec<u8>>,
    right: Answers,
}

impl Exam {
    /// Draws model and questions.
    ///
    /// # Errors
    /// Questions that the model cannot be asked: not with these sizes.
    pub fn draw(rng: &mut Rng, id: JobId, planned: &PlannedEval) -> Result<Self, EvalError> {
        let model: ModelSpec = SIZES.into();
        let config = config_of(&model)?;
        let values: Vec<f32> =
            (0..sizes::model(&model).parameters()).map(|_| SPREAD * rng.signed_unit()).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = named(&bytes);
        let (mut shards, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..planned.shards {
            let items = Items::new(draw_items(rng), &config)?;
            let encoded = items.encode();
            let right = Evaluation::new(&config, &values, items.clone())?.run()?;
            tasks.push(EvalTask {
                model,
                parameters: name,
                items: named(&encoded),
                result_bytes: items.result_bytes() as u32,
                memory_bytes: items.memory_bytes(&config),
                flops: items.flops(&config),
            });
            let right = Answers::decode(&items, &config, &right)?;
            shards.push(Shard { items, encoded: Arc::new(encoded), right });
        }
        let name = format!("{} shards", tasks.len());
        let spec = EvalSpec { id, name, shards: tasks, copies: planned.copies };
        Ok(Self { spec, config, parameters: Arc::new(bytes), shards, secret: rng.bytes() })
    }

    /// What volunteers fetch.
    pub fn blobs(&self) -> impl Iterator<Item = (BlobHash, Arc<Vec<u8>>)> {
        let items = self.shards.iter().map(|shard| &shard.encoded);
        [&self.parameters].into_iter().chain(items).map(|blob| (BlobHash::of(blob), Arc::clone(blob)))
    }

    fn shard(&self, shard: u32) -> Result<&Shard, String> {
        self.shards.get(shard as usize).ok_or_else(|| format!("shard {shard} is none of the eval's"))
    }

    fn checker(&self) -> Result<Checker, String> {
        let values = parameters(&self.parameters, &self.config).map_err(|error| error.to_string())?;
        Checker::new(&self.config, &values).map_err(|error| error.to_string())
    }

    /// Whose answers to a shard are wrong, as the real adapter finds it out.
    ///
    /// # Errors
    /// A shard that is none, or a check that cannot be made.
    pub fn judge(&self, shard: u32, answers: &[EvalAnswer]) -> Result<Vec<VolunteerId>, String> {
        let items = &self.shard(shard)?.items;
        let (whole, torn): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| is_whole(answer));
        let drawn = self.drawn(items, &whole);
        let results: Vec<&[u8]> = whole.iter().map(|answer| answer.result.as_slice()).collect();
        let wrong = settle(&mut self.checker()?, items, &results, &drawn);
        let wrong = wrong.map_err(|error| error.to_string())?.into_iter().map(|at| whole[at]);
        Ok(wrong.chain(torn).map(|answer| answer.volunteer).collect())
    }

    fn drawn(&self, items: &Items, answers: &[&EvalAnswer]) -> Vec<usize> {
        let claims: Vec<_> = answers.iter().map(|answer| answer.claim.hash).collect();
        draw(&self.secret, &claims, items.items().len())
    }

    /// The items that are computed again however they are answered.
    ///
    /// # Errors
    /// A shard that is none.
    pub fn spot_checks(&self, shard: u32, answers: &[EvalAnswer]) -> Result<Vec<usize>, String> {
        let whole: Vec<_> = answers.iter().filter(|answer| is_whole(answer)).collect();
        Ok(self.drawn(&self.shard(shard)?.items, &whole))
    }

    /// The items to which an answer is wrong, held against the right answers. All of them if it is no answer.
    ///
    /// # Errors
    /// A shard that is none, or a check that cannot be made.
    pub fn wrong_items(&self, shard: u32, answer: &EvalAnswer) -> Result<Vec<usize>, String> {
        let Shard { items, right, .. } = self.shard(shard)?;
        let read = Answers::decode(items, &self.config, &answer.result);
        let Some(read) = read.ok().filter(|_| is_whole(answer)) else {
            return Ok((0..items.items().len()).collect());
        };
        let mut wrong = compare(items, right, &read);
        if !wrong.is_empty() {
            // A text may go on otherwise where rounding decides.
            let mut checker = self.checker()?;
            wrong.retain(|item| checker.check(items, &answer.result, &[*item]).is_err());
        }
        Ok(wrong)
    }
}

fn is_whole(answer: &EvalAnswer) -> bool {
    let claim = BlobRef { hash: BlobHash::of(&answer.result), bytes: answer.result.len() as u64 };
    claim == answer.claim
}

fn config_of(model: &ModelSpec) -> Result<GptConfig, EvalError> {
    match sizes::model(model) {
        Model::Gpt(config) => Ok(config),
        Model::Digits => Err(EvalError::Model(TrainError::Missing("questions to a model without words"))),
    }
}

fn draw_items(rng: &mut Rng) -> Vec<Item> {
    let tokens = |rng: &mut Rng, count: u64| -> Vec<u32> {
        (0..count).map(|_| rng.below(SIZES.vocabulary as usize) as u32).collect()
    };
    let context = u64::from(SIZES.context);
    let mut items = Vec::new();
    for _ in 0..rng.within(2..=4) {
        let length = rng.within(2..=context + 1);
        let (tokens, from) = (tokens(rng, length), rng.within(1..=length - 1) as usize);
        items.push(Item::Score { tokens, from });
    }
    for _ in 0..rng.within(1..=2) {
        let length = rng.within(1..=context);
        let (prompt, count) = (tokens(rng, length), rng.within(1..=6) as usize);
        let temperature = rng.pick(&[0.0, 0.7]).unwrap_or(0.0);
        let sampling = Sampling { temperature, top_k: rng.pick(&[0, 5]).unwrap_or(0), seed: rng.bytes() };
        items.push(Item::Generate { prompt, count, sampling });
    }
    items
}

/// Changes each score of a result. What is no result of the items stays as it is.
fn change_scores(
    task: &EvalTask,
    items: &[u8],
    result: &mut [u8],
    mut change: impl FnMut(usize, i64) -> i64,
) -> Option<()> {
    let items = Items::decode(items, &config_of(&task.model).ok()?).ok()?;
    let mut at = 0;
    for item in items.items() {
        let own = result.get_mut(at..at + item.answer_bytes())?;
        at += item.answer_bytes();
        if let (Item::Score { tokens, from }, Ok(word)) = (item, <[u8; 8]>::try_from(&*own)) {
            let score = change(tokens.len() - from, i64::from_le_bytes(word));
            own.copy_from_slice(&score.max(0).to_le_bytes());
        }
    }
    Some(())
}

/// A result with the rounding of another device.
pub fn drift(task: &EvalTask, items: &[u8], result: &mut [u8], rng: &mut Rng) {
    let change = |tokens: usize, score: i64| {
        let most = DRIFT * tokens as u64;
        score + rng.within(0..=2 * most).cast_signed() - most.cast_signed()
    };
    // What is no result cannot drift.
    let _ = change_scores(task, items, result, change);
}

/// A result with one answer that the model does not give but might. `None` for what is no result of the items.
pub fn falsified(task: &EvalTask, items: &[u8], result: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    let list = Items::decode(items, &config_of(&task.model).ok()?).ok()?;
    let lied = rng.below(list.items().len());
    let before = list.items()[..lied].iter().map(Item::answer_bytes).sum();
    let mut result = result.to_vec();
    match list.items().get(lied)? {
        Item::Score { .. } => {
            let own = result.get_mut(before..before + 8)?;
            let score = i64::from_le_bytes((&*own).try_into().ok()?) + rng.within(LIE).cast_signed();
            own.copy_from_slice(&score.to_le_bytes());
        }
        Item::Generate { count, .. } => {
            let at = before + 4 * rng.below(*count);
            let own = result.get_mut(at..at + 4)?;
            let token = u32::from_le_bytes((&*own).try_into().ok()?);
            let other = (token + rng.within(1..=u64::from(SIZES.vocabulary) - 1) as u32) % SIZES.vocabulary;
            own.copy_from_slice(&other.to_le_bytes());
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_proto::Backend;
    use potluck_schedule::Ticket;

    fn answer(volunteer: u8, result: Vec<u8>) -> EvalAnswer {
        EvalAnswer {
            ticket: Ticket(volunteer.into()),
            volunteer: VolunteerId([volunteer; 32]),
            backend: Backend::WasmSimd,
            claim: named(&result),
            result: Arc::new(result),
            site: None,
        }
    }

    #[test]
    fn another_devices_rounding_passes_and_every_lie_beside_an_honest_answer_is_seen() {
        let mut rng = Rng::new(3);
        let planned = PlannedEval { shards: 3, copies: 2, submit_at: 0, cancel_at: None };
        for _ in 0..40 {
            let exam = Exam::draw(&mut rng, JobId([7; 16]), &planned).unwrap();
            assert_eq!(exam.spec.check(), Ok(()));
            for (index, (shard, task)) in exam.shards.iter().zip(&exam.spec.shards).enumerate() {
                let index = index as u32;
                let values = parameters(&exam.parameters, &exam.config).unwrap();
                let right =
                    Evaluation::new(&exam.config, &values, shard.items.clone()).unwrap().run().unwrap();
                let mut drifted = right.clone();
                drift(task, &shard.encoded, &mut drifted, &mut rng);
                let lie = falsified(task, &shard.encoded, &right, &mut rng).unwrap();
                let [one, other, liar] = [answer(1, right), answer(2, drifted), answer(3, lie)];
                assert_eq!(exam.judge(index, &[one.clone(), other.clone()]), Ok(vec![]));
                assert_eq!(exam.wrong_items(index, &other), Ok(vec![]));
                assert_eq!(exam.wrong_items(index, &liar).unwrap().len(), 1);
                let mut torn = liar.clone();
                torn.claim = one.claim;
                assert_eq!(exam.judge(index, &[torn, other.clone()]), Ok(vec![liar.volunteer]));
                assert_eq!(exam.judge(index, &[other, liar.clone()]), Ok(vec![liar.volunteer]));
            }
        }
    }
}
