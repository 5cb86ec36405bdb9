//! The safetensors format: the length of a JSON header (u64, little-endian), the header, the tensors' bytes without gaps.

use super::{ModelError, TENSORS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest header that is read: the largest model has 100 bytes for each of 772 tensors.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// Key that is no tensor.
const METADATA: &str = "__metadata__";

/// A tensor to write.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Item {
    Tensor(Entry),
    Metadata(BTreeMap<String, String>),
}

pub(super) fn to_bytes(tensors: &[Named]) -> Vec<u8> {
    // Loaders ask for the framework that the layout is of.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut header = BTreeMap::from([(METADATA.to_owned(), Item::Metadata(metadata))]);
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.values.len() * size_of::<f32>();
        let entry =
            Entry { dtype: "F32".to_owned(), shape: tensor.shape.clone(), data_offsets: [start, end] };
        header.insert(tensor.name.clone(), Item::Tensor(entry));
    }
    let mut text = serde_json::json!(header).to_string().into_bytes();
    // The tensors begin at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + text.len() + end);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
    for tensor in tensors {
        bytes.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

/// The tensors of a file that were not yet taken.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    entries: BTreeMap<String, Entry>,
    data: &'a [u8],
}

fn damaged(why: impl Into<String>) -> ModelError {
    ModelError::Damaged { why: why.into() }
}

impl<'a> Stored<'a> {
    /// Reads the header and checks that the tensors lie side by side and fill the file.
    pub(super) fn read(bytes: &'a [u8], prefix: &str) -> Result<Self, ModelError> {
        let (length, rest) =
            bytes.split_first_chunk::<8>().ok_or_else(|| damaged("it has no header; it was cut off"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_HEADER_BYTES {
            return Err(damaged(format!("its header claims {length} bytes; is it a {TENSORS} at all?")));
        }
        let (header, data) =
            rest.split_at_checked(length).ok_or_else(|| damaged("it ends within its header"))?;
        let header: BTreeMap<String, Item> =
            serde_json::from_slice(header).map_err(|cause| damaged(format!("its header: {cause}")))?;
        let mut ranges = Vec::with_capacity(header.len());
        let mut entries = BTreeMap::new();
        for (name, item) in header {
            let entry = match item {
                Item::Tensor(entry) => entry,
                Item::Metadata(_) if name == METADATA => continue,
                Item::Metadata(_) => return Err(damaged(format!("its header has no entry for {name}"))),
            };
            ranges.push((entry.data_offsets, name.clone()));
            let plain = name.strip_prefix(prefix).unwrap_or(&name).to_owned();
            if entries.insert(plain, entry).is_some() {
                return Err(ModelError::Extra { name });
            }
        }
        ranges.sort();
        let mut end = 0;
        for ([from, to], name) in ranges {
            if from != end || to < from {
                return Err(damaged(format!(
                    "the bytes of {name} overlap others, or leave a gap before them"
                )));
            }
            end = to;
        }
        if end != data.len() {
            return Err(damaged(format!("its tensors have {} bytes instead of {end}", data.len())));
        }
        Ok(Self { entries, data })
    }

    /// Takes a tensor of a known shape, widened to f32.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let entry = self.entries.remove(name).ok_or_else(|| ModelError::Missing { name: name.to_owned() })?;
        if entry.shape != shape {
            let (name, expected) = (name.to_owned(), shape.to_vec());
            return Err(ModelError::Shape { name, found: entry.shape, expected });
        }
        let [from, to] = entry.data_offsets;
        let bytes = self.data.get(from..to).unwrap_or_default();
        let values: Vec<f32> = match entry.dtype.as_str() {
            "F32" => bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
            "F16" => bytes.as_chunks().0.iter().map(|two| widen_f16(u16::from_le_bytes(*two))).collect(),
            "BF16" => bytes
                .as_chunks()
                .0
                .iter()
                .map(|two| f32::from_bits(u32::from(u16::from_le_bytes(*two)) << 16))
                .collect(),
            _ => return Err(ModelError::Type { name: name.to_owned(), found: entry.dtype }),
        };
        let width = if entry.dtype == "F32" { 4 } else { 2 };
        if bytes.len() != width * shape.iter().product::<usize>() {
            return Err(damaged(format!(
                "the tensor {name} has {} bytes, which is not its shape's",
                bytes.len()
            )));
        }
        Ok(values)
    }

    /// Passes over a tensor.
    pub(super) fn forget(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// Whether there is such a tensor.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Fails if a tensor was not taken.
    pub(super) fn end(self) -> Result<(), ModelError> {
        match self.entries.into_keys().next() {
            Some(name) => Err(ModelError::Extra { name }),
            None => Ok(()),
        }
    }
}

/// IEEE binary16 to binary32, exactly.
fn widen_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(half >> 10 & 0x1f), u32::from(half & 0x3ff));
    match exponent {
        // Zero and subnormal numbers: fraction * 2^-24, exact in f32.
        0 => f32::from_bits((fraction as f32 * 2.0_f32.powi(-24)).to_bits() | sign),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_widened_exactly() {
        let cases = [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 2.0_f32.powi(-14)),
            (0x0001, 2.0_f32.powi(-24)),
            (0x83ff, -1023.0 * 2.0_f32.powi(-24)),
            (0x3555, 1365.0 / 4096.0),
        ];
        for (half, value) in cases {
            assert_eq!(widen_f16(half).to_bits(), f32::to_bits(value), "{half:#06x}");
        }
        assert!(widen_f16(0x7c00).is_infinite());
        assert!(widen_f16(0x7e00).is_nan());
    }
}
