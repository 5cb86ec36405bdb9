//! Operands and results of a product, and their form as little-endian bytes.

use potluck_types::{DType, MatmulShape};

use crate::error::KernelError;
use crate::limits::{MAX_ELEMENTS, MAX_INT8_DEPTH};

/// The two operands of an NT product C = A·B, borrowed.
///
/// Shapes: `a` is M x K, `bt` is N x K (B transposed), both row-major, so that K is contiguous in both.
#[derive(Debug, Clone, Copy)]
pub enum Operands<'a> {
    /// IEEE binary32.
    F32 {
        /// A, M x K.
        a: &'a [f32],
        /// B transposed, N x K.
        bt: &'a [f32],
    },
    /// Signed 8-bit integers.
    Int8 {
        /// A, M x K.
        a: &'a [i8],
        /// B transposed, N x K.
        bt: &'a [i8],
    },
}

impl Operands<'_> {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32 { .. } => DType::F32,
            Self::Int8 { .. } => DType::Int8,
        }
    }

    /// Checks lengths and limits against `shape`.
    ///
    /// # Errors
    /// [`KernelError::ShapeMismatch`] where a length differs, [`KernelError::TooLarge`] as [`check_shape`].
    pub fn check(&self, shape: MatmulShape) -> Result<(), KernelError> {
        check_shape(shape, self.dtype())?;
        let (a, bt) = match self {
            Self::F32 { a, bt } => (a.len(), bt.len()),
            Self::Int8 { a, bt } => (a.len(), bt.len()),
        };
        check_len("a", shape.m, shape.k, a)?;
        check_len("bt", shape.n, shape.k, bt)
    }
}

/// Checks that a product of this shape is within the limits of the kernels.
///
/// # Errors
/// [`KernelError::TooLarge`] if a dimension is zero (an empty product is no work), if a matrix has more than
/// [`MAX_ELEMENTS`], or if an int8 product is deeper than [`MAX_INT8_DEPTH`], where i32 sums could overflow.
pub fn check_shape(shape: MatmulShape, dtype: DType) -> Result<(), KernelError> {
    let MatmulShape { m, k, n } = shape;
    if m == 0 || k == 0 || n == 0 {
        return Err(KernelError::ShapeMismatch { operand: "shape", expected: 1, actual: 0 });
    }
    if dtype == DType::Int8 && k > MAX_INT8_DEPTH {
        return Err(KernelError::TooLarge {
            what: "the depth K of an int8 product",
            limit: u64::from(MAX_INT8_DEPTH),
            actual: u64::from(k),
        });
    }
    for (what, rows, cols) in
        [("the elements of A", m, k), ("the elements of B", n, k), ("the elements of the result", m, n)]
    {
        let actual = u64::from(rows) * u64::from(cols);
        if actual > MAX_ELEMENTS {
            return Err(KernelError::TooLarge { what, limit: MAX_ELEMENTS, actual });
        }
    }
    Ok(())
}

pub(crate) fn check_len(operand: &'static str, rows: u32, cols: u32, len: usize) -> Result<(), KernelError> {
    let expected = u64::from(rows) * u64::from(cols);
    if expected == len as u64 {
        Ok(())
    } else {
        Err(KernelError::ShapeMismatch { operand, expected, actual: len as u64 })
    }
}

/// The result of a product, M x N, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Of f32 operands.
    F32(Vec<f32>),
    /// Of int8 operands, exact.
    I32(Vec<i32>),
}

impl Output {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I32(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operands' element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::I32(_) => DType::Int8,
        }
    }

    /// The elements as little-endian bytes, four each, row-major.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// Reads a result of `dtype` operands back from [`Output::to_le_bytes`].
    ///
    /// # Errors
    /// [`KernelError::ShapeMismatch`] if the length is not exactly that of M x N elements.
    pub fn from_le_bytes(dtype: DType, shape: MatmulShape, bytes: &[u8]) -> Result<Self, KernelError> {
        check_bytes(shape.m, shape.n, dtype.result_bytes(), bytes)?;
        let words = bytes.as_chunks::<4>().0;
        Ok(match dtype {
            DType::F32 => Self::F32(words.iter().map(|w| f32::from_le_bytes(*w)).collect()),
            DType::Int8 => Self::I32(words.iter().map(|w| i32::from_le_bytes(*w)).collect()),
        })
    }
}

/// One operand, owned, as read from a panel's bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// IEEE binary32.
    F32(Vec<f32>),
    /// Signed 8-bit integers.
    Int8(Vec<i8>),
}

impl Operand {
    /// An operand without elements, to be filled by [`Operand::extend_from_le_bytes`].
    pub fn new(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32(Vec::new()),
            DType::Int8 => Self::Int8(Vec::new()),
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::Int8(_) => DType::Int8,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::Int8(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a panel: further rows of the same matrix, little-endian and row-major.
    ///
    /// # Errors
    /// [`KernelError::ShapeMismatch`] if the bytes are not a whole number of elements.
    pub fn extend_from_le_bytes(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        match self {
            Self::F32(v) => {
                let (words, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    let actual = bytes.len() as u64;
                    return Err(KernelError::ShapeMismatch {
                        operand: "bytes",
                        expected: actual.next_multiple_of(4),
                        actual,
                    });
                }
                v.extend(words.iter().map(|w| f32::from_le_bytes(*w)));
            }
            Self::Int8(v) => v.extend(bytes.iter().map(|b| b.cast_signed())),
        }
        Ok(())
    }

    /// Borrows two operands as the input of a product.
    ///
    /// # Errors
    /// [`KernelError::ShapeMismatch`] if their dtypes differ.
    pub fn pair<'a>(a: &'a Self, bt: &'a Self) -> Result<Operands<'a>, KernelError> {
        match (a, bt) {
            (Self::F32(a), Self::F32(bt)) => Ok(Operands::F32 { a, bt }),
            (Self::Int8(a), Self::Int8(bt)) => Ok(Operands::Int8 { a, bt }),
            (a, bt) => Err(KernelError::ShapeMismatch {
                operand: "bt",
                expected: a.dtype().operand_bytes() as u64,
                actual: bt.dtype().operand_bytes() as u64,
            }),
        }
    }
}

/// Reads a whole operand of `rows` x `cols` from little-endian bytes.
///
/// # Errors
/// [`KernelError::ShapeMismatch`] if the length differs, [`KernelError::TooLarge`] beyond [`MAX_ELEMENTS`].
pub fn operand_from_le_bytes(
    dtype: DType,
    rows: u32,
    cols: u32,
    bytes: &[u8],
) -> Result<Operand, KernelError> {
    check_bytes(rows, cols, dtype.operand_bytes(), bytes)?;
    let mut operand = Operand::new(dtype);
    operand.extend_from_le_bytes(bytes)?;
    Ok(operand)
}

fn check_bytes(rows: u32, cols: u32, width: usize, bytes: &[u8]) -> Result<(), KernelError> {
    let elements = u64::from(rows) * u64::from(cols);
    if elements > MAX_ELEMENTS {
        return Err(KernelError::TooLarge {
            what: "the elements of a matrix",
            limit: MAX_ELEMENTS,
            actual: elements,
        });
    }
    let expected = elements * width as u64;
    if expected == bytes.len() as u64 {
        Ok(())
    } else {
        Err(KernelError::ShapeMismatch { operand: "bytes", expected, actual: bytes.len() as u64 })
    }
}
