//! A wasm module without the names of its functions, which only debuggers read and which are a third of it. wasm-bindgen leaves
//! them out where it is told so, and wasm-pack has no word for that.

use anyhow::{Context, Result};

/// Magic and version.
const HEADER: &[u8] = b"\0asm\x01\0\0\0";
/// The section of names: a custom one, which begins with its own name.
const CUSTOM: u8 = 0;
const NAMES: &[u8] = b"\x04name";

/// The module without that section.
pub(super) fn without_names(module: &[u8]) -> Result<Vec<u8>> {
    let mut rest = module.strip_prefix(HEADER).context("that is no wasm module")?;
    let mut out = HEADER.to_vec();
    while let Some((kind, after)) = rest.split_first() {
        let (content, next) = section(after).context("the wasm module is cut short")?;
        if *kind != CUSTOM || !content.starts_with(NAMES) {
            out.extend(&rest[..rest.len() - next.len()]);
        }
        rest = next;
    }
    Ok(out)
}

/// A section's content, whose length comes first, seven bits a byte; and what follows.
fn section(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = 1 + bytes.iter().take(5).position(|byte| byte & 0x80 == 0)?;
    let (length, rest) = bytes.split_at(digits);
    let length = length.iter().rev().fold(0_u64, |sum, byte| sum << 7 | u64::from(byte & 0x7f));
    rest.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::{HEADER, without_names};

    fn section(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len() as u8;
        [&[kind, length & 0x7f | 0x80, length >> 7], content].concat()
    }

    #[test]
    fn only_names_go() {
        let long = [b"\x08producers".as_slice(), &[7; 180]].concat();
        let kept = [HEADER.to_vec(), section(1, b"types"), section(0, &long)].concat();
        let whole = [kept.clone(), section(0, b"\x04name...")].concat();
        assert_eq!(without_names(&whole).unwrap(), kept);
        assert_eq!(without_names(&kept).unwrap(), kept);
        // Another kind of section with that beginning.
        let other = [HEADER.to_vec(), section(11, b"\x04name...")].concat();
        assert_eq!(without_names(&other).unwrap(), other);
        for cut in [&whole[..whole.len() - 1], &whole[..=HEADER.len()], b"\0asm", b""] {
            assert!(without_names(cut).is_err());
        }
    }
}
