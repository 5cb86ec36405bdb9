//! Pieces of the text formats: base64, decimal numbers, lines.

use crate::hash::TreeHash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Base64 with padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes of base64 with padding. Only the one canonical encoding is read, so that nobody can change a signed or
/// hashed text without changing what it means.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A number in decimal digits without leading zeros or sign.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// The text up to the next newline, and what follows the newline; none if there is no newline.
pub(crate) fn line(text: &str) -> Option<(&str, &str)> {
    text.split_once('\n')
}

/// Hashes in base64, one a line, up to an empty line; and what follows that.
pub(crate) fn hash_lines(text: &str, limit: usize) -> Option<(Vec<TreeHash>, &str)> {
    let mut hashes = Vec::new();
    let mut rest = text;
    loop {
        let (line, after) = self::line(rest)?;
        if line.is_empty() {
            return Some((hashes, after));
        }
        if hashes.len() == limit {
            return None;
        }
        hashes.push(TreeHash::from_base64(line)?);
        rest = after;
    }
}
