//! Means with their errors, and rates with their intervals.

/// A mean and the standard error of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error; 0 of fewer than two values, of which nothing is known.
    pub error: f64,
    /// Values.
    pub count: usize,
}

/// The mean of values, taken as independent draws.
pub fn mean(values: &[f64]) -> Mean {
    let count = values.len();
    if count == 0 {
        return Mean::default();
    }
    let mean = values.iter().sum::<f64>() / count as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let error = if count > 1 { (squares / (count - 1) as f64 / count as f64).sqrt() } else { 0.0 };
    Mean { mean, error, count }
}

/// The mean of strata that count the same.
pub fn stratified(strata: &[Mean]) -> Mean {
    let count = strata.len().max(1) as f64;
    Mean {
        mean: strata.iter().map(|stratum| stratum.mean).sum::<f64>() / count,
        error: strata.iter().map(|stratum| stratum.error.powi(2)).sum::<f64>().sqrt() / count,
        count: strata.iter().map(|stratum| stratum.count).sum(),
    }
}

/// The 95 % interval of a rate, in parts per million, after Wilson: right for few trials and for none that succeed.
///
/// Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
pub fn wilson_ppm(successes: usize, trials: usize) -> [u32; 2] {
    if trials == 0 {
        return [0, 1_000_000];
    }
    // The normal distribution's 97.5 % point.
    let (z, n) = (1.959_964_f64, trials as f64);
    let p = successes.min(trials) as f64 / n;
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let reach = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    [middle - reach, middle + reach].map(|edge| (edge.clamp(0.0, 1.0) * 1e6).round() as u32)
}

/// A share in parts per million, rounded; 0 of nothing.
pub fn ppm(part: usize, whole: usize) -> u32 {
    if whole == 0 { 0 } else { (part.min(whole) as f64 / whole as f64 * 1e6).round() as u32 }
}

/// A number of nats in millionths.
pub fn micro(nats: f64) -> i64 {
    (nats * 1e6).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_intervals_are_the_known_ones() {
        let found = mean(&[1.0, 2.0, 3.0, 4.0]);
        // Standard deviation sqrt(5/3), of four values.
        assert!((found.mean - 2.5).abs() < 1e-12 && (found.error - (5.0_f64 / 12.0).sqrt()).abs() < 1e-12);
        assert_eq!(mean(&[]), Mean::default());
        assert_eq!(mean(&[3.0]), Mean { mean: 3.0, error: 0.0, count: 1 });
        let strata = stratified(&[found, Mean { mean: 4.5, error: 0.3, count: 9 }]);
        assert!((strata.mean - 3.5).abs() < 1e-12 && strata.count == 13);
        assert!((strata.error - ((5.0_f64 / 12.0 + 0.09) / 4.0).sqrt()).abs() < 1e-12);
        // Published: 0 of 10 gives 0 to 27.8 %, 5 of 10 gives 23.7 to 76.3 %.
        assert_eq!(wilson_ppm(0, 10), [0, 277_533]);
        assert_eq!(wilson_ppm(5, 10).map(|edge| edge / 1000), [236, 763]);
        assert_eq!(wilson_ppm(10, 10)[1], 1_000_000);
        assert_eq!(wilson_ppm(0, 0), [0, 1_000_000]);
        assert_eq!((ppm(1, 3), ppm(1, 0), ppm(3, 2)), (333_333, 0, 1_000_000));
        assert_eq!(micro(-1.25), -1_250_000);
    }
}
