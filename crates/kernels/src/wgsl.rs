//! The WGSL kernels, generated as text: the depth as a literal, K unrolled, no bounds checks in the loops. How wide a product
//! is comes as a uniform: shards of one job differ in width, and a shader that is compiled for each takes a software adapter
//! half a second, in which nothing stops it.
//!
//! All variants compute the same thing from the same buffers, which are padded with zeros so that no index is ever out
//! of bounds:
//! - `a`: rows of A, `kw` words each, as `vec4` along K;
//! - `b`: B with K outermost, `kw` rows of `nw` words, as `vec4` along N;
//! - `c`: rows of the result, `nw` words each, as `vec4` along N;
//! - `width`: `nw / 4`.
//!
//! A word is one f32, or four int8 that follow each other along K, packed in a u32. So `kw` is K or K/4, and both
//! dtypes share one generator.
//!
//! Determinism: int8 is exact. f32 is a sum of blocks of 32 along K whose order is that of K; WGSL leaves rounding and
//! fusing to the device, so results of two devices agree only within `gamma_K`.
//!
//! Source of the shapes: measured (direct on software adapters, tiles on real GPUs); `docs/decisions` says how.

use std::fmt::Write;

use potluck_types::DType;

use crate::limits::K_BLOCK;

/// The shape of a WGSL kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variant {
    /// 4 x 4 a thread, no workgroup memory: small GPUs, small products, and the quickest to compile.
    Direct4x4,
    /// 8 x 8 a thread, no workgroup memory.
    Direct8x8,
    /// 16 x 8 a thread, no workgroup memory: the fewest loads, which is all that counts on software adapters.
    Direct16x8,
    /// 64 x 64 tiles in workgroup memory, 4 x 4 a thread.
    Tiled64,
    /// 128 x 128 tiles in workgroup memory, 8 x 8 a thread: large GPUs.
    Tiled128,
}

/// How the four products in a word of int8 are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Int8Path {
    /// `dot4I8Packed`, where the language feature `packed_4x8_integer_dot_product` exists.
    Packed,
    /// Sign-extending shifts and integer multiply-adds: exact as well, everywhere.
    Unpacked,
}

/// Everything a shader's text depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShaderKey {
    /// Kernel shape.
    pub variant: Variant,
    /// Element type.
    pub dtype: DType,
    /// Used for int8 only.
    pub int8: Int8Path,
    /// Words along K, padded: a multiple of [`depth_multiple`].
    pub kw: u32,
}

/// Rows and columns of C that one workgroup computes, and threads in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Rows of C a workgroup.
    pub rows: u32,
    /// Columns of C a workgroup.
    pub cols: u32,
    /// Threads along columns.
    pub threads_x: u32,
    /// Threads along rows.
    pub threads_y: u32,
}

impl Variant {
    /// All variants, in the order in which calibration tries them: the cheapest to compile, the best on software
    /// adapters, and the rest.
    pub const ALL: [Self; 5] =
        [Self::Direct4x4, Self::Direct16x8, Self::Direct8x8, Self::Tiled64, Self::Tiled128];

    /// A short stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct4x4 => "gpu-direct-4x4",
            Self::Direct8x8 => "gpu-direct-8x8",
            Self::Direct16x8 => "gpu-direct-16x8",
            Self::Tiled64 => "gpu-tiled-64",
            Self::Tiled128 => "gpu-tiled-128",
        }
    }

    /// Whether it uses workgroup memory (and takes seconds to compile on a software adapter).
    pub fn is_tiled(self) -> bool {
        matches!(self, Self::Tiled64 | Self::Tiled128)
    }

    /// Rows and columns of one thread.
    pub fn registers(self) -> (u32, u32) {
        match self {
            Self::Direct4x4 | Self::Tiled64 => (4, 4),
            Self::Direct16x8 => (16, 8),
            Self::Direct8x8 | Self::Tiled128 => (8, 8),
        }
    }

    /// What one workgroup computes.
    pub fn tile(self) -> Tile {
        let (r, c) = self.registers();
        let (x, y) = match self {
            Self::Direct4x4 => (16, 8),
            Self::Direct8x8 => (8, 8),
            Self::Direct16x8 => (8, 4),
            Self::Tiled64 | Self::Tiled128 => (16, 16),
        };
        Tile { rows: r * y, cols: c * x, threads_x: x, threads_y: y }
    }

    /// This kernel, or [`Variant::Direct4x4`] where the product is so small that padding it to this kernel's tile would
    /// more than double the work.
    #[must_use]
    pub fn for_shape(self, m: u32, n: u32) -> Self {
        let padded = |v: Self| {
            let tile = v.tile();
            u64::from(m.next_multiple_of(tile.rows)) * u64::from(n.next_multiple_of(tile.cols))
        };
        let small = Self::Direct4x4;
        if padded(self) > u64::from(m) * u64::from(n) * 2 && padded(small) < padded(self) {
            small
        } else {
            self
        }
    }

    /// Bytes of workgroup memory.
    pub fn workgroup_bytes(self) -> u32 {
        if self.is_tiled() { (self.tile().rows + self.tile().cols) * tile_depth(self) * 4 } else { 0 }
    }
}

/// Words along K that a workgroup loads at once into its memory.
fn tile_depth(variant: Variant) -> u32 {
    if variant == Variant::Tiled64 { 16 } else { 8 }
}

/// Words of one block of partial sums along K.
///
/// int8 needs no blocks for accuracy; its loop is as long as that of f32 all the same.
pub const fn depth_multiple() -> u32 {
    K_BLOCK as u32
}

/// Elements in a word.
pub const fn elements_per_word(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 1,
        DType::Int8 => 4,
    }
}

/// The WGSL text of a kernel; its entry point is `main`.
///
/// Bindings of group 0: 0 `a`, 1 `b` (read), 2 `c` (read_write), 3 `width` (uniform). Dispatch: columns / tile.cols by rows / tile.rows.
pub fn generate(key: ShaderKey) -> String {
    let mut w = String::with_capacity(16 << 10);
    let (vec_in, vec_out) = match key.dtype {
        DType::F32 => ("vec4<f32>", "vec4<f32>"),
        DType::Int8 => ("vec4<u32>", "vec4<i32>"),
    };
    if key.dtype == DType::Int8 && key.int8 == Int8Path::Packed {
        w.push_str("requires packed_4x8_integer_dot_product;\n");
    }
    line(&mut w, format_args!("@group(0) @binding(0) var<storage, read> a: array<{vec_in}>;"));
    line(&mut w, format_args!("@group(0) @binding(1) var<storage, read> b: array<{vec_in}>;"));
    line(&mut w, format_args!("@group(0) @binding(2) var<storage, read_write> c: array<{vec_out}>;"));
    line(&mut w, format_args!("@group(0) @binding(3) var<uniform> width: u32;"));
    if key.dtype == DType::Int8 {
        w.push_str(match key.int8 {
            Int8Path::Packed => DOT_PACKED,
            Int8Path::Unpacked => DOT_UNPACKED,
        });
    }
    if key.variant.is_tiled() {
        tiled(&mut w, key, vec_in, vec_out);
    } else {
        direct(&mut w, key, vec_out);
    }
    w
}

const DOT_PACKED: &str = "
fn madd(acc: vec4<i32>, x: u32, y: vec4<u32>) -> vec4<i32> {
  return acc + vec4<i32>(dot4I8Packed(x, y.x), dot4I8Packed(x, y.y), dot4I8Packed(x, y.z), dot4I8Packed(x, y.w));
}
";

// Shifting left and then arithmetically right extends the sign of each byte.
const DOT_UNPACKED: &str = "
fn madd(acc: vec4<i32>, x: u32, y: vec4<u32>) -> vec4<i32> {
  let s = bitcast<i32>(x);
  let v = bitcast<vec4<i32>>(y);
  return acc + ((s << 24u) >> 24u) * ((v << vec4<u32>(24u)) >> vec4<u32>(24u))
    + ((s << 16u) >> 24u) * ((v << vec4<u32>(16u)) >> vec4<u32>(24u))
    + ((s << 8u) >> 24u) * ((v << vec4<u32>(8u)) >> vec4<u32>(24u))
    + (s >> 24u) * (v >> vec4<u32>(24u));
}
";

fn line(w: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = w.write_fmt(text);
    w.push('\n');
}

/// `acc += x * y` of one word of A with a vec4 of words of B.
fn madd(w: &mut String, dtype: DType, acc: &str, x: &str, y: &str) {
    match dtype {
        DType::F32 => line(w, format_args!("    {acc} = fma(vec4<f32>({x}), {y}, {acc});")),
        DType::Int8 => line(w, format_args!("    {acc} = madd({acc}, {x}, {y});")),
    }
}

/// Read once: software adapters read a uniform anew wherever it is named.
const WIDTH_ONCE: &str = "  let n4 = width;";

const LANES: [&str; 4] = ["x", "y", "z", "w"];

/// Each thread computes its registers straight from the buffers; K unrolled by `UNROLL` words.
///
/// Measured on a software adapter, GFLOP per CPU-second beside jax-js' kernel in the same run (n = 256, 512, 1024):
/// 16 x 8 reaches 2.0-2.2 times its rate, 8 x 8 1.5-1.7 times, 4 x 4 as much. There each load costs more than the
/// arithmetic of a row, so the ratio of registers to loads decides; unrolling by 8 or 32 only costs compile time.
fn direct(w: &mut String, key: ShaderKey, vec_out: &str) {
    const UNROLL: u32 = 4;
    let ShaderKey { variant, dtype, kw, .. } = key;
    let Tile { threads_x, threads_y, .. } = variant.tile();
    let (rows, cols) = variant.registers();
    let (k4, vecs) = (kw / 4, cols / 4);
    line(w, format_args!("@compute @workgroup_size({threads_x}, {threads_y})"));
    line(w, format_args!("fn main(@builtin(global_invocation_id) id: vec3<u32>) {{"));
    line(w, format_args!("  let col = id.x * {vecs}u;\n  let row = id.y * {rows}u;\n{WIDTH_ONCE}"));
    for r in 0..rows {
        line(w, format_args!("  let a{r} = (row + {r}u) * {k4}u;"));
        for v in 0..vecs {
            line(w, format_args!("  var c{r}_{v} = {vec_out}();"));
        }
    }
    line(w, format_args!("  for (var block = 0u; block < {k4}u; block += {}u) {{", depth_multiple() / 4));
    for r in 0..rows {
        for v in 0..vecs {
            line(w, format_args!("   var s{r}_{v} = {vec_out}();"));
        }
    }
    line(
        w,
        format_args!(
            "   for (var p = block; p < block + {}u; p += {}u) {{",
            depth_multiple() / 4,
            UNROLL / 4
        ),
    );
    for u in 0..UNROLL / 4 {
        for r in 0..rows {
            line(w, format_args!("    let x{u}_{r} = a[a{r} + p + {u}u];"));
        }
        for (l, lane) in LANES.iter().enumerate() {
            let k = u * 4 + l as u32;
            for v in 0..vecs {
                line(w, format_args!("    let y{k}_{v} = b[(p * 4u + {k}u) * n4 + col + {v}u];"));
            }
            for r in 0..rows {
                for v in 0..vecs {
                    madd(w, dtype, &format!("s{r}_{v}"), &format!("x{u}_{r}.{lane}"), &format!("y{k}_{v}"));
                }
            }
        }
    }
    line(w, format_args!("   }}"));
    for r in 0..rows {
        for v in 0..vecs {
            line(w, format_args!("   c{r}_{v} += s{r}_{v};"));
        }
    }
    line(w, format_args!("  }}"));
    for r in 0..rows {
        for v in 0..vecs {
            line(w, format_args!("  c[(row + {r}u) * n4 + col + {v}u] = c{r}_{v};"));
        }
    }
    line(w, format_args!("}}"));
}

/// A workgroup copies tiles of A (transposed) and B to its memory, each thread multiplies out of there.
///
/// Thread (x, y) owns columns 4x.. (and 64 + 4x.. for eight) and rows 4y.. (and 64 + 4y..): threads that run side by
/// side then read neighboring vectors, without bank conflicts.
fn tiled(w: &mut String, key: ShaderKey, vec_in: &str, vec_out: &str) {
    let ShaderKey { variant, dtype, kw, .. } = key;
    let Tile { rows: tile_rows, cols: tile_cols, threads_x, threads_y } = variant.tile();
    let (rows, cols) = variant.registers();
    let depth = tile_depth(variant);
    let (k4, row_vecs, col_vecs) = (kw / 4, rows / 4, cols / 4);
    let (a_stride, b_stride) = (tile_rows / 4, tile_cols / 4);
    let threads = threads_x * threads_y;
    line(w, format_args!("var<workgroup> tile_a: array<{vec_in}, {}>;", depth * a_stride));
    line(w, format_args!("var<workgroup> tile_b: array<{vec_in}, {}>;", depth * b_stride));
    line(w, format_args!("@compute @workgroup_size({threads_x}, {threads_y})"));
    line(
        w,
        format_args!(
            "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {{"
        ),
    );
    line(w, format_args!("  let tx = t % {threads_x}u;\n  let ty = t / {threads_x}u;"));
    line(
        w,
        format_args!(
            "  let row0 = group.y * {tile_rows}u;\n  let col0 = group.x * {b_stride}u;\n{WIDTH_ONCE}"
        ),
    );
    for r in 0..rows {
        for v in 0..col_vecs {
            line(w, format_args!("  var c{r}_{v} = {vec_out}();"));
        }
    }
    line(w, format_args!("  for (var block = 0u; block < {kw}u; block += {}u) {{", depth_multiple()));
    for r in 0..rows {
        for v in 0..col_vecs {
            line(w, format_args!("   var s{r}_{v} = {vec_out}();"));
        }
    }
    line(w, format_args!("   for (var p = block; p < block + {}u; p += {depth}u) {{", depth_multiple()));
    // A: 64 threads take a block of 4 rows x 4 words each and transpose it in registers, so that the loop below reads
    // four rows in one vector.
    line(w, format_args!("    if (t < {}u) {{", a_stride * depth / 4));
    line(w, format_args!("      let g = t % {a_stride}u;\n      let q = t / {a_stride}u;"));
    line(w, format_args!("      let start = (row0 + g * 4u) * {k4}u + p / 4u + q;"));
    for r in 0..4 {
        line(w, format_args!("      let v{r} = a[start + {}u];", r * k4));
    }
    for (l, lane) in LANES.iter().enumerate() {
        line(
            w,
            format_args!(
                "      tile_a[(q * 4u + {l}u) * {a_stride}u + g] = {vec_in}(v0.{lane}, v1.{lane}, v2.{lane}, v3.{lane});"
            ),
        );
    }
    line(w, format_args!("    }}"));
    for i in 0..(depth * b_stride) / threads {
        line(w, format_args!("    {{ let i = t + {}u;", i * threads));
        line(w, format_args!("      tile_b[i] = b[(p + i / {b_stride}u) * n4 + col0 + i % {b_stride}u]; }}"));
    }
    line(w, format_args!("    workgroupBarrier();"));
    for k in 0..depth {
        for v in 0..col_vecs {
            line(w, format_args!("    let y{k}_{v} = tile_b[{}u + tx];", k * b_stride + v * threads_x));
        }
        for g in 0..row_vecs {
            line(w, format_args!("    let x{k}_{g} = tile_a[{}u + ty];", k * a_stride + g * threads_y));
        }
        for r in 0..rows {
            for v in 0..col_vecs {
                let x = format!("x{k}_{}.{}", r / 4, LANES[r as usize % 4]);
                madd(w, dtype, &format!("s{r}_{v}"), &x, &format!("y{k}_{v}"));
            }
        }
    }
    line(w, format_args!("    workgroupBarrier();\n   }}"));
    for r in 0..rows {
        for v in 0..col_vecs {
            line(w, format_args!("   c{r}_{v} += s{r}_{v};"));
        }
    }
    line(w, format_args!("  }}"));
    for r in 0..rows {
        let base = (r / 4) * (tile_rows / row_vecs) + r % 4;
        for v in 0..col_vecs {
            line(
                w,
                format_args!(
                    "  c[(row0 + {base}u + ty * 4u) * n4 + col0 + {}u + tx] = c{r}_{v};",
                    v * threads_x
                ),
            );
        }
    }
    line(w, format_args!("}}"));
}
