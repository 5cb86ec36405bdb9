//! Geometry of matrix products: element types, whole products, and the tiles that shards compute.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Element type of a product's operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32 operands, binary32 result.
    F32,
    /// Signed 8-bit operands, exact 32-bit integer result.
    Int8,
}

impl DType {
    /// Bytes of one operand element.
    pub const fn operand_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Int8 => 1,
        }
    }

    /// Bytes of one result element (f32 or i32).
    pub const fn result_bytes(self) -> usize {
        4
    }

    /// The name used in the API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no element type that a product can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype {0:?}: use f32 or int8")]
pub struct ParseDTypeError(pub String);

impl FromStr for DType {
    type Err = ParseDTypeError;
    fn from_str(s: &str) -> Result<Self, ParseDTypeError> {
        match s {
            "f32" => Ok(Self::F32),
            "int8" => Ok(Self::Int8),
            other => Err(ParseDTypeError(other.chars().take(32).collect())),
        }
    }
}

/// C = A·B with A of M x K, B of K x N and C of M x N, all row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatmulShape {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Columns of B and C.
    pub n: u32,
}

impl MatmulShape {
    /// Multiplications plus additions: 2·M·N·K.
    pub const fn flops(self) -> u64 {
        2 * self.m as u64 * self.n as u64 * self.k as u64
    }
}

/// The part of a product that one shard computes: rows x columns of C, summed over a slice of K.
///
/// Where K is split, the assembler adds the tiles of all slices in the order of K.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Rows of C.
    pub rows: Range<u32>,
    /// Columns of C.
    pub cols: Range<u32>,
    /// The slice of K.
    pub depth: Range<u32>,
}

impl Tile {
    /// The shape of the tile's own product.
    pub fn shape(&self) -> MatmulShape {
        let len = |r: &Range<u32>| r.end.saturating_sub(r.start);
        MatmulShape { m: len(&self.rows), k: len(&self.depth), n: len(&self.cols) }
    }
}
