//! The swarm's tunables, each with its unit and its reason.

use potluck_types::Duration;
use potluck_types::limits::{GROUP_BYTES, MAX_CHUNK_BYTES, MAX_TASK_PANELS};

/// Groups of one request to the relay: a chunk.
pub(crate) const SPAN: u32 = (MAX_CHUNK_BYTES / GROUP_BYTES) as u32;
/// Requests to the relay that are under way while peers want the same blobs: two keep its line busy.
pub(crate) const SHARED_WINDOW: usize = 2;
/// Before the relay is asked, peers have this long to say what they hold: several round trips.
pub(crate) const ANSWER_WAIT: Duration = Duration(300);
/// The same where a person asked for peers: a busy tab takes a second to answer.
pub(crate) const PEERS_FIRST_ANSWER_WAIT: Duration = Duration(3000);
/// Before the relay is asked for a large blob, links that are being made have this long: most open within a second.
pub(crate) const CONNECT_WAIT: Duration = Duration(2000);
/// The same where a person asked for peers: on a busy machine a link takes seconds.
pub(crate) const PEERS_FIRST_WAIT: Duration = Duration(10_000);
/// A blob smaller than this does not wait for links: from the relay it takes less than half a second at 20 Mbit/s.
pub(crate) const LARGE_BYTES: u64 = 1 << 20;
/// Groups that a peer may be asked for at once: the first, and the most. 4 MiB fill 320 Mbit/s at 100 ms.
pub(crate) const PIPELINE: std::ops::RangeInclusive<u32> = 8..=128;
/// ... as many as it delivers in this time.
pub(crate) const PIPELINE_TIME: Duration = Duration(500);
/// A peer that delivers nothing for so long is asked for nothing more for a while, and others are asked instead ...
pub(crate) const STALL: Duration = Duration::from_secs(4);
/// ... this long ...
pub(crate) const REST: Duration = Duration::from_secs(10);
/// ... and is dropped when it has stalled so often without anything in between.
pub(crate) const MAX_STALLS: u32 = 2;
/// Times that a peer may refuse what it said to hold.
pub(crate) const MAX_LIES: u32 = 4;
/// Bytes of groups that nobody asked for: as many as may come late from a peer that was given up.
pub(crate) const MAX_UNASKED_BYTES: u64 = 4 << 20;
/// Times that a peer may send what makes no sense.
pub(crate) const MAX_NONSENSE: u32 = 8;
/// A neighbor's word that it fetches something from the relay holds for so long.
pub(crate) const CLAIM_TTL: Duration = Duration::from_secs(4);
/// Gained groups are told at most this often: a message for every group to every peer would be more than the groups.
pub(crate) const TELL_INTERVAL: Duration = Duration(50);
/// With so few groups missing, all under way, others are asked for them too ...
pub(crate) const END_GAME_GROUPS: usize = 16;
/// ... if they have been under way for so long.
pub(crate) const END_GAME_AFTER: Duration = Duration(1000);
/// Who has fetched its own part of a blob from the relay, and gets nothing from peers, waits so long for neighbors to fetch
/// theirs before it helps: a chunk at 4 Mbit/s.
pub(crate) const HELP_AFTER: Duration = Duration(500);
/// A peer owes what it can deliver in half a second. Where a group has been owed for so long ...
pub(crate) const SLOW_AFTER: Duration = Duration::from_secs(2);
/// ... and all peers together deliver less than 2 Mbit/s, they are too slow, and the relay helps. It is faster than peers
/// nearly always; asked whenever it is, it would send nearly everything.
pub(crate) const SLOW_BYTES_PER_S: u64 = 256 << 10;
/// A tree that does not come is asked for elsewhere after this time.
pub(crate) const TREE_TIMEOUT: Duration = Duration::from_secs(3);
/// While the relay is away, a transfer that nobody needs at the moment goes on for so long: its lease comes back with
/// the relay.
pub(crate) const LINGER: Duration = Duration::from_secs(120);
/// Blobs that a peer may seek at once: those of two leases.
pub(crate) const MAX_SEEKS: usize = 4 * MAX_TASK_PANELS;
/// Groups that may wait to be sent to one peer: four times what an honest one asks for.
pub(crate) const MAX_UPLOADS: usize = 4 * *PIPELINE.end() as usize;
/// Messages other than groups that a peer may send in a burst: seeks of two leases, and news of groups.
pub(crate) const PEER_MESSAGE_BURST: u64 = 1000;
/// Messages other than groups per second that a peer may send for long: news 20 times a second for each of 10 blobs.
pub(crate) const PEER_MESSAGES_PER_SECOND: u64 = 400;
/// Least cap of uploads: a group in half a minute. With less, peers would wait for what never comes; who wants to give
/// nothing uses the relay alone.
pub(crate) const MIN_UPLOAD_BYTES_PER_S: u64 = 1024;
