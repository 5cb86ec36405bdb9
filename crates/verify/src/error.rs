//! Why a check could not be made: faults of the caller, not of the volunteer.

/// The operands given to a check do not fit its shape, so no verdict is possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A dimension is 0, or larger than the check is proved for.
    #[error(
        "the product's {name} is {found}; this check takes 1 to {max}: split the product into smaller tiles"
    )]
    Dimension {
        /// "m", "k" or "n".
        name: &'static str,
        /// What the shape says.
        found: u32,
        /// Largest value that the check takes.
        max: u32,
    },
    /// A panel does not consist of whole rows.
    #[error(
        "panel {panel} of {operand} has {found} bytes, no multiple of a row's {row_bytes}: cut panels between rows"
    )]
    PartialRow {
        /// "A" or "B transposed".
        operand: &'static str,
        /// Index of the panel.
        panel: usize,
        /// Bytes in the panel.
        found: usize,
        /// Bytes in a row.
        row_bytes: usize,
    },
    /// The panels have too few or too many rows.
    #[error(
        "the panels of {operand} have {found} rows, the shape says {expected}: pass all panels of this shard, once each"
    )]
    RowCount {
        /// "A" or "B transposed".
        operand: &'static str,
        /// Rows by the shape.
        expected: usize,
        /// Rows in the panels.
        found: usize,
    },
    /// An operand has an Inf or NaN, for which no product is defined.
    #[error(
        "row {row} of {operand} has an element that is not finite: refuse such operands when they arrive"
    )]
    OperandNotFinite {
        /// "A" or "B transposed".
        operand: &'static str,
        /// Row of the operand.
        row: usize,
    },
}
