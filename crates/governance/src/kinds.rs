//! One enum for the kinds of a canonical text, its names and how its fields are read and written.

use crate::canonical::FormError;

/// The fields of one kind.
pub(crate) trait Fields {
    /// Checks lengths and ranges that the types do not hold.
    fn validate(&self) -> Result<(), FormError>;
}

macro_rules! kinds {
    ($(#[$doc:meta])* $enum:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $enum {
            $($(#[$variant_doc])* $variant($variant),)*
        }

        impl $enum {
            /// The names of all kinds, in the order in which they are declared.
            pub const KINDS: &'static [&'static str] = &[$($name),*];

            /// The name of its kind, as it stands in the text.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            pub(crate) fn validate(&self) -> Result<(), crate::canonical::FormError> {
                match self { $(Self::$variant(fields) => crate::kinds::Fields::validate(fields),)* }
            }

            /// The fields as a JSON object.
            pub(crate) fn json(&self) -> Result<Vec<u8>, crate::canonical::FormError> {
                match self { $(Self::$variant(fields) => crate::canonical::write($name, fields),)* }
            }

            /// Reads the fields of a kind from a JSON object.
            pub(crate) fn read(kind: &str, json: &[u8]) -> Result<Self, crate::canonical::FormError> {
                match kind {
                    $($name => crate::canonical::read($name, json).map(Self::$variant),)*
                    _ => Err(crate::canonical::FormError::Kind {
                        kind: kind.to_owned(),
                        known: concat!($($name, " "),*),
                    }),
                }
            }
        }

        $(impl From<$variant> for $enum {
            fn from(fields: $variant) -> Self {
                Self::$variant(fields)
            }
        })*
    };
}
pub(crate) use kinds;
