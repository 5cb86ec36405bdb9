//! How the plain newtypes of `potluck-types` travel: this crate, not `types`, knows about serialization.

macro_rules! array {
    ($module:ident, $type:path, $bytes:literal, $doc:literal) => {
        #[doc = $doc]
        pub mod $module {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};
            /// Writes the raw bytes, without a length.
            ///
            /// # Errors
            /// Those of the serializer.
            pub fn serialize<S: Serializer>(value: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                value.0.serialize(serializer)
            }
            /// Reads the raw bytes.
            ///
            /// # Errors
            /// Those of the deserializer.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                <[u8; $bytes]>::deserialize(deserializer).map($type)
            }
        }
    };
}

macro_rules! counter {
    ($module:ident, $type:path, $doc:literal) => {
        #[doc = $doc]
        pub mod $module {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};
            /// Writes a varint.
            ///
            /// # Errors
            /// Those of the serializer.
            pub fn serialize<S: Serializer>(value: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                value.0.serialize(serializer)
            }
            /// Reads a varint.
            ///
            /// # Errors
            /// Those of the deserializer.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                u64::deserialize(deserializer).map($type)
            }
        }
    };
}

array!(hash, potluck_types::BlobHash, 32, "[`potluck_types::BlobHash`] as 32 bytes.");
array!(job_id, potluck_types::JobId, 16, "[`potluck_types::JobId`] as 16 bytes.");
array!(volunteer, potluck_types::VolunteerId, 32, "[`potluck_types::VolunteerId`] as 32 bytes.");
array!(link_id, potluck_types::LinkId, 16, "[`potluck_types::LinkId`] as 16 bytes.");
array!(consent, potluck_types::ConsentToken, 16, "[`potluck_types::ConsentToken`] as 16 bytes.");
counter!(lease_id, potluck_types::LeaseId, "[`potluck_types::LeaseId`] as a varint.");
counter!(fence, potluck_types::Fence, "[`potluck_types::Fence`] as a varint.");
counter!(session_id, potluck_types::SessionId, "[`potluck_types::SessionId`] as a varint.");
counter!(duration, potluck_types::Duration, "[`potluck_types::Duration`] as a varint of milliseconds.");

/// [`potluck_types::DType`] as one byte.
pub mod dtype {
    use potluck_types::DType;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    /// Writes 0 for f32, 1 for int8.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &DType, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match value {
            DType::F32 => 0,
            DType::Int8 => 1,
        })
    }
    /// Reads the byte.
    ///
    /// # Errors
    /// A byte that is neither 0 nor 1.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
        match u8::deserialize(deserializer)? {
            0 => Ok(DType::F32),
            1 => Ok(DType::Int8),
            other => Err(D::Error::custom(format_args!("dtype {other}"))),
        }
    }
}

/// A signature as 64 bytes: two halves, since serde reads arrays of at most 32.
pub mod signature {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    /// Writes the raw bytes, without a length.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let half = |at: usize| -> [u8; 32] { std::array::from_fn(|i| value[at + i]) };
        [half(0), half(32)].serialize(serializer)
    }
    /// Reads the raw bytes.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        let halves = <[[u8; 32]; 2]>::deserialize(deserializer)?;
        Ok(std::array::from_fn(|i| halves[i / 32][i % 32]))
    }
}

/// A hash that may be missing.
pub mod maybe_hash {
    use potluck_types::BlobHash;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    /// Writes a byte that says whether there is one, then its bytes.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Option<BlobHash>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|hash| hash.0).serialize(serializer)
    }
    /// Reads both.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BlobHash>, D::Error> {
        Ok(Option::<[u8; 32]>::deserialize(deserializer)?.map(BlobHash))
    }
}

/// A list of at most [`potluck_types::limits::MAX_HELD_BLOBS`] hashes.
pub mod hashes {
    use potluck_types::{BlobHash, limits::MAX_HELD_BLOBS};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    /// Writes the length and the hashes.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &[BlobHash], serializer: S) -> Result<S::Ok, S::Error> {
        value.iter().map(|hash| hash.0).collect::<Vec<_>>().serialize(serializer)
    }
    /// Reads the hashes.
    ///
    /// # Errors
    /// A list over the limit.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<BlobHash>, D::Error> {
        let list = super::bounded::<_, _, MAX_HELD_BLOBS>(Vec::<[u8; 32]>::deserialize(deserializer)?)?;
        Ok(list.into_iter().map(BlobHash).collect())
    }
}

/// Refuses a list over its limit. The frame's own limit bounds what was allocated before.
fn bounded<T, E: serde::de::Error, const MAX: usize>(list: Vec<T>) -> Result<Vec<T>, E> {
    if list.len() > MAX {
        return Err(E::custom(format_args!("a list of {} where {MAX} are allowed", list.len())));
    }
    Ok(list)
}

macro_rules! list {
    ($module:ident, $item:ty, $limit:ident, $doc:literal) => {
        #[doc = $doc]
        pub mod $module {
            use potluck_types::limits::$limit;
            use serde::{Deserialize, Deserializer, Serialize, Serializer};
            /// Writes the length and the items.
            ///
            /// # Errors
            /// Those of the serializer.
            pub fn serialize<S: Serializer>(value: &[$item], serializer: S) -> Result<S::Ok, S::Error> {
                value.serialize(serializer)
            }
            /// Reads the items.
            ///
            /// # Errors
            /// A list over the limit.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<$item>, D::Error> {
                super::bounded::<_, _, $limit>(Vec::deserialize(deserializer)?)
            }
        }
    };
}

list!(
    panels,
    crate::message::BlobRef,
    MAX_TASK_PANELS,
    "The panels of one operand: at most [`MAX_TASK_PANELS`]."
);
list!(steps, crate::message::BlobRef, MAX_TASK_STEPS, "Outer steps: at most [`MAX_TASK_STEPS`].");
list!(kept, crate::message::Kept, MAX_KEPT, "What a volunteer kept: at most [`MAX_KEPT`].");
list!(
    streak,
    crate::message::PastUpdate,
    MAX_STREAK_ROUNDS,
    "A streak: at most [`MAX_STREAK_ROUNDS`] updates."
);
list!(blocks, crate::message::TokenBlock, MAX_TASK_BLOCKS, "Blocks of tokens: at most [`MAX_TASK_BLOCKS`].");
list!(proof, [u8; 32], MAX_PROOF_HASHES, "A proof of inclusion: at most [`MAX_PROOF_HASHES`] hashes.");

list!(ice_servers, crate::signal::IceServer, MAX_ICE_SERVERS, "Servers: at most [`MAX_ICE_SERVERS`].");
list!(urls, String, MAX_ICE_SERVERS, "Addresses of a server: at most [`MAX_ICE_SERVERS`].");
list!(tree, [u8; 32], MAX_GROUPS, "The hashes of a blob's groups: at most [`MAX_GROUPS`].");

list!(links, crate::signal::Neighbor, MAX_SEED_NEIGHBORS, "Links: at most [`MAX_SEED_NEIGHBORS`].");

macro_rules! text {
    ($module:ident, $limit:ident, $doc:literal) => {
        #[doc = $doc]
        pub mod $module {
            use potluck_types::limits::$limit;
            use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
            /// Writes the text.
            ///
            /// # Errors
            /// Those of the serializer.
            pub fn serialize<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
                value.serialize(serializer)
            }
            /// Reads the text.
            ///
            /// # Errors
            /// A text over the limit, or one that is not UTF-8.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
                let text = String::deserialize(deserializer)?;
                if text.len() > $limit {
                    return Err(D::Error::custom(format_args!("a text of {} bytes", text.len())));
                }
                Ok(text)
            }
        }
    };
}

text!(text, MAX_TEXT_BYTES, "A text of at most [`MAX_TEXT_BYTES`].");
text!(team, MAX_TEAM_BYTES, "A text of at most [`MAX_TEAM_BYTES`].");
text!(signal, MAX_SIGNAL_BYTES, "A signal of at most [`MAX_SIGNAL_BYTES`].");
