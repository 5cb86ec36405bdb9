//! Checks of untrusted results: pure functions.
//!
//! A volunteer claims C = A·B. Instead of computing the product again, or asking a second volunteer, the
//! relay multiplies both sides by secret random vectors (Freivalds): `A·(B·x)` against `C·x` costs
//! O(MK + KN + MN). int8 products are checked exactly ([`check_int8`]); f32 products in two tiers, a cheap
//! statistical one that flags rows and a rigorous one that judges them ([`check_f32`]).
//!
//! Training is checked otherwise: every update is held against the others ([`screen()`]), some are replayed
//! ([`is_audited`], [`compare`]), what remains is combined by a rule that a minority cannot move far
//! ([`aggregate()`]), and the step is taken back if the loss rises ([`Gate`]).
//!
//! Nothing here reads a clock, draws a random number or keeps state: probes come from a [`ProbeSeed`], which
//! [`probe_seed`] derives from the epoch's [`Secret`] and the hash of the committed result, so that nobody can
//! know them before the result is fixed and everybody can check the check once the secret is published.
//!
//! Determinism: a check's [`Report`] is the same, bit by bit, on every machine and for every split of the
//! operands into panels: sums have a fixed order, and each product is exact in f64 or rounded on its own.
//!
//! Source: R. Freivalds, "Probabilistic machines can use less running time", IFIP 1977; N. Higham, "Accuracy
//! and Stability of Numerical Algorithms", chapter 3, for gamma_K.

mod aggregate;
mod audit;
mod error;
mod float;
mod gate;
mod int8;
mod lanes;
mod operand;
mod params;
mod recompute;
mod replay;
mod report;
mod screen;
mod secret;

pub use aggregate::{
    Aggregate, AggregateError, AggregateParams, MAX_UPDATES, Rule, Scope, Sender, Share, SparseUpdate,
    Update, aggregate, aggregate_sparse,
};
pub use audit::{AuditParams, commits_hash, is_audited};
pub use error::CheckError;
pub use float::check_f32;
pub use gate::{Gate, GateAction, GateError, GateParams};
pub use int8::check_int8;
pub use params::{PROBES, Params};
pub use replay::{ReplayError, ReplayReason, ReplayReport, ReplayVerdict, Tolerances, compare};
pub use report::{RejectReason, Report, Verdict, check_blob};
pub use screen::{ScreenError, ScreenParams, ScreenReason, ScreenReport, ScreenVerdict, screen};
pub use secret::{ProbeSeed, Secret, commitment, probe_seed};

use potluck_types::{DType, MatmulShape};

/// A product whose operands travel as panels: blobs of raw little-endian row-major elements.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// Element type of the operands.
    pub dtype: DType,
    /// Shape of the product.
    pub shape: MatmulShape,
    /// A, M x K: panels of whole rows, in order.
    pub a: &'a [&'a [u8]],
    /// B transposed, N x K: panels of whole rows, in order.
    pub bt: &'a [&'a [u8]],
}

/// Checks the bytes of a result against operands that are given as panels; nothing is copied.
///
/// Shapes: `c` is M x N, row-major, little-endian f32 (or i32 for int8 operands).
/// `kernel_sums_in_blocks` chooses [`Params::lambda_blocked`]; int8 ignores it.
///
/// # Errors
/// [`CheckError`] if the operands are not what the shape says. That is the caller's fault, never the
/// volunteer's; what the volunteer did wrong is in the report.
pub fn check_bytes(
    product: &Product<'_>,
    c: &[u8],
    seed: &ProbeSeed,
    params: &Params,
    kernel_sums_in_blocks: bool,
) -> Result<Report, CheckError> {
    match product.dtype {
        DType::F32 => float::check(product, c, seed, params, kernel_sums_in_blocks),
        DType::Int8 => int8::check(product, c, seed),
    }
}
