//! Protocol parameters of the f32 check. They are logged with each epoch, so that old verdicts stay checkable.

use crate::report::Report;

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

/// Largest factor by which a device's λ may grow. Honest residuals of the worst kind (constant data on
/// round-to-zero hardware) measured 470 units, which 8 · 64 covers.
pub const MAX_DEVICE_FACTOR: f64 = 64.0;
/// Margin between the worst honest residual seen and the new threshold: residuals are random.
const MARGIN: f64 = 1.25;
/// A flagged check counts up by 2, an unflagged one down by 1: a device is slower to trust than to forget.
const RAISE_AT: u8 = 6;
/// Unflagged checks in a row after which the factor halves: the data that caused it has gone.
const LOWER_AFTER: u8 = 64;

/// λ of one device, as a factor on [`Params`].
///
/// A device whose tier-1 flags keep clearing tier 3 rounds worse than λ assumes (round-to-zero, one-signed
/// data): recomputing its rows each time costs the relay and finds nothing. Three flagged and cleared checks
/// close to each other raise its factor to what they needed, up to [`MAX_DEVICE_FACTOR`]; a rejection takes it
/// all back. A device can gain at most that factor in undetected perturbation, and pays with real rounding
/// errors that pass the rigorous tier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceLambda {
    factor: f64,
    worst: f64,
    flagged: u8,
    quiet: u8,
}

impl Default for DeviceLambda {
    fn default() -> Self {
        Self { factor: 1.0, worst: 0.0, flagged: 0, quiet: 0 }
    }
}

impl DeviceLambda {
    /// The factor on λ, 1 to [`MAX_DEVICE_FACTOR`].
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The parameters for this device's next check.
    pub fn params(&self, base: &Params) -> Params {
        Params {
            lambda: base.lambda * self.factor,
            lambda_blocked: base.lambda_blocked * self.factor,
            ..*base
        }
    }

    /// Learns from a check that was made with [`Self::params`].
    pub fn observe(&mut self, report: &Report) {
        if !report.accepted() {
            *self = Self::default();
        } else if report.worst_ratio > 1.0 {
            self.quiet = 0;
            self.worst = self.worst.max(report.worst_ratio);
            self.flagged += 2;
            if self.flagged >= RAISE_AT {
                self.factor = (self.factor * self.worst * MARGIN).min(MAX_DEVICE_FACTOR);
                (self.flagged, self.worst) = (0, 0.0);
            }
        } else {
            self.flagged = self.flagged.saturating_sub(1);
            if self.flagged == 0 {
                self.worst = 0.0;
            }
            self.quiet += 1;
            if self.quiet == LOWER_AFTER {
                self.quiet = 0;
                self.factor = (self.factor / 2.0).max(1.0);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "powers of two and their small multiples are exact")]
mod tests {
    use super::*;
    use crate::report::{RejectReason, Verdict};

    fn cleared(worst_ratio: f64) -> Report {
        Report { flagged_rows: 1, recomputed_rows: 1, worst_ratio, ..Report::default() }
    }

    #[test]
    fn lambda_follows_kernel_and_data() {
        let p = Params::default();
        assert_eq!((p.lambda_for(1024, false), p.lambda_for(1024, true)), (8.0, 3.0));
        let one_signed = Params { one_signed: true, ..p };
        assert_eq!((one_signed.lambda_for(16, false), one_signed.lambda_for(1024, false)), (8.0, 32.0));
    }

    #[test]
    fn flags_that_keep_clearing_raise_lambda() {
        let mut device = DeviceLambda::default();
        device.observe(&cleared(4.0));
        device.observe(&cleared(2.0));
        assert_eq!(device.factor(), 1.0);
        device.observe(&cleared(3.0));
        assert_eq!(device.factor(), 5.0);
        assert_eq!(device.params(&Params::default()).lambda, 40.0);
        for _ in 0..3 {
            device.observe(&cleared(1e9));
        }
        assert_eq!(device.factor(), MAX_DEVICE_FACTOR);
    }

    #[test]
    fn rare_flags_do_not() {
        let mut device = DeviceLambda::default();
        for _ in 0..50 {
            device.observe(&cleared(9.0));
            device.observe(&Report::default());
            device.observe(&Report::default());
        }
        assert_eq!(device.factor(), 1.0);
    }

    #[test]
    fn quiet_lowers_and_a_rejection_resets() {
        let mut device = DeviceLambda::default();
        (0..3).for_each(|_| device.observe(&cleared(16.0)));
        assert_eq!(device.factor(), 20.0);
        (0..64).for_each(|_| device.observe(&Report::default()));
        assert_eq!(device.factor(), 10.0);
        let reason = RejectReason::NotFinite { row: 0, col: 0 };
        device.observe(&Report { verdict: Verdict::Rejected(reason), ..Report::default() });
        assert_eq!(device, DeviceLambda::default());
    }
}
