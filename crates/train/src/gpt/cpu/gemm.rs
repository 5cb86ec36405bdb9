//! Matrix products of any strides: C = A·B or C += A·B, f32, one thread.
//!
//! Operands are packed into strips with K outermost, then multiplied tile by tile in registers. Source of the scheme:
//! Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.
//!
//! # Determinism
//! An element of C is a sum along K in blocks of [`DEPTH`], each in ascending order from zero, whatever the sizes, the
//! tiles and the number of threads around. With fused multiply-add (x86-64 with AVX2, ARM64) all machines give the same
//! bits; without (older x86-64) all give the same other bits. In wasm with simd128 a block is a sum of blocks of 32: the
//! bits are the same on all engines until `potluck_kernels::cpu::tune` finds one with relaxed SIMD.
#![expect(clippy::inline_always, reason = "see `lanes::Job`")]

use super::lanes::{Job, dispatch};

/// Packed elements along K at once.
const DEPTH: usize = 256;
/// Rows of A that are packed together: a multiple of both tiles' rows.
const ROWS: usize = 96;
/// Columns of B that are packed together: a multiple of both tiles' columns.
const COLS: usize = 512;

/// Whether tiles are multiplied by the kernel that a tab can replace. It wants 4 x 8 tiles and a packed A.
const TUNABLE: bool = cfg!(all(target_arch = "wasm32", target_feature = "simd128"));

/// A matrix within a slice: element (row, col) lies at `row * rows + col * cols`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
}

impl<'a> Matrix<'a> {
    /// Rows at a distance of `stride`.
    pub(super) const fn rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, rows: stride, cols: 1 }
    }

    /// The transpose of [`Matrix::rows`].
    pub(super) const fn transposed(data: &'a [f32], stride: usize) -> Self {
        Self { data, rows: 1, cols: stride }
    }

    const fn transpose(self) -> Self {
        Self { data: self.data, rows: self.cols, cols: self.rows }
    }
}

/// Where the result goes.
pub(super) struct Target<'a> {
    /// Row-major elements.
    pub(super) data: &'a mut [f32],
    /// Distance of rows.
    pub(super) stride: usize,
    /// Whether the product is added to what is there.
    pub(super) add: bool,
}

/// Memory for packed operands, to be used again and again.
pub(super) struct Packs {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Packs {
    /// Bytes that [`Packs::new`] takes.
    pub(super) const BYTES: u64 = 4 * (DEPTH * (ROWS + COLS)) as u64;

    pub(super) fn new() -> Self {
        Self { a: vec![0.0; DEPTH * ROWS], b: vec![0.0; DEPTH * COLS] }
    }
}

/// The product of A (m x k) and B (k x n).
///
/// Shapes: the callers' slices hold the matrices; a slice that is too short panics, as any index does.
pub(super) fn product([m, n, k]: [usize; 3], a: Matrix<'_>, b: Matrix<'_>, c: Target<'_>, packs: &mut Packs) {
    dispatch(Product { m, n, k, a, b, c, packs });
}

struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: Target<'a>,
    packs: &'a mut Packs,
}

impl Job for Product<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        // Accumulators must fit the registers: sixteen of eight lanes with AVX2, sixteen of four without.
        if FUSED && !TUNABLE { self.tiles::<6, 16, FUSED>() } else { self.tiles::<4, 8, FUSED>() }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn tiles<const MR: usize, const NR: usize, const FUSED: bool>(self) {
        let Self { m, n, k, a, b, c, packs } = self;
        for col in (0..n).step_by(COLS) {
            let cols = COLS.min(n - col);
            for at in (0..k).step_by(DEPTH) {
                let depth = DEPTH.min(k - at);
                let panels = &mut packs.b[..cols.div_ceil(NR) * NR * depth];
                pack::<NR>(b.transpose(), [col, cols], [at, depth], panels);
                for row in (0..m).step_by(ROWS) {
                    let rows = ROWS.min(m - row);
                    // Rows whose elements follow each other are read where they are, if the kernel can.
                    let packed = TUNABLE || a.cols != 1;
                    let strips = &mut packs.a[..rows.div_ceil(MR) * MR * depth];
                    if packed {
                        pack::<MR>(a, [row, rows], [at, depth], strips);
                    }
                    for (panel, b) in panels.chunks_exact(NR * depth).enumerate() {
                        let first_col = panel * NR;
                        let width = NR.min(cols - first_col);
                        for (strip, packed_a) in strips.chunks_exact(MR * depth).enumerate() {
                            let first_row = strip * MR;
                            let height = MR.min(rows - first_row);
                            let start = (row + first_row) * c.stride + col + first_col;
                            let mut to = Tile {
                                data: &mut c.data[start..],
                                stride: c.stride,
                                height,
                                width,
                                add: c.add || at > 0,
                            };
                            if packed {
                                to.store(&multiply_packed::<MR, NR, FUSED>(packed_a, b));
                            } else {
                                // Rows beyond the last repeat it; their sums are not stored.
                                let a = std::array::from_fn(|r| {
                                    let row = row + first_row + r.min(height - 1);
                                    &a.data[row * a.rows + at..][..depth]
                                });
                                to.store(&multiply_rows::<MR, NR, FUSED>(a, b));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Adds the products of one step along K.
#[inline(always)]
fn step<const MR: usize, const NR: usize, const FUSED: bool>(
    a: &[f32; MR],
    b: &[f32; NR],
    sums: &mut [[f32; NR]; MR],
) {
    for r in 0..MR {
        for c in 0..NR {
            sums[r][c] = if FUSED { a[r].mul_add(b[c], sums[r][c]) } else { sums[r][c] + a[r] * b[c] };
        }
    }
}

/// The product of a strip of A (depth x MR) and a panel of B (depth x NR).
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(always)]
fn multiply_packed<const MR: usize, const NR: usize, const FUSED: bool>(
    a: &[f32],
    b: &[f32],
) -> [[f32; NR]; MR] {
    let mut tile = [[0.0; NR]; MR];
    potluck_kernels::cpu::tile_f32(a, b, tile.as_flattened_mut());
    tile
}

/// The product of a strip of A (depth x MR) and a panel of B (depth x NR).
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
fn multiply_packed<const MR: usize, const NR: usize, const FUSED: bool>(
    a: &[f32],
    b: &[f32],
) -> [[f32; NR]; MR] {
    let mut sums = [[0.0; NR]; MR];
    for (a, b) in a.as_chunks::<MR>().0.iter().zip(b.as_chunks::<NR>().0) {
        step::<MR, NR, FUSED>(a, b, &mut sums);
    }
    sums
}

/// The product of rows of A and a panel of B (depth x NR).
#[inline(always)]
fn multiply_rows<const MR: usize, const NR: usize, const FUSED: bool>(
    a: [&[f32]; MR],
    b: &[f32],
) -> [[f32; NR]; MR] {
    let b = b.as_chunks::<NR>().0;
    let a: [&[f32]; MR] = std::array::from_fn(|r| &a[r][..b.len()]);
    let mut sums = [[0.0; NR]; MR];
    for (p, b) in b.iter().enumerate() {
        step::<MR, NR, FUSED>(&std::array::from_fn(|r| a[r][p]), b, &mut sums);
    }
    sums
}

/// Where a tile of the result goes.
struct Tile<'a> {
    data: &'a mut [f32],
    stride: usize,
    height: usize,
    width: usize,
    add: bool,
}

impl Tile<'_> {
    #[inline(always)]
    fn store<const MR: usize, const NR: usize>(&mut self, sums: &[[f32; NR]; MR]) {
        if self.height == MR && self.width == NR {
            // No variable in these loops, so that the sums stay in registers.
            for (r, sums) in sums.iter().enumerate() {
                if let Some((row, _)) = self.data[r * self.stride..].split_first_chunk_mut::<NR>() {
                    for c in 0..NR {
                        row[c] = if self.add { row[c] + sums[c] } else { sums[c] };
                    }
                }
            }
            return;
        }
        for (r, sums) in sums.iter().enumerate().take(self.height) {
            for (to, sum) in self.data[r * self.stride..][..self.width].iter_mut().zip(sums) {
                *to = if self.add { *to + sum } else { *sum };
            }
        }
    }
}

/// Columns that [`pack`] turns at once.
const TURN: usize = 8;

/// Packs rows of a matrix over a span of its columns into strips of `W` rows with columns outermost; rows that are
/// missing in the last strip become zeros.
#[inline(always)]
fn pack<const W: usize>(
    matrix: Matrix<'_>,
    [row, rows]: [usize; 2],
    [col, cols]: [usize; 2],
    out: &mut [f32],
) {
    for (strip, out) in out.chunks_exact_mut(W * cols).enumerate() {
        let first = row + strip * W;
        let height = W.min(row + rows - first);
        let out = out.as_chunks_mut::<W>().0;
        if matrix.rows == 1 {
            for (p, out) in out.iter_mut().enumerate() {
                let from = &matrix.data[(col + p) * matrix.cols + first..];
                if let (Some(from), true) = (from.first_chunk::<W>(), height == W) {
                    *out = *from;
                } else {
                    out.fill(0.0);
                    out[..height].copy_from_slice(&from[..height]);
                }
            }
        } else if height == W {
            let sources: [(&[[f32; TURN]], &[f32]); W] = std::array::from_fn(|r| {
                matrix.data[(first + r) * matrix.rows + col..][..cols].as_chunks::<TURN>()
            });
            let (blocks, rest) = out.as_chunks_mut::<TURN>();
            for (b, out) in blocks.iter_mut().enumerate() {
                let block: [&[f32; TURN]; W] = std::array::from_fn(|r| &sources[r].0[b]);
                for p in 0..TURN {
                    for r in 0..W {
                        out[p][r] = block[r][p];
                    }
                }
            }
            for (p, out) in rest.iter_mut().enumerate() {
                for r in 0..W {
                    out[r] = sources[r].1[p];
                }
            }
        } else {
            out.fill([0.0; W]);
            for r in 0..height {
                let source = &matrix.data[(first + r) * matrix.rows + col..][..cols];
                for (out, x) in out.iter_mut().zip(source) {
                    out[r] = *x;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }

    fn at(matrix: &Matrix<'_>, row: usize, col: usize) -> f64 {
        f64::from(matrix.data[row * matrix.rows + col * matrix.cols])
    }

    fn check([m, n, k]: [usize; 3], a: Matrix<'_>, b: Matrix<'_>, add: bool, fused: bool) {
        let stride = n + 3;
        let before = numbers(m * stride, 9);
        let mut c = before.clone();
        let mut packs = Packs::new();
        let target = Target { data: &mut c, stride, add };
        if fused {
            product([m, n, k], a, b, target, &mut packs);
        } else {
            Product { m, n, k, a, b, c: target, packs: &mut packs }.run::<false>();
        }
        for row in 0..m {
            for col in 0..stride {
                let found = f64::from(c[row * stride + col]);
                let was = f64::from(before[row * stride + col]);
                if col >= n {
                    assert!((found - was).abs() < f64::MIN_POSITIVE, "wrote beyond the row");
                    continue;
                }
                let terms = (0..k).map(|p| at(&a, row, p) * at(&b, p, col));
                let (sum, size) = terms.fold((0.0, 0.0), |(s, z), t: f64| (s + t, z + t.abs()));
                let expected = if add { was + sum } else { sum };
                // At most one rounding for each of k terms.
                let bound = (k + 2) as f64 * f64::from(f32::EPSILON) / 2.0 * (size + was.abs());
                assert!((found - expected).abs() <= bound, "{m} {n} {k} at {row},{col}: {found} {expected}");
            }
        }
    }

    #[test]
    fn products_of_all_strides_and_odd_sizes_agree_with_f64() {
        let sizes = [
            [1, 1, 1],
            [6, 16, 4],
            [7, 17, 5],
            [4, 8, 300],
            [65, 31, 64],
            [97, 513, 3],
            [5, 70, 513],
            [100, 9, 257],
        ];
        for size in sizes {
            let [m, n, k] = size;
            let (a, b) = (numbers(m * (k + 1) + k * (m + 1), 1), numbers(k * (n + 2) + n * (k + 2), 2));
            for a in [Matrix::rows(&a, k + 1), Matrix::transposed(&a, m + 1)] {
                for b in [Matrix::rows(&b, n + 2), Matrix::transposed(&b, k + 2)] {
                    for (add, fused) in [(false, false), (true, false), (false, true), (true, true)] {
                        check(size, a, b, add, fused);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_product() {
        let (m, n, k) = (50, 40, 300);
        let (a, b) = (numbers(m * k, 3), numbers(k * n, 4));
        let mut packs = Packs::new();
        let mut all = vec![0.0; m * n];
        let target = Target { data: &mut all, stride: n, add: false };
        product([m, n, k], Matrix::rows(&a, k), Matrix::rows(&b, n), target, &mut packs);
        for rows in [1, 7, 23] {
            let mut some = vec![0.0; rows * n];
            let target = Target { data: &mut some, stride: n, add: false };
            product([rows, n, k], Matrix::rows(&a[5 * k..], k), Matrix::rows(&b, n), target, &mut packs);
            assert!(some.iter().zip(&all[5 * n..]).all(|(x, y)| x.to_bits() == y.to_bits()));
        }
    }
}
