//! What can go wrong in a kernel, as one typed error.

/// Why a product could not be computed.
///
/// None of these depends on the values of the operands: NaN and infinity are computed with, not refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// An operand or an output has another length than the shape says.
    #[error("{operand} has {actual} elements, its shape needs {expected}")]
    ShapeMismatch {
        /// Which buffer: `a`, `bt`, `out` or `bytes`.
        operand: &'static str,
        /// Elements (bytes, for `bytes`) that the shape asks for.
        expected: u64,
        /// Elements that were given.
        actual: u64,
    },
    /// The product exceeds a limit of this crate or of the device.
    #[error("{what} would be {actual}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit, in the unit of `what`.
        limit: u64,
        /// The size that was asked for.
        actual: u64,
    },
    /// The backend lacks something that the request needs.
    #[error("{what} is not supported here")]
    Unsupported {
        /// What is missing.
        what: &'static str,
    },
    /// There is no GPU adapter, or none that gives a device.
    #[error("no usable GPU adapter: {reason}")]
    NoAdapter {
        /// What the platform said.
        reason: String,
    },
    /// The device went away. Every later call on it fails as well: request a new one.
    #[error("the GPU device was lost: {reason}")]
    DeviceLost {
        /// What the platform said.
        reason: String,
    },
    /// The device has no memory left for this product.
    #[error("the GPU ran out of memory")]
    OutOfMemory,
    /// The device refused a shader or a command. Whatever it computed is not used.
    #[error("the GPU refused the work: {reason}")]
    Validation {
        /// What the platform said.
        reason: String,
    },
    /// The device did not answer in time.
    #[error("the GPU did not finish within {limit_ms} ms")]
    Timeout {
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// The caller asked to stop.
    #[error("the product was canceled")]
    Cancelled,
}

impl KernelError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::ShapeMismatch { .. } => "check the dimensions and the dtype of the operands",
            Self::TooLarge { .. } => "split the product into smaller tiles",
            Self::Unsupported { .. } | Self::NoAdapter { .. } => "use the CPU backend",
            Self::DeviceLost { .. } | Self::Timeout { .. } => "request a new device, or use the CPU backend",
            Self::OutOfMemory => "close other programs that use the GPU, or use the CPU backend",
            Self::Validation { .. } => "use the CPU backend and report the adapter's name",
            Self::Cancelled => "nothing is wrong: the product was stopped on request",
        }
    }

    /// Whether the same product may succeed on another backend or a new device.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::ShapeMismatch { .. } | Self::TooLarge { .. } | Self::Cancelled)
    }
}
