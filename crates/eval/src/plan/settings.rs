//! How much is evaluated.

use super::PlanError;

/// How much is evaluated. Every number has bounds, see [`Settings::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Secret windows that are scored, of each source.
    pub windows: u32,
    /// Texts that the model writes after public prompts.
    pub samples: u32,
    /// Tokens of each.
    pub sample_tokens: u32,
    /// Training windows whose beginning the model continues, and as many held-out ones.
    pub memorized: u32,
    /// Tokens of each continuation.
    pub memorized_tokens: u32,
    /// Repeated texts of the training data that are tried as triggers.
    pub triggers: u32,
    /// Repeated texts that are common, and as many that are short, which do not count and are tried for people to see.
    pub shown: u32,
    /// Unrelated texts after which each is tried.
    pub contexts: u32,
    /// Floating-point operations of a shard, unless one item has more.
    pub shard_flops: u64,
    /// Shards of the secret windows, at least.
    pub shards: u32,
}

impl Default for Settings {
    /// Minutes of one core for models of a million parameters, shared by volunteers.
    fn default() -> Self {
        Self {
            windows: 256,
            samples: 24,
            sample_tokens: 160,
            memorized: 24,
            memorized_tokens: 64,
            triggers: 12,
            shown: 6,
            contexts: 24,
            // Seconds of one slow core: a tab makes a few billion a second.
            shard_flops: 20_000_000_000,
            shards: 4,
        }
    }
}

impl Settings {
    /// Seconds in all for the smallest models: for tests and demonstrations. Its figures are coarse.
    pub const fn hasty() -> Self {
        Self {
            windows: 24,
            samples: 4,
            sample_tokens: 32,
            memorized: 4,
            memorized_tokens: 32,
            triggers: 4,
            shown: 2,
            contexts: 8,
            shard_flops: 4_000_000_000,
            shards: 2,
        }
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// [`PlanError::Setting`] for the first number outside of its bounds.
    pub fn check(&self) -> Result<(), PlanError> {
        let small = [
            // Two at least, for an error of the mean.
            ("windows", self.windows, 2, 4096),
            ("samples", self.samples, 1, 256),
            ("sample_tokens", self.sample_tokens, 1, 1024),
            ("memorized", self.memorized, 1, 256),
            // The longest piece that is counted has 50 tokens, the shortest 8.
            ("memorized_tokens", self.memorized_tokens, 8, 256),
            ("triggers", self.triggers, 1, 64),
            ("shown", self.shown, 0, 64),
            ("contexts", self.contexts, 4, 64),
            ("shards", self.shards, 1, 256),
        ];
        let small = small.map(|(name, found, least, most)| (name, u64::from(found), least, most));
        // Less is cut into shards of one item, more is hours of a slow core.
        let flops = ("shard_flops", self.shard_flops, 1_000_000, 1_000_000_000_000_000);
        for (name, found, least, most) in small.into_iter().chain([flops]) {
            if !(least..=most).contains(&found) {
                return Err(PlanError::Setting { name, found, least, most });
            }
        }
        Ok(())
    }
}
