//! Canonical JSON: the one way to write a value, so that its bytes can be hashed and signed.
//!
//! Canonical means: compact UTF-8, fields in declared order, optional fields left out where they are empty, integers
//! and strings only, and in strings nothing escaped but `"`, `\` and control characters. A text is canonical if
//! reading it and writing it again gives the same bytes.

use crate::limits::{MAX_INTEGER, MAX_NAME_BYTES};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why bytes are not a canonical text, or a value has none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// It is too long.
    #[error("{bytes} bytes; the limit is {limit}: shorten the texts or lists in it")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The beginning is not as it has to be.
    #[error("byte {position}: expected {expected}")]
    Beginning {
        /// Where, from 0.
        position: usize,
        /// What belongs there.
        expected: &'static str,
    },
    /// No kind has this name.
    #[error("no kind is called {kind:?}: this version knows {known}")]
    Kind {
        /// The name.
        kind: String,
        /// The kinds that there are.
        known: &'static str,
    },
    /// It is no JSON of its kind.
    #[error("{kind}: {message}")]
    Json {
        /// The kind.
        kind: &'static str,
        /// What the parser says.
        message: String,
    },
    /// It says the right thing in another way than the canonical one.
    #[error("not canonical at byte {position}: expected {expected:?}, found {found:?}")]
    NotCanonical {
        /// The first byte that differs, from 0.
        position: usize,
        /// The canonical text from there, up to 16 bytes.
        expected: String,
        /// What is there instead.
        found: String,
    },
    /// A text is empty, too long, or has characters that people cannot see.
    #[error("{field}: {problem}")]
    Text {
        /// The field.
        field: &'static str,
        /// What is wrong, and what is allowed.
        problem: &'static str,
    },
    /// A number is too large or small.
    #[error("{field} is {found}; allowed are {least} to {most}")]
    Number {
        /// The field.
        field: &'static str,
        /// What it is.
        found: u64,
        /// Least allowed.
        least: u64,
        /// Most allowed.
        most: u64,
    },
}

/// Writes a value as compact JSON.
pub(crate) fn write<T: Serialize>(kind: &'static str, value: &T) -> Result<Vec<u8>, FormError> {
    serde_json::to_vec(value).map_err(|e| FormError::Json { kind, message: e.to_string() })
}

/// Reads a value; the caller compares with what [`write`] makes of it.
pub(crate) fn read<T: DeserializeOwned>(kind: &'static str, json: &[u8]) -> Result<T, FormError> {
    serde_json::from_slice(json).map_err(|e| FormError::Json { kind, message: e.to_string() })
}

/// Says whether two texts are the same, and otherwise where they part.
pub(crate) fn same(canonical: &[u8], found: &[u8]) -> Result<(), FormError> {
    if canonical == found {
        return Ok(());
    }
    let position = canonical.iter().zip(found).take_while(|(a, b)| a == b).count();
    let piece = |bytes: &[u8]| {
        let rest = &bytes[position.min(bytes.len())..];
        String::from_utf8_lossy(&rest[..rest.len().min(16)]).into_owned()
    };
    Err(FormError::NotCanonical { position, expected: piece(canonical), found: piece(found) })
}

/// Reads the fixed beginning of a text, piece by piece.
pub(crate) struct Beginning<'a> {
    text: &'a [u8],
    /// Bytes read.
    pub(crate) position: usize,
}

impl<'a> Beginning<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, position: 0 }
    }

    /// Reads exactly this.
    pub(crate) fn literal(&mut self, expected: &'static str) -> Result<(), FormError> {
        if !self.text[self.position..].starts_with(expected.as_bytes()) {
            return Err(FormError::Beginning { position: self.position, expected });
        }
        self.position += expected.len();
        Ok(())
    }

    /// Reads a whole number.
    pub(crate) fn number(&mut self) -> Result<u64, FormError> {
        let rest = &self.text[self.position..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let error =
            FormError::Beginning { position: self.position, expected: "a whole number up to 2^53 - 1" };
        if digits == 0 || digits > 16 || (digits > 1 && rest[0] == b'0') {
            return Err(error);
        }
        let value = rest[..digits].iter().fold(0_u64, |value, digit| value * 10 + u64::from(digit - b'0'));
        self.position += digits;
        if value > MAX_INTEGER { Err(error) } else { Ok(value) }
    }

    /// Reads the inside of a string that needs no escapes, up to its closing quote, and not that.
    pub(crate) fn plain(&mut self) -> Result<&'a str, FormError> {
        let rest = &self.text[self.position..];
        let error = FormError::Beginning { position: self.position, expected: "a short plain text" };
        let len = rest.iter().take(MAX_NAME_BYTES + 1).take_while(|&&byte| byte != b'"').count();
        if len > MAX_NAME_BYTES || len == rest.len() {
            return Err(error);
        }
        let text = std::str::from_utf8(&rest[..len]).map_err(|_| error.clone())?;
        if !is_plain(text) {
            return Err(error);
        }
        self.position += len;
        Ok(text)
    }
}

/// Whether a text is of visible ASCII characters that JSON does not escape, and not empty.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// Whether a character is invisible, or changes the order in which others are shown.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Makes a text that strangers sent (a job's name, a reason) fit for an entry: one line without hidden characters, of at
/// most `limit` bytes. May come out empty.
pub fn readable(text: &str, limit: usize) -> String {
    let visible = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !hidden(*c));
    let mut out = String::new();
    for c in visible {
        if out.len() + c.len_utf8() > limit {
            break;
        }
        if !(out.is_empty() && c == ' ') {
            out.push(c);
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Checks a text that people read before they sign: what they see has to be what it says.
///
/// # Errors
/// [`FormError::Text`] if it is empty or too long, begins or ends with white space, or holds characters that are
/// invisible or reorder others. Line breaks are allowed where `lines` is set.
pub(crate) fn visible(field: &'static str, text: &str, limit: usize, lines: bool) -> Result<(), FormError> {
    let problem = if text.is_empty() {
        "it is empty: say something"
    } else if text.len() > limit {
        "it is too long: shorten it, and put the rest into a document named by its hash"
    } else if text.trim().len() != text.len() {
        "it begins or ends with white space: remove that"
    } else if text.chars().any(|c| hidden(c) && !(lines && c == '\n')) {
        "it has characters that are invisible or reorder others: write plain text"
    } else {
        return Ok(());
    };
    Err(FormError::Text { field, problem })
}

/// Checks a name: one visible line.
pub(crate) fn name(field: &'static str, text: &str) -> Result<(), FormError> {
    visible(field, text, MAX_NAME_BYTES, false)
}

/// Checks that a number lies in a range.
pub(crate) fn within(field: &'static str, found: u64, least: u64, most: u64) -> Result<(), FormError> {
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        Err(FormError::Number { field, found, least, most })
    }
}

/// Whole numbers that JavaScript reads exactly, for `#[serde(with = "crate::canonical::int")]`.
pub(crate) mod int {
    use super::{Deserialize, Deserializer, MAX_INTEGER, Serialize, Serializer};
    use serde::de::Error as _;
    use serde::ser::Error as _;

    #[cfg_attr(
        target_pointer_width = "64",
        expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")
    )]
    pub(crate) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        if *value > MAX_INTEGER {
            return Err(S::Error::custom("a number over 2^53 - 1: JavaScript would read another one"));
        }
        value.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let value = u64::deserialize(deserializer)?;
        if value > MAX_INTEGER {
            return Err(D::Error::custom("a number over 2^53 - 1: JavaScript would read another one"));
        }
        Ok(value)
    }
}

/// Losses and values with a sign, in the same range, for `#[serde(with = "crate::canonical::signed")]`.
pub(crate) mod signed {
    use super::{Deserialize, Deserializer, MAX_INTEGER, Serialize, Serializer};
    use serde::de::Error as _;
    use serde::ser::Error as _;

    const WRONG: &str = "a number beyond 2^53 - 1: JavaScript would read another one";

    #[cfg_attr(
        target_pointer_width = "64",
        expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")
    )]
    pub(crate) fn serialize<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.unsigned_abs() > MAX_INTEGER {
            return Err(S::Error::custom(WRONG));
        }
        value.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        let value = i64::deserialize(deserializer)?;
        if value.unsigned_abs() > MAX_INTEGER {
            return Err(D::Error::custom(WRONG));
        }
        Ok(value)
    }
}

/// Texts with a grammar of their own (`run:…`, `volunteer:…`), for `#[serde(with = "crate::canonical::display")]`.
pub(crate) mod display {
    use super::{Deserialize, Deserializer, Serializer};
    use serde::de::Error as _;
    use std::fmt::Display;
    use std::str::FromStr;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_texts_are_visible() {
        assert_eq!(readable(" a\tb\u{202e}c\n", 80), "a bc");
        assert_eq!(readable("éé", 3), "é");
        assert_eq!(readable("\u{200b} \n", 80), "");
        for text in ["x\u{0}y", "  long long  ", "\u{feff}z", "a b"] {
            for limit in 1..8 {
                let out = readable(text, limit);
                assert!(out.is_empty() || visible("text", &out, limit, false).is_ok(), "{out:?}");
            }
        }
    }
}
