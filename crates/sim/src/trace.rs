//! What happened, in order: as a hash that says whether two runs were the same, and as lines for people.

use std::fmt;

/// Receives readable lines.
pub type Sink = fn(&str);

/// The record of one run.
#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    sink: Option<Sink>,
    events: u64,
}

impl Trace {
    /// An empty record.
    pub fn new(sink: Option<Sink>) -> Self {
        Self { hasher: blake3::Hasher::new(), sink, events: 0 }
    }

    /// Writes down one event: its time, what kind it is, whom it concerns, and its bytes.
    pub fn note(&mut self, now: u64, kind: u8, whom: u64, bytes: &[u8], line: impl FnOnce() -> String) {
        self.events += 1;
        let mut head = [0; 17];
        head[..8].copy_from_slice(&now.to_le_bytes());
        head[8..16].copy_from_slice(&whom.to_le_bytes());
        head[16] = kind;
        self.hasher.update(&head).update(bytes);
        if let Some(sink) = self.sink {
            sink(&format!("{:>10.3} s  {}", now as f64 / 1e3, line()));
        }
    }

    /// A line without an event, where somebody watches.
    pub fn say(&self, now: u64, line: impl FnOnce() -> String) {
        if let Some(sink) = self.sink {
            sink(&format!("{:>10.3} s  {}", now as f64 / 1e3, line()));
        }
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> TraceHash {
        TraceHash(*self.hasher.finalize().as_bytes())
    }
}

/// Equal exactly if two runs were.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceHash([u8; 32]);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A message in one line: what matters of it, without its bytes.
pub fn brief(message: &potluck_proto::Message) -> String {
    use potluck_proto::{Message, Task};
    match message {
        Message::Lease(lease) => {
            let what = match &lease.task {
                Task::Matmul(task) => format!("{}x{}x{}", task.rows, task.depth, task.cols),
                Task::Train(task) => format!("round {} of {:?}", task.round, lease.job),
                Task::Eval(task) => format!("questions of {} bytes", task.items.bytes),
            };
            format!(
                "Lease {} fence {:#x} shard {} ({what}) for {}",
                lease.lease, lease.fence.0, lease.shard, lease.deadline
            )
        }
        Message::Challenge(challenge) => {
            format!("Challenge {:02x?}…", &challenge.nonce[..4])
        }
        Message::Hello(hello) => {
            format!("Hello {:?} signature {:02x?}…", hello.volunteer, &hello.signature[..4])
        }
        Message::LeaseRequest(request) => {
            format!(
                "LeaseRequest {:?} {} Mflop/s, {} held",
                request.backend,
                request.mflops,
                request.held.len()
            )
        }
        Message::BlobChunk(chunk) => {
            format!("BlobChunk {:?} {}+{}", chunk.hash, chunk.offset, chunk.data.len())
        }
        Message::BlobRequest(request) => {
            format!("BlobRequest {:?} {}+{}", request.hash, request.offset, request.bytes)
        }
        Message::Commit(commit) => {
            format!("Commit {} fence {:#x} {:?}", commit.lease, commit.fence.0, commit.result.hash)
        }
        Message::Picture(picture) => {
            format!("Picture {:?} {} permille", picture.job, picture.accepted_permille)
        }
        other => format!("{other:?}"),
    }
}
