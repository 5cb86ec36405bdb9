//! The engine's tunables, each with its unit and its reason.

use potluck_types::Duration;

/// Memory for one shard's inputs and result, where the adapter knows no better: a phone's tab is killed
/// silently at a few hundred MiB.
pub const DEFAULT_MEMORY_BYTES: u64 = 64 << 20;
/// Memory for inputs that may be needed again, where the adapter knows no better.
pub const DEFAULT_CACHE_BYTES: u64 = 128 << 20;
/// Results that wait for their verdict. With more the relay is behind, and asking for work would not help.
pub(crate) const MAX_RESULTS: usize = 4;
/// A result is let go if no verdict came for so long.
pub(crate) const RESULT_TTL: Duration = Duration::from_secs(600);
/// First wait before reconnecting; doubles with each failure.
pub(crate) const RECONNECT: Duration = Duration(1000);
/// Longest wait before reconnecting.
pub(crate) const MAX_RECONNECT: Duration = Duration::from_secs(60);
/// A socket that is not open, or on which no challenge and welcome came, by then is given up.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// An unanswered request for a lease is repeated after this time, on a connection that lives.
pub(crate) const ASK_TIMEOUT: Duration = Duration::from_secs(20);
/// Shortest and longest wait that a relay can impose between two requests for work.
pub(crate) const RETRY: std::ops::RangeInclusive<u64> = 100..=600_000;
/// After this many failures in a row a GPU is given up for the CPU, and a CPU for good.
pub(crate) const MAX_FAILURES: u32 = 3;
/// First wait after a device failure; doubles with each.
pub(crate) const DEVICE_RETRY: Duration = Duration(1000);
/// Pings go out this often at least, whatever timeout the relay names.
pub(crate) const MIN_PING: Duration = Duration(1000);
/// Proofs that are remembered: a few runs and candidates at a time.
pub(crate) const MAX_PROOFS: usize = 64;
/// A proof that failed is not asked for again for so long.
pub(crate) const PROOF_RETRY: Duration = Duration::from_secs(60);
/// Share of the device that each preset lends.
pub(crate) const fn share(preset: potluck_proto::Preset) -> f64 {
    match preset {
        potluck_proto::Preset::Quiet => 0.25,
        potluck_proto::Preset::Balanced => 0.5,
        potluck_proto::Preset::Full => 1.0,
    }
}
