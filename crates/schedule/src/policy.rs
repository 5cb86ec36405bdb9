//! The scheduler's tunables, each with the arithmetic behind it.

use potluck_types::Duration;

/// Compute time that a shard aims at. Long enough that a round trip of 0.1 s costs 5 %, short enough that a
/// tab that leaves takes little with it.
pub(crate) const SHARD_SECONDS: f64 = 2.0;
/// Compute time of a newcomer's shards, until its first accepted result.
pub(crate) const FIRST_SHARD_SECONDS: f64 = 0.25;
/// A shard takes at most this fraction of a job's free units per consenting session (guided self-scheduling):
/// shards shrink towards the end, so that all finish together.
pub(crate) const SHARE_OF_FREE: usize = 4;
/// Towards the end shards do not shrink below this compute time: a round trip would cost more than it levels out ...
pub(crate) const MIN_SHARD_SECONDS: f64 = 0.05;
/// ... unless a session would then get fewer shards than this.
pub(crate) const MIN_SHARDS_EACH: usize = 8;
/// Free units that are looked at for one lease. 4,096 units cost about 20 µs.
pub(crate) const MAX_SCAN: usize = 4096;
/// Speeds are clamped to this range of floating-point operations per second: a claim is not trusted, and
/// neither zero nor infinity may reach the arithmetic.
pub(crate) const SPEED: std::ops::Range<f64> = 1e6..1e15;
/// Weight of the newest measurement in a session's speed.
pub(crate) const SPEED_WEIGHT: f64 = 0.5;
/// Speed that is believed of a session whose lease passed its deadline, as a part of what would just have met it.
pub(crate) const OVERDUE_SPEED: f64 = 0.5;
/// Transfer speed that deadlines allow for: 2 Mbit/s.
pub(crate) const LINK_BYTES_PER_SECOND: f64 = 250e3;
/// A lease ends after this many times its expected duration ...
pub(crate) const DEADLINE_FACTOR: f64 = 4.0;
/// ... but not before this ...
pub(crate) const MIN_DEADLINE: Duration = Duration::from_secs(10);
/// ... and not after this.
pub(crate) const MAX_DEADLINE: Duration = Duration::from_secs(600);
/// At the tail, a volunteer this many times faster than a shard's holder gets a copy of it at once.
pub(crate) const FASTER_AT_TAIL: f64 = 2.0;
/// Leases of one shard at the tail: the first, and one copy.
pub(crate) const MAX_COPIES: usize = 2;

/// Idle volunteers ask again after this time; new work is also announced by a picture.
pub(crate) const IDLE_RETRY: Duration = Duration::from_secs(2);
/// A volunteer with enough leases asks again when one ends; this is for those that do not notice.
pub(crate) const BUSY_RETRY: Duration = Duration::from_secs(5);
/// First wait after a rejected result; doubles with each further one in a row.
pub(crate) const COOLING: Duration = Duration::from_secs(5);
/// Longest wait after a rejected result.
pub(crate) const MAX_COOLING: Duration = Duration::from_secs(600);
/// A session is refused while its volunteer's credibility is lower. Three rejections of a newcomer.
pub(crate) const MIN_CREDIBILITY: f64 = 0.05;
/// How many acceptances outweigh one rejection.
pub(crate) const REJECTION_WEIGHT: f64 = 8.0;
/// Records of volunteers in memory (48 bytes each); the store keeps the rest.
pub(crate) const MAX_RECORDS: usize = 1 << 16;

/// A lease may fetch its inputs this many times over (cache evictions, broken transfers) before the session
/// is refused.
pub(crate) const REFETCHES: u64 = 4;
/// Smallest charge for a request of a chunk, so that tiny requests do not come for free.
pub(crate) const MIN_CHUNK_CHARGE: u64 = 16 << 10;
/// Pictures go out at most this often.
pub(crate) const PICTURE_INTERVAL: Duration = Duration(1000);
/// Progress of this many ended jobs stays readable.
pub(crate) const MAX_ENDED: usize = 256;
/// A refused session may come back after this time.
pub(crate) const REFUSED_RETRY: Duration = Duration::from_secs(30);
/// After a shutdown volunteers come back after this time.
pub(crate) const RESTART_RETRY: Duration = Duration::from_secs(2);
/// Widest first-tier tolerance that a device can earn: 2^6 times the protocol's.
pub(crate) const MAX_WIDENED: u8 = 6;
/// Flagged rows that tier 3 cleared, in one result, for which the tolerance doubles.
pub(crate) const CLEARED_TO_WIDEN: u32 = 8;
/// Pictures that go out per interval; with more viewers they take turns. 128 pictures of the largest job
/// cost about 20 ms.
pub(crate) const PICTURES_PER_INTERVAL: usize = 128;
