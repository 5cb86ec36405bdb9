//! Native f32 products through the crate `gemm`, in bands of rows.

use std::time::Duration;

use potluck_types::MatmulShape;
use web_time::Instant;

use super::Progress;

/// First band, in FLOP: 5 ms at 10 GFLOP/s. Later bands follow the measured rate.
const FIRST_BAND_FLOPS: f64 = 5.0e7;
/// A band has at least this many rows: thinner ones spend their time packing B.
const MIN_BAND_ROWS: usize = 16;

/// One product.
pub(super) struct GemmJob<'a> {
    shape: MatmulShape,
    a: &'a [f32],
    bt: &'a [f32],
    out: Vec<f32>,
    next_row: usize,
    flops_per_s: Option<f64>,
}

impl<'a> GemmJob<'a> {
    /// The lengths were checked by the caller; `band` asserts them again before it hands out pointers.
    pub(super) fn new(shape: MatmulShape, a: &'a [f32], bt: &'a [f32], out: Vec<f32>) -> Self {
        Self { shape, a, bt, out, next_row: 0, flops_per_s: None }
    }

    pub(super) fn step(&mut self, target: Duration) -> Progress {
        let m = self.shape.m as usize;
        let start = Instant::now();
        let mut first = true;
        while self.next_row < m {
            let left = target.saturating_sub(start.elapsed());
            // At least one band: a caller with no time to spare still gets to the end.
            if left.is_zero() && !std::mem::take(&mut first) {
                return Progress::Running { permille: (self.next_row * 1000 / m) as u16 };
            }
            let row_flops = 2.0 * self.shape.k as f64 * self.shape.n as f64;
            let budget = match self.flops_per_s {
                // A blocking call needs no bands.
                _ if target == Duration::MAX => f64::INFINITY,
                Some(rate) => rate * left.as_secs_f64(),
                None => FIRST_BAND_FLOPS,
            };
            let rows = ((budget / row_flops) as usize).max(MIN_BAND_ROWS).min(m - self.next_row);
            let band_start = Instant::now();
            self.band(rows);
            let seconds = band_start.elapsed().as_secs_f64().max(1e-9);
            self.flops_per_s = Some(row_flops * rows as f64 / seconds);
        }
        Progress::Finished
    }

    fn band(&mut self, rows: usize) {
        let (k, n) = (self.shape.k as usize, self.shape.n as usize);
        let a = &self.a[self.next_row * k..(self.next_row + rows) * k];
        let bt = &self.bt[..n * k];
        let out = &mut self.out[self.next_row * n..(self.next_row + rows) * n];
        // SAFETY: the slices above have exactly rows x k, n x k and rows x n elements, the strides below stay inside
        // them, `out` is exclusively borrowed, and `read_dst` is false, so `out` is only written.
        unsafe {
            gemm::gemm(
                rows,
                n,
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
        self.next_row += rows;
    }

    pub(super) fn into_output(self) -> Vec<f32> {
        self.out
    }
}
