//! One blocked loop for all micro-kernels: operands are packed into strips with K outermost, then multiplied tile by
//! tile.
//!
//! B is packed a block of columns at a time (bounded memory, about the size of an L2 cache), A in blocks of
//! [`ROW_BLOCK`] rows x [`DEPTH_BLOCK`]. A panel of B in one depth block stays in L1 while all strips of A pass by.
//! Source of the scheme: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.

use std::ops::Range;
use std::time::Duration;

use potluck_types::MatmulShape;
use web_time::Instant;

use super::Progress;

/// Rows of a micro-tile. 4 x 8 f32 are eight 128-bit accumulators of the sixteen registers; 6 x 8 spills.
pub(super) const MR: usize = 4;
/// Rows of A that are packed together.
const ROW_BLOCK: usize = 64;
/// Packed elements along K that are multiplied before the next block of A: a multiple of `K_BLOCK`.
pub(super) const DEPTH_BLOCK: usize = 256;
/// Packed elements of B at once (4 bytes each): 2 MiB, and one panel of columns at the least.
const PACKED_B_ELEMENTS: usize = 1 << 19;
/// Widest micro-tile of any kernel.
const MAX_NR: usize = 16;

/// A micro-kernel and the packing it needs.
pub(super) trait Micro {
    /// Element of the operands.
    type Operand: Copy + Default;
    /// Element of a packed strip: `PAIR` operands.
    type Packed: Copy + Default;
    /// Element of the result.
    type Acc: Copy + Default;
    /// Operands along K in one packed element.
    const PAIR: usize;
    /// Columns of a micro-tile: a multiple of 4, at most [`MAX_NR`].
    const NR: usize;

    /// Packs four rows: element p of row r goes to `out[p * stride + r]`; odd ends are filled with zero.
    ///
    /// All rows have the same length, `out` holds `(ceil(len / PAIR) - 1) * stride + 4` elements at least.
    fn pack4(&self, rows: [&[Self::Operand]; 4], out: &mut [Self::Packed], stride: usize);

    /// `tile` (MR x NR) += the product of a strip of A (depth x MR) and a panel of B (depth x NR).
    fn multiply(&self, a: &[Self::Packed], b: &[Self::Packed], tile: &mut [Self::Acc]);
}

/// One product on one micro-kernel.
pub(super) struct Packed<'a, K: Micro> {
    kernel: K,
    shape: MatmulShape,
    a: &'a [K::Operand],
    bt: &'a [K::Operand],
    out: Vec<K::Acc>,
    strips_of_a: Vec<K::Packed>,
    panels_of_b: Vec<K::Packed>,
    /// Columns that `panels_of_b` holds.
    cols: Range<usize>,
    /// Next row of this block of columns.
    next_row: usize,
}

impl<'a, K: Micro + Default> Packed<'a, K> {
    pub(super) fn new(
        shape: MatmulShape,
        a: &'a [K::Operand],
        bt: &'a [K::Operand],
        out: Vec<K::Acc>,
    ) -> Self {
        Self::with_kernel(K::default(), shape, a, bt, out)
    }
}

impl<'a, K: Micro> Packed<'a, K> {
    /// The lengths were checked by the caller.
    pub(super) fn with_kernel(
        kernel: K,
        shape: MatmulShape,
        a: &'a [K::Operand],
        bt: &'a [K::Operand],
        out: Vec<K::Acc>,
    ) -> Self {
        Self {
            kernel,
            shape,
            a,
            bt,
            out,
            strips_of_a: Vec::new(),
            panels_of_b: Vec::new(),
            cols: 0..0,
            next_row: shape.m as usize,
        }
    }

    pub(super) fn step(&mut self, target: Duration) -> Progress {
        let (m, n) = (self.shape.m as usize, self.shape.n as usize);
        let start = Instant::now();
        loop {
            if self.next_row >= m {
                if self.cols.end >= n {
                    return Progress::Finished;
                }
                self.pack_b();
                self.next_row = 0;
            }
            let rows = self.next_row..(self.next_row + ROW_BLOCK).min(m);
            self.next_row = rows.end;
            self.multiply_rows(rows);
            // A blocking call never asks the clock: in wasm that is a call into JavaScript.
            if target != Duration::MAX && start.elapsed() >= target {
                let done = self.cols.start * m + self.cols.len() * self.next_row;
                if done == m * n {
                    return Progress::Finished;
                }
                return Progress::Running { permille: (done as u64 * 1000 / (m as u64 * n as u64)) as u16 };
            }
        }
    }

    pub(super) fn into_output(self) -> Vec<K::Acc> {
        self.out
    }

    /// Elements along K after packing.
    fn depth(&self) -> usize {
        (self.shape.k as usize).div_ceil(K::PAIR)
    }

    /// Packs the next block of columns: panels of NR columns, each depth x NR.
    fn pack_b(&mut self) {
        let (k, n, depth) = (self.shape.k as usize, self.shape.n as usize, self.depth());
        let width = (PACKED_B_ELEMENTS / (depth * K::NR)).max(1) * K::NR;
        self.cols = self.cols.end..(self.cols.end + width).min(n);
        let panels = self.cols.len().div_ceil(K::NR);
        // Every element below is overwritten by `pack_rows`, so what an earlier block left does not matter.
        self.panels_of_b.resize(panels * depth * K::NR, K::Packed::default());
        let bt = Rows { data: self.bt, width: k };
        for (panel, out) in self.panels_of_b.chunks_exact_mut(depth * K::NR).enumerate() {
            let first = self.cols.start + panel * K::NR;
            for p in (0..depth).step_by(DEPTH_BLOCK) {
                let span = p * K::PAIR..((p + DEPTH_BLOCK) * K::PAIR).min(k);
                pack_rows(&self.kernel, bt, first..n.min(first + K::NR), span, &mut out[p * K::NR..], K::NR);
            }
        }
    }

    fn multiply_rows(&mut self, rows: Range<usize>) {
        let (k, n, depth) = (self.shape.k as usize, self.shape.n as usize, self.depth());
        let a = Rows { data: self.a, width: k };
        let strips = rows.len().div_ceil(MR);
        self.strips_of_a.resize(strips * MR * DEPTH_BLOCK, K::Packed::default());
        let mut storage = [K::Acc::default(); MR * MAX_NR];
        let tile = &mut storage[..MR * K::NR];
        for p in (0..depth).step_by(DEPTH_BLOCK) {
            let len = DEPTH_BLOCK.min(depth - p);
            let span = p * K::PAIR..((p + DEPTH_BLOCK) * K::PAIR).min(k);
            for (strip, out) in self.strips_of_a.chunks_exact_mut(MR * DEPTH_BLOCK).enumerate() {
                let first = rows.start + strip * MR;
                pack_rows(&self.kernel, a, first..rows.end.min(first + MR), span.clone(), out, MR);
            }
            for (panel, b) in self.panels_of_b.chunks_exact(depth * K::NR).enumerate() {
                let b = &b[p * K::NR..(p + len) * K::NR];
                let col = self.cols.start + panel * K::NR;
                let width = K::NR.min(self.cols.end - col);
                for (strip, a) in self.strips_of_a.chunks_exact(MR * DEPTH_BLOCK).enumerate() {
                    let row = rows.start + strip * MR;
                    let height = MR.min(rows.end - row);
                    if p == 0 {
                        tile.fill(K::Acc::default());
                    } else {
                        for r in 0..height {
                            let at = (row + r) * n + col;
                            tile[r * K::NR..][..width].copy_from_slice(&self.out[at..at + width]);
                        }
                    }
                    self.kernel.multiply(&a[..len * MR], b, tile);
                    for r in 0..height {
                        let at = (row + r) * n + col;
                        self.out[at..at + width].copy_from_slice(&tile[r * K::NR..][..width]);
                    }
                }
            }
        }
    }
}

/// A row-major matrix.
#[derive(Clone, Copy)]
struct Rows<'a, T> {
    data: &'a [T],
    width: usize,
}

/// Packs `rows` (up to `stride` of them) over `span` of K; rows that are missing become zeros.
fn pack_rows<K: Micro>(
    kernel: &K,
    matrix: Rows<'_, K::Operand>,
    rows: Range<usize>,
    span: Range<usize>,
    out: &mut [K::Packed],
    stride: usize,
) {
    let zeros = [K::Operand::default(); DEPTH_BLOCK * 2];
    for group in (0..stride).step_by(4) {
        let sources = std::array::from_fn(|r| {
            let row = rows.start + group + r;
            if row < rows.end {
                &matrix.data[row * matrix.width + span.start..row * matrix.width + span.end]
            } else {
                &zeros[..span.len()]
            }
        });
        kernel.pack4(sources, &mut out[group..], stride);
    }
}
