//! Shards of evals, in the thread that computes: one forward pass at a time on the CPU.

use super::kernel::{Done, Ended, rest_for, take_rest};
use potluck_eval::EvalError;
use potluck_proto::EvalTask;
use potluck_volunteer::{Failure, eval};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

impl From<EvalError> for Ended {
    fn from(error: EvalError) -> Self {
        tracing::warn!(%error, "a shard of an eval failed");
        Self::Failed(Failure::from(&error))
    }
}

/// Answers the questions of a shard.
pub(super) fn run(
    task: &EvalTask,
    parameters: &[u8],
    items: &[u8],
    share: f64,
    cancel: &AtomicBool,
) -> Result<Done, Ended> {
    let started = Instant::now();
    let mut evaluation = eval::prepare(task, parameters, items)?;
    let mut busy = started.elapsed();
    let mut owed = rest_for(busy, share);
    while !evaluation.done() {
        if !take_rest(std::mem::take(&mut owed), cancel) {
            return Err(Ended::Canceled);
        }
        let pass = Instant::now();
        evaluation.step()?;
        let took = pass.elapsed();
        busy += took;
        owed += rest_for(took, share);
    }
    Ok((evaluation.finish()?.into(), busy, owed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_eval::{Item, Items};
    use potluck_proto::{BlobRef, ModelSizes};
    use potluck_train::gpt::{GptConfig, init};
    use potluck_types::BlobHash;

    #[test]
    fn a_shard_is_answered_at_the_share_that_is_lent() {
        let config = GptConfig { vocabulary: 17, context: 8, layers: 1, heads: 2, width: 8, bias: false };
        let values = init(&config, &[1; 32]);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let items = Items::new(vec![Item::greedy(vec![1, 2, 3], 40)], &config).unwrap();
        let encoded = items.encode();
        let named = |bytes: &[u8]| BlobRef { hash: BlobHash::of(bytes), bytes: bytes.len() as u64 };
        let sizes = ModelSizes { vocabulary: 17, context: 8, layers: 1, heads: 2, width: 8, bias: false };
        let task = EvalTask {
            model: sizes.into(),
            parameters: named(&bytes),
            items: named(&encoded),
            result_bytes: items.result_bytes() as u32,
            memory_bytes: 1 << 20,
            flops: 1,
        };
        let (done, ..) = run(&task, &bytes, &encoded, 0.5, &AtomicBool::new(false)).unwrap();
        let right = eval::Evaluation::new(&config, &values, items).unwrap().run().unwrap();
        assert_eq!(done.result, right);
        assert!(matches!(run(&task, &bytes, &encoded, 0.5, &AtomicBool::new(true)), Err(Ended::Canceled)));
        let other = EvalTask { result_bytes: 4, ..task };
        assert!(matches!(
            run(&other, &bytes, &encoded, 1.0, &AtomicBool::new(false)),
            Err(Ended::Failed(Failure::BadTask))
        ));
    }
}
