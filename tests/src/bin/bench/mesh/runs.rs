//! Training runs whose first checkpoint is what volunteers fetch.

use anyhow::{Context, Result, ensure};
use potluck_cli::client::runs::Model;
use potluck_proto::ModelSizes;
use potluck_rounds::sizes;
use potluck_tests::Api;
use potluck_train::data::DataSet;
use potluck_types::BlobHash;
use serde_json::json;

const VOCABULARY: u32 = 256;
const CONTEXT: u32 = 64;
/// Sequences that a worker's round has in all its steps: some seconds of work, so that nobody is done before the run is
/// given up, and few enough for a slow volunteer to be let into the round.
const SEQUENCES: u32 = 64;
/// Tokens to train on: eight blocks, one for each worker.
const TRAIN_TOKENS: u32 = 8 * 16_384;
const VALIDATION_TOKENS: u32 = 16_384;

/// 7.9 million parameters, 16 MB as f16. The updates of eight workers just fit in the relay's memory for updates
/// (32 MiB), without which it would not let all of them begin.
const MODEL: ModelSizes =
    ModelSizes { vocabulary: VOCABULARY, context: CONTEXT, layers: 5, heads: 4, width: 360, bias: false };

/// Bytes of the checkpoint: parameters as f16.
pub(crate) fn checkpoint_bytes() -> u64 {
    2 * sizes::model(&MODEL.into()).parameters() as u64
}

/// A run that is asked for. Runs of one seed have the same checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) seed: u8,
    /// Sequences of a batch: more of them need more memory.
    pub(crate) sequences: u32,
    /// Fewest and most workers.
    pub(crate) workers: [u32; 2],
}

/// The relay's data sets, uploaded once.
pub(crate) struct Data {
    train: String,
    validation: String,
}

impl Data {
    /// Uploads tokens without any sense: nobody learns from them.
    pub(crate) fn upload(api: &Api) -> Result<Self> {
        Ok(Self { train: upload(api, TRAIN_TOKENS)?, validation: upload(api, VALIDATION_TOKENS)? })
    }

    /// Creates a run and returns its id. Its tasks are ready, or will be in a moment.
    pub(crate) fn begin(&self, api: &Api, wanted: &Wanted) -> Result<String> {
        let [min_workers, max_workers] = wanted.workers;
        let request = json!({
            "name": "mesh", "model": Model::Gpt(MODEL), "train": self.train,
            "validation": self.validation, "tokenizer": "{}",
            "seed": BlobHash([wanted.seed; 32]).to_string(), "rounds": 1, "inner_steps": SEQUENCES / wanted.sequences,
            "sequences": wanted.sequences, "length": CONTEXT,
            "rate": { "peak": 1e-4, "least": 1e-5, "warmup": 5 }, "codec": "int4", "blocks": 1,
            "min_workers": min_workers, "max_workers": max_workers, "audit": "none",
        });
        let headers = [("content-type", "application/json")];
        let answer = api.try_send("POST", "/api/v1/runs", &headers, request.to_string().as_bytes())?;
        ensure!(answer.status < 300, "the relay refuses the run: {}", String::from_utf8_lossy(&answer.body));
        Ok(answer.text("id"))
    }
}

fn upload(api: &Api, tokens: u32) -> Result<String> {
    // Knuth's multiplier; the upper bits are the less regular ones.
    let tokens: Vec<u32> = (0..tokens).map(|at| at.wrapping_mul(2_654_435_761) >> 24).collect();
    let set = DataSet::new(&tokens, VOCABULARY as usize).context("the data set")?;
    let mut bytes = Vec::new();
    for index in 0..set.spec().blocks() {
        bytes.extend_from_slice(set.block(index)?);
    }
    let answer = api.try_send("POST", &format!("/api/v1/datasets?vocabulary={VOCABULARY}"), &[], &bytes)?;
    ensure!(answer.status == 201, "the relay refuses the data: {}", String::from_utf8_lossy(&answer.body));
    Ok(answer.text("id"))
}

/// Gives a run up.
pub(crate) fn cancel(api: &Api, id: &str) -> Result<()> {
    let answer = api.try_send("DELETE", &format!("/api/v1/runs/{id}"), &[], &[])?;
    ensure!(answer.status == 200, "the run cannot be canceled: {}", String::from_utf8_lossy(&answer.body));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{egress, throughput};
    use super::*;
    use potluck_proto::UpdateCodec;
    use potluck_types::limits::{MAX_CHECKPOINT_BYTES, MAX_RESULTS_IN_MEMORY_BYTES};

    /// What a worker needs for a task, as the relay counts it.
    fn needs(sequences: u32) -> f64 {
        let model = sizes::model(&MODEL.into());
        let parameters = model.parameters() as u64;
        let update = sizes::update_bytes(UpdateCodec::Int4, parameters as usize);
        let kept_steps = potluck_train::outer::OuterParams::default().checkpoint_every.get() - 1;
        let vectors = 3 * 4 * parameters;
        let inputs = checkpoint_bytes() + kept_steps * parameters;
        (model.step_bytes(sequences as usize, CONTEXT as usize) + vectors + update + inputs) as f64
    }

    #[test]
    fn the_checkpoint_can_be_sent_and_eight_updates_fit() {
        sizes::model(&MODEL.into()).check().unwrap();
        assert!(checkpoint_bytes() <= MAX_CHECKPOINT_BYTES as u64);
        let update = sizes::update_bytes(UpdateCodec::Int4, checkpoint_bytes() as usize / 2);
        let all = 8 * (update + 4 * u64::from(SEQUENCES));
        assert!(all <= MAX_RESULTS_IN_MEMORY_BYTES as u64 / 2, "{all}");
    }

    #[test]
    fn tabs_offer_what_the_runs_need() {
        // A sixteenth of what the device has, with a twentieth of room for what is not counted here.
        let offers = |gib: f64| gib * f64::from(1 << 30) / 16.0;
        let [small, large] = [needs(throughput::SMALL), needs(throughput::LARGE)];
        assert!(1.05 * small < offers(throughput::HOLDER_GIB), "{small}");
        assert!(offers(throughput::HOLDER_GIB) < large, "{large}");
        assert!(1.02 * large < offers(throughput::SEEKER_GIB), "{large}");
        assert!(1.05 * needs(1) < offers(egress::MEMORY_GIB));
    }
}
