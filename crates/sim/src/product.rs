//! Jobs with real numbers in them: operands, panels, the exact product, and the test that a tile is right.

use crate::rng::Rng;
use potluck_proto::{BlobRef, MatmulTask};
use potluck_schedule::{Grid, GridError, JobSpec};
use potluck_types::{BlobHash, DType, JobId, MatmulShape, Tile};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// An f32 element further than this from the product, in units of the norms of its row and column, is wrong.
///
/// Tier 1 sees a single error above λ · 2^-24 · sqrt(N) / 0.65 of that unit: 1.1e-5 for N = 200, and 64 times
/// as much for a device that earned the widest tolerance. Honest rounding stays below K · 2^-23 = 2e-5 (K = 200)
/// to 1e-3 (K = 9000). What lies between is neither told nor punished; lies of the simulator are larger.
pub const WRONG_F32: f64 = 2e-3;

/// In which order an honest kernel adds the terms of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the first to the last.
    Forward,
    /// From the last to the first.
    Backward,
    /// Blocks of 32, then the blocks' sums.
    Blocks,
    /// Four interleaved lanes, as SIMD kernels do.
    Lanes,
}

/// Elements of the operands.
#[derive(Debug)]
enum Elements {
    F32 { a: Vec<f32>, bt: Vec<f32> },
    Int8 { a: Vec<i8>, bt: Vec<i8> },
}

/// A job, its operands, and what its product is.
#[derive(Debug)]
pub struct Product {
    /// What the relay is told.
    pub spec: JobSpec,
    /// Panels by their hash.
    pub blobs: BTreeMap<BlobHash, Arc<Vec<u8>>>,
    /// The exact product of each slice of K, in f64 (exact for int8 operands).
    slices: Vec<Vec<f64>>,
    /// ||a_i||, for f32.
    a_norms: Vec<f64>,
    /// ||b_j||, for f32.
    bt_norms: Vec<f64>,
}

/// Why a tile is wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WrongTile {
    /// Not the length that its shape has.
    #[error("{found} bytes instead of {expected}")]
    Length {
        /// Bytes of the shape.
        expected: usize,
        /// Bytes that there are.
        found: usize,
    },
    /// An element is not what the product says.
    #[error("row {row}, column {col} is {found} instead of {expected}")]
    Element {
        /// Row of C.
        row: u32,
        /// Column of C.
        col: u32,
        /// What there is.
        found: f64,
        /// What the product says.
        expected: f64,
    },
}

impl Product {
    /// Draws the operands of a job and cuts it.
    ///
    /// # Errors
    /// A shape that cannot be cut.
    pub fn draw(rng: &mut Rng, id: JobId, dtype: DType, shape: MatmulShape) -> Result<Self, GridError> {
        let grid = Grid::new(shape, dtype)?;
        let (a_len, bt_len) = ((shape.m * shape.k) as usize, (shape.n * shape.k) as usize);
        let k = shape.k as usize;
        let elements = match dtype {
            DType::F32 => Elements::F32 {
                a: (0..a_len).map(|_| rng.signed_unit()).collect(),
                bt: (0..bt_len).map(|_| rng.signed_unit()).collect(),
            },
            DType::Int8 => Elements::Int8 {
                a: (0..a_len).map(|_| rng.bits() as i8).collect(),
                bt: (0..bt_len).map(|_| rng.bits() as i8).collect(),
            },
        };
        let mut blobs = BTreeMap::new();
        let mut cut = |of_a: bool, panels: Vec<(Range<u32>, Range<u32>)>| -> Vec<BlobRef> {
            let store = |(rows, depth): (Range<u32>, Range<u32>)| {
                let bytes = elements.panel(of_a, k, &rows, &depth);
                let blob = BlobRef { hash: BlobHash::of(&bytes), bytes: bytes.len() as u64 };
                blobs.insert(blob.hash, Arc::new(bytes));
                blob
            };
            panels.into_iter().map(store).collect()
        };
        let a = cut(true, grid.a_panels().collect());
        let bt = cut(false, grid.bt_panels().collect());
        let name = format!("{dtype} {}x{}x{}", shape.m, shape.k, shape.n);
        let spec = JobSpec { id, name, dtype, grid, a, bt };
        let (a_norms, bt_norms) = elements.norms(k);
        let slices = (0..grid.slices()).map(|slice| elements.exact(shape, &grid.depth(slice))).collect();
        Ok(Self { spec, blobs, slices, a_norms, bt_norms })
    }

    fn tolerance(&self, row: u32, col: u32) -> f64 {
        match self.spec.dtype {
            DType::F32 => WRONG_F32 * self.a_norms[row as usize] * self.bt_norms[col as usize],
            DType::Int8 => 0.0,
        }
    }

    /// Compares a tile's bytes with the product.
    ///
    /// # Errors
    /// The first element that is wrong.
    pub fn check(&self, tile: &Tile, bytes: &[u8]) -> Result<(), WrongTile> {
        let shape = tile.shape();
        let expected = (shape.m * shape.n * 4) as usize;
        let (words, rest) = bytes.as_chunks::<4>();
        if bytes.len() != expected || !rest.is_empty() {
            return Err(WrongTile::Length { expected, found: bytes.len() });
        }
        let n = self.spec.grid.shape.n;
        let slice = &self.slices[(tile.depth.start / self.spec.grid.slice_depth) as usize];
        let places = tile.rows.clone().flat_map(|row| tile.cols.clone().map(move |col| (row, col)));
        for ((row, col), word) in places.zip(words) {
            let found = number(self.spec.dtype, *word);
            let expected = slice[(row * n + col) as usize];
            let off = (found - expected).abs();
            if off.is_nan() || off > self.tolerance(row, col) {
                return Err(WrongTile::Element { row, col, found, expected });
            }
        }
        Ok(())
    }

    /// Adds up the tiles of all slices, in the order of K, and compares C with the product.
    ///
    /// # Errors
    /// The first element that is wrong, or that no tile covers.
    pub fn check_assembled<'a>(
        &self,
        tiles: impl Iterator<Item = (&'a Tile, &'a Arc<Vec<u8>>)>,
    ) -> Result<(), WrongTile> {
        let MatmulShape { m, n, .. } = self.spec.grid.shape;
        let slices = self.spec.grid.slices();
        let mut sums = vec![0.0f64; (m * n) as usize];
        let mut covered = vec![0u32; (m * n) as usize];
        for (tile, bytes) in tiles {
            let places =
                tile.rows.clone().flat_map(|row| tile.cols.clone().map(move |col| (row * n + col) as usize));
            for (at, word) in places.zip(bytes.as_chunks::<4>().0) {
                sums[at] += number(self.spec.dtype, *word);
                covered[at] += 1;
            }
        }
        for row in 0..m {
            for col in 0..n {
                let at = (row * n + col) as usize;
                let expected: f64 = self.slices.iter().map(|slice| slice[at]).sum();
                // Slices' errors are relative to the slices' norms, whose products sum to at most the whole's.
                let off: f64 = (sums[at] - expected).abs();
                if covered[at] != slices || off.is_nan() || off > self.tolerance(row, col) {
                    return Err(WrongTile::Element { row, col, found: sums[at], expected });
                }
            }
        }
        Ok(())
    }
}

impl Elements {
    fn panel(&self, of_a: bool, k: usize, rows: &Range<u32>, depth: &Range<u32>) -> Vec<u8> {
        let line = |row: u32| row as usize * k + depth.start as usize..row as usize * k + depth.end as usize;
        let rows = rows.clone();
        match self {
            Self::F32 { a, bt } => {
                let from = if of_a { a } else { bt };
                rows.flat_map(|row| from[line(row)].iter().flat_map(|x| x.to_le_bytes())).collect()
            }
            Self::Int8 { a, bt } => {
                let from = if of_a { a } else { bt };
                rows.flat_map(|row| from[line(row)].iter().map(|x| x.cast_unsigned())).collect()
            }
        }
    }

    /// The product over a slice of K, M x N, in f64.
    fn exact(&self, shape: MatmulShape, depth: &Range<u32>) -> Vec<f64> {
        let k = shape.k as usize;
        let span =
            |line: u32| line as usize * k + depth.start as usize..line as usize * k + depth.end as usize;
        let dot = |row: u32, col: u32| match self {
            Self::F32 { a, bt } => {
                a[span(row)].iter().zip(&bt[span(col)]).map(|(x, y)| *x as f64 * *y as f64).sum()
            }
            Self::Int8 { a, bt } => {
                let terms = a[span(row)].iter().zip(&bt[span(col)]);
                terms.map(|(x, y)| i64::from(i32::from(*x) * i32::from(*y))).sum::<i64>() as f64
            }
        };
        (0..shape.m).flat_map(|row| (0..shape.n).map(move |col| (row, col))).map(|(i, j)| dot(i, j)).collect()
    }

    fn norms(&self, k: usize) -> (Vec<f64>, Vec<f64>) {
        let of = |x: &[f32]| -> Vec<f64> {
            x.chunks_exact(k).map(|row| row.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt()).collect()
        };
        match self {
            Self::F32 { a, bt } => (of(a), of(bt)),
            Self::Int8 { .. } => (Vec::new(), Vec::new()),
        }
    }
}

fn number(dtype: DType, word: [u8; 4]) -> f64 {
    match dtype {
        DType::F32 => f32::from_le_bytes(word) as f64,
        DType::Int8 => i32::from_le_bytes(word) as f64,
    }
}

/// What an honest kernel makes of a task, from the panels' bytes alone.
///
/// Shapes: `a` is rows x depth, `bt` cols x depth; the result rows x cols, all little-endian and row-major.
pub fn multiply(task: &MatmulTask, a: &[u8], bt: &[u8], order: Order) -> Vec<u8> {
    let (rows, cols, depth) = (task.rows as usize, task.cols as usize, task.depth as usize);
    let mut out = Vec::with_capacity(rows * cols * 4);
    match task.dtype {
        DType::F32 => {
            let (a, bt) = (floats(a), floats(bt));
            for row in a.chunks_exact(depth).take(rows) {
                for col in bt.chunks_exact(depth).take(cols) {
                    out.extend(dot(row, col, order).to_le_bytes());
                }
            }
        }
        DType::Int8 => {
            for row in a.chunks_exact(depth).take(rows) {
                for col in bt.chunks_exact(depth).take(cols) {
                    let terms = row.iter().zip(col);
                    let sum: i32 =
                        terms.map(|(x, y)| i32::from(x.cast_signed()) * i32::from(y.cast_signed())).sum();
                    out.extend(sum.to_le_bytes());
                }
            }
        }
    }
    out
}

/// The tile that a task's panels make up, found by their hashes.
pub(crate) fn tile_of(product: &Product, task: &MatmulTask) -> Option<Tile> {
    let grid = &product.spec.grid;
    let slices = grid.slices() as usize;
    let span = |panels: &[BlobRef], of: &[BlobRef]| {
        let first = of.iter().position(|panel| Some(panel) == panels.first())?;
        let whole = panels.iter().enumerate().all(|(i, panel)| of.get(first + i * slices) == Some(panel));
        let unit = (first / slices) as u32;
        whole.then(|| (unit..unit + panels.len() as u32, (first % slices) as u32))
    };
    let (row_units, slice) = span(&task.a, &product.spec.a)?;
    let (col_units, bt_slice) = span(&task.bt, &product.spec.bt)?;
    let tile = Tile { rows: grid.rows(&row_units), cols: grid.cols(&col_units), depth: grid.depth(slice) };
    let shape = tile.shape();
    let fits = slice == bt_slice && (shape.m, shape.k, shape.n) == (task.rows, task.depth, task.cols);
    (fits && task.dtype == product.spec.dtype).then_some(tile)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn dot(x: &[f32], y: &[f32], order: Order) -> f32 {
    let terms = x.iter().zip(y).map(|(x, y)| x * y);
    match order {
        Order::Forward => terms.fold(0.0, |sum, term| sum + term),
        Order::Backward => terms.rev().fold(0.0, |sum, term| sum + term),
        Order::Blocks => {
            let blocks = x.chunks(32).zip(y.chunks(32));
            blocks.map(|(x, y)| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>()).sum()
        }
        Order::Lanes => {
            let mut lanes = [0.0f32; 4];
            for (i, term) in terms.enumerate() {
                lanes[i % 4] += term;
            }
            (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(product: &Product) -> (MatmulTask, Vec<u8>, Vec<u8>, Tile) {
        let MatmulShape { m, k, n } = product.spec.grid.shape;
        let (a, bt) = (product.spec.a.clone(), product.spec.bt.clone());
        let bytes =
            |refs: &[BlobRef]| refs.iter().flat_map(|r| product.blobs[&r.hash].to_vec()).collect::<Vec<_>>();
        let (a_bytes, bt_bytes) = (bytes(&a), bytes(&bt));
        let task = MatmulTask { dtype: product.spec.dtype, rows: m, cols: n, depth: k, a, bt };
        (task, a_bytes, bt_bytes, Tile { rows: 0..m, cols: 0..n, depth: 0..k })
    }

    #[test]
    fn every_order_is_right_and_every_lie_is_seen() {
        let mut rng = Rng::new(1);
        for dtype in [DType::F32, DType::Int8] {
            let shape = MatmulShape { m: 45, k: 37, n: 70 };
            let product = Product::draw(&mut rng, JobId([1; 16]), dtype, shape).unwrap();
            let (task, a, bt, tile) = whole(&product);
            for order in [Order::Forward, Order::Backward, Order::Blocks, Order::Lanes] {
                let c = multiply(&task, &a, &bt, order);
                assert_eq!(product.check(&tile, &c), Ok(()));
                assert_eq!(product.check_assembled([(&tile, &Arc::new(c.clone()))].into_iter()), Ok(()));
                let mut flipped = c.clone();
                flipped[4 * 71 + 3] ^= 0x40;
                assert!(matches!(
                    product.check(&tile, &flipped),
                    Err(WrongTile::Element { row: 1, col: 1, .. })
                ));
                assert!(product.check(&tile, &c[4..]).is_err());
                assert!(product.check(&tile, &vec![0; c.len()]).is_err());
            }
            assert!(product.check_assembled(std::iter::empty()).is_err(), "nothing is covered");
        }
    }
}
