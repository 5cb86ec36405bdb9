//! The scheduler's tunables, each with the arithmetic behind it.

use potluck_types::Duration;
use potluck_types::limits::MAX_RESULTS_IN_MEMORY_BYTES;

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
/// Leases that are looked at for one to copy, those that are due first, in some tens of microseconds: all who are idle ask, again and
/// again.
pub(crate) const MAX_LOOKS_AT_TAIL: usize = 1024;

/// Idle volunteers ask again after this time; new work is also announced by a picture.
pub(crate) const IDLE_RETRY: Duration = Duration::from_secs(2);
/// Where many lend, they ask less often: so many a second together, a tenth of what a relay has to do at full load.
pub(crate) const IDLE_REQUESTS_PER_SECOND: u64 = 1000;
/// A volunteer with enough leases asks again when one ends; this is for those that do not notice.
pub(crate) const BUSY_RETRY: Duration = Duration::from_secs(5);
/// Who was leased a shard of an eval and gave no answer lets others go first for so long, five times the interval at which
/// the idle ask: else it could keep the shard from everybody for ever. Doubles with each further time ...
pub(crate) const LAPSE_REST: Duration = Duration::from_secs(10);
/// ... up to this.
pub(crate) const MAX_LAPSE_REST: Duration = Duration::from_secs(600);
/// Volunteers of whom a shard remembers that (56 bytes each): more than are asked while one rests.
pub(crate) const MAX_LAPSES: usize = 256;
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

/// Blobs beside inputs of leases that a session may fetch: those of the versions that a person looks at, one after the
/// other.
pub(crate) const MAX_FETCHES: usize = 8;

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

/// Sessions that a network may have as long as there is room for any: a class of a school behind one address. Beyond them it may
/// have as many as are free.
pub(crate) const BLOCK_FLOOR: usize = 64;
/// Sessions of one key. Keys cost nothing, so this stops no attack: it stops a program that opens sessions in a loop.
pub(crate) const MAX_SESSIONS_PER_VOLUNTEER: usize = 256;

/// Runs that are not finished, in one relay.
pub(crate) const MAX_RUNS: usize = 16;
/// Longest reason that is kept for a pause, in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 1024;
/// Bytes of updates that all runs together may hold until their rounds close: half of the memory for results.
/// The other half (two blobs of the largest size) always drains, so nothing waits for a round forever.
pub(crate) const MAX_UPDATES_IN_MEMORY_BYTES: u64 = MAX_RESULTS_IN_MEMORY_BYTES as u64 / 2;
/// A round needs this many updates, or the run's own least number of workers if that is smaller ...
pub(crate) const QUORUM_FLOOR: u32 = 3;
/// ... and at its deadline this part of the expected workers, in percent. It is halved with each repetition.
pub(crate) const QUORUM_PERCENT: u32 = 60;
/// Who sends codec S needs a link slower than this: 2 Mbit/s, on which an update of codec R of `mini` (0.4 MB) takes 1.6 s.
pub(crate) const SLOW_LINK_BYTES_PER_SECOND: u64 = 250_000;
/// Or an update of codec R larger than this: that of 5 million parameters, 10 s at 2 Mbit/s.
pub(crate) const LARGE_UPDATE_BYTES: u64 = 2_500_000;
/// Results of fewer bytes say nothing about a link: the round trips of their requests are most of the time.
pub(crate) const LINK_SAMPLE_BYTES: u64 = 16 << 10;
/// Least rate of replays of codec S, in millionths: nothing can be trimmed there, as each value has about one sender.
pub(crate) const SPARSE_AUDIT_RATE: u32 = 100_000;
/// Training's part of the speed that calibration finds for matrix products: attention, norms and AdamW move more
/// bytes for each operation.
pub(crate) const TRAIN_EFFICIENCY: f64 = 0.25;
/// Time of a round over what its slowest worker is expected to take. Half of it is for dealing: who joins last
/// still has 1.5 times the slowest's time.
pub(crate) const ROUND_FACTOR: f64 = 3.0;
/// Part of the asking volunteers, the fastest first, that a round's time allows for: one very slow device (or
/// one that says so) must not slow all others down.
pub(crate) const ROUND_FOR: f64 = 0.75;
/// A round takes at least this long, so that idle volunteers, who ask every 2 s, find it open ...
pub(crate) const MIN_ROUND: Duration = Duration::from_secs(20);
/// ... and at most this long: what a volunteer who leaves takes along.
pub(crate) const MAX_ROUND: Duration = Duration::from_secs(1800);
/// Who cannot do a run's task is not asked for so long: a device does not grow, but a driver may recover.
pub(crate) const EXCUSED: Duration = Duration::from_secs(600);
/// Who asked this recently is expected in a round that opens: five times the interval at which the idle ask.
pub(crate) const ASKED_RECENTLY: Duration = Duration::from_secs(10);
/// A round waits this long for those that are there but did not ask yet: longer than the idle wait between requests,
/// so that it starts with all of them and knows their speeds.
pub(crate) const GATHER: Duration = Duration::from_secs(3);
/// A round waits this long for its least number of workers before it opens with fewer, if its run allows that.
pub(crate) const GRACE: Duration = Duration::from_secs(60);

/// Neighbors that a member of a mesh of more than ten is given. Others may be given it as well, up to its own limit.
pub(crate) const CONNECT_TO: usize = 6;
/// Members that are looked at for one neighbor: 256 cost about 0.1 ms.
pub(crate) const NEIGHBOR_SCAN: usize = 256;
/// Blobs of a member that are remembered: what it holds, and what two leases need.
pub(crate) const MEMBER_BLOBS: usize = 256;
/// What a peer holds costs this part of what only the relay holds, when shards are chosen: the relay is spared, but the
/// bytes still have to come.
pub(crate) const PEER_COST: u64 = 4;
/// How often the mesh is tended.
pub(crate) const MESH_INTERVAL: Duration = Duration::from_secs(5);
/// Members get fresh credentials for TURN this often: before the old ones, which count for an hour, expire.
pub(crate) const SETTINGS_INTERVAL: Duration = Duration::from_secs(40 * 60);
/// A link whose end lost its session is kept for so long: it may still run, and the end may come back.
pub(crate) const RESUME_GRACE: Duration = Duration::from_secs(60);
/// Signals for an end that lost its session wait so long: older ones belong to an attempt that was given up.
pub(crate) const SIGNAL_TTL: Duration = Duration::from_secs(15);
/// Signals that wait for one end of a link: an offer and its candidates.
pub(crate) const QUEUED_SIGNALS: usize = 40;
/// Volunteers that have to complain about one before it gets no more neighbors ...
pub(crate) const COMPLAINTS: usize = 3;
/// ... and for how long their complaints count.
pub(crate) const MESH_BAN: Duration = Duration::from_secs(600);
/// A rate that was reported longer ago says nothing any more.
pub(crate) const REPORT_COUNTS: Duration = Duration::from_secs(15);
/// What others may see of a volunteer is recorded again, with a result, after this time: whoever is not heard of for a month is not
/// listed any more, and a session may last longer.
pub(crate) const MEMBERSHIP_REFRESH: Duration = Duration::from_secs(24 * 3600);
