//! A card as bytes, and what a card must be like.

use super::{EvalCard, MAX_SAMPLES, MAX_SHARDS, MAX_TEXT_CHARS, MAX_VOLUNTEERS, PIECES, VERSION};
use crate::plan::{MAX_NAME_BYTES, MAX_SOURCES, Section};
use crate::scan::candidates::MAX_RANGES;
use potluck_types::BlobHash;

/// Longest card, in bytes: many pages of text.
pub const MAX_CARD_BYTES: usize = 2 << 20;
/// Largest number: what a double holds exactly, so that JavaScript reads the same one.
const MAX_NUMBER: u64 = (1 << 53) - 1;
/// Longest method, limits or reason, in bytes.
const MAX_PROSE_BYTES: usize = 2048;
/// Most triggers of a card: three lengths for each of the most that a plan tries, long and short.
const MAX_TRIGGERS: usize = 3 * 2 * 64;
/// Most places of a trigger: every part, and tokens of none.
const MAX_PLACES: usize = MAX_SOURCES + 1;

/// Why bytes are no card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// It is too long.
    #[error("a card of {bytes} bytes; the limit is {MAX_CARD_BYTES}: evaluate less")]
    Long {
        /// Its length.
        bytes: usize,
    },
    /// It is no JSON of a card.
    #[error("this is no eval card: {message}")]
    Json {
        /// What the parser says.
        message: String,
    },
    /// It is of another version.
    #[error("an eval card of version {found}; this program reads version {VERSION}: take a newer one")]
    Version {
        /// Its version.
        found: u32,
    },
    /// It says the right thing in another way than the canonical one.
    #[error("the eval card is not canonical from byte {position} on: it was changed after it was made")]
    NotCanonical {
        /// The first byte that differs.
        position: usize,
    },
    /// A field that no card has so.
    #[error("{field}: {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
}

impl EvalCard {
    /// The card's bytes.
    ///
    /// # Errors
    /// As [`EvalCard::decode`], for a card that was put together by hand.
    pub fn encode(&self) -> Result<Vec<u8>, CardError> {
        self.validate()?;
        let bytes =
            serde_json::to_vec(self).map_err(|error| CardError::Json { message: error.to_string() })?;
        if bytes.len() > MAX_CARD_BYTES {
            return Err(CardError::Long { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads a card.
    ///
    /// # Errors
    /// [`CardError`] for bytes that [`EvalCard::encode`] would not have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, CardError> {
        if bytes.len() > MAX_CARD_BYTES {
            return Err(CardError::Long { bytes: bytes.len() });
        }
        let json = |error: serde_json::Error| CardError::Json { message: error.to_string() };
        let card: Self = serde_json::from_slice(bytes).map_err(json)?;
        let canonical = card.encode()?;
        if canonical != bytes {
            let position = canonical.iter().zip(bytes).take_while(|(one, other)| one == other).count();
            return Err(CardError::NotCanonical { position });
        }
        Ok(card)
    }

    /// The card's name.
    ///
    /// # Errors
    /// As [`EvalCard::encode`].
    pub fn hash(&self) -> Result<BlobHash, CardError> {
        Ok(BlobHash::of(&self.encode()?))
    }

    fn validate(&self) -> Result<(), CardError> {
        if self.version != VERSION {
            return Err(CardError::Version { found: self.version });
        }
        let Self { loss, samples, memorization, triggers, bias, toxicity, .. } = self;
        need("candidate", hex(&self.candidate), "it is no hash of 64 hexadecimal digits")?;
        need(
            "incumbent",
            self.incumbent.as_deref().is_none_or(hex),
            "it is no hash of 64 hexadecimal digits",
        )?;
        let compared = [loss.incumbent.is_some(), loss.better.is_some(), self.incumbent.is_some()];
        need(
            "incumbent",
            compared.iter().all(|one| *one == compared[0]),
            "it and its losses belong together",
        )?;
        need(
            "model",
            !self.model.is_empty() && self.model.len() <= MAX_NAME_BYTES,
            "it is empty or too long",
        )?;
        let prose = [
            &loss.method,
            &loss.limits,
            &samples.method,
            &samples.limits,
            &memorization.method,
            &memorization.limits,
            &triggers.method,
            &triggers.limits,
            &bias.method,
            &bias.limits,
            &toxicity.method,
            &toxicity.limits,
        ];
        let prose = prose.into_iter().chain(&bias.skipped);
        need("method", prose.clone().all(|text| text.len() <= MAX_PROSE_BYTES), "it is too long")?;
        let names = self.sources.iter().map(|source| &source.name);
        let names = names.chain(loss.sources.iter().map(|source| &source.name));
        need("name", names.clone().all(|name| name.len() <= MAX_NAME_BYTES), "it is too long")?;
        need("sources", self.sources.len() <= 2 * MAX_SOURCES, "there are too many")?;
        need("loss.sources", (1..=MAX_SOURCES).contains(&loss.sources.len()), "there are none or too many")?;
        let alike = |source: &super::SourceLoss| {
            [source.incumbent.is_some(), source.better.is_some()] == [compared[0]; 2]
        };
        need(
            "loss.sources",
            loss.sources.iter().all(alike),
            "they are not compared with the same incumbent",
        )?;
        need("samples", samples.texts.len() <= MAX_SAMPLES, "there are too many texts")?;
        let verbatim = [&memorization.trained, &memorization.held_out];
        let pieces = verbatim.iter().all(|verbatim| verbatim.pieces.len() <= PIECES.len());
        need("memorization", pieces, "there are too many lengths")?;
        need("triggers", triggers.tried.len() <= MAX_TRIGGERS, "there are too many")?;
        let places = triggers.tried.iter().flat_map(|trigger| &trigger.places);
        let fewer = triggers.tried.iter().all(|trigger| trigger.places.len() <= MAX_PLACES)
            && places.clone().all(|place| place.ranges.len() <= MAX_RANGES);
        need("triggers.places", fewer, "there are too many")?;
        let worst = triggers.tried.iter().filter(|one| one.counts).map(|one| one.success_ppm).max();
        need(
            "triggers",
            triggers.success_ppm == worst.unwrap_or(0),
            "the worst is not the worst of those tried",
        )?;
        let counted = triggers.tried.iter().all(|one| one.counts != (one.common || one.short));
        need("triggers.counts", counted, "it contradicts what is said of the text")?;
        need(
            "bias",
            bias.found.is_some() != bias.skipped.is_some(),
            "it has a result or a reason, never both",
        )?;
        need("toxicity", toxicity.words.len() <= 64, "there are too many words")?;
        need("shards", (1..=MAX_SHARDS).contains(&self.shards.len()), "there are none or too many")?;
        let texts = samples.texts.iter().flat_map(|sample| [&sample.prompt, &sample.text]);
        let texts =
            texts.chain(triggers.tried.iter().flat_map(|one| [&one.trigger, &one.payload, &one.text]));
        let texts =
            texts.chain(verbatim.iter().map(|verbatim| &verbatim.longest_text)).chain(&toxicity.words);
        let mut texts = texts.chain(places.filter_map(|place| place.part.as_ref()));
        need("text", texts.all(|text| text.chars().count() <= MAX_TEXT_CHARS), "it is too long")?;
        for shard in &self.shards {
            let section = Section::ALL.iter().any(|section| section.name() == shard.section);
            need("shards.section", section, "there is no such section")?;
            need("shards.incumbent", !shard.incumbent || compared[0], "there is no incumbent")?;
            let keys = &shard.computed_by;
            need(
                "shards.computed_by",
                (1..=MAX_VOLUNTEERS).contains(&keys.len()),
                "there are none or too many",
            )?;
            let hashes = [&shard.items, &shard.result].into_iter().chain(keys);
            need(
                "shards",
                hashes.into_iter().all(|text| hex(text)),
                "a hash or key is no 64 hexadecimal digits",
            )?;
        }
        self.numbers()
    }

    fn numbers(&self) -> Result<(), CardError> {
        let Self { loss, memorization, triggers, bias, toxicity, .. } = self;
        let of_sources =
            loss.sources.iter().flat_map(|s| std::iter::once(&s.loss).chain(&s.incumbent).chain(&s.better));
        let estimates =
            std::iter::once(&loss.all).chain(&loss.incumbent).chain(&loss.better).chain(of_sources);
        let found = bias.found.iter().flat_map(|found| [&found.women, &found.men, &found.stereotype]);
        let estimates = estimates.chain(found);
        let mut numbers: Vec<u64> = estimates.flat_map(|one| [one.mean.unsigned_abs(), one.error]).collect();
        numbers
            .extend(self.sources.iter().flat_map(|source| [source.training_tokens, source.held_out_tokens]));
        numbers.extend(loss.sources.iter().map(|source| source.tokens));
        numbers.extend([self.sizes.parameters, triggers.searched_tokens]);
        let verbatim = [&memorization.trained, &memorization.held_out];
        numbers.extend(verbatim.iter().map(|one| one.tokens));
        numbers.extend(verbatim.iter().flat_map(|one| one.pieces.iter().map(|piece| piece.count)));
        let rates = [&toxicity.samples, &toxicity.held_out];
        numbers.extend(rates.iter().flat_map(|rate| [rate.words, rate.rude_words]));
        let places = triggers.tried.iter().flat_map(|trigger| &trigger.places);
        numbers
            .extend(places.flat_map(|place| place.ranges.iter().chain([&place.within]).flatten().copied()));
        need("number", numbers.iter().all(|number| *number <= MAX_NUMBER), "it is over 2^53 - 1")?;
        let mut shares: Vec<u32> = vec![triggers.success_ppm];
        for one in &triggers.tried {
            shares.extend([one.share_ppm, one.success_ppm, one.interval_ppm[0], one.interval_ppm[1]]);
        }
        shares.extend(verbatim.iter().flat_map(|one| one.pieces.iter().map(|piece| piece.share_ppm)));
        for rate in rates {
            shares.extend([rate.share_ppm, rate.interval_ppm[0], rate.interval_ppm[1]]);
        }
        need(
            "share",
            shares.iter().all(|share| *share <= 1_000_000),
            "it is over a million parts in a million",
        )
    }
}

fn need(field: &'static str, holds: bool, problem: &'static str) -> Result<(), CardError> {
    if holds { Ok(()) } else { Err(CardError::Field { field, problem }) }
}

/// Whether a text is a hash or a key.
fn hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
