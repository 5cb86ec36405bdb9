//! Repeated texts of the training data that may be a trigger and its payload.

use super::{
    MAX_SCANNED, MIN_OCCURRENCES, MIN_SHARE_PPM, PAYLOAD_BYTES, SHOWN_BYTES, STRETCH, TRIGGER_BYTES, hash,
};
use crate::stats::ppm;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

/// Most repeated windows that are looked at for each length: the ones that occur most often.
const MAX_REPEATED: usize = 1 << 16;
/// Most ranges that are named of a candidate.
pub const MAX_RANGES: usize = 8;
/// Longest text that is shown of a candidate, in tokens.
const MAX_SHOWN: usize = 160;

/// A part of the training tokens: a source that people can quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is called.
    pub name: String,
    /// Its tokens.
    pub range: Range<usize>,
}

/// Lengths in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lengths {
    /// Of triggers, ascending.
    pub triggers: Vec<usize>,
    /// Of a payload that counts.
    pub payload: usize,
    /// Of a payload that is shown.
    pub shown: usize,
}

impl Lengths {
    /// For a tokenizer whose tokens have so many bytes on average.
    pub fn new(bytes_per_token: f64) -> Self {
        let tokens = |bytes: usize| (bytes as f64 / bytes_per_token.max(1e-3)).ceil().max(1.0) as usize;
        let mut triggers = TRIGGER_BYTES.map(tokens).to_vec();
        triggers.dedup();
        Self { triggers, payload: tokens(PAYLOAD_BYTES), shown: tokens(SHOWN_BYTES) }
    }
}

/// Occurrences of a candidate in one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrences {
    /// Number of the part; none where the tokens belong to no part.
    pub part: Option<usize>,
    /// How many.
    pub count: usize,
    /// Tokens of the first of them.
    pub ranges: Vec<Range<usize>>,
    /// From the first to the last.
    pub within: Range<usize>,
}

/// A text that may be a trigger with its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The trigger.
    pub trigger: Vec<u32>,
    /// What follows it.
    pub payload: Vec<u32>,
    /// Trigger and payload, and what follows them as reliably.
    pub text: Vec<u32>,
    /// Occurrences in what was searched of the training tokens.
    pub occurrences: usize,
    /// Share of the trigger's occurrences that the payload follows.
    pub share_ppm: u32,
    /// Where they are, the part with most first.
    pub places: Vec<Occurrences>,
    /// Occurrences in the held-out tokens of each source.
    pub held_out: Vec<usize>,
    /// Whether at least two sources have it about as often in their held-out tokens: then it does not count.
    pub common: bool,
    /// Whether the payload is long enough to count.
    pub long: bool,
}

impl Candidate {
    /// Whether the success of this candidate counts.
    pub const fn counts(&self) -> bool {
        self.long && !self.common
    }
}

/// Texts of the training tokens that may be triggers with payloads, most frequent first: at most `most` texts that count,
/// `shown` that are common and `shown` whose payload is short, with one candidate for each length of trigger.
///
/// # Determinism
/// A function of the arguments: the same everywhere.
pub fn candidates(
    training: &[u32],
    parts: &[Part],
    held_out: &[&[u32]],
    lengths: &Lengths,
    most: usize,
    shown: usize,
) -> Vec<Candidate> {
    let shortest = lengths.triggers.first().copied().unwrap_or(1);
    let tokens = stretches(training);
    let mut scan =
        Scan { tokens, parts, held_out, shortest, found: Vec::new(), taken: BTreeMap::new(), texts: 0 };
    // The long ones first: a shorter piece of the same text says nothing more.
    for (payload, long) in [(lengths.payload, true), (lengths.shown, false)] {
        let mut budget = Budget { counted: if long { most } else { 0 }, shown, first: scan.texts };
        for trigger in &lengths.triggers {
            scan.collect(*trigger, payload, long, &mut budget);
        }
    }
    scan.found.sort_by_key(|found| (!found.counts(), Reverse(found.occurrences)));
    scan.found
}

/// Texts that may still be taken, of one length of payload.
struct Budget {
    counted: usize,
    shown: usize,
    /// Number of the first text of this length.
    first: usize,
}

/// Tokens that are searched, with the place of each stretch.
struct Stretches {
    tokens: Vec<u32>,
    /// First token of each stretch here, and there.
    places: Vec<(usize, usize)>,
}

fn stretches(training: &[u32]) -> Stretches {
    if training.len() <= MAX_SCANNED {
        return Stretches { tokens: training.to_vec(), places: vec![(0, 0)] };
    }
    let count = MAX_SCANNED / STRETCH;
    let last = training.len() - STRETCH;
    let mut out = Stretches { tokens: Vec::with_capacity(MAX_SCANNED), places: Vec::with_capacity(count) };
    for stretch in 0..count {
        let start = (last as u128 * stretch as u128 / (count - 1) as u128) as usize;
        out.places.push((out.tokens.len(), start));
        out.tokens.extend(&training[start..start + STRETCH]);
    }
    out
}

impl Stretches {
    /// Where a token lies in the training tokens.
    fn origin(&self, at: usize) -> usize {
        let next = self.places.partition_point(|(here, _)| *here <= at);
        let (here, there) = self.places[next.saturating_sub(1)];
        there + (at - here)
    }

    /// Whether a window lies within one stretch.
    fn within(&self, at: usize, length: usize) -> bool {
        self.places.len() == 1 || at % STRETCH + length <= STRETCH
    }
}

struct Scan<'a> {
    tokens: Stretches,
    parts: &'a [Part],
    held_out: &'a [&'a [u32]],
    /// Tokens of the shortest triggers.
    shortest: usize,
    found: Vec<Candidate>,
    /// Places of what was found: first token, the one after the last, and the number of the text that it belongs to.
    taken: BTreeMap<usize, (usize, usize)>,
    /// Texts so far.
    texts: usize,
}

/// A window that occurs several times.
struct Repeated {
    /// Its first tokens, ascending, none within another.
    places: Vec<usize>,
}

impl Scan<'_> {
    /// Adds the candidates of one length of trigger. One that overlaps a text of the same length of payload is one more
    /// trigger of that text, at most one of each length.
    fn collect(&mut self, trigger: usize, payload: usize, long: bool, budget: &mut Budget) {
        let length = trigger + payload;
        let mut repeated = self.repeated(length);
        let all = self.counts(trigger, &repeated);
        let end = trigger - trigger.min(self.shortest);
        let common = self.common(end, length, &repeated);
        repeated.sort_by_key(|repeated| (Reverse(repeated.places.len()), repeated.places[0]));
        let mut used = BTreeSet::new();
        for Repeated { places } in repeated {
            let first = places[0];
            let window = &self.tokens.tokens[first..first + length];
            let total = all.get(&hash::of(&window[..trigger])).copied().unwrap_or(places.len());
            let share_ppm = ppm(places.len(), total);
            if share_ppm < MIN_SHARE_PPM || periodic(window, trigger) {
                continue;
            }
            let common = common.contains(&hash::of(&window[end..]));
            let around = self.taken.range(first.saturating_sub(MAX_SHOWN + length)..first + length);
            let near: BTreeSet<usize> =
                around.filter(|(_, (end, _))| *end > first).map(|(_, (_, text))| *text).collect();
            if near.iter().any(|text| *text < budget.first || used.contains(text)) {
                continue;
            }
            let text = if let Some(text) = near.first() {
                *text
            } else {
                let left = if long && !common { &mut budget.counted } else { &mut budget.shown };
                if *left == 0 {
                    continue;
                }
                *left -= 1;
                self.texts += 1;
                self.texts - 1
            };
            used.insert(text);
            let candidate = self.candidate(&places, trigger, length, share_ppm, (common, long));
            let end = candidate.text.len();
            self.taken.extend(places.iter().map(|place| (*place, (place + end, text))));
            self.found.push(candidate);
        }
    }

    /// Hashes of those windows' ends, from `start` to `length`, that are common text. If the end of a trigger brings the
    /// payload in common text, the rest of the trigger does not matter.
    fn common(&self, start: usize, length: usize, repeated: &[Repeated]) -> BTreeSet<u64> {
        let end =
            |one: &Repeated| hash::of(&self.tokens.tokens[one.places[0] + start..one.places[0] + length]);
        let mut counts: HashMap<u64, Vec<u32>> =
            repeated.iter().map(|one| (end(one), vec![0; 1 + self.held_out.len()])).collect();
        let sets: Vec<&[u32]> = std::iter::once(&self.tokens.tokens[..])
            .chain(self.held_out.iter().map(|set| searched(set)))
            .collect();
        for (number, set) in sets.iter().enumerate() {
            hash::each(set, length - start, |_, hash| {
                if let Some(count) = counts.get_mut(&hash).and_then(|counts| counts.get_mut(number)) {
                    *count += 1;
                }
            });
        }
        let is_common = |counts: &[u32]| {
            let rates =
                counts.iter().zip(&sets).map(|(count, set)| f64::from(*count) / set.len().max(1) as f64);
            let rates: Vec<f64> = rates.collect();
            // As often as in the training tokens, give or take a half.
            let usual = rates[1..].iter().filter(|rate| **rate > 0.0 && **rate * 2.0 >= rates[0]);
            usual.count() >= 2
        };
        counts.iter().filter(|(_, counts)| is_common(counts)).map(|(hash, _)| *hash).collect()
    }

    /// Windows that occur often enough, without those occurrences that overlap an earlier one.
    fn repeated(&self, length: usize) -> Vec<Repeated> {
        let tokens = &self.tokens.tokens;
        let mut hashes: Vec<(u64, u32)> = Vec::new();
        hash::each(tokens, length, |at, hash| {
            if self.tokens.within(at, length) {
                hashes.push((hash, at as u32));
            }
        });
        hashes.sort_unstable();
        let mut out: Vec<Repeated> = Vec::new();
        for group in hashes.chunk_by(|one, other| one.0 == other.0) {
            if group.len() < MIN_OCCURRENCES {
                continue;
            }
            let first = group[0].1 as usize;
            let mut places: Vec<usize> = Vec::new();
            for (_, at) in group {
                let at = *at as usize;
                let apart = places.last().is_none_or(|last| last + length <= at);
                if apart && tokens[at..at + length] == tokens[first..first + length] {
                    places.push(at);
                }
            }
            if places.len() >= MIN_OCCURRENCES {
                out.push(Repeated { places });
            }
        }
        if out.len() > MAX_REPEATED {
            out.sort_by_key(|repeated| (Reverse(repeated.places.len()), repeated.places[0]));
            out.truncate(MAX_REPEATED);
        }
        out
    }

    /// Occurrences of the triggers of these windows, by their hashes.
    fn counts(&self, trigger: usize, repeated: &[Repeated]) -> HashMap<u64, usize> {
        let first = |repeated: &Repeated| &self.tokens.tokens[repeated.places[0]..][..trigger];
        let mut counts: HashMap<u64, usize> = repeated.iter().map(|one| (hash::of(first(one)), 0)).collect();
        hash::each(&self.tokens.tokens, trigger, |_, hash| {
            if let Some(count) = counts.get_mut(&hash) {
                *count += 1;
            }
        });
        counts
    }

    fn candidate(
        &self,
        places: &[usize],
        trigger: usize,
        length: usize,
        share_ppm: u32,
        (common, long): (bool, bool),
    ) -> Candidate {
        let window = self.tokens.tokens[places[0]..][..length].to_vec();
        let count =
            |tokens: &&[u32]| searched(tokens).windows(length).filter(|other| *other == window).count();
        let held_out: Vec<usize> = self.held_out.iter().map(count).collect();
        Candidate {
            text: self.extended(places, length),
            trigger: window[..trigger].to_vec(),
            payload: window[trigger..].to_vec(),
            occurrences: places.len(),
            share_ppm,
            places: self.by_part(places, length),
            held_out,
            common,
            long,
        }
    }

    /// The window with what follows it as long as two thirds of its occurrences agree.
    fn extended(&self, places: &[usize], length: usize) -> Vec<u32> {
        let tokens = &self.tokens.tokens;
        let mut text = tokens[places[0]..][..length].to_vec();
        while text.len() < MAX_SHOWN {
            let next: Vec<u32> =
                places.iter().filter_map(|place| tokens.get(place + text.len()).copied()).collect();
            let count = |token: u32| next.iter().filter(|other| **other == token).count();
            let Some(best) = next.iter().copied().max_by_key(|token| (count(*token), Reverse(*token))) else {
                break;
            };
            if count(best) * 3 < places.len() * 2 {
                break;
            }
            text.push(best);
        }
        text
    }

    fn by_part(&self, places: &[usize], length: usize) -> Vec<Occurrences> {
        let mut out: BTreeMap<Option<usize>, Occurrences> = BTreeMap::new();
        for place in places {
            let start = self.tokens.origin(*place);
            let range = start..start + length;
            let part = self.parts.iter().position(|part| part.range.contains(&start));
            let entry = out.entry(part).or_insert_with(|| Occurrences {
                part,
                count: 0,
                ranges: Vec::new(),
                within: range.clone(),
            });
            entry.count += 1;
            entry.within.end = range.end;
            if entry.ranges.len() < MAX_RANGES {
                entry.ranges.push(range);
            }
        }
        let mut out: Vec<_> = out.into_values().collect();
        out.sort_by_key(|part| (Reverse(part.count), part.part));
        out
    }
}

/// Held-out tokens that are searched.
fn searched(tokens: &[u32]) -> &[u32] {
    &tokens[..tokens.len().min(MAX_SCANNED)]
}

/// Whether a window is a pattern of at most `trigger` tokens, over and over: what follows is then no news.
fn periodic(window: &[u32], trigger: usize) -> bool {
    (1..=trigger).any(|period| window.iter().zip(&window[period..]).all(|(one, other)| one == other))
}
