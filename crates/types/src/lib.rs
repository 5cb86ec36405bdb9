//! Ids, content hashes, units, matrix geometry and limits shared by every Potluck crate.
//!
//! Nothing here does I/O, reads a clock or draws a random number: callers pass those in.

pub mod bucket;
pub mod hash;
pub mod id;
pub mod key;
pub mod limits;
pub mod matrix;
pub mod time;

pub use bucket::Bucket;
pub use hash::BlobHash;
pub use id::{ConsentToken, Fence, JobId, LeaseId, LinkId, ParseIdError, SessionId, VolunteerId};
pub use key::{VolunteerKey, WrongSignature};
pub use matrix::{DType, MatmulShape, Tile};
pub use time::{Duration, Instant};
