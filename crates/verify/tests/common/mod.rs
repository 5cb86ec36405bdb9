//! Data and honest kernels for the tests: every order of summation and rounding that WGSL permits.
#![expect(dead_code, unreachable_pub, reason = "each test file uses its own part of this module")]

use potluck_types::{BlobHash, MatmulShape};
use potluck_verify::{ProbeSeed, Secret, probe_seed};

/// A small deterministic generator (splitmix64).
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.word() % limit as u64) as usize
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1 << 24) as f32
    }

    /// Uniform in [-1, 1).
    pub fn signed(&mut self) -> f32 {
        2.0 * self.unit() - 1.0
    }

    pub fn signed_vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.signed()).collect()
    }
}

pub fn shape(m: usize, k: usize, n: usize) -> MatmulShape {
    MatmulShape { m: m as u32, k: k as u32, n: n as u32 }
}

/// The seed for a committed result under the `i`-th secret.
pub fn seed_for(i: u64, c: &[f32]) -> ProbeSeed {
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&i.to_le_bytes());
    probe_seed(&Secret(secret), &BlobHash::of(&bytes(c)))
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// How an honest kernel adds up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    Sequential,
    Reversed,
    Pairwise,
    Blocks32,
    Lanes(usize),
    Fma,
    TowardZero,
    BlocksTowardZero,
    Flush,
    FlushTowardZero,
}

pub const ORDERS: [Order; 12] = [
    Order::Sequential,
    Order::Reversed,
    Order::Pairwise,
    Order::Blocks32,
    Order::Lanes(4),
    Order::Lanes(8),
    Order::Lanes(16),
    Order::Fma,
    Order::TowardZero,
    Order::BlocksTowardZero,
    Order::Flush,
    Order::FlushTowardZero,
];

impl Order {
    pub fn in_blocks(self) -> bool {
        matches!(self, Self::Blocks32 | Self::BlocksTowardZero)
    }

    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        let terms = || a.iter().zip(b).map(|(&x, &y)| x * y);
        match self {
            Self::Sequential => terms().fold(0.0, |s, t| s + t),
            Self::Reversed => terms().rev().fold(0.0, |s, t| s + t),
            Self::Pairwise => pairwise(&terms().collect::<Vec<_>>()),
            Self::Blocks32 => {
                let block = |(a, b): (&[f32], &[f32])| Self::Sequential.dot(a, b);
                a.chunks(32).zip(b.chunks(32)).map(block).fold(0.0, |s, t| s + t)
            }
            Self::Lanes(lanes) => {
                let mut sums = vec![0.0f32; lanes];
                terms().enumerate().for_each(|(i, t)| sums[i % lanes] += t);
                pairwise(&sums)
            }
            Self::Fma => a.iter().zip(b).fold(0.0, |s, (&x, &y)| x.mul_add(y, s)),
            Self::TowardZero => exact_terms(a, b).fold(0.0, |s, t| add_toward_zero(s, toward_zero(t))),
            Self::BlocksTowardZero => {
                let block = |(a, b): (&[f32], &[f32])| Self::TowardZero.dot(a, b);
                a.chunks(32).zip(b.chunks(32)).map(block).fold(0.0, add_toward_zero)
            }
            Self::Flush => {
                let term = |(&x, &y): (&f32, &f32)| flush(flush(x) * flush(y));
                a.iter().zip(b).map(term).fold(0.0, |s, t| flush(s + t))
            }
            Self::FlushTowardZero => {
                let term =
                    |(&x, &y): (&f32, &f32)| flush(toward_zero(f64::from(flush(x)) * f64::from(flush(y))));
                a.iter().zip(b).map(term).fold(0.0, |s, t| flush(add_toward_zero(s, t)))
            }
        }
    }

    /// C = A·B for B transposed.
    pub fn product(self, shape: MatmulShape, a: &[f32], bt: &[f32]) -> Vec<f32> {
        let k = shape.k as usize;
        a.chunks_exact(k).flat_map(|a| bt.chunks_exact(k).map(move |b| self.dot(a, b))).collect()
    }
}

fn exact_terms<'a>(a: &'a [f32], b: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y))
}

fn pairwise(terms: &[f32]) -> f32 {
    match terms {
        [] => 0.0,
        [one] => *one,
        _ => {
            let (left, right) = terms.split_at(terms.len() / 2);
            pairwise(left) + pairwise(right)
        }
    }
}

fn add_toward_zero(s: f32, t: f32) -> f32 {
    toward_zero(f64::from(s) + f64::from(t))
}

/// Rounds to f32 toward zero.
pub fn toward_zero(v: f64) -> f32 {
    let near = v as f32;
    if f64::from(near).abs() > v.abs() { f32::from_bits(near.to_bits() - 1) } else { near }
}

fn flush(v: f32) -> f32 {
    if v.is_subnormal() { 0.0 } else { v }
}

/// Rounds to `bits` explicit bits of mantissa, to nearest even (bf16: 7, tf32 and normal f16: 10).
pub fn round_mantissa(v: f32, bits: u32) -> f32 {
    let drop = 23 - bits;
    let half = (1u32 << (drop - 1)) - 1 + ((v.to_bits() >> drop) & 1);
    f32::from_bits((v.to_bits() + half) >> drop << drop)
}

/// Rounds to IEEE binary16 for |v| <= 65504, subnormals included.
pub fn round_f16(v: f32) -> f32 {
    const QUANTUM: f32 = 1.0 / (1 << 24) as f32;
    if v.abs() < 1.0 / (1 << 14) as f32 {
        (v / QUANTUM).round_ties_even() * QUANTUM
    } else {
        round_mantissa(v, 10)
    }
}

/// The norm of a row in f64.
pub fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}
