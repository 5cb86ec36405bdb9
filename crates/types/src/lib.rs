//! Ids, content hashes, units, matrix geometry and limits shared by every Potluck crate.
//!
//! Nothing here does I/O, reads a clock or draws a random number: callers pass those in.

pub mod hash;
pub mod id;
pub mod limits;
pub mod matrix;
pub mod time;

pub use hash::BlobHash;
pub use id::{LinkId, ConsentToken, Fence, JobId, LeaseId, ParseIdError, SessionId, VolunteerId, VolunteerKey};
pub use matrix::{DType, MatmulShape, Tile};
pub use time::{Duration, Instant};
