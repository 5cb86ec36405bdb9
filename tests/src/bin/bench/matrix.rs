//! Operands for jobs: deterministic numbers, written as `.npy`, and results read back and checked.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use potluck_kernels::MatmulShape;
use potluck_types::{BlobHash, DType};
use potluck_verify::{Params, Product, Secret, check_bytes, probe_seed};

/// Uniform numbers in [-1, 1), the same at every run (xorshift32).
pub(crate) fn uniform(len: usize, seed: u32) -> Vec<f32> {
    // Small seeds would begin with small numbers; zero would stay zero.
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (f64::from(state.cast_signed()) / 2_147_483_648.0) as f32
        })
        .collect()
}

/// Two operands of C = A·B, with B transposed, as kernels take them.
pub(crate) struct Operands {
    pub(crate) shape: MatmulShape,
    pub(crate) a: Vec<f32>,
    pub(crate) bt: Vec<f32>,
}

impl Operands {
    /// Operands of a product of this shape; other seeds give other numbers.
    pub(crate) fn new(shape: MatmulShape, seed: u32) -> Self {
        let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
        Self { shape, a: uniform(m * k, 2 * seed + 1), bt: uniform(n * k, 2 * seed + 2) }
    }

    /// The bytes of A and B as `.npy` files, both in C order.
    pub(crate) fn npy(&self) -> Result<[Vec<u8>; 2]> {
        let MatmulShape { m, k, n } = self.shape;
        let (depth, bt) = (k as usize, &self.bt);
        let b = (0..depth).flat_map(|row| bt[row..].iter().step_by(depth).copied());
        Ok([npy(m, k, self.a.iter().copied())?, npy(k, n, b)?])
    }

    /// Writes `A.npy` and `B.npy`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        for (name, bytes) in ["A.npy", "B.npy"].into_iter().zip(self.npy()?) {
            fs::write(folder.join(name), bytes).with_context(|| format!("writing {name}"))?;
        }
        Ok(())
    }

    /// Checks a product, given as the bytes of an `.npy` file.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<()> {
        let MatmulShape { m, n, .. } = self.shape;
        let len = m as usize * n as usize * 4;
        ensure!(bytes.len() > len, "the result has {} bytes, its numbers alone take {len}", bytes.len());
        let c = &bytes[bytes.len() - len..];
        let raw = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let (a, bt) = (raw(&self.a), raw(&self.bt));
        let product = Product { dtype: DType::F32, shape: self.shape, a: &[&a], bt: &[&bt] };
        let seed = probe_seed(&Secret([11; 32]), &BlobHash::of(c));
        let outcome = check_bytes(&product, c, &seed, &Params::default(), false)?;
        ensure!(outcome.accepted(), "the product that came back is wrong: {outcome:?}");
        Ok(())
    }
}

fn npy(rows: u32, cols: u32, values: impl Iterator<Item = f32>) -> Result<Vec<u8>> {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}").into_bytes();
    // Magic, version and length take ten bytes; the format asks for a multiple of 64 that ends in a newline.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.resize(padded - 1, b' ');
    header.push(b'\n');
    let mut file = Vec::with_capacity(10 + header.len() + rows as usize * cols as usize * 4);
    file.extend_from_slice(b"\x93NUMPY\x01\x00");
    file.extend_from_slice(&u16::try_from(header.len())?.to_le_bytes());
    file.extend_from_slice(&header);
    file.extend(values.flat_map(f32::to_le_bytes));
    Ok(file)
}
