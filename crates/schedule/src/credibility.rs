//! What a volunteer's record is worth, and what follows from a rejected result.

use crate::io::Record;
use crate::policy::{
    CLEARED_TO_WIDEN, COOLING, MAX_COOLING, MAX_RECORDS, MAX_WIDENED, MIN_CREDIBILITY, REJECTION_WEIGHT,
};
use potluck_types::{Duration, Instant, VolunteerId};
use std::collections::BTreeMap;

/// Credibility between 0 and 1: the mean of a Beta distribution in which one rejection weighs as much as
/// eight acceptances. A newcomer has 0.5.
pub fn credibility(record: &Record) -> f64 {
    let accepted = record.accepted as f64;
    let rejected = record.rejected as f64 * REJECTION_WEIGHT;
    (accepted + 1.0) / (accepted + rejected + 2.0)
}

#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    record: Record,
    rejected_in_a_row: u32,
    cooling_until: Instant,
    widened: u8,
    /// Replays of updates passed since the last rejection. Not durable: after a restart everybody is replayed
    /// as a newcomer is.
    audits_passed: u32,
}

/// The records of all volunteers that ever delivered a result, up to a limit.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    by_volunteer: BTreeMap<VolunteerId, Standing>,
}

impl Standings {
    /// Takes over what the store knows.
    pub(crate) fn know(&mut self, volunteer: VolunteerId, record: Record) {
        self.entry(volunteer).record = record;
    }

    /// Whether the volunteer is still unproven.
    pub(crate) fn is_new(&self, volunteer: &VolunteerId) -> bool {
        self.by_volunteer.get(volunteer).is_none_or(|standing| standing.record.accepted == 0)
    }

    /// How long the volunteer has to wait for its next lease.
    pub(crate) fn cooling(&self, volunteer: &VolunteerId, now: Instant) -> Duration {
        self.by_volunteer.get(volunteer).map_or(Duration(0), |standing| standing.cooling_until.since(now))
    }

    /// Whether the volunteer's sessions are refused until it has cooled down.
    pub(crate) fn is_refused(&self, volunteer: &VolunteerId, now: Instant) -> bool {
        self.by_volunteer.get(volunteer).is_some_and(|standing| {
            credibility(&standing.record) < MIN_CREDIBILITY && standing.cooling_until > now
        })
    }

    /// How far the first tier's tolerance is widened for the volunteer, as a power of two.
    pub(crate) fn widened(&self, volunteer: &VolunteerId) -> u8 {
        self.by_volunteer.get(volunteer).map_or(0, |standing| standing.widened)
    }

    /// What the volunteer's record is worth, in millionths.
    pub(crate) fn weight(&self, volunteer: &VolunteerId) -> u32 {
        let record =
            self.by_volunteer.get(volunteer).map_or_else(Record::default, |standing| standing.record);
        (credibility(&record) * 1e6) as u32
    }

    /// Replays passed since the last rejection.
    pub(crate) fn audits_passed(&self, volunteer: &VolunteerId) -> u32 {
        self.by_volunteer.get(volunteer).map_or(0, |standing| standing.audits_passed)
    }

    /// A replay agreed with the volunteer's update.
    pub(crate) fn audit_passed(&mut self, volunteer: VolunteerId) {
        let standing = self.entry(volunteer);
        standing.audits_passed = standing.audits_passed.saturating_add(1);
    }

    pub(crate) fn accepted(&mut self, volunteer: VolunteerId, cleared_rows: u32) {
        let standing = self.entry(volunteer);
        standing.record.accepted += 1;
        standing.rejected_in_a_row = 0;
        if cleared_rows >= CLEARED_TO_WIDEN {
            standing.widened = (standing.widened + 1).min(MAX_WIDENED);
        }
    }

    pub(crate) fn rejected(&mut self, volunteer: VolunteerId, now: Instant) {
        let standing = self.entry(volunteer);
        standing.record.rejected += 1;
        standing.widened = 0;
        standing.audits_passed = 0;
        self.cool_down(volunteer, now);
    }

    /// The volunteer waits, longer each time in a row. On its own this is for results that did not arrive: a
    /// slow link is no lie, but memory that is kept for bytes that do not come is missing to others.
    pub(crate) fn cool_down(&mut self, volunteer: VolunteerId, now: Instant) {
        let standing = self.entry(volunteer);
        let wait = COOLING.0.saturating_mul(1 << standing.rejected_in_a_row.min(20));
        standing.rejected_in_a_row += 1;
        standing.cooling_until = now + Duration(wait.min(MAX_COOLING.0));
    }

    fn entry(&mut self, volunteer: VolunteerId) -> &mut Standing {
        if self.by_volunteer.len() >= MAX_RECORDS && !self.by_volunteer.contains_key(&volunteer) {
            // The least informative goes. Whoever was rejected stays as long as anybody else can go.
            let least = self
                .by_volunteer
                .iter()
                .min_by_key(|(_, standing)| (standing.record.rejected, standing.record.accepted))
                .map(|(volunteer, _)| *volunteer);
            if let Some(least) = least {
                self.by_volunteer.remove(&least);
            }
        }
        self.by_volunteer.entry(volunteer).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credibility_is_slow_to_earn_and_quick_to_lose() {
        let worth = |accepted, rejected| credibility(&Record { accepted, rejected });
        assert!((worth(0, 0) - 0.5).abs() < 1e-12);
        assert!(worth(100, 0) > 0.98);
        assert!(worth(8, 1) < 0.51);
        assert!(worth(0, 2) > MIN_CREDIBILITY && worth(0, 3) < MIN_CREDIBILITY);
    }

    #[test]
    fn waits_double_and_an_acceptance_resets_them() {
        let mut standings = Standings::default();
        let liar = VolunteerId([1; 32]);
        let waits: Vec<_> = (0..3)
            .map(|_| {
                standings.rejected(liar, Instant(0));
                standings.cooling(&liar, Instant(0)).0
            })
            .collect();
        assert_eq!(waits, [5_000, 10_000, 20_000]);
        assert!(standings.is_refused(&liar, Instant(0)) && !standings.is_refused(&liar, Instant(20_000)));
        standings.accepted(liar, 0);
        standings.rejected(liar, Instant(0));
        assert_eq!(standings.cooling(&liar, Instant(0)).0, 5_000);
    }

    #[test]
    fn memory_is_bounded_and_rejections_are_remembered_longest() {
        let mut standings = Standings::default();
        let name =
            |i: usize| VolunteerId(std::array::from_fn(|b| if b < 8 { (i >> (8 * b)) as u8 } else { 0 }));
        standings.rejected(name(0), Instant(0));
        for i in 1..=MAX_RECORDS + 5 {
            standings.know(name(i), Record { accepted: 1, rejected: 0 });
        }
        assert_eq!(standings.by_volunteer.len(), MAX_RECORDS);
        assert!(standings.cooling(&name(0), Instant(0)).0 > 0);
    }
}
