//! Parts of a run file, and how they are written.

use potluck_train::gpt::{FRESH_WARMUP, GptConfig};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::path::PathBuf;

/// A text or a list of texts, not empty.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    struct OneOrMore;
    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<PathBuf>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path or a list of paths")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.into()])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }
    let paths = from.deserialize_any(OneOrMore)?;
    if paths.is_empty() || paths.iter().any(|path| path.as_os_str().is_empty()) {
        return Err(Error::custom("the corpus names no file"));
    }
    Ok(paths)
}

/// Which tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TokenizerChoice {
    /// The characters of the corpus.
    #[default]
    Characters,
    /// Bytes.
    Bytes,
    /// A `tokenizer.json`.
    File(PathBuf),
}

impl<'de> Deserialize<'de> for TokenizerChoice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.as_str() {
            "characters" => Ok(Self::Characters),
            "bytes" => Ok(Self::Bytes),
            path if path.to_lowercase().ends_with(".json") => Ok(Self::File(text.into())),
            _ => Err(Error::custom(format!(
                "unknown tokenizer {text:?}, expected \"characters\", \"bytes\" or the path of a tokenizer.json"
            ))),
        }
    }
}

/// A named size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// 156,160 parameters with 65 characters.
    #[default]
    Tiny,
    /// 804,096.
    Mini,
    /// 10.7 M.
    Small,
}

/// A preset, and what differs from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Where to start from.
    #[serde(default)]
    pub preset: Preset,
    /// Positions of context.
    pub context: Option<usize>,
    /// Blocks.
    pub layers: Option<usize>,
    /// Heads.
    pub heads: Option<usize>,
    /// Width.
    pub width: Option<usize>,
    /// Whether there are biases.
    pub bias: Option<bool>,
}

impl Sizes {
    /// The model's sizes with a vocabulary.
    pub fn config(&self, vocabulary: usize) -> GptConfig {
        let preset = match self.preset {
            Preset::Tiny => GptConfig::tiny(vocabulary),
            Preset::Mini => GptConfig::mini(vocabulary),
            Preset::Small => GptConfig::small(vocabulary),
        };
        GptConfig {
            vocabulary,
            context: self.context.unwrap_or(preset.context),
            layers: self.layers.unwrap_or(preset.layers),
            heads: self.heads.unwrap_or(preset.heads),
            width: self.width.unwrap_or(preset.width),
            bias: self.bias.unwrap_or(preset.bias),
        }
    }
}

/// Name of the classifier.
const DIGITS: &str = "digits";

/// Which model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelChoice {
    /// A fresh one.
    Sizes(Sizes),
    /// One from a folder, with its tokenizer.
    Folder(PathBuf),
    /// The classifier of handwritten digits.
    Digits,
}

impl Default for ModelChoice {
    fn default() -> Self {
        Self::Sizes(Sizes::default())
    }
}

impl<'de> Deserialize<'de> for ModelChoice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Choice;
        impl<'de> Visitor<'de> for Choice {
            type Value = ModelChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"tiny\", \"mini\", \"small\", \"digits\" or a table of sizes")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                if text == DIGITS {
                    return Ok(ModelChoice::Digits);
                }
                let preset = Preset::deserialize(serde::de::value::StrDeserializer::new(text))?;
                Ok(ModelChoice::Sizes(Sizes { preset, ..Sizes::default() }))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let table = ModelTable::deserialize(MapAccessDeserializer::new(map))?;
                let sizes = table.sizes();
                match (table.from, sizes) {
                    (None, sizes) => Ok(ModelChoice::Sizes(sizes)),
                    (Some(folder), sizes) if sizes == Sizes::default() && table.preset.is_none() => {
                        Ok(ModelChoice::Folder(folder))
                    }
                    (Some(_), _) => Err(Error::custom("a model with `from` has the sizes of that folder")),
                }
            }
        }
        from.deserialize_any(Choice)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    from: Option<PathBuf>,
    preset: Option<Preset>,
    context: Option<usize>,
    layers: Option<usize>,
    heads: Option<usize>,
    width: Option<usize>,
    bias: Option<bool>,
}

impl ModelTable {
    fn sizes(&self) -> Sizes {
        let Self { preset, context, layers, heads, width, bias, .. } = *self;
        Sizes { preset: preset.unwrap_or_default(), context, layers, heads, width, bias }
    }
}

/// What is said about the corpus, in the log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct About {
    /// What people call it.
    pub name: String,
    /// Where it is from.
    pub source: String,
    /// Under which license.
    pub license: String,
    /// Public key of who proposed it.
    pub proposed_by: Option<String>,
}

/// Codec of updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodecName {
    /// As they are.
    F32,
    /// Half precision.
    F16,
    /// Eight bits.
    Int8,
    /// Four bits: robust.
    #[default]
    Int4,
    /// The largest of each 4096: sparse.
    TopK,
    /// Four bits, or the largest of each 4096 from credible volunteers with slow links.
    Auto,
}

/// Inner learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct LearningRate {
    /// After the warm-up.
    pub peak: f32,
    /// At the end.
    pub least: f32,
    /// Steps of warm-up.
    pub warmup: u32,
    /// Steps of warm-up whenever AdamW begins anew, half of a round at most.
    pub fresh_warmup: u32,
}

impl Default for LearningRate {
    fn default() -> Self {
        Self { peak: 2e-3, least: 1e-4, warmup: 100, fresh_warmup: FRESH_WARMUP }
    }
}

/// Outer optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outer {
    /// Learning rate.
    pub rate: f32,
    /// Nesterov's momentum.
    pub momentum: f32,
}

impl Default for Outer {
    fn default() -> Self {
        Self { rate: 0.7, momentum: 0.9 }
    }
}

/// Audit policy.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Audit {
    /// Rounds of a new volunteer that are all replayed.
    pub first_rounds: u32,
    /// Share after these.
    pub start: f64,
    /// Factor for each replay that passed.
    pub decay: f64,
    /// Least share.
    pub least: f64,
}

impl Default for Audit {
    fn default() -> Self {
        Self { first_rounds: 5, start: 0.5, decay: 0.8, least: 0.05 }
    }
}

/// Aggregation policy.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Aggregation {
    /// Share left out at either end.
    pub trim: f64,
    /// Volunteers from which on this is done.
    pub trim_from: usize,
    /// Volunteers from which on the median is taken.
    pub median_from: usize,
}

impl Default for Aggregation {
    fn default() -> Self {
        Self { trim: 0.2, trim_from: 6, median_from: 4 }
    }
}
