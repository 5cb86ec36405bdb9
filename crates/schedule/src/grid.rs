//! How a product is cut: a grid of units, and the panels that its operands travel as.
//!
//! A *unit* is the smallest piece of work: `unit_rows x unit_cols` of C over one slice of K. A shard is a
//! rectangle of units with one slice. Panels are cut at the same lines, so that any shard is a list of whole
//! panels and every panel is a blob that serves all shards that cross it.

use potluck_types::limits::{MAX_BLOB_BYTES, MAX_DIMENSION, MAX_SLICE_DEPTH, MAX_UNITS};
use potluck_types::{DType, MatmulShape, Tile};
use std::ops::Range;

/// Sides of units lie between these, in rows or columns. Below 32 the envelope of a shard outweighs its
/// product; above 256 a slow tab would need more than a few seconds for one unit.
const UNIT_SIDE: Range<u32> = 32..256;
/// Units along one side that a small product is cut into, so that several tabs find work.
const UNITS_PER_SIDE: u32 = 8;
/// Bytes of a panel that the cut aims at: half a second at 20 Mbit/s.
const PANEL_BYTES: u32 = 1 << 20;

/// Why a product cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GridError {
    /// A dimension is zero.
    #[error("the product is empty: its shape is {m} x {k} x {n}")]
    Empty {
        /// Rows of A.
        m: u32,
        /// Columns of A.
        k: u32,
        /// Columns of B.
        n: u32,
    },
    /// A dimension is over the limit.
    #[error("a dimension of {dimension} exceeds the limit of {MAX_DIMENSION}")]
    Dimension {
        /// The largest dimension.
        dimension: u32,
    },
    /// Even the coarsest cut has too many units.
    #[error(
        "the product would be cut into {units} units; the limit is {MAX_UNITS}: split it into several jobs"
    )]
    TooManyUnits {
        /// Units of the coarsest cut.
        units: u64,
    },
}

/// The cut of one product. Equal inputs give equal grids, so a restarted relay finds the same lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// The whole product.
    pub shape: MatmulShape,
    /// Rows of C in one unit (the last may be shorter).
    pub unit_rows: u32,
    /// Columns of C in one unit (the last may be shorter).
    pub unit_cols: u32,
    /// Length of one slice of K (the last may be shorter).
    pub slice_depth: u32,
}

impl Grid {
    /// Cuts a product.
    ///
    /// # Errors
    /// A product that is empty, or too large for the limits.
    pub fn new(shape: MatmulShape, dtype: DType) -> Result<Self, GridError> {
        let MatmulShape { m, k, n } = shape;
        if m == 0 || k == 0 || n == 0 {
            return Err(GridError::Empty { m, k, n });
        }
        let dimension = m.max(k).max(n);
        if dimension > MAX_DIMENSION {
            return Err(GridError::Dimension { dimension });
        }
        let slices = k.div_ceil(MAX_SLICE_DEPTH);
        let slice_depth = k.div_ceil(slices);
        let by_panel = (PANEL_BYTES / (slice_depth * dtype.operand_bytes() as u32)).next_power_of_two();
        let side = |length: u32| {
            let share = length.div_ceil(UNITS_PER_SIDE).next_multiple_of(UNIT_SIDE.start);
            share.min(by_panel).clamp(UNIT_SIDE.start, UNIT_SIDE.end)
        };
        let mut grid = Self { shape, unit_rows: side(m), unit_cols: side(n), slice_depth };
        // Large products take larger units, as long as a unit's panels and its result still travel as blobs.
        while grid.unit_count() > MAX_UNITS as u64 {
            let side = grid.unit_rows.max(grid.unit_cols).saturating_mul(2);
            let panel = u64::from(side) * u64::from(slice_depth) * dtype.operand_bytes() as u64;
            let result = u64::from(side) * u64::from(side) * dtype.result_bytes() as u64;
            if panel.max(result) > MAX_BLOB_BYTES as u64 {
                return Err(GridError::TooManyUnits { units: grid.unit_count() });
            }
            (grid.unit_rows, grid.unit_cols) = (side, side);
        }
        Ok(grid)
    }

    /// Units along M.
    pub const fn row_units(&self) -> u32 {
        self.shape.m.div_ceil(self.unit_rows)
    }

    /// Units along N.
    pub const fn col_units(&self) -> u32 {
        self.shape.n.div_ceil(self.unit_cols)
    }

    /// Slices of K.
    pub const fn slices(&self) -> u32 {
        self.shape.k.div_ceil(self.slice_depth)
    }

    /// Units in all.
    pub const fn unit_count(&self) -> u64 {
        self.row_units() as u64 * self.col_units() as u64 * self.slices() as u64
    }

    /// Rows of C (and of A) that a range of units covers.
    pub fn rows(&self, units: &Range<u32>) -> Range<u32> {
        span(units, self.unit_rows, self.shape.m)
    }

    /// Columns of C (rows of B transposed) that a range of units covers.
    pub fn cols(&self, units: &Range<u32>) -> Range<u32> {
        span(units, self.unit_cols, self.shape.n)
    }

    /// The part of K that a slice covers.
    pub fn depth(&self, slice: u32) -> Range<u32> {
        span(&(slice..slice + 1), self.slice_depth, self.shape.k)
    }

    /// Panels of A, in the order in which [`JobSpec::a`](crate::JobSpec::a) lists them: for each row unit,
    /// each slice. Rows and the part of K.
    pub fn a_panels(&self) -> impl Iterator<Item = (Range<u32>, Range<u32>)> + '_ {
        (0..self.row_units()).flat_map(move |unit| {
            (0..self.slices()).map(move |s| (self.rows(&(unit..unit + 1)), self.depth(s)))
        })
    }

    /// Panels of B transposed, in the order in which [`JobSpec::bt`](crate::JobSpec::bt) lists them: for each
    /// column unit, each slice. Columns and the part of K.
    pub fn bt_panels(&self) -> impl Iterator<Item = (Range<u32>, Range<u32>)> + '_ {
        (0..self.col_units()).flat_map(move |unit| {
            (0..self.slices()).map(move |s| (self.cols(&(unit..unit + 1)), self.depth(s)))
        })
    }

    /// The units that a tile covers.
    pub(crate) fn block_of(&self, tile: &Tile) -> Option<Block> {
        let units = |range: &Range<u32>, unit: u32, end: u32| {
            let aligned =
                range.start.is_multiple_of(unit) && (range.end.is_multiple_of(unit) || range.end == end);
            (aligned && range.start < range.end && range.end <= end)
                .then(|| range.start / unit..range.end.div_ceil(unit))
        };
        let rows = units(&tile.rows, self.unit_rows, self.shape.m)?;
        let cols = units(&tile.cols, self.unit_cols, self.shape.n)?;
        let slices = units(&tile.depth, self.slice_depth, self.shape.k)?;
        (slices.len() == 1).then_some(Block { rows, cols, slice: slices.start })
    }

    /// The tile that a block of units computes.
    pub(crate) fn tile_of(&self, block: &Block) -> Tile {
        Tile { rows: self.rows(&block.rows), cols: self.cols(&block.cols), depth: self.depth(block.slice) }
    }
}

fn span(units: &Range<u32>, unit: u32, end: u32) -> Range<u32> {
    units.start * unit..(units.end * unit).min(end)
}

/// A rectangle of units in one slice of K.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) rows: Range<u32>,
    pub(crate) cols: Range<u32>,
    pub(crate) slice: u32,
}
