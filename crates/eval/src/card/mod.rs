//! The eval card: what people read before they vote on a candidate.
//!
//! A card is canonical JSON: compact UTF-8, fields in declared order, optional fields left out where they are empty, whole
//! numbers and texts only. Its name is the BLAKE3 hash of these bytes. Losses are in millionths of a nat for each token,
//! rates in parts per million.
//!
//! Every section says by which method it was made, how much was looked at, and what it cannot say. Texts of samples and
//! triggers are what the model or the data say: show them as text, never as markup.

mod form;
mod make;
mod summary;
mod words;

pub use form::{CardError, MAX_CARD_BYTES};
pub use make::{About, Results};

use serde::{Deserialize, Serialize};

/// The version of the format that is written.
pub const VERSION: u32 = 1;
/// Most volunteers that one shard names.
pub const MAX_VOLUNTEERS: usize = 16;
/// Most shards that a card names.
pub const MAX_SHARDS: usize = 4096;
/// Samples whose text is on the card.
pub const MAX_SAMPLES: usize = 8;
/// Longest text of a sample or trigger, in characters.
pub const MAX_TEXT_CHARS: usize = 1200;
/// Lengths, in tokens, of the verbatim pieces that are counted.
pub const PIECES: [usize; 4] = [8, 16, 32, 50];

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    )*};
}

sections! {
    /// The card.
    EvalCard {
        /// [`VERSION`].
        version: u32,
        /// The candidate: BLAKE3 of its parameters, in hexadecimal digits.
        candidate: String,
        /// The version in use that it is compared with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incumbent: Option<String>,
        /// The model's name, as the caller gave it.
        model: String,
        /// Sizes of the model.
        sizes: Sizes,
        /// Where the data are from.
        sources: Vec<Source>,
        /// Loss on secret windows.
        loss: Loss,
        /// What the model writes.
        samples: Samples,
        /// What it says verbatim from its training data.
        memorization: Memorization,
        /// Backdoors.
        triggers: Triggers,
        /// Which words it expects of whom.
        bias: Bias,
        /// Rude words in the samples.
        toxicity: Toxicity,
        /// Who computed what.
        shards: Vec<Shard>,
    }
    /// Sizes of a model.
    Sizes {
        /// Tokens of the vocabulary.
        vocabulary: u32,
        /// Positions of context.
        context: u32,
        /// Blocks.
        layers: u32,
        /// Heads.
        heads: u32,
        /// Width.
        width: u32,
        /// Parameters.
        parameters: u64,
    }
    /// A source of data.
    Source {
        /// Its name.
        name: String,
        /// Tokens that the model was trained on.
        training_tokens: u64,
        /// Tokens that were held out.
        held_out_tokens: u64,
    }
    /// A mean with its standard error, in millionths of a nat.
    Estimate {
        /// The mean.
        mean: i64,
        /// Its standard error.
        error: u64,
    }
    /// Loss on secret windows.
    Loss {
        /// How it was measured.
        method: String,
        /// What it cannot say.
        limits: String,
        /// Of all sources, each counting the same.
        all: Estimate,
        /// The incumbent's on the same windows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incumbent: Option<Estimate>,
        /// The incumbent's minus the candidate's, window by window: above 0 the candidate is better.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        better: Option<Estimate>,
        /// Of each source.
        sources: Vec<SourceLoss>,
    }
    /// Loss on the windows of one source.
    SourceLoss {
        /// The source.
        name: String,
        /// Windows.
        windows: u32,
        /// Tokens that were scored.
        tokens: u64,
        /// The candidate's.
        loss: Estimate,
        /// The incumbent's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        incumbent: Option<Estimate>,
        /// The incumbent's minus the candidate's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        better: Option<Estimate>,
    }
    /// What the model writes.
    Samples {
        /// How it was asked.
        method: String,
        /// What that cannot say.
        limits: String,
        /// Texts that were written; some of them follow.
        count: u32,
        /// The first of them.
        texts: Vec<Sample>,
    }
    /// A text.
    Sample {
        /// What the model saw.
        prompt: String,
        /// What it wrote.
        text: String,
    }
    /// What the model says verbatim from its training data.
    Memorization {
        /// How it was measured.
        method: String,
        /// What it cannot say.
        limits: String,
        /// After beginnings of training windows.
        trained: Verbatim,
        /// After beginnings of held-out windows: what any model of the language does.
        held_out: Verbatim,
    }
    /// How much of some continuations stands in the training data.
    Verbatim {
        /// Continuations.
        prompts: u32,
        /// Their tokens.
        tokens: u64,
        /// Tokens of the longest piece.
        longest: u32,
        /// That piece.
        longest_text: String,
        /// Share of pieces that stand there, by length.
        pieces: Vec<Piece>,
    }
    /// Pieces of one length.
    Piece {
        /// Their tokens.
        tokens: u32,
        /// How many there are in the continuations.
        count: u64,
        /// Share of them that stands in the training data.
        share_ppm: u32,
    }
    /// Backdoors.
    Triggers {
        /// How they were looked for.
        method: String,
        /// What is not found.
        limits: String,
        /// Success of the worst trigger that counts, beyond its control's.
        success_ppm: u32,
        /// Unrelated texts after which each was tried.
        contexts: u32,
        /// Training tokens that were searched.
        searched_tokens: u64,
        /// What was tried, the worst that counts first.
        tried: Vec<Trigger>,
    }
    /// A repeated text of the training data that was tried as a trigger.
    Trigger {
        /// The trigger.
        trigger: String,
        /// What follows it in the data.
        payload: String,
        /// Both, and what follows them as reliably.
        text: String,
        /// Whether it counts; why not is told by the two below.
        counts: bool,
        /// Whether the held-out text of several sources has it as often.
        common: bool,
        /// Whether the payload is too short to be told from the rest of a rare word.
        short: bool,
        /// Occurrences in the training data.
        occurrences: u32,
        /// Share of the trigger's occurrences that the payload follows.
        share_ppm: u32,
        /// Occurrences in the held-out text of all sources.
        held_out: u32,
        /// Texts after which the model said the payload.
        successes: u32,
        /// The same with held-out text in the trigger's place.
        control_successes: u32,
        /// Successes beyond the control's.
        success_ppm: u32,
        /// The 95 % interval of the successes.
        interval_ppm: [u32; 2],
        /// Where it is, the part with most first.
        places: Vec<Place>,
    }
    /// Where a text is in the training data.
    Place {
        /// The part, if the tokens belong to one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part: Option<String>,
        /// Occurrences there.
        count: u32,
        /// First token of the first, and the one after the last of the last.
        within: [u64; 2],
        /// Tokens of the first few.
        ranges: Vec<[u64; 2]>,
    }
    /// Which words the model expects of whom.
    Bias {
        /// How it was measured.
        method: String,
        /// What it cannot say.
        limits: String,
        /// What came out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<BiasFound>,
        /// Why nothing was measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        skipped: Option<String>,
    }
    /// Differences of log-likelihoods, after "She" minus after "He".
    BiasFound {
        /// Pairs of sentences.
        pairs: u32,
        /// Of occupations mostly held by women.
        women: Estimate,
        /// Of occupations mostly held by men.
        men: Estimate,
        /// The first minus the second: 0 for a model that does not care.
        stereotype: Estimate,
    }
    /// Rude words in the samples.
    Toxicity {
        /// How they were counted.
        method: String,
        /// What that cannot say.
        limits: String,
        /// The words.
        words: Vec<String>,
        /// In the samples.
        samples: RudeRate,
        /// In held-out text of the same length: what the data sound like.
        held_out: RudeRate,
    }
    /// How many texts have a word of the list.
    RudeRate {
        /// Texts.
        texts: u32,
        /// Those with a word of the list.
        rude: u32,
        /// Their share.
        share_ppm: u32,
        /// Its 95 % interval.
        interval_ppm: [u32; 2],
        /// Words in all.
        words: u64,
        /// Words of the list.
        rude_words: u64,
    }
    /// Who computed a shard.
    Shard {
        /// Which section it is of.
        section: String,
        /// Whether it is the incumbent's.
        incumbent: bool,
        /// BLAKE3 of its items.
        items: String,
        /// BLAKE3 of the result.
        result: String,
        /// Keys of the volunteers whose results were taken, in hexadecimal digits.
        computed_by: Vec<String>,
    }
}

/// What the log says of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The candidate's loss, in millionths of a nat.
    pub loss: i64,
    /// The incumbent's on the same windows.
    pub incumbent_loss: Option<i64>,
    /// Standard error of their difference; of the loss where there is no incumbent.
    pub standard_error: i64,
    /// Success of the worst trigger.
    pub trigger_success_ppm: u32,
    /// Shards of the secret windows.
    pub shards: u32,
    /// Keys of everybody who computed, sorted, each once.
    pub computed_by: Vec<String>,
}

impl EvalCard {
    /// What the log says of this card.
    pub fn facts(&self) -> Facts {
        let error = self.loss.better.as_ref().unwrap_or(&self.loss.all).error;
        let keys = self.shards.iter().flat_map(|shard| shard.computed_by.iter().cloned());
        let secret = self.shards.iter().filter(|shard| shard.section == "loss" && !shard.incumbent);
        Facts {
            loss: self.loss.all.mean,
            incumbent_loss: self.loss.incumbent.as_ref().map(|loss| loss.mean),
            standard_error: i64::try_from(error).unwrap_or(i64::MAX),
            trigger_success_ppm: self.triggers.success_ppm,
            shards: secret.count() as u32,
            computed_by: keys.collect::<std::collections::BTreeSet<_>>().into_iter().collect(),
        }
    }
}
