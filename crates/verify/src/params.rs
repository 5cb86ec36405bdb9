//! Protocol parameters of the f32 check. They are logged with each epoch, so that old verdicts stay checkable.

/// Probe vectors per check. Two: a pair of errors that cancels in one probe is independent in the other, and
/// both share one pass over the data.
pub const PROBES: usize = 2;

/// Tunable parameters of a check, logged when an epoch starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// λ of tier 1: a row is flagged iff its residual exceeds λ · 2^-24 · ||a_i|| · sqrt(Σ w_j²).
    /// Default 8: honest residuals on zero-mean data measured 0.2 to 2 in this unit whatever the size.
    pub lambda: f64,
    /// λ for a kernel that sums in blocks of 32 along K on a device that passed calibration. Default 3: blocks
    /// measured 3 to 5 times smaller errors.
    pub lambda_blocked: f64,
    /// The data is known to have one sign, so rounding errors add up: λ grows by sqrt(K)/8, if that is above 1.
    pub one_signed: bool,
    /// Flagged rows that are recomputed at most. Default 64: at n = 1024 that costs 6 % of the product.
    pub max_flagged_rows: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self { lambda: 8.0, lambda_blocked: 3.0, one_signed: false, max_flagged_rows: 64 }
    }
}

impl Params {
    /// The λ for a product over `k` terms.
    pub fn lambda_for(&self, k: u32, kernel_sums_in_blocks: bool) -> f64 {
        let base = if kernel_sums_in_blocks { self.lambda_blocked } else { self.lambda };
        if self.one_signed { base * (f64::from(k).sqrt() / 8.0).max(1.0) } else { base }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lambda_follows_kernel_and_data() {
        let p = Params::default();
        assert_eq!((p.lambda_for(1024, false), p.lambda_for(1024, true)), (8.0, 3.0));
        let one_signed = Params { one_signed: true, ..p };
        assert_eq!((one_signed.lambda_for(16, false), one_signed.lambda_for(1024, false)), (8.0, 32.0));
    }
}
