//! How fast the device takes bands: from when each was submitted and when it was heard to be done.

use std::time::Duration;

use web_time::Instant;

use crate::limits::MAX_BAND_GROWTH;

/// The bands of one product, in the order of the queue. Pure: time is passed in.
pub(super) struct Throughput {
    /// When the band before was heard to be done.
    done: Option<Instant>,
    /// FLOPs of the band before, and how long it seemed to take.
    before: Option<(f64, Duration)>,
}

impl Throughput {
    pub(super) const fn new() -> Self {
        Self { done: None, before: None }
    }

    /// The rate in FLOP/s after a band of `flops` that was `submitted` then and heard to be done `now`; `rate` is what
    /// was thought so far.
    ///
    /// A busy event loop hears of a band late, and of the one behind it right after, as if that had taken no time. The
    /// two together took what they seem to take; the slower of what one and both say is believed.
    pub(super) fn heard(&mut self, rate: f64, flops: f64, submitted: Instant, now: Instant) -> f64 {
        // It started when it was submitted or when the one before was done, whichever came later.
        let started = self.done.map_or(submitted, |done| done.max(submitted));
        let took = now.duration_since(started);
        let a_second = |flops: f64, time: Duration| flops / time.as_secs_f64().max(1e-6);
        let both = self.before.map(|(before, then)| a_second(before + flops, then + took));
        self.done = Some(now);
        self.before = Some((flops, took));
        both.unwrap_or(f64::INFINITY).min(a_second(flops, took)).min(rate * MAX_BAND_GROWTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 1e9;
    const FLOPS: f64 = 4e7;

    /// Bands of 40 ms each, submitted two at a time; `heard` says when each was heard of. Rates as they were believed.
    fn rates(heard: &[u64]) -> Vec<f64> {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let (mut throughput, mut rate) = (Throughput::new(), RATE);
        let submitted = |band: usize| if band < 2 { 0 } else { heard[band - 2] };
        (0..heard.len())
            .map(|band| {
                rate = throughput.heard(rate, FLOPS, at(submitted(band)), at(heard[band]));
                rate
            })
            .collect()
    }

    #[test]
    fn a_steady_device_keeps_its_rate() {
        for rate in rates(&[40, 80, 120, 160, 200]) {
            assert!((rate / RATE - 1.0).abs() < 1e-3, "{rate}");
        }
    }

    #[test]
    fn bands_that_are_heard_of_together_do_not_look_fast() {
        // The second is heard of 0.1 ms or less after the first, which is late.
        for rate in rates(&[80, 80, 160, 160, 200, 240]) {
            assert!(rate < 1.01 * RATE, "{rate}");
        }
    }

    #[test]
    fn a_faster_device_is_believed_by_and_by() {
        let begin = Instant::now();
        let mut throughput = Throughput::new();
        let rate = throughput.heard(RATE, FLOPS, begin, begin + Duration::from_micros(10));
        assert!((rate / (RATE * MAX_BAND_GROWTH) - 1.0).abs() < 1e-9, "{rate}");
    }
}
