//! Native f32 products through the crate `gemm`, in blocks of the result.
//!
//! `gemm` packs its operands anew at every call, which costs as much as some hundred multiply-adds an element: a block
//! must be about as wide as it is high. Bands of 10 ms over all of N = 2048 reached a third of the rate of one call,
//! blocks 512 wide all of it.

use std::time::Duration;

use potluck_types::MatmulShape;
use web_time::Instant;

use super::Progress;

/// First block, in FLOP: 5 ms at 10 GFLOP/s. Later blocks follow the measured rate.
const FIRST_BAND_FLOPS: f64 = 5.0e7;
/// A block has at least this many rows: thinner ones spend their time packing B.
const MIN_BAND_ROWS: usize = 16;
/// Columns of a block where the caller wants steps.
const BAND_COLS: usize = 512;

/// One product.
pub(super) struct GemmJob<'a> {
    shape: MatmulShape,
    a: &'a [f32],
    bt: &'a [f32],
    out: Vec<f32>,
    /// First column of the strip that is being computed.
    col: usize,
    /// Next row of this strip.
    next_row: usize,
    flops_per_s: Option<f64>,
}

impl<'a> GemmJob<'a> {
    /// The lengths were checked by the caller; `band` asserts them again before it hands out pointers.
    pub(super) fn new(shape: MatmulShape, a: &'a [f32], bt: &'a [f32], out: Vec<f32>) -> Self {
        Self { shape, a, bt, out, col: 0, next_row: 0, flops_per_s: None }
    }

    pub(super) fn step(&mut self, target: Duration) -> Progress {
        let (m, n) = (self.shape.m as usize, self.shape.n as usize);
        let start = Instant::now();
        let mut first = true;
        while self.col < n {
            let left = target.saturating_sub(start.elapsed());
            // At least one block: a caller with no time to spare still gets to the end. No further one in the last
            // quarter: a thin block is mostly packing.
            if left <= target / 4 && !first {
                let width = BAND_COLS.min(n - self.col);
                let done = self.col * m + self.next_row * width;
                return Progress::Running { permille: (done as u64 * 1000 / (m as u64 * n as u64)) as u16 };
            }
            // A blocking call needs no blocks.
            let whole = target == Duration::MAX && self.next_row == 0;
            let cols = if whole { n - self.col } else { BAND_COLS.min(n - self.col) };
            let row_flops = 2.0 * self.shape.k as f64 * cols as f64;
            let budget = match self.flops_per_s {
                _ if target == Duration::MAX => f64::INFINITY,
                Some(rate) => rate * left.as_secs_f64(),
                None => FIRST_BAND_FLOPS,
            };
            let rows = ((budget / row_flops) as usize).max(MIN_BAND_ROWS).min(m - self.next_row);
            let band_start = Instant::now();
            self.band(rows, cols);
            let seconds = band_start.elapsed().as_secs_f64().max(1e-9);
            self.flops_per_s = Some(row_flops * rows as f64 / seconds);
            self.next_row += rows;
            first = false;
            if self.next_row == m {
                self.next_row = 0;
                self.col += cols;
            }
        }
        Progress::Finished
    }

    fn band(&mut self, rows: usize, cols: usize) {
        let (k, n) = (self.shape.k as usize, self.shape.n as usize);
        let a = &self.a[self.next_row * k..(self.next_row + rows) * k];
        let bt = &self.bt[self.col * k..(self.col + cols) * k];
        let from = self.next_row * n + self.col;
        let out = &mut self.out[from..from + (rows - 1) * n + cols];
        // SAFETY: the slices above have exactly rows x k and cols x k elements, and `out` reaches from the first to the
        // last element of rows of `cols` at a distance of n: the strides below stay inside them. `out` is exclusively
        // borrowed, and `read_dst` is false, so it is only written.
        unsafe {
            gemm::gemm(
                rows,
                cols,
                k,
                out.as_mut_ptr(),
                1,
                n.cast_signed(),
                false,
                a.as_ptr(),
                1,
                k.cast_signed(),
                bt.as_ptr(),
                k.cast_signed(),
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }

    pub(super) fn into_output(self) -> Vec<f32> {
        self.out
    }
}
