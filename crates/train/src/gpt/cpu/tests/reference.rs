//! The model once more, in f64 and as simple as can be: a row at a time, all of attention in memory.

use crate::Batch;
use crate::gpt::{GptConfig, Layout};

type Row = Vec<f64>;

fn norm(x: &[f64], weight: &[f64], bias: Option<&[f64]>) -> Row {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let normal = x.iter().map(|x| (x - mean) / (variance + 1e-5).sqrt());
    normal.enumerate().map(|(i, n)| n * weight[i] + bias.map_or(0.0, |bias| bias[i])).collect()
}

fn linear(x: &[f64], weight: &[f64], bias: Option<&[f64]>) -> Row {
    let rows = weight.chunks_exact(x.len()).enumerate();
    rows.map(|(o, w)| dot(w, x) + bias.map_or(0.0, |bias| bias[o])).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [Row], y: impl Iterator<Item = Row>) {
    for (x, y) in x.iter_mut().zip(y) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

fn softmax(x: &[f64]) -> Row {
    let most = x.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let sum: f64 = x.iter().map(|x| (x - most).exp()).sum();
    x.iter().map(|x| (x - most).exp() / sum).collect()
}

/// `qkv` of each position to what each position gathers.
fn attention(config: &GptConfig, qkv: &[Row]) -> Vec<Row> {
    let (width, size) = (config.width, config.width / config.heads);
    let mut out = vec![vec![0.0; width]; qkv.len()];
    for head in 0..config.heads {
        let part = |row: usize, kind: usize| &qkv[row][kind * width + head * size..][..size];
        for (i, out) in out.iter_mut().enumerate() {
            let scores: Row = (0..=i).map(|j| dot(part(i, 0), part(j, 1)) / (size as f64).sqrt()).collect();
            for (j, p) in softmax(&scores).into_iter().enumerate() {
                for d in 0..size {
                    out[head * size + d] += p * part(j, 2)[d];
                }
            }
        }
    }
    out
}

/// Logits of each position of one sequence.
pub(super) fn logits(config: &GptConfig, parameters: &[f64], tokens: &[u32]) -> Vec<Row> {
    let (layout, width) = (Layout::new(config), config.width);
    let at = |start: usize, count: usize| &parameters[start..start + count];
    let maybe = |start: Option<usize>, count: usize| start.map(|start| at(start, count));
    let mut x: Vec<Row> = (0..tokens.len())
        .map(|i| {
            let token = at(layout.tokens + tokens[i] as usize * width, width);
            let position = at(layout.positions + i * width, width);
            token.iter().zip(position).map(|(t, p)| t + p).collect()
        })
        .collect();
    for block in &layout.blocks {
        let qkv: Vec<Row> = x
            .iter()
            .map(|x| norm(x, at(block.norm1, width), maybe(block.norm1_bias, width)))
            .map(|n| linear(&n, at(block.qkv, 3 * width * width), maybe(block.qkv_bias, 3 * width)))
            .collect();
        let gathered = attention(config, &qkv);
        let (weight, bias) = (at(block.out, width * width), maybe(block.out_bias, width));
        add(&mut x, gathered.iter().map(|row| linear(row, weight, bias)));
        let mlp: Vec<Row> = x
            .iter()
            .map(|x| {
                let n = norm(x, at(block.norm2, width), maybe(block.norm2_bias, width));
                let up = linear(&n, at(block.up, 4 * width * width), maybe(block.up_bias, 4 * width));
                let active: Row = up.into_iter().map(gelu).collect();
                linear(&active, at(block.down, 4 * width * width), maybe(block.down_bias, width))
            })
            .collect();
        add(&mut x, mlp.into_iter());
    }
    let head = at(layout.tokens, config.vocabulary * width);
    let last = x.iter().map(|x| norm(x, at(layout.norm, width), maybe(layout.norm_bias, width)));
    last.map(|n| linear(&n, head, None)).collect()
}

/// Mean cross-entropy.
pub(super) fn loss(config: &GptConfig, parameters: &[f64], batch: &Batch) -> f64 {
    let rows = batch.inputs.chunks(batch.length).zip(batch.targets.chunks(batch.length));
    let total: f64 = rows
        .flat_map(|(inputs, targets)| {
            let logits = logits(config, parameters, inputs);
            let pairs: Vec<f64> = logits
                .iter()
                .zip(targets)
                .map(|(row, target)| -softmax(row)[*target as usize].ln())
                .collect();
            pairs
        })
        .sum();
    total / batch.targets.len() as f64
}

/// AdamW on one parameter after clipping; `gradients` of each step so far.
pub(super) fn adamw(mut p: f64, gradients: &[f64], learning_rate: f64, decays: bool) -> f64 {
    let (mut m, mut v) = (0.0, 0.0);
    for (t, g) in (1..).zip(gradients) {
        m = 0.9 * m + 0.1 * g;
        v = 0.99 * v + 0.01 * g * g;
        if decays {
            p -= learning_rate * 0.1 * p;
        }
        let (m, v): (f64, f64) = (m / (1.0 - 0.9_f64.powi(t)), v / (1.0 - 0.99_f64.powi(t)));
        p -= learning_rate * m / (v.sqrt() + 1e-8);
    }
    p
}
