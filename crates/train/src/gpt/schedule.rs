//! The learning rate of each step: linear warm-up, then half a cosine; and a short warm-up whenever AdamW begins anew.
//!
//! AdamW whose moments are zero moves every weight by the whole rate, whatever the size of its gradient: its first step
//! follows signs, and the sign of a gradient that is next to nothing is rounding's. A round that starts so overshoots, and
//! two honest devices drift apart. Steps that begin small do neither.
//!
//! Sources: Loshchilov and Hutter, SGDR, arXiv 1608.03983; the warm-up as in nanoGPT; the warm-up after a reset as in
//! ReLoRA, arXiv 2307.05695.

/// Steps of [`Schedule::fresh_warmup`] unless a run says otherwise: without it rounds overshoot, and a longer one
/// wastes steps.
pub const FRESH_WARMUP: u32 = 2;

/// A learning-rate schedule.
///
/// # Determinism
/// Bitwise, everywhere: f64 additions, products and quotients only, rounded once to f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Rate when the warm-up is over.
    pub peak: f32,
    /// Rate of the last step, and of all that follow.
    pub least: f32,
    /// Steps of warm-up. Step s of them has (s + 1) / (warmup + 1) of the peak.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Steps of warm-up after AdamW's moments were zero. Step s of them has (s + 1) / (fresh_warmup + 1) of the rate.
    pub fresh_warmup: u64,
}

impl Schedule {
    /// The rate of a step of the run, `taken` steps after AdamW's moments were zero. Both count from 0.
    pub fn at(&self, step: u64, taken: u64) -> f32 {
        let rate = self.of_run(step);
        if taken >= self.fresh_warmup {
            return rate;
        }
        (f64::from(rate) * (taken + 1) as f64 / (self.fresh_warmup as f64 + 1.0)) as f32
    }

    /// The rate of a step of an optimizer that never begins anew; the first one is 0.
    pub fn of_run(&self, step: u64) -> f32 {
        let (peak, least) = (f64::from(self.peak), f64::from(self.least));
        if step < self.warmup {
            return (peak * (step + 1) as f64 / (self.warmup as f64 + 1.0)) as f32;
        }
        let last = self.steps.saturating_sub(1);
        if step >= last {
            // Also a run that ends within its warm-up.
            return self.least;
        }
        let part = (step - self.warmup) as f64 / (last - self.warmup) as f64;
        (least + 0.5 * (1.0 + cos_pi(part)) * (peak - least)) as f32
    }
}

/// cos(πx) for x in 0..=1, within 1e-15.
fn cos_pi(x: f64) -> f64 {
    if x > 0.5 {
        return -cos_pi(1.0 - x);
    }
    // Taylor's series: the first term that is missing is below (π/2)^24 / 24! = 9e-20.
    let square = (std::f64::consts::PI * x) * (std::f64::consts::PI * x);
    let mut series = 1.0;
    for n in (1..=11).rev() {
        let n = 2.0 * f64::from(n);
        series = 1.0 - series * square / (n * (n - 1.0));
    }
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_is_a_cosine() {
        for i in 0..=10_000 {
            let x = f64::from(i) / 10_000.0;
            let exact = (std::f64::consts::PI * x).cos();
            assert!((cos_pi(x) - exact).abs() < 1e-15, "{x}");
        }
    }

    #[test]
    fn the_rate_rises_then_falls_to_the_least() {
        let schedule = Schedule { peak: 2e-3, least: 1e-4, warmup: 100, steps: 2000, fresh_warmup: 4 };
        let rates: Vec<f32> = (0..2100).map(|step| schedule.of_run(step)).collect();
        assert!((rates[0] - 2e-3 / 101.0).abs() < 1e-9);
        assert!(rates[..101].is_sorted() && rates[100..].is_sorted_by(|a, b| a >= b));
        assert_eq!(rates[100].to_bits(), 2e-3_f32.to_bits());
        let middle = rates[1049].midpoint(rates[1050]);
        assert!((middle - 1.05e-3).abs() < 1e-8, "{middle}");
        assert!(rates[1998] > 1e-4);
        assert!(rates[1999..].iter().all(|rate| rate.to_bits() == 1e-4_f32.to_bits()));
    }

    #[test]
    fn short_runs_have_rates_too() {
        let schedule = |warmup, steps| Schedule { peak: 1.0, least: 0.5, warmup, steps, fresh_warmup: 0 };
        assert_eq!([0, 1, 2].map(|step| schedule(0, 0).of_run(step).to_bits()), [0.5_f32.to_bits(); 3]);
        assert_eq!(
            [0, 9].map(|step| schedule(9, 3).of_run(step).to_bits()),
            [0.1_f32, 0.5].map(f32::to_bits)
        );
        assert_eq!(
            [0, 1, 2].map(|step| schedule(0, 3).of_run(step).to_bits()),
            [1.0_f32, 0.75, 0.5].map(f32::to_bits)
        );
        assert!(schedule(u64::MAX, u64::MAX).of_run(u64::MAX - 1).is_finite());
    }

    #[test]
    fn an_optimizer_that_begins_anew_begins_small() {
        let schedule = Schedule { peak: 2e-3, least: 1e-4, warmup: 100, steps: 2000, fresh_warmup: 4 };
        let shares: Vec<f32> = (0..6).map(|taken| schedule.at(100, taken) / 2e-3).collect();
        for (share, expected) in shares.iter().zip([0.2, 0.4, 0.6, 0.8, 1.0, 1.0]) {
            assert!((share - expected).abs() < 1e-6, "{shares:?}");
        }
        // Both warm-ups at once, and none where AdamW goes on.
        assert!((schedule.at(0, 0) - 2e-3 / 101.0 / 5.0).abs() < 1e-10);
        assert!(
            (0..2000).all(|step| schedule.at(step, step + 4).to_bits() == schedule.of_run(step).to_bits())
        );
        let longest = Schedule { fresh_warmup: u64::MAX, ..schedule };
        assert!(longest.at(100, u64::MAX - 1) > 0.0);
    }

    #[test]
    fn the_bits_never_change() {
        let schedule = Schedule { peak: 2e-3, least: 1e-4, warmup: 100, steps: 2000, fresh_warmup: 4 };
        let bytes: Vec<u8> = (0..2100).flat_map(|step| schedule.of_run(step).to_le_bytes()).collect();
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "ae231288d68c48846a86645257dc90d3052a47c28075508d91376ef53594c87c"
        );
        let bytes: Vec<u8> = (0..2100).flat_map(|step| schedule.at(step, step % 10).to_le_bytes()).collect();
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "f8c2284c67f32238f7adb18e8d88c6ce1b8d972f5b341a08181a8a29f7a95b30"
        );
    }
}
