//! `run.toml`: what is trained, on what, and how. `defaults.toml` beside this file lists and explains every key.

mod corpus;
mod error;
mod parts;

pub use corpus::{CORPUS_ENDINGS, Corpus, MAX_FILES};
pub use error::RunFileError;
pub use parts::{
    About, Aggregation, Audit, CodecName, LearningRate, ModelChoice, Outer, Preset, Sizes, TokenizerChoice,
};

use error::Place;
use potluck_train::data::{BLOCKS_PER_ROUND, MAX_BATCH};
use serde::Deserialize;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Every key with its default, as a run file.
pub const DEFAULTS: &str = include_str!("defaults.toml");
/// Most bytes of a run file.
const MAX_BYTES: u64 = 1 << 20;
/// Most inner steps of a round: hours of a tab's work.
const MAX_STEPS: u32 = 1000;
/// Most rounds of a run.
const MAX_ROUNDS: u64 = 100_000;
/// Most volunteers that a round waits for: as many as a relay deals one to.
const MAX_VOLUNTEERS: u32 = potluck_types::limits::MAX_RUN_WORKERS;
/// Most blocks that are dealt to a volunteer for a round: a task names twice as many, since sequences reach into the next.
const MAX_BLOCKS: u32 = potluck_types::limits::MAX_TASK_BLOCKS as u32 / 2;

/// A run file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RunFile {
    /// Text files and folders, as written.
    #[serde(deserialize_with = "parts::one_or_more")]
    pub corpus: Vec<PathBuf>,
    /// Tokenizer.
    #[serde(default)]
    pub tokenizer: TokenizerChoice,
    /// Model.
    #[serde(default)]
    pub model: ModelChoice,
    /// Name of the model that it trains: what it comes to may become a version of it.
    #[serde(default)]
    pub model_name: Option<String>,
    /// Proposal that allowed it.
    #[serde(default)]
    pub proposal: Option<String>,
    /// What is said about the corpus.
    #[serde(default)]
    pub data: Option<About>,
    /// Inner steps of a round.
    #[serde(default = "default_steps")]
    pub steps: u32,
    /// Rounds.
    #[serde(default = "default_rounds")]
    pub rounds: u64,
    /// Volunteers that a round waits for.
    #[serde(default = "default_volunteers")]
    pub volunteers: u32,
    /// Sequences of a batch.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Blocks of a volunteer's round; 0 for the whole corpus.
    #[serde(default = "default_blocks")]
    pub blocks: u32,
    /// Seed of parameters and data order.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Codec of updates.
    #[serde(default)]
    pub codec: CodecName,
    /// Inner learning rate.
    #[serde(default)]
    pub learning_rate: LearningRate,
    /// Outer optimizer.
    #[serde(default)]
    pub outer: Outer,
    /// Audit policy.
    #[serde(default)]
    pub audit: Audit,
    /// Aggregation policy.
    #[serde(default)]
    pub aggregation: Aggregation,
}

const fn default_steps() -> u32 {
    10
}
const fn default_rounds() -> u64 {
    60
}
const fn default_volunteers() -> u32 {
    4
}
const fn default_batch() -> usize {
    8
}
const fn default_blocks() -> u32 {
    BLOCKS_PER_ROUND
}
const fn default_seed() -> u64 {
    1
}

impl RunFile {
    /// Reads a run file. Paths in it become relative to its folder.
    ///
    /// # Errors
    /// [`RunFileError::File`], or [`RunFileError::Line`] with line, column and what to do.
    pub fn read(path: &Path) -> Result<Self, RunFileError> {
        let mut bytes = Vec::new();
        let failed = |cause| RunFileError::File { path: path.to_owned(), cause };
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(RunFileError::TooLong { path: path.to_owned(), most: MAX_BYTES });
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
            Place::at(&before, before.len()).refuse(path, "a byte is not UTF-8", "save the file as UTF-8")
        })?;
        let mut run = Self::parse(path, &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in &mut run.corpus {
            *path = folder.join(&path);
        }
        if let TokenizerChoice::File(path) = &mut run.tokenizer {
            *path = folder.join(&path);
        }
        if let ModelChoice::Folder(path) = &mut run.model {
            *path = folder.join(&path);
        }
        Ok(run)
    }

    /// Reads the text of a run file; `path` is for messages.
    ///
    /// # Errors
    /// [`RunFileError::Line`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, RunFileError> {
        let run: Self = toml::from_str(text).map_err(|error| {
            let place = Place::at(text, error.span().map_or(text.len(), |span| span.start));
            let hint = if error.message().contains("missing field `corpus`") {
                "write corpus = \"some.txt\" at the top"
            } else {
                "the run file's keys and defaults are in `potluck submit train --help` and the documentation"
            };
            place.refuse(path, error.message(), hint)
        })?;
        run.check(path, text)?;
        Ok(run)
    }

    /// Refuses a value that is right in itself, at its place in the file.
    pub(crate) fn refuse(path: &Path, keys: &[&str], what: &str, hint: &str) -> RunFileError {
        // A file that is gone by now has no places.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Place::of(&text, keys).refuse(path, what, hint)
    }

    fn check(&self, path: &Path, text: &str) -> Result<(), RunFileError> {
        let refuse = |keys: &[&str], what: &str, hint: &str| {
            let place = Place::of(text, keys);
            Err(place.refuse(path, &format!("{} {what}", keys.join(".")), hint))
        };
        let counts = [
            ("steps", u64::from(self.steps), 1, u64::from(MAX_STEPS)),
            ("rounds", self.rounds, 1, MAX_ROUNDS),
            ("volunteers", u64::from(self.volunteers), 1, u64::from(MAX_VOLUNTEERS)),
            ("batch", self.batch as u64, 1, MAX_BATCH as u64),
            ("blocks", u64::from(self.blocks), 0, u64::from(MAX_BLOCKS)),
        ];
        for (key, value, least, most) in counts {
            if !(least..=most).contains(&value) {
                let what = format!("= {value} is outside {least}..={most}");
                return refuse(&[key], &what, "choose a value within the range, or leave the line out");
            }
        }
        let (rate, outer, audit, trim) = (&self.learning_rate, &self.outer, &self.audit, &self.aggregation);
        // Key, value, least, most; the least rate must be greater than zero by far more than rounding.
        let shares: [(&[&str], f64, f64, f64); 8] = [
            (&["learning-rate", "peak"], f64::from(rate.peak), 1e-8, 1.0),
            (&["learning-rate", "least"], f64::from(rate.least), 0.0, f64::from(rate.peak)),
            (&["outer", "rate"], f64::from(outer.rate), 1e-3, 10.0),
            (&["outer", "momentum"], f64::from(outer.momentum), 0.0, 0.999),
            (&["audit", "start"], audit.start, 0.0, 1.0),
            (&["audit", "decay"], audit.decay, 0.0, 1.0),
            (&["audit", "least"], audit.least, 0.0, 1.0),
            (&["aggregation", "trim"], trim.trim, 0.0, 0.49),
        ];
        for (keys, value, least, most) in shares {
            // NaN is outside of every range.
            if !(least..=most).contains(&value) {
                let what = format!("= {value} is outside {least}..={most}");
                return refuse(keys, &what, "choose a value within the range, or leave the line out");
            }
        }
        if trim.median_from > trim.trim_from {
            let what = format!("= {} is above trim-from = {}", trim.median_from, trim.trim_from);
            return refuse(&["aggregation", "median-from"], &what, "let trim-from be the greater of both");
        }
        if let ModelChoice::Sizes(sizes) = &self.model {
            // The vocabulary is not known yet: any that is allowed shows whether the rest fits.
            if let Err(error) = sizes.config(2).check() {
                let place = Place::of(text, &["model"]);
                return Err(place.refuse(
                    path,
                    &format!("model: {error}"),
                    "take a preset, or smaller sizes",
                ));
            }
        }
        Ok(())
    }
}

impl Default for RunFile {
    /// The defaults, without a corpus.
    fn default() -> Self {
        Self {
            corpus: Vec::new(),
            tokenizer: TokenizerChoice::default(),
            model: ModelChoice::default(),
            model_name: None,
            proposal: None,
            data: None,
            steps: default_steps(),
            rounds: default_rounds(),
            volunteers: default_volunteers(),
            batch: default_batch(),
            blocks: default_blocks(),
            seed: default_seed(),
            codec: CodecName::default(),
            learning_rate: LearningRate::default(),
            outer: Outer::default(),
            audit: Audit::default(),
            aggregation: Aggregation::default(),
        }
    }
}

#[cfg(test)]
mod tests;
