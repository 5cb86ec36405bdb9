//! What the protocol says, in the words of `potluck-train`.

use potluck_proto::{LearningRate, ModelSizes, ModelSpec, TrainTask, UpdateCodec};
use potluck_train::Model;
use potluck_train::codec::Codec;
use potluck_train::data::Spec;
use potluck_train::gpt::{GptConfig, Schedule};
use potluck_train::streak::SKETCH_BYTES;

/// Sizes of a model. They are not checked.
pub const fn config(sizes: &ModelSizes) -> GptConfig {
    GptConfig {
        vocabulary: sizes.vocabulary as usize,
        context: sizes.context as usize,
        layers: sizes.layers as usize,
        heads: sizes.heads as usize,
        width: sizes.width as usize,
        bias: sizes.bias,
    }
}

/// The same the other way round. Checked sizes fit.
pub const fn of_config(config: &GptConfig) -> ModelSizes {
    ModelSizes {
        vocabulary: config.vocabulary as u32,
        context: config.context as u32,
        layers: config.layers as u32,
        heads: config.heads as u32,
        width: config.width as u32,
        bias: config.bias,
    }
}

/// The model. Its sizes are not checked.
pub const fn model(spec: &ModelSpec) -> Model {
    match spec {
        ModelSpec::Gpt(sizes) => Model::Gpt(config(sizes)),
        ModelSpec::Digits => Model::Digits,
    }
}

/// The data set of a task.
pub const fn data(task: &TrainTask) -> Spec {
    Spec {
        vocabulary: model(&task.model).vocabulary() as u32,
        tokens: task.data.tokens,
        tree: task.data.tree,
    }
}

/// The schedule of the learning rate.
///
/// Determinism: billionths become f64, are multiplied by 1e-9, and are then rounded to f32.
pub fn schedule(rate: &LearningRate) -> Schedule {
    let of = |nano: u32| (f64::from(nano) * 1e-9) as f32;
    Schedule {
        peak: of(rate.peak_nano),
        least: of(rate.least_nano),
        warmup: rate.warmup.into(),
        steps: rate.steps.into(),
        fresh_warmup: rate.fresh_warmup.into(),
    }
}

/// Length of an encoded update, with what comes with it but for the losses.
pub fn update_bytes(codec: UpdateCodec, parameters: usize) -> u64 {
    let sketch = if codec == UpdateCodec::TopK { SKETCH_BYTES } else { 0 };
    (self::codec(codec).encoded_len(parameters) + sketch) as u64
}

/// How updates are encoded.
pub const fn codec(codec: UpdateCodec) -> Codec {
    match codec {
        UpdateCodec::F32 => Codec::F32,
        UpdateCodec::F16 => Codec::F16,
        UpdateCodec::Int8 => Codec::Int8,
        UpdateCodec::Int4 => Codec::Int4,
        UpdateCodec::TopK => Codec::TopK,
    }
}
