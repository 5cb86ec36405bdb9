//! Matrices that submitters upload.

// The relay is too large to be fuzzed: its file is read here as it is.
#[allow(dead_code, unreachable_pub, reason = "relay and command use all of it")]
#[path = "../../crates/relay/src/npy.rs"]
mod npy;

/// A `.npy` file: whatever is taken has as many bytes as its header says, and every element can be read.
pub(crate) fn npy(bytes: &[u8]) -> bool {
    let Ok(header) = npy::read_header(&mut &bytes[..], bytes.len() as u64) else { return false };
    let data = &bytes[header.data_offset as usize..];
    let elements: u64 = header.shape.iter().map(|length| u64::from(*length)).product();
    assert_eq!(data.len() as u64, elements * header.element.bytes() as u64);
    let mut read = 0;
    npy::to_f64(data, header.element, header.big_endian, |_| read += 1);
    assert_eq!(read, elements);
    true
}
