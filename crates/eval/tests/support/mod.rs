//! What the tests share: a text, a model that learns it, and the same model with every sum in another order.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use potluck_train::data::{Characters, Tokenizer};
use potluck_train::gpt::{CpuGpt, GptConfig, Layout, init};
use potluck_train::{Batch, Engine as _};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The CPU engine's futures are ready at once.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the CPU engine never waits"),
    }
}

/// A deterministic source of numbers.
pub struct Draws(blake3::OutputReader);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new_keyed(&[7; 32]).update(&seed.to_le_bytes()).finalize_xof())
    }

    pub fn below(&mut self, bound: usize) -> usize {
        let mut eight = [0; 8];
        self.0.fill(&mut eight);
        (u64::from_le_bytes(eight) % bound as u64) as usize
    }

    pub fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

const SUBJECTS: &[&str] = &[
    "the king",
    "my lord",
    "a nurse",
    "the old man",
    "she",
    "he",
    "your brother",
    "the engineer",
    "no man",
    "our cousin",
    "this villain",
    "the prince",
    "a fool",
    "the queen",
    "they",
    "a soldier",
    "the duke",
    "my gentle lady",
    "who",
    "the priest",
];
const VERBS: &[&str] = &[
    "loves",
    "will hear",
    "has seen",
    "fears",
    "sends for",
    "speaks of",
    "laughs at",
    "waits for",
    "would buy",
    "forgot",
    "must leave",
    "found",
    "never knew",
    "swears by",
    "runs from",
    "keeps",
    "may lose",
    "dreams of",
    "calls",
    "sold",
];
const OBJECTS: &[&str] = &[
    "the crown",
    "a quiet house",
    "his daughter",
    "the sea",
    "her own name",
    "this night",
    "good wine",
    "the war",
    "a sword",
    "our bread",
    "two horses",
    "that letter",
    "the law",
    "some gold",
    "my word",
    "a ring",
    "the garden",
    "their oath",
    "fortune",
    "an honest face",
];
const ENDS: &[&str] = &[
    "",
    "",
    "",
    " and goes",
    " with joy",
    " at dawn",
    " they say",
    " in the tower",
    ", alas",
    " for love",
    " no more",
    " too soon",
    " by heaven",
    ", my lord",
    " till May",
    " in Rome",
    ", and why",
    " alone",
    " on foot",
    " once",
];
/// Speakers of each act: those of one occur in no other, as in plays.
const SPEAKERS: &[[&str; 4]] = &[
    ["CAMILLO", "LEONTES", "PERDITA", "FLORIZEL"],
    ["ROMEO", "MERCUTIO", "TYBALT", "JULIET"],
    ["GLOUCESTER", "CLARENCE", "RICHMOND", "HASTINGS"],
    ["PROSPERO", "MIRANDA", "ARIEL", "GONZALO"],
];

/// Acts of a play, about so many bytes each, one text for each.
pub fn acts(seed: u64, bytes: usize) -> Vec<String> {
    let mut draws = Draws::new(seed);
    let sentence = |draws: &mut Draws| {
        let mut pick = |from: &[&'static str]| from[draws.below(from.len())];
        format!("{} {} {}{}.", pick(SUBJECTS), pick(VERBS), pick(OBJECTS), pick(ENDS))
    };
    let act = |names: &[&str; 4]| {
        let mut text = String::new();
        while text.len() < bytes {
            text += names[draws.below(4)];
            text += ":\n";
            for _ in 0..=draws.below(3) {
                text += &sentence(&mut draws);
                text.push('\n');
            }
            text.push('\n');
        }
        text
    };
    SPEAKERS.iter().map(act).collect()
}

/// A tokenizer with a token for each character that English text has.
pub fn tokenizer() -> Tokenizer {
    let characters = std::iter::once('\n').chain(' '..='~');
    Tokenizer::Characters(Characters::new(characters.collect()).unwrap())
}

/// The tests' model: it learns the text in seconds.
pub fn config(tokenizer: &Tokenizer) -> GptConfig {
    GptConfig { vocabulary: tokenizer.vocabulary(), context: 64, layers: 2, heads: 4, width: 64, bias: true }
}

/// Trains a model on tokens.
pub fn train(config: &GptConfig, tokens: &[u32], steps: u32, seed: u64) -> Vec<f32> {
    let mut draws = Draws::new(seed);
    let mut model = CpuGpt::new(*config).unwrap();
    model.take(&init(config, &[seed as u8; 32])).unwrap();
    let (sequences, length) = (12, config.context);
    for step in 0..steps {
        let starts: Vec<_> = (0..sequences).map(|_| draws.below(tokens.len() - length)).collect();
        let cut = |shift: usize| starts.iter().flat_map(|s| tokens[s + shift..][..length].to_vec()).collect();
        let batch = Batch { sequences, length, inputs: cut(0), targets: cut(1) };
        let warm = (step as f32 + 1.0) / 20.0;
        let left = 1.0 - step as f32 / steps as f32;
        ready(model.step(&batch, 3e-3 * warm.min(1.0) * (0.1 + 0.9 * left))).unwrap();
    }
    ready(model.store()).unwrap()
}

/// The same function with every sum in another order: channels of the residual stream, heads, what lies within a head,
/// and hidden units change places.
pub fn permuted(config: &GptConfig, parameters: &[f32], seed: u64) -> Vec<f32> {
    let layout = Layout::new(config);
    let (width, head) = (config.width, config.width / config.heads);
    let mut draws = Draws::new(seed);
    let channels = draws.shuffled(width);
    let mut out = parameters.to_vec();
    // Row r of the new matrix is row `rows[r]` of the old one, and so with columns.
    let mut matrix = |start: usize, rows: &[usize], cols: &[usize]| {
        for (r, row) in rows.iter().enumerate() {
            for (c, col) in cols.iter().enumerate() {
                out[start + r * cols.len() + c] = parameters[start + row * cols.len() + col];
            }
        }
    };
    let all: Vec<usize> = (0..config.vocabulary.max(config.context)).collect();
    matrix(layout.tokens, &all[..config.vocabulary], &channels);
    matrix(layout.positions, &all[..config.context], &channels);
    let one = [0];
    for block in &layout.blocks {
        let heads = draws.shuffled(config.heads);
        let inside = draws.shuffled(head);
        let gathered: Vec<usize> =
            heads.iter().flat_map(|h| inside.iter().map(move |d| h * head + d)).collect();
        let qkv: Vec<usize> =
            (0..3).flat_map(|kind| gathered.iter().map(move |at| kind * width + at)).collect();
        let hidden = draws.shuffled(4 * width);
        for (start, order) in [
            (Some(block.norm1), &channels),
            (block.norm1_bias, &channels),
            (block.qkv_bias, &qkv),
            (block.out_bias, &channels),
            (Some(block.norm2), &channels),
            (block.norm2_bias, &channels),
            (block.up_bias, &hidden),
            (block.down_bias, &channels),
        ] {
            if let Some(start) = start {
                matrix(start, &one, order);
            }
        }
        matrix(block.qkv, &qkv, &channels);
        matrix(block.out, &channels, &gathered);
        matrix(block.up, &hidden, &channels);
        matrix(block.down, &channels, &hidden);
    }
    matrix(layout.norm, &one, &channels);
    if let Some(bias) = layout.norm_bias {
        matrix(bias, &one, &channels);
    }
    out
}
