//! Identifiers. Each is a newtype, so that one cannot be passed where another belongs.

use std::fmt;
use std::str::FromStr;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// The text has the wrong number of hexadecimal digits.
    #[error("expected {expected} hexadecimal digits, found {found} characters")]
    Length {
        /// Digits that this kind of id has.
        expected: usize,
        /// Characters in the text.
        found: usize,
    },
    /// A character is not a hexadecimal digit.
    #[error("character {position} is not a hexadecimal digit")]
    Digit {
        /// Position of the first such character, from 0.
        position: usize,
    },
}

pub(crate) fn decode_hex<const N: usize>(s: &str) -> Result<[u8; N], ParseIdError> {
    let bytes = s.as_bytes();
    if bytes.len() != 2 * N {
        return Err(ParseIdError::Length { expected: 2 * N, found: s.chars().count() });
    }
    let mut out = [0; N];
    for (position, &byte) in bytes.iter().enumerate() {
        let digit = char::from(byte).to_digit(16).ok_or(ParseIdError::Digit { position })?;
        out[position / 2] = (out[position / 2] << 4) | digit as u8;
    }
    Ok(out)
}

pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(s: &str) -> Result<Self, ParseIdError> {
                decode_hex(s).map(Self)
            }
        }
    };
}

macro_rules! counter_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

byte_id!(
    /// A job: what a submitter sent. Random, so that ids of one relay say nothing about its load.
    JobId, 16
);
byte_id!(
    /// The public name of a volunteer: its Ed25519 public key. Credibility belongs to it, and whoever has the
    /// [`VolunteerKey`](crate::VolunteerKey).
    VolunteerId, 32
);
byte_id!(
    /// Proof that a person agreed, issued by the relay for one session and needed for every lease.
    ConsentToken, 16
);
byte_id!(
    /// A link between two volunteers, as the relay assigned it. Random and known to its two ends only: who names it may
    /// use it, also at a relay that has restarted and forgotten it.
    LinkId, 16
);
counter_id!(
    /// One connection of one tab or native volunteer. Unique while the relay runs.
    SessionId
);
counter_id!(
    /// One lease: shard x volunteer x deadline. Unique while the relay runs.
    LeaseId
);
counter_id!(
    /// A fencing token: grows with every lease and carries the relay's start in its upper half, so a
    /// result from before a re-lease or a restart is recognized as late.
    Fence
);

macro_rules! short_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0[..4])?;
                f.write_str("…")
            }
        }
    )*};
}
short_debug!(JobId, VolunteerId, LinkId);

impl fmt::Debug for ConsentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsentToken(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_text() {
        let id = JobId([0x0f; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("0g".repeat(16).parse::<JobId>(), Err(ParseIdError::Digit { position: 1 }));
        assert_eq!("00".parse::<JobId>(), Err(ParseIdError::Length { expected: 32, found: 2 }));
        assert_eq!("é".repeat(16).parse::<JobId>(), Err(ParseIdError::Digit { position: 0 }));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", ConsentToken([7; 16])), "ConsentToken(secret)");
    }
}
