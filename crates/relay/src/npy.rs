//! Reading `.npy` files: header, element types, orders. The relay reads what strangers upload; the command reads files in
//! the same way before it sends them.
//!
//! The header is parsed here rather than by a library because it arrives from outside: the crates looked at
//! multiply dimensions without overflow checks, recurse into nested literals, and allocate by a length field.
//! Source: numpy.lib.format, versions 1.0 to 3.0.

use potluck_types::limits::{MAX_DIMENSION, MAX_NPY_HEADER_BYTES};
use std::fmt;
use std::io::Read;

/// Element types that can be converted to f32 or int8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// One byte: zero or not.
    Bool,
    /// Signed, 8 bits.
    I8,
    /// Signed, 16 bits.
    I16,
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// Floating-point, half precision.
    F16,
    /// Floating-point, single precision.
    F32,
    /// Floating-point, double precision.
    F64,
}

impl Element {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    fn parse(code: &str) -> Option<Self> {
        Some(match code {
            "b1" => Self::Bool,
            "i1" => Self::I8,
            "i2" => Self::I16,
            "i4" => Self::I32,
            "i8" => Self::I64,
            "u1" => Self::U8,
            "u2" => Self::U16,
            "u4" => Self::U32,
            "u8" => Self::U64,
            "f2" => Self::F16,
            "f4" => Self::F32,
            "f8" => Self::F64,
            _ => return None,
        })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        })
    }
}

/// What a `.npy` file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Type of the elements.
    pub element: Element,
    /// Whether elements are big-endian.
    pub big_endian: bool,
    /// Whether columns are contiguous (Fortran order).
    pub fortran: bool,
    /// One or two dimensions, none of them zero.
    pub shape: Vec<u32>,
    /// Where the elements begin.
    pub data_offset: u64,
}

/// Why a file is no matrix that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The file does not begin as a `.npy` file does.
    #[error("this is not a .npy file")]
    NotNpy,
    /// A format version that does not exist yet.
    #[error(".npy version {major}.{minor} is not known")]
    Version {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// The header is longer than any matrix needs.
    #[error("the header has {bytes} bytes; the limit is {MAX_NPY_HEADER_BYTES}")]
    HeaderTooLong {
        /// Its length.
        bytes: u64,
    },
    /// The header cannot be read.
    #[error("the header is damaged: {what}")]
    Header {
        /// What is wrong with it.
        what: &'static str,
    },
    /// Elements that are no real numbers.
    #[error("elements of type {descr:?} are not supported")]
    Element {
        /// The type, as the file names it.
        descr: String,
    },
    /// Not one or two dimensions.
    #[error("an array of {dimensions} dimensions is not a matrix")]
    Dimensions {
        /// How many.
        dimensions: usize,
    },
    /// A dimension is zero.
    #[error("the matrix is empty: its shape is {shape:?}")]
    NoElements {
        /// The shape.
        shape: Vec<u64>,
    },
    /// A dimension is over the limit.
    #[error("a dimension of {length} exceeds the limit of {MAX_DIMENSION}")]
    TooLong {
        /// The dimension.
        length: u64,
    },
    /// The file ends too early, or goes on too long.
    #[error("the header promises {expected} bytes of elements, the file has {found}")]
    Length {
        /// What shape and type need.
        expected: u64,
        /// What is there.
        found: u64,
    },
}

impl NpyError {
    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Empty | Self::Length { .. } => "the file may be truncated: write it again with numpy.save",
            Self::NotNpy | Self::Version { .. } | Self::Header { .. } | Self::HeaderTooLong { .. } => {
                "write it with numpy.save(path, matrix)"
            }
            Self::Element { .. } => "convert it first: matrix.astype(numpy.float32) or .astype(numpy.int8)",
            Self::Dimensions { .. } => "reshape it to two dimensions: matrix.reshape(rows, columns)",
            Self::NoElements { .. } => "a product needs at least one row and one column",
            Self::TooLong { .. } => "split the matrix and submit several jobs",
        }
    }
}

/// Reads a header and checks that the file's length is what it promises.
///
/// # Errors
/// Anything but one whole matrix of real numbers. Read errors count as a damaged header.
pub fn read_header(reader: &mut impl Read, file_bytes: u64) -> Result<Header, NpyError> {
    if file_bytes == 0 {
        return Err(NpyError::Empty);
    }
    let mut start = [0; 10];
    reader.read_exact(&mut start).map_err(|_| NpyError::NotNpy)?;
    let [b'\x93', b'N', b'U', b'M', b'P', b'Y', major, minor, low, high] = start else {
        return Err(NpyError::NotNpy);
    };
    let (length, before) = match (major, minor) {
        (1, 0) => (u64::from(u16::from_le_bytes([low, high])), 10),
        (2 | 3, 0) => {
            let mut rest = [0; 2];
            reader.read_exact(&mut rest).map_err(|_| NpyError::Header { what: "it ends in its length" })?;
            (u64::from(u32::from_le_bytes([low, high, rest[0], rest[1]])), 12)
        }
        _ => return Err(NpyError::Version { major, minor }),
    };
    if length > MAX_NPY_HEADER_BYTES as u64 {
        return Err(NpyError::HeaderTooLong { bytes: length });
    }
    let mut text = vec![0; length as usize];
    reader.read_exact(&mut text).map_err(|_| NpyError::Header { what: "the file ends in it" })?;
    let text = std::str::from_utf8(&text).map_err(|_| NpyError::Header { what: "it is no text" })?;
    let data_offset = before + length;
    let header = parse(text, data_offset)?;
    let count: u64 = header.shape.iter().map(|&length| u64::from(length)).product();
    let (expected, found) = (count * header.element.bytes() as u64, file_bytes.saturating_sub(data_offset));
    if expected != found {
        return Err(NpyError::Length { expected, found });
    }
    Ok(header)
}

/// Parses the dictionary literal that is the header.
fn parse(text: &str, data_offset: u64) -> Result<Header, NpyError> {
    let damaged = |what| NpyError::Header { what };
    let mut rest = text.trim().strip_prefix('{').ok_or(damaged("it is no dictionary"))?.trim_start();
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    while !rest.starts_with('}') {
        let (key, after) = quoted(rest).ok_or(damaged("a key is no string"))?;
        rest = after.trim_start().strip_prefix(':').ok_or(damaged("a key has no value"))?.trim_start();
        match key {
            "descr" => {
                let (value, after) = quoted(rest)
                    .ok_or_else(|| NpyError::Element { descr: rest.chars().take(32).collect() })?;
                descr = Some(value);
                rest = after;
            }
            "fortran_order" => {
                let (value, after) = rest
                    .strip_prefix("True")
                    .map(|after| (true, after))
                    .or_else(|| rest.strip_prefix("False").map(|after| (false, after)))
                    .ok_or(damaged("fortran_order is neither True nor False"))?;
                fortran = Some(value);
                rest = after;
            }
            "shape" => {
                let (value, after) = tuple(rest).ok_or(damaged("shape is no tuple of numbers"))?;
                shape = Some(value);
                rest = after;
            }
            _ => return Err(damaged("it has an unknown key")),
        }
        rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with('}') => {}
            None => return Err(damaged("a comma is missing")),
        }
    }
    if !rest[1..].trim().is_empty() {
        return Err(damaged("something follows the dictionary"));
    }
    let descr = descr.ok_or(damaged("descr is missing"))?;
    let fortran = fortran.ok_or(damaged("fortran_order is missing"))?;
    let shape = shape.ok_or(damaged("shape is missing"))?;
    let unsupported = || NpyError::Element { descr: descr.chars().take(32).collect() };
    let order = descr.chars().next().filter(char::is_ascii).ok_or_else(unsupported)?;
    let element = Element::parse(&descr[1..]).ok_or_else(unsupported)?;
    let big_endian = match order {
        '<' => false,
        '>' => true,
        '|' if element.bytes() == 1 => false,
        '=' => cfg!(target_endian = "big"),
        _ => return Err(unsupported()),
    };
    if !(1..=2).contains(&shape.len()) {
        return Err(NpyError::Dimensions { dimensions: shape.len() });
    }
    if shape.contains(&0) {
        return Err(NpyError::NoElements { shape });
    }
    if let Some(&length) = shape.iter().find(|&&length| length > u64::from(MAX_DIMENSION)) {
        return Err(NpyError::TooLong { length });
    }
    let shape = shape.into_iter().map(|length| length as u32).collect();
    Ok(Header { element, big_endian, fortran, shape, data_offset })
}

/// A string literal, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let end = text[1..].find(quote)? + 1;
    Some((&text[1..end], &text[end + 1..]))
}

/// A tuple of numbers, and what follows it. At most 32 dimensions, as in numpy.
fn tuple(text: &str) -> Option<(Vec<u64>, &str)> {
    let inner = text.strip_prefix('(')?;
    let end = inner.find(')')?;
    let mut numbers = Vec::new();
    for part in inner[..end].split(',').map(str::trim).filter(|part| !part.is_empty()) {
        // Python 2 wrote long integers with an L.
        let digits = part.strip_suffix('L').unwrap_or(part);
        if numbers.len() == 32 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        numbers.push(digits.parse().ok()?);
    }
    Some((numbers, &inner[end + 1..]))
}

/// Writes the header of a row-major matrix of little-endian f32 (`<f4`) or i32 (`<i4`), version 1.0.
pub(crate) fn header_of_result(descr: &str, rows: u32, cols: u32) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    // Magic, version and length take 10 bytes; the whole is padded to 64 with spaces and ends with a newline.
    let total = (10 + text.len() + 1).next_multiple_of(64);
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((total - 10) as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header.resize(total - 1, b' ');
    header.push(b'\n');
    header
}

/// Reads elements as f64, which holds every element type but large 64-bit integers exactly; those round, as
/// they do in numpy's `astype(float64)`.
pub fn to_f64(bytes: &[u8], element: Element, big_endian: bool, mut each: impl FnMut(f64)) {
    macro_rules! numbers {
        ($type:ty) => {
            for chunk in bytes.chunks_exact(size_of::<$type>()) {
                let mut raw = [0; size_of::<$type>()];
                raw.copy_from_slice(chunk);
                each(if big_endian { <$type>::from_be_bytes(raw) } else { <$type>::from_le_bytes(raw) } as f64)
            }
        };
    }
    match element {
        Element::Bool => bytes.iter().for_each(|&byte| each(f64::from(u8::from(byte != 0)))),
        Element::I8 => numbers!(i8),
        Element::I16 => numbers!(i16),
        Element::I32 => numbers!(i32),
        Element::I64 => numbers!(i64),
        Element::U8 => numbers!(u8),
        Element::U16 => numbers!(u16),
        Element::U32 => numbers!(u32),
        Element::U64 => numbers!(u64),
        Element::F32 => numbers!(f32),
        Element::F64 => numbers!(f64),
        Element::F16 => {
            for chunk in bytes.chunks_exact(2) {
                let raw = [chunk[0], chunk[1]];
                each(half(if big_endian { u16::from_be_bytes(raw) } else { u16::from_le_bytes(raw) }));
            }
        }
    }
}

/// IEEE binary16 to f64, exact.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(version: u8, text: &str, data: usize) -> Vec<u8> {
        let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
        match version {
            1 => bytes.extend((text.len() as u16).to_le_bytes()),
            _ => bytes.extend((text.len() as u32).to_le_bytes()),
        }
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header, NpyError> {
        read_header(&mut &bytes[..], bytes.len() as u64)
    }

    fn dict(descr: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
    }

    #[test]
    fn every_legal_header_is_read() {
        for (descr, bytes) in [
            ("|b1", 1),
            ("|i1", 1),
            ("|u1", 1),
            ("<i2", 2),
            (">i2", 2),
            ("<u2", 2),
            ("<f2", 2),
            ("<i4", 4),
            (">u4", 4),
            ("<f4", 4),
            (">f4", 4),
            ("<i8", 8),
            (">u8", 8),
            ("<f8", 8),
            (">f8", 8),
            ("=f4", 4),
        ] {
            for version in 1..=3 {
                let header = read(&file(version, &dict(descr, "(2, 3)"), 6 * bytes)).unwrap();
                assert_eq!((header.element.bytes(), header.big_endian), (bytes, descr.starts_with('>')));
                assert_eq!(header.shape, [2, 3]);
            }
        }
        let text = "{\"shape\": (3L,), 'fortran_order' : True,'descr':'<f4'}";
        let header = read(&file(1, text, 12)).unwrap();
        assert!(header.fortran && header.shape == [3]);
        let mut result = header_of_result("<i4", 7, 5);
        assert_eq!(result.len() % 64, 0);
        result.resize(result.len() + 7 * 5 * 4, 0);
        assert_eq!(read(&result).unwrap().shape, [7, 5]);
    }

    #[test]
    fn bad_files_are_named_for_what_they_are() {
        use NpyError::*;
        let check = |bytes: &[u8], expected: NpyError| assert_eq!(read(bytes), Err(expected));
        let with = |descr: &str, shape: &str, data| read(&file(1, &dict(descr, shape), data));
        check(b"", Empty);
        check(b"PK\x03\x04 not numpy at all", NotNpy);
        check(b"\x93NUMPY", NotNpy);
        check(&file(9, "", 0), Version { major: 9, minor: 0 });
        assert_eq!(with("<f4", "(2, 3)", 20), Err(Length { expected: 24, found: 20 }));
        assert_eq!(with("<f4", "(2, 3)", 28), Err(Length { expected: 24, found: 28 }));
        assert_eq!(with("<f4", "(0, 3)", 0), Err(NoElements { shape: vec![0, 3] }));
        assert_eq!(with("<f4", "()", 4), Err(Dimensions { dimensions: 0 }));
        assert_eq!(with("<f4", "(1, 2, 3)", 24), Err(Dimensions { dimensions: 3 }));
        assert_eq!(with("<f4", "(4294967296, 4294967296)", 0), Err(TooLong { length: 1 << 32 }));
        for descr in ["<c8", "|O", "<U4", "|S4", "<M8[ns]", "<f16", "|V8", "", "é4"] {
            assert!(matches!(with(descr, "(1,)", 4), Err(Element { .. })), "{descr}");
        }
        let structured = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }";
        assert!(matches!(read(&file(1, structured, 4)), Err(Element { .. })));
        let huge = [b"\x93NUMPY\x02\x00".as_slice(), &u32::MAX.to_le_bytes()].concat();
        check(&huge, HeaderTooLong { bytes: u64::from(u32::MAX) });
        for text in [
            "",
            "{",
            "{'descr': '<f4'",
            "{'shape': (1,}",
            "{'x': 1}",
            "{'shape': (-1,), }",
            &"(".repeat(60_000),
        ] {
            assert!(matches!(read(&file(2, text, 4)), Err(Header { .. } | Element { .. })), "{text:.20}");
        }
    }

    #[test]
    fn elements_of_every_type_and_order_are_converted() {
        let read = |bytes: &[u8], element, big_endian| {
            let mut out = Vec::new();
            to_f64(bytes, element, big_endian, |x| out.push(x));
            out
        };
        assert_eq!(read(&(-2.5_f32).to_be_bytes(), Element::F32, true), [-2.5]);
        assert_eq!(read(&(-2_i64).to_le_bytes(), Element::I64, false), [-2.0]);
        assert_eq!(read(&[0, 7], Element::Bool, false), [0.0, 1.0]);
        assert_eq!(read(&[0x80, 0x7f], Element::I8, false), [-128.0, 127.0]);
        assert_eq!(read(&0xfe00_u16.to_le_bytes(), Element::U16, false), [65_024.0]);
        assert_eq!(
            read(&[0x3c, 0x00, 0xc0, 0x00, 0x7c, 0x00], Element::F16, true),
            [1.0, -2.0, f64::INFINITY]
        );
        assert_eq!(read(&[0x00, 0x01], Element::F16, true).len(), 1);
        assert!(read(&[0x7e, 0x00], Element::F16, true)[0].is_nan());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(version in 1u8..4, text in ".{0,80}", data in 0usize..40) {
            let _ = read(&file(version, &text, data));
        }

        #[test]
        fn damaged_headers_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = file(1, &dict("<f4", "(2, 3)"), 24);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = read(&bytes);
        }
    }
}
