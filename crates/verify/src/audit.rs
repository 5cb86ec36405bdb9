//! Who is audited: a draw that neither side can steer, at a rate that falls with a key's record.

use crate::Secret;
use potluck_types::BlobHash;

/// Parameters of the rate, logged with each run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AuditParams {
    /// Rounds of a new key that are audited without exception. Default 5.
    pub first_rounds: u32,
    /// Rate after them, before any audit was passed. Default 0.5.
    pub start: f64,
    /// By what each audit that was passed multiplies the rate. Default 0.8.
    pub decay: f64,
    /// Least rate. Default 0.05; a run with sparse updates uses at least 0.1.
    pub least: f64,
}

impl Default for AuditParams {
    fn default() -> Self {
        Self { first_rounds: 5, start: 0.5, decay: 0.8, least: 0.05 }
    }
}

impl AuditParams {
    /// For sparse updates, which no rule can trim.
    pub fn sparse() -> Self {
        Self { least: 0.1, ..Self::default() }
    }

    /// The probability that an update is audited, of a key that took part in `rounds` before and has since its first
    /// rounds passed `passed` audits.
    pub fn rate(&self, rounds: u32, passed: u32) -> f64 {
        if rounds < self.first_rounds {
            return 1.0;
        }
        let mut rate = self.start;
        for _ in 0..passed {
            if rate <= self.least || self.decay >= 1.0 {
                break;
            }
            rate *= self.decay;
        }
        rate.max(self.least)
    }
}

/// The hash of all commits of a round, in whatever order they came: the draw is fixed only when the last one is in.
pub fn commits_hash(commits: &[BlobHash]) -> BlobHash {
    let mut sorted = commits.to_vec();
    sorted.sort_unstable();
    let mut hasher = blake3::Hasher::new_derive_key("potluck 2026 commits of a round v1");
    for commit in &sorted {
        hasher.update(&commit.0);
    }
    BlobHash(*hasher.finalize().as_bytes())
}

/// Whether a commit is audited, at a rate of 0 to 1 (anything else counts as 1).
///
/// The draw is a pseudo-random function of the epoch's secret, the hash of all commits and this one's: a volunteer cannot know
/// it before it has committed, the relay cannot choose it afterwards, and everybody can repeat it when the
/// secret is published.
pub fn is_audited(secret: &Secret, commits: &BlobHash, commit: &BlobHash, rate: f64) -> bool {
    let key = blake3::derive_key("potluck 2026 audit key v1", &secret.0);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(&commits.0).update(&commit.0);
    let mut word = [0; 8];
    hasher.finalize_xof().fill(&mut word);
    // 53 bits: exact in f64, uniform in [0, 1).
    let draw = (u64::from_le_bytes(word) >> 11) as f64 / (1_u64 << 53) as f64;
    if (0.0..=1.0).contains(&rate) { draw < rate } else { true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "a bound is returned as it is")]
    fn the_rate_falls_with_the_record() {
        let params = AuditParams::default();
        assert_eq!([0, 4].map(|rounds| params.rate(rounds, 100)), [1.0, 1.0]);
        assert_eq!(params.rate(5, 0), 0.5);
        assert!((params.rate(5, 1) - 0.4).abs() < 1e-12);
        assert!((params.rate(50, 10) - 0.5 * 0.8_f64.powi(10)).abs() < 1e-12);
        assert_eq!(params.rate(50, 11), 0.05);
        assert_eq!(params.rate(u32::MAX, u32::MAX), 0.05);
        assert_eq!(AuditParams::sparse().rate(50, 1000), 0.1);
    }

    #[test]
    fn the_draw_depends_on_everything_and_has_its_rate() {
        let secret = Secret([7; 32]);
        let commits: Vec<BlobHash> = (0..4000_u32).map(|i| BlobHash::of(&i.to_le_bytes())).collect();
        let all = commits_hash(&commits);
        let draw = |secret: &Secret, all: &BlobHash, rate: f64| -> Vec<bool> {
            commits.iter().map(|commit| is_audited(secret, all, commit, rate)).collect()
        };
        let count = |draws: &[bool]| draws.iter().filter(|&&drawn| drawn).count();
        let first = draw(&secret, &all, 0.25);
        // 1000 expected, deviation 27.
        assert!((870..1130).contains(&count(&first)), "{}", count(&first));
        assert_ne!(first, draw(&Secret([8; 32]), &all, 0.25));
        assert_ne!(first, draw(&secret, &commits_hash(&commits[1..]), 0.25));
        let more = draw(&secret, &all, 0.5);
        assert!(
            first.iter().zip(&more).all(|(few, more)| *more || !few),
            "a higher rate audits the same and more"
        );
        assert_eq!((count(&draw(&secret, &all, 0.0)), count(&draw(&secret, &all, 1.0))), (0, 4000));
        assert_eq!(count(&draw(&secret, &all, f64::NAN)), 4000, "a broken rate audits");
    }

    #[test]
    fn the_hash_of_commits_does_not_depend_on_their_order_and_is_frozen() {
        let (a, b) = (BlobHash([1; 32]), BlobHash([2; 32]));
        assert_eq!(commits_hash(&[a, b]), commits_hash(&[b, a]));
        assert_ne!(commits_hash(&[a, b]), commits_hash(&[a]));
        assert_ne!(commits_hash(&[a, a]), commits_hash(&[a]));
        assert_eq!(commits_hash(&[a, b]).to_string()[..16], *"f2563b0acbcf1601");
        let draw = |i: u8| is_audited(&Secret([7; 32]), &a, &BlobHash([i; 32]), 0.5);
        assert_eq!((0..12).map(draw).map(u8::from).collect::<Vec<_>>(), [0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1]);
    }
}
