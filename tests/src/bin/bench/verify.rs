//! `verify`: checking a product against computing it again with our CPU kernel, on one thread.

use anyhow::{Context, Result, ensure};
use potluck_kernels::{MatmulShape, Operand, Output, cpu};
use potluck_types::{BlobHash, DType};
use potluck_verify::{Params, Product, Secret, check_bytes, probe_seed};
use std::hint::black_box;
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::row::{Goal, Report, Row, median};

const SIDES: [u32; 4] = [256, 512, 1024, 2048];

/// The size and the element types that the goal speaks of.
const GOAL_SIDE: u32 = 1024;
const GOAL_RATIO: f64 = 15.0;

const ROUNDS: usize = 7;

/// One sample repeats its work until it lasts this long, so that the clock's ticks do not matter.
const SAMPLE: Duration = Duration::from_millis(60);

/// Measures both element types at all sizes.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    for dtype in [DType::F32, DType::Int8] {
        for side in SIDES {
            one(report, dtype, side)?;
        }
    }
    Ok(())
}

fn one(report: &mut Report, dtype: DType, side: u32) -> Result<()> {
    let shape = MatmulShape { m: side, k: side, n: side };
    let len = side as usize * side as usize;
    let a = operand_bytes(dtype, len, 0x9e37_79b9);
    let bt = operand_bytes(dtype, len, 0x7f4a_7c15);
    let (mut oa, mut obt) = (Operand::new(dtype), Operand::new(dtype));
    oa.extend_from_le_bytes(&a)?;
    obt.extend_from_le_bytes(&bt)?;
    let operands = Operand::pair(&oa, &obt)?;
    let c = cpu::matmul(shape, operands)?.to_le_bytes();

    let product = Product { dtype, shape, a: &[&a], bt: &[&bt] };
    let seed = probe_seed(&Secret([7; 32]), &BlobHash::of(&c));
    let params = Params::default();
    // As the relay takes a result of a stranger's kernel: nothing assumed about how it sums.
    let check = || check_bytes(&product, &c, &seed, &params, false);
    let verdict = check()?;
    ensure!(verdict.accepted(), "the check refused a product of our own kernel: {verdict:?}");
    // A check that accepts everything would be fast: one wrong element must be refused.
    let mut wrong = c.clone();
    *wrong.last_mut().context("an empty product")? ^= 0x41;
    let refused = check_bytes(&product, &wrong, &seed, &params, false)?;
    ensure!(!refused.accepted(), "the check accepted a wrong element");

    let mut out = blank(dtype, len);
    let mut checks = Sampler::default();
    let mut products = Sampler::default();
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let checking = checks.sample(|| {
            black_box(check()?);
            Ok(())
        })?;
        let computing = products.sample(|| {
            let buffer = std::mem::replace(&mut out, Output::F32(Vec::new()));
            out = black_box(cpu::CpuJob::with_output(shape, operands, buffer)?.finish());
            Ok(())
        })?;
        ratios.push(computing / checking);
    }
    let row = Row::new(format!("verify.{dtype}.{side}"), median(&checks.milliseconds), "ms").against(
        format!(
            "recompute ({}, {:.1} ms, {:.1} GOP/s)",
            cpu::description(dtype),
            median(&products.milliseconds),
            shape.flops() as f64 / median(&products.milliseconds) / 1e6
        ),
        median(&ratios),
    );
    report.row(if side == GOAL_SIDE { row.goal(Goal::RatioAtLeast(GOAL_RATIO)) } else { row });
    Ok(())
}

fn blank(dtype: DType, len: usize) -> Output {
    match dtype {
        DType::F32 => Output::F32(vec![0.0; len]),
        DType::Int8 => Output::I32(vec![0; len]),
    }
}

/// Uniform in [-1, 1) or over all of int8, the same at every run (xorshift32).
fn operand_bytes(dtype: DType, len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    match dtype {
        DType::F32 => (0..len)
            .flat_map(|_| ((f64::from(next().cast_signed()) / 2_147_483_648.0) as f32).to_le_bytes())
            .collect(),
        DType::Int8 => (0..len).map(|_| (next() >> 24) as u8).collect(),
    }
}

/// Repeats a piece of work for one sample of at least [`SAMPLE`].
#[derive(Default)]
struct Sampler {
    milliseconds: Vec<f64>,
}

impl Sampler {
    /// Milliseconds of one repetition.
    fn sample(&mut self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        let watch = Stopwatch::start();
        let mut count = 0;
        let each = loop {
            work()?;
            count += 1;
            let used = watch.used();
            if used >= SAMPLE {
                break used.as_secs_f64() * 1e3 / f64::from(count);
            }
        };
        self.milliseconds.push(each);
        Ok(each)
    }
}
