//! x
mod canonical;
pub mod check;
pub mod constitution;
pub mod entry;
pub mod gate;
mod hex;
mod key;
mod kinds;
pub mod limits;
pub mod model;
pub mod roles;
pub mod state;
pub mod statement;
pub use canonical::FormError;
pub use constitution::Constitution;
pub use entry::{Body, Entry};
pub use key::{Key, ParseKeyError, Signature};
pub use state::{Refused, State};
pub use statement::Statement;
/// x
pub fn commitment(secret: &[u8; 32]) -> potluck_types::BlobHash {
    potluck_types::BlobHash(blake3::derive_key("potluck 2026 epoch secret commitment v1", secret))
}
