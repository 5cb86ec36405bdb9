//! What a check says.

use potluck_types::BlobHash;

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The result stands.
    Accepted,
    /// The result is wrong; no conforming device can have computed it.
    Rejected(RejectReason),
}

/// Why a result was rejected. Elements are those of C.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The blob has the wrong size.
    #[error("the result has {found} bytes instead of {expected}")]
    WrongLength {
        /// Bytes that the shape asks for.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// The blob is not the one that was committed.
    #[error("the result's hash is {found}, committed was {expected}")]
    WrongHash {
        /// The committed hash.
        expected: BlobHash,
        /// The hash of what came.
        found: BlobHash,
    },
    /// An Inf or NaN where no order of summation can overflow.
    #[error("the element at row {row}, column {col} is not finite")]
    NotFinite {
        /// Row of C.
        row: usize,
        /// Column of C.
        col: usize,
    },
    /// An f32 element is further from the product than rounding can explain.
    #[error("row {row}, column {col} is {found:e} instead of {reference:e}, tolerance {tolerance:e}")]
    RowMismatch {
        /// Row of C.
        row: usize,
        /// Column of C.
        col: usize,
        /// The submitted element.
        found: f32,
        /// The product in f64.
        reference: f64,
        /// The largest deviation that a conforming device can have.
        tolerance: f64,
    },
    /// A column of B is zero, but the column of C is not.
    #[error("column {col} must be zero, row {row} is not")]
    ZeroColumnNotZero {
        /// Row of C.
        row: usize,
        /// Column of C.
        col: usize,
    },
    /// An element of an integer product is wrong.
    #[error("row {row}, column {col} is {found} instead of {expected}")]
    Int8Mismatch {
        /// Row of C.
        row: usize,
        /// Column of C.
        col: usize,
        /// The submitted element.
        found: i32,
        /// The exact one.
        expected: i32,
    },
}

/// A verdict and what it took. Independent of the machine that made the check.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Accepted, or rejected and why.
    pub verdict: Verdict,
    /// Rows whose residual was above the threshold of tier 1 (f32), or not zero (int8).
    pub flagged_rows: u32,
    /// Flagged rows that were recomputed; fewer than flagged if there were too many, or a wrong one was found.
    pub recomputed_rows: u32,
    /// Elements accepted although not within tolerance, because a sum may overflow f32 there. A submitter with
    /// such data should be told to scale it.
    pub overflowed_elements: u32,
    /// Largest residual of a flagged row, in units of the threshold; 0 if no row was flagged.
    pub worst_ratio: f64,
    /// Multiply-adds that the check did; recomputing takes M·N·K.
    pub work: u64,
}

impl Report {
    /// Whether the result stands.
    pub fn accepted(&self) -> bool {
        self.verdict == Verdict::Accepted
    }

    /// A rejection before any arithmetic.
    pub(crate) fn rejected(reason: RejectReason) -> Self {
        Self { verdict: Verdict::Rejected(reason), ..Self::default() }
    }
}

impl Default for Report {
    /// Accepted, nothing flagged, no work done.
    fn default() -> Self {
        Self {
            verdict: Verdict::Accepted,
            flagged_rows: 0,
            recomputed_rows: 0,
            overflowed_elements: 0,
            worst_ratio: 0.0,
            work: 0,
        }
    }
}

/// Checks that a blob is the one that was committed.
///
/// # Errors
/// [`RejectReason::WrongHash`] if it is another.
pub fn check_blob(bytes: &[u8], committed: &BlobHash) -> Result<(), RejectReason> {
    let found = BlobHash::of(bytes);
    if found == *committed { Ok(()) } else { Err(RejectReason::WrongHash { expected: *committed, found }) }
}
