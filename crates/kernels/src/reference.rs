//! Reference products: slow, obvious, and what every kernel is tested against.

use potluck_types::{DType, MatmulShape};

use crate::error::KernelError;
use crate::operands::{Operands, check_len, check_shape};

/// C = A·B with f64 products and f64 sums.
///
/// Shapes: `a` is M x K, `bt` is N x K, the result M x N, all row-major.
/// Determinism: bitwise, terms in the order of K. Products of two f32 are exact in f64.
///
/// # Errors
/// As [`Operands::check`].
pub fn matmul_nt_f64(shape: MatmulShape, a: &[f32], bt: &[f32]) -> Result<Vec<f64>, KernelError> {
    Operands::F32 { a, bt }.check(shape)?;
    Ok(each_dot(shape, |i, j, k| a[i + k] as f64 * bt[j + k] as f64))
}

/// C = |A|·|B| in f64: the scale of the rounding error of each element, see [`gamma`].
///
/// # Errors
/// As [`Operands::check`].
pub fn abs_matmul_nt_f64(shape: MatmulShape, a: &[f32], bt: &[f32]) -> Result<Vec<f64>, KernelError> {
    Operands::F32 { a, bt }.check(shape)?;
    Ok(each_dot(shape, |i, j, k| (a[i + k] as f64 * bt[j + k] as f64).abs()))
}

/// C = A·B of int8 operands, exact in i64 whatever the depth.
///
/// # Errors
/// [`KernelError::ShapeMismatch`] and [`KernelError::TooLarge`] for lengths, as [`Operands::check`], but for no depth.
pub fn matmul_nt_i64(shape: MatmulShape, a: &[i8], bt: &[i8]) -> Result<Vec<i64>, KernelError> {
    check_shape(shape, DType::F32)?;
    check_len("a", shape.m, shape.k, a.len())?;
    check_len("bt", shape.n, shape.k, bt.len())?;
    Ok(each_dot(shape, |i, j, k| i64::from(a[i + k]) * i64::from(bt[j + k])))
}

/// γ_K = K·u / (1 - K·u): the relative error of a sum of K products in any order, for unit roundoff `u`.
///
/// u = 2^-24 for round-to-nearest; 2^-23 covers devices that truncate, as WGSL allows.
/// Source: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
pub fn gamma(k: u32, u: f64) -> f64 {
    let ku = k as f64 * u;
    ku / (1.0 - ku)
}

fn each_dot<T: std::iter::Sum<T>>(shape: MatmulShape, term: impl Fn(usize, usize, usize) -> T) -> Vec<T> {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            c.push((0..k).map(|p| term(i * k, j * k, p)).sum());
        }
    }
    c
}
