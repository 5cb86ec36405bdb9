//! The model in plain f64: loss, gradient and AdamW, written for reading, not for speed.

use potluck_train::engine::{AdamW, Batch};
use potluck_train::gpt::{GptConfig, Layout};

const GELU_SCALE: f64 = 0.797_884_560_802_865_4;

/// y = x·Wᵀ + bias, for rows of `inputs` and `outputs` elements.
fn linear(x: &[f64], w: &[f64], bias: Option<&[f64]>, inputs: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(inputs) {
        for (o, weights) in w.chunks(inputs).enumerate() {
            let sum: f64 = row.iter().zip(weights).map(|(x, w)| x * w).sum();
            y.push(sum + bias.map_or(0.0, |bias| bias[o]));
        }
    }
    y
}

/// Adds the gradients of a linear layer's weight and bias; gives that of its input.
fn linear_back(
    x: &[f64],
    w: &[f64],
    dy: &[f64],
    inputs: usize,
    dw: &mut [f64],
    mut db: Option<&mut [f64]>,
) -> Vec<f64> {
    let outputs = w.len() / inputs;
    let mut dx = vec![0.0; x.len()];
    for (t, dy) in dy.chunks(outputs).enumerate() {
        for (o, d) in dy.iter().enumerate() {
            if let Some(db) = &mut db {
                db[o] += d;
            }
            for i in 0..inputs {
                dw[o * inputs + i] += d * x[t * inputs + i];
                dx[t * inputs + i] += d * w[o * inputs + i];
            }
        }
    }
    dx
}

/// Mean and 1 / deviation of a row.
fn spread(row: &[f64]) -> (f64, f64) {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
    (mean, 1.0 / (variance + 1e-5).sqrt())
}

fn norm(x: &[f64], w: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(w.len()) {
        let (mean, scale) = spread(row);
        for (i, x) in row.iter().enumerate() {
            y.push((x - mean) * scale * w[i] + bias.map_or(0.0, |bias| bias[i]));
        }
    }
    y
}

fn norm_back(x: &[f64], w: &[f64], dy: &[f64], dw: &mut [f64], mut db: Option<&mut [f64]>) -> Vec<f64> {
    let width = w.len();
    let mut dx = Vec::new();
    for (row, dy) in x.chunks(width).zip(dy.chunks(width)) {
        let (mean, scale) = spread(row);
        let unit: Vec<f64> = row.iter().map(|x| (x - mean) * scale).collect();
        let d: Vec<f64> = dy.iter().zip(w).map(|(d, w)| d * w).collect();
        let plain = d.iter().sum::<f64>() / width as f64;
        let along = d.iter().zip(&unit).map(|(d, u)| d * u).sum::<f64>() / width as f64;
        for i in 0..width {
            dw[i] += dy[i] * unit[i];
            if let Some(db) = &mut db {
                db[i] += dy[i];
            }
            dx.push(scale * (d[i] - plain - unit[i] * along));
        }
    }
    dx
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + (GELU_SCALE * (x + 0.044_715 * x.powi(3))).tanh())
}

fn gelu_slope(x: f64) -> f64 {
    let t = (GELU_SCALE * (x + 0.044_715 * x.powi(3))).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU_SCALE * (1.0 + 3.0 * 0.044_715 * x * x)
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// For each sequence, head and query: the probabilities of the keys up to it.
fn attention(qkv: &[f64], batch: &Batch, width: usize, heads: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let head = width / heads;
    let at = |row: usize, part: usize, h: usize| row * 3 * width + part * width + h * head;
    let mut out = vec![0.0; batch.inputs.len() * width];
    let mut all = Vec::new();
    for s in 0..batch.sequences {
        for h in 0..heads {
            for i in 0..batch.length {
                let row = s * batch.length + i;
                let q = &qkv[at(row, 0, h)..][..head];
                let score = |j: usize| {
                    let k = &qkv[at(s * batch.length + j, 1, h)..][..head];
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (head as f64).sqrt()
                };
                let mut p: Vec<f64> = (0..=i).map(score).collect();
                let most = p.iter().copied().fold(f64::MIN, f64::max);
                for p in &mut p {
                    *p = (*p - most).exp();
                }
                let sum: f64 = p.iter().sum();
                for p in &mut p {
                    *p /= sum;
                }
                for (j, p) in p.iter().enumerate() {
                    for d in 0..head {
                        out[row * width + h * head + d] += p * qkv[at(s * batch.length + j, 2, h) + d];
                    }
                }
                all.push(p);
            }
        }
    }
    (out, all)
}

fn attention_back(
    qkv: &[f64],
    all: &[Vec<f64>],
    d_out: &[f64],
    batch: &Batch,
    width: usize,
    heads: usize,
) -> Vec<f64> {
    let head = width / heads;
    let at = |row: usize, part: usize, h: usize| row * 3 * width + part * width + h * head;
    let mut d = vec![0.0; qkv.len()];
    for (n, p) in all.iter().enumerate() {
        let (s, h, i) = (n / (heads * batch.length), n / batch.length % heads, n % batch.length);
        let row = s * batch.length + i;
        let d_o = &d_out[row * width + h * head..][..head];
        let key = |j: usize| s * batch.length + j;
        let d_p: Vec<f64> =
            (0..=i).map(|j| (0..head).map(|x| d_o[x] * qkv[at(key(j), 2, h) + x]).sum()).collect();
        let along: f64 = p.iter().zip(&d_p).map(|(p, d)| p * d).sum();
        for j in 0..=i {
            let d_s = p[j] * (d_p[j] - along) / (head as f64).sqrt();
            for x in 0..head {
                d[at(key(j), 2, h) + x] += p[j] * d_o[x];
                d[at(row, 0, h) + x] += d_s * qkv[at(key(j), 1, h) + x];
                d[at(key(j), 1, h) + x] += d_s * qkv[at(row, 0, h) + x];
            }
        }
    }
    d
}

/// Mean loss of a batch, and the gradient in the order of [`Layout`].
pub(crate) fn loss_and_gradient(config: &GptConfig, parameters: &[f64], batch: &Batch) -> (f64, Vec<f64>) {
    let layout = Layout::new(config);
    let (width, vocabulary) = (config.width, config.vocabulary);
    let take = |at: usize, len: usize| &parameters[at..at + len];
    let bias = |at: Option<usize>, len: usize| at.map(|at| take(at, len));
    let rows = batch.inputs.len();

    let mut x: Vec<f64> = Vec::new();
    for (row, token) in batch.inputs.iter().enumerate() {
        let token = take(layout.tokens + *token as usize * width, width);
        x.extend(add(token, take(layout.positions + row % batch.length * width, width)));
    }
    let mut kept = Vec::new();
    for at in &layout.blocks {
        let n1 = norm(&x, take(at.norm1, width), bias(at.norm1_bias, width));
        let w = take(at.qkv, 3 * width * width);
        let qkv = linear(&n1, w, bias(at.qkv_bias, 3 * width), width);
        let (context, p) = attention(&qkv, batch, width, config.heads);
        let out = linear(&context, take(at.out, width * width), bias(at.out_bias, width), width);
        let middle = add(&x, &out);
        let n2 = norm(&middle, take(at.norm2, width), bias(at.norm2_bias, width));
        let up = linear(&n2, take(at.up, 4 * width * width), bias(at.up_bias, 4 * width), width);
        let curved: Vec<f64> = up.iter().map(|x| gelu(*x)).collect();
        let w = take(at.down, 4 * width * width);
        let down = linear(&curved, w, bias(at.down_bias, width), 4 * width);
        let next = add(&middle, &down);
        kept.push((x, n1, qkv, p, context, middle, n2, up, curved));
        x = next;
    }
    let last = norm(&x, take(layout.norm, width), bias(layout.norm_bias, width));
    let wte = take(layout.tokens, vocabulary * width);
    let mut d = linear(&last, wte, None, width);
    let mut loss = 0.0;
    for (row, target) in d.chunks_mut(vocabulary).zip(&batch.targets) {
        let most = row.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
        loss -= row[*target as usize] - most - sum.ln();
        for (i, x) in row.iter_mut().enumerate() {
            let one = f64::from(u8::from(i == *target as usize));
            *x = ((*x - most).exp() / sum - one) / rows as f64;
        }
    }

    let mut g = vec![0.0; parameters.len()];
    // A weight and its bias are one run of the gradient.
    let run = |at: usize, len: usize, bias: Option<usize>, outputs: usize| {
        at..at + len + if bias.is_some() { outputs } else { 0 }
    };
    let range = run(layout.tokens, vocabulary * width, None, 0);
    d = linear_back(&last, wte, &d, width, &mut g[range], None);
    let range = run(layout.norm, width, layout.norm_bias, width);
    let (dw, db) = g[range].split_at_mut(width);
    let db = layout.norm_bias.map(|_| db);
    d = norm_back(&x, take(layout.norm, width), &d, dw, db);
    for (at, kept) in layout.blocks.iter().zip(&kept).rev() {
        let (x, n1, qkv, p, context, middle, n2, up, curved) = kept;
        let mut layer = |input: &[f64], dy: &[f64], w: usize, b: Option<usize>, [o, i]: [usize; 2]| {
            let (dw, db) = g[run(w, o * i, b, o)].split_at_mut(o * i);
            linear_back(input, take(w, o * i), dy, i, dw, b.map(|_| db))
        };
        let mut d_up = layer(curved, &d, at.down, at.down_bias, [width, 4 * width]);
        for (d, x) in d_up.iter_mut().zip(up) {
            *d *= gelu_slope(*x);
        }
        let d_n2 = layer(n2, &d_up, at.up, at.up_bias, [4 * width, width]);
        let (dw, db) = g[run(at.norm2, width, at.norm2_bias, width)].split_at_mut(width);
        let db = at.norm2_bias.map(|_| db);
        d = add(&d, &norm_back(middle, take(at.norm2, width), &d_n2, dw, db));
        let mut layer = |input: &[f64], dy: &[f64], w: usize, b: Option<usize>, [o, i]: [usize; 2]| {
            let (dw, db) = g[run(w, o * i, b, o)].split_at_mut(o * i);
            linear_back(input, take(w, o * i), dy, i, dw, b.map(|_| db))
        };
        let d_context = layer(context, &d, at.out, at.out_bias, [width, width]);
        let d_qkv = attention_back(qkv, p, &d_context, batch, width, config.heads);
        let d_n1 = layer(n1, &d_qkv, at.qkv, at.qkv_bias, [3 * width, width]);
        let (dw, db) = g[run(at.norm1, width, at.norm1_bias, width)].split_at_mut(width);
        let db = at.norm1_bias.map(|_| db);
        d = add(&d, &norm_back(x, take(at.norm1, width), &d_n1, dw, db));
    }
    for (row, token) in batch.inputs.iter().enumerate() {
        for i in 0..width {
            g[layout.tokens + *token as usize * width + i] += d[row * width + i];
            g[layout.positions + row % batch.length * width + i] += d[row * width + i];
        }
    }
    (loss / rows as f64, g)
}

/// AdamW with its state.
pub(crate) struct Optimizer {
    pub(crate) parameters: Vec<f64>,
    moments: Vec<(f64, f64)>,
    steps: i32,
}

impl Optimizer {
    pub(crate) fn new(parameters: &[f32]) -> Self {
        let parameters: Vec<f64> = parameters.iter().map(|x| f64::from(*x)).collect();
        Self { moments: vec![(0.0, 0.0); parameters.len()], parameters, steps: 0 }
    }

    /// One step; the loss before it.
    pub(crate) fn step(&mut self, config: &GptConfig, batch: &Batch, rate: f64) -> f64 {
        let with = AdamW::default();
        let [beta1, beta2, epsilon, decay, clip] =
            [with.beta1, with.beta2, with.epsilon, with.weight_decay, with.clip].map(f64::from);
        let (loss, gradient) = loss_and_gradient(config, &self.parameters, batch);
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let factor = if norm > clip { clip / norm } else { 1.0 };
        self.steps += 1;
        for tensor in &Layout::new(config).tensors {
            for i in tensor.range() {
                let g = gradient[i] * factor;
                let (m, v) = &mut self.moments[i];
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                let m = *m / (1.0 - beta1.powi(self.steps));
                let v = *v / (1.0 - beta2.powi(self.steps));
                let p = &mut self.parameters[i];
                if tensor.decays() {
                    *p *= 1.0 - rate * decay;
                }
                *p -= rate * m / (v.sqrt() + epsilon);
            }
        }
        loss
    }
}

#[cfg(not(target_arch = "wasm32"))]
#[test]
fn the_gradient_is_that_of_finite_differences() {
    for bias in [false, true] {
        let config = GptConfig { bias, ..super::SMALL };
        let batch = super::batch(&config, 2, 5, 3);
        let parameters: Vec<f64> = super::parameters(&config).iter().map(|x| f64::from(*x)).collect();
        let (_, gradient) = loss_and_gradient(&config, &parameters, &batch);
        let loss = |i: usize, by: f64| {
            let mut moved = parameters.clone();
            moved[i] += by;
            loss_and_gradient(&config, &moved, &batch).0
        };
        for i in (0..parameters.len()).step_by(3) {
            let slope = (loss(i, 1e-5) - loss(i, -1e-5)) / 2e-5;
            assert!((slope - gradient[i]).abs() <= 1e-8 + 1e-6 * slope.abs(), "{i}: {slope} {}", gradient[i]);
        }
    }
}
