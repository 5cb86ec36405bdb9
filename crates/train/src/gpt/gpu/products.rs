//! Text of the matrix products: one generator for three forms, two ways to compute and what happens to the sums.
//!
//! C = A·B with A of m x k and B of k x n. What is contiguous differs: a layer's output takes both operands along K
//! ([`Form::Nt`]), the gradient of its input B along N ([`Form::Nn`]), the gradient of its weight A along M and B along
//! N ([`Form::Tn`]). Every contiguous run is a whole number of `vec4`.
//!
//! Direct kernels give a thread 4 x 4 to 16 x 16 elements and no workgroup memory: software adapters, where each load
//! costs more than the arithmetic of a row, and small products. Tiled kernels copy tiles to workgroup memory: real GPUs.
//! Attention's products are batched over heads, skip what the causal mask hides, and are always direct.
//!
//! Sizes and offsets are uniforms: one pipeline serves every layer. Each sum runs over K in its order, in one thread.

use std::fmt::Write;

/// Which dimension of the operands is contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// A along K, B along K.
    Nt,
    /// A along K, B along N.
    Nn,
    /// A along M, B along N.
    Tn,
}

/// What is done with a sum before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Written, with the bias if there is one.
    Store,
    /// Added to the residual stream, with the bias.
    Residual,
    /// With the bias through GELU: its slope is written, its value to a second buffer.
    Gelu,
    /// Multiplied by the slope of GELU that was kept.
    GeluSlope,
    /// Written; what the causal mask hides is neither computed nor, for [`Form::Nt`], always written.
    Causal,
}

/// How a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Rows and columns of a thread, both multiples of 4.
    Direct(u32, u32),
    /// Threads along each side of a tile; a thread has 4 x 4 elements.
    Tiled(u32),
}

/// Threads of a workgroup of a direct kernel. Where a thread has many elements few threads suffice, and the smallest
/// products must still be shared by the cores that pretend to be a GPU.
pub(super) const fn direct_threads(rows: u32, cols: u32) -> u32 {
    if rows * cols > 16 { 8 } else { 64 }
}

/// Elements along K that a tiled kernel copies at once.
const TILE_DEPTH: u32 = 16;

const LANES: [&str; 4] = ["x", "y", "z", "w"];

const HEAD: &str = "
struct Op {
  m: u32, n: u32, k: u32, n4: u32,
  row_tiles: u32, col_tiles: u32, heads: u32, bias_at: u32,
  a_at: u32, a_row: u32, b_at: u32, b_row: u32, c_at: u32, c_row: u32, a_seq: u32, a_head: u32,
  b_seq: u32, b_head: u32, c_seq: u32, c_head: u32, total: u32,
}
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;
";

// GELU and its slope from one exponential, whose argument is bounded so that no device overflows. What goes back needs
// only the slope.
const GELU: &str = "
@group(0) @binding(4) var<storage, read_write> bent: array<vec4<f32>>;
fn gelu(at: u32, x: vec4<f32>) {
  let square = x * x;
  let inner = 0.7978845608 * x * (1.0 + 0.044715 * square);
  // Half of 1 + tanh(inner).
  let half = 1.0 - 1.0 / (exp(clamp(2.0 * inner, vec4<f32>(-30.0), vec4<f32>(30.0))) + 1.0);
  bent[at] = x * half;
  c[at] = half + 2.0 * half * (1.0 - half) * 0.7978845608 * x * (1.0 + 0.134145 * square);
}
";

const SLOPE: &str = "
@group(0) @binding(4) var<storage, read> slope: array<vec4<f32>>;
";

const RESIDUAL: &str = "
@group(0) @binding(4) var<storage, read> stream: array<vec4<f32>>;
";

fn line(w: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = w.write_fmt(text);
    w.push('\n');
}

/// The text of a product, without what is common to all kernels; its entry point is `main`.
pub(super) fn text(form: Form, end: End, way: Way) -> String {
    let mut w = String::with_capacity(16 << 10);
    w.push_str(HEAD);
    match end {
        End::Store | End::Causal => {}
        End::Residual => w.push_str(RESIDUAL),
        End::Gelu => w.push_str(GELU),
        End::GeluSlope => w.push_str(SLOPE),
    }
    match way {
        Way::Direct(rows, cols) => direct(&mut w, form, end, rows, cols / 4),
        Way::Tiled(side) => tiled(&mut w, form, end, side),
    }
    w
}

/// Writes the sums of a row: `cols` vectors from vector `col`, into row `row` of C.
fn finish(w: &mut String, form: Form, end: End, row: &str, r: u32, vecs: u32) {
    line(w, format_args!("  if ({row} < op.m) {{"));
    line(w, format_args!("    let at = c_at + ({row}) * op.c_row + col;"));
    for v in 0..vecs {
        line(w, format_args!("    if (col + {v}u < op.n4) {{"));
        let mut value = format!("c{r}_{v}");
        if form == Form::Nt && end != End::Causal {
            value = format!("{value} + bias{v}");
        }
        match end {
            End::Store | End::Causal => line(w, format_args!("      c[at + {v}u] = {value};")),
            End::Residual => line(w, format_args!("      c[at + {v}u] = stream[at + {v}u] + ({value});")),
            End::Gelu => line(w, format_args!("      gelu(at + {v}u, {value});")),
            End::GeluSlope => line(w, format_args!("      c[at + {v}u] = {value} * slope[at + {v}u];")),
        }
        line(w, format_args!("    }}"));
    }
    line(w, format_args!("  }}"));
}

/// `biasV` for each vector of columns: zero without a bias.
fn biases(w: &mut String, form: Form, end: End, vecs: u32) {
    if form != Form::Nt || end == End::Causal {
        return;
    }
    for v in 0..vecs {
        line(w, format_args!("  var bias{v} = vec4<f32>();"));
    }
    line(w, format_args!("  if (op.bias_at != NONE) {{"));
    for v in 0..vecs {
        line(w, format_args!("    bias{v} = b[op.bias_at + min(col + {v}u, op.n4 - 1u)];"));
    }
    line(w, format_args!("  }}"));
}

/// Adds the products of `depth` (1 or 4) elements along K from `p` on.
fn direct_step(w: &mut String, form: Form, rows: u32, vecs: u32, depth: u32) {
    // A: `x{r}_{l}` is element (row + r, p + l).
    let a = |r: u32, l: u32| match form {
        Form::Nt | Form::Nn => format!("x{r}.{}", LANES[l as usize]),
        Form::Tn => format!("x{}_{l}.{}", r / 4, LANES[r as usize % 4]),
    };
    match form {
        Form::Nt | Form::Nn => {
            for r in 0..rows {
                line(w, format_args!("    let x{r} = a[a{r} + p / 4u];"));
            }
        }
        Form::Tn => {
            for l in 0..depth {
                for g in 0..rows / 4 {
                    line(w, format_args!("    let x{g}_{l} = a[a{g} + (p + {l}u) * op.a_row];"));
                }
            }
        }
    }
    if form == Form::Nt {
        for j in 0..4 * vecs {
            line(w, format_args!("    let z{j} = b[b{j} + p / 4u];"));
        }
    }
    for l in 0..depth {
        if form == Form::Nn {
            line(w, format_args!("    let k{l} = b_at + min(p + {l}u, op.k - 1u) * op.b_row;"));
        }
        for v in 0..vecs {
            match form {
                Form::Nt => {
                    let lane = LANES[l as usize];
                    let [j0, j1, j2, j3] = [0, 1, 2, 3].map(|j| 4 * v + j);
                    line(
                        w,
                        format_args!(
                            "    let y{l}_{v} = vec4<f32>(z{j0}.{lane}, z{j1}.{lane}, z{j2}.{lane}, z{j3}.{lane});"
                        ),
                    );
                }
                Form::Nn => line(w, format_args!("    let y{l}_{v} = b[k{l} + b{v}];")),
                Form::Tn => {
                    line(w, format_args!("    let y{l}_{v} = b[b_at + b{v} + (p + {l}u) * op.b_row];"));
                }
            }
        }
        for r in 0..rows {
            for v in 0..vecs {
                line(w, format_args!("    c{r}_{v} = fma(vec4<f32>({}), y{l}_{v}, c{r}_{v});", a(r, l)));
            }
        }
    }
}

/// Each thread computes its elements straight from the buffers, four elements along K at once. Indices beyond an edge
/// are clamped to it: what they bring is never written.
fn direct(w: &mut String, form: Form, end: End, rows: u32, vecs: u32) {
    let causal = end == End::Causal;
    let threads = direct_threads(rows, 4 * vecs);
    line(w, format_args!("@compute @workgroup_size({threads})"));
    line(w, format_args!("fn main(@builtin(workgroup_id) group: vec3<u32>,"));
    line(w, format_args!("  @builtin(num_workgroups) groups: vec3<u32>,"));
    line(w, format_args!("  @builtin(local_invocation_index) t: u32) {{"));
    line(w, format_args!("  let id = (group.y * groups.x + group.x) * {threads}u + t;"));
    line(w, format_args!("  if (id >= op.total) {{ return; }}"));
    line(w, format_args!("  let col = id % op.col_tiles * {vecs}u;"));
    line(w, format_args!("  let row = id / op.col_tiles % op.row_tiles * {rows}u;"));
    if causal {
        if form == Form::Nt {
            line(w, format_args!("  if (col * 4u > row + {}u) {{ return; }}", rows - 1));
        }
        line(w, format_args!("  let z = id / (op.col_tiles * op.row_tiles);"));
        line(w, format_args!("  let s = z / op.heads;\n  let h = z % op.heads;"));
        for x in ["a", "b", "c"] {
            line(w, format_args!("  let {x}_at = op.{x}_at + s * op.{x}_seq + h * op.{x}_head;"));
        }
    } else {
        for x in ["a", "b", "c"] {
            line(w, format_args!("  let {x}_at = op.{x}_at;"));
        }
    }
    if form == Form::Tn {
        for g in 0..rows / 4 {
            line(w, format_args!("  let a{g} = a_at + min(row / 4u + {g}u, (op.m + 3u) / 4u - 1u);"));
        }
    } else {
        for r in 0..rows {
            line(w, format_args!("  let a{r} = a_at + min(row + {r}u, op.m - 1u) * op.a_row;"));
        }
    }
    if form == Form::Nt {
        for j in 0..4 * vecs {
            line(w, format_args!("  let b{j} = b_at + min(col * 4u + {j}u, op.n - 1u) * op.b_row;"));
        }
    } else {
        for v in 0..vecs {
            line(w, format_args!("  let b{v} = min(col + {v}u, op.n4 - 1u);"));
        }
    }
    for r in 0..rows {
        for v in 0..vecs {
            line(w, format_args!("  var c{r}_{v} = vec4<f32>();"));
        }
    }
    match (form, causal) {
        // Probabilities are zero after the last row's position, and padded with zeros.
        (Form::Nn, true) => line(w, format_args!("  let deep = min(op.k, row + {rows}u);")),
        _ => line(w, format_args!("  let deep = op.k;")),
    }
    if form == Form::Tn {
        // Queries before a key's position do not see it.
        line(w, format_args!("  var p = {};", if causal { "row" } else { "0u" }));
        line(w, format_args!("  for (; p + 4u <= deep; p += 4u) {{"));
        direct_step(w, form, rows, vecs, 4);
        line(w, format_args!("  }}\n  for (; p < deep; p++) {{"));
        direct_step(w, form, rows, vecs, 1);
    } else {
        // Rows of A are padded with zeros to whole vectors.
        line(w, format_args!("  for (var p = 0u; p < deep; p += 4u) {{"));
        direct_step(w, form, rows, vecs, 4);
    }
    line(w, format_args!("  }}"));
    biases(w, form, end, vecs);
    for r in 0..rows {
        finish(w, form, end, &format!("row + {r}u"), r, vecs);
    }
    line(w, format_args!("}}"));
}

/// Copies a tile of an operand, whose other dimension is contiguous or not, as blocks of 4 x 4: `tile[k][4 elements]`.
fn copy_tile(w: &mut String, name: &str, side: u32, along_k: bool, edge: &str) {
    if along_k {
        line(w, format_args!("      let g = u / 4u;\n      let q = u % 4u;"));
        line(w, format_args!("      let deep = p / 4u + q;\n      let live = deep < (op.k + 3u) / 4u;"));
        for r in 0..4 {
            line(
                w,
                format_args!(
                    "      let v{r} = select(vec4<f32>(), {name}[op.{name}_at + min({name}_first + g * 4u + {r}u, {edge} - 1u) * op.{name}_row + min(deep, (op.k + 3u) / 4u - 1u)], live);"
                ),
            );
        }
        for (l, lane) in LANES.iter().enumerate() {
            line(
                w,
                format_args!(
                    "      tile_{name}[(q * 4u + {l}u) * {side}u + g] = vec4<f32>(v0.{lane}, v1.{lane}, v2.{lane}, v3.{lane});"
                ),
            );
        }
    } else {
        line(w, format_args!("      let g = u % {side}u;\n      let q = u / {side}u;"));
        line(
            w,
            format_args!(
                "      let at = op.{name}_at + min({name}_first / 4u + g, ({edge} + 3u) / 4u - 1u);"
            ),
        );
        for l in 0..4 {
            line(w, format_args!("      let k{l} = p + q * 4u + {l}u;"));
            line(
                w,
                format_args!(
                    "      tile_{name}[(q * 4u + {l}u) * {side}u + g] = select(vec4<f32>(), {name}[at + min(k{l}, op.k - 1u) * op.{name}_row], k{l} < op.k);"
                ),
            );
        }
    }
}

/// A workgroup copies tiles of 16 along K to its memory, and each thread multiplies 4 x 4 out of there.
fn tiled(w: &mut String, form: Form, end: End, side: u32) {
    line(w, format_args!("var<workgroup> tile_a: array<vec4<f32>, {}>;", TILE_DEPTH * side));
    line(w, format_args!("var<workgroup> tile_b: array<vec4<f32>, {}>;", TILE_DEPTH * side));
    line(w, format_args!("@compute @workgroup_size({})", side * side));
    line(w, format_args!("fn main(@builtin(workgroup_id) group: vec3<u32>,"));
    line(w, format_args!("  @builtin(local_invocation_index) t: u32) {{"));
    line(w, format_args!("  let tx = t % {side}u;\n  let ty = t / {side}u;"));
    line(
        w,
        format_args!("  let a_first = group.y * {}u;\n  let b_first = group.x * {}u;", 4 * side, 4 * side),
    );
    line(w, format_args!("  let row = a_first + ty * 4u;\n  let col = b_first / 4u + tx;"));
    line(w, format_args!("  let c_at = op.c_at;"));
    for r in 0..4 {
        line(w, format_args!("  var c{r}_0 = vec4<f32>();"));
    }
    line(w, format_args!("  for (var p = 0u; p < op.k; p += {TILE_DEPTH}u) {{"));
    line(w, format_args!("    if (t < {}u) {{\n      let u = t;", 4 * side));
    copy_tile(w, "a", side, form != Form::Tn, "op.m");
    line(w, format_args!("    }} else if (t < {}u) {{\n      let u = t - {}u;", 8 * side, 4 * side));
    copy_tile(w, "b", side, form == Form::Nt, "op.n");
    line(w, format_args!("    }}\n    workgroupBarrier();"));
    for k in 0..TILE_DEPTH {
        line(w, format_args!("    let x{k} = tile_a[{}u + ty];", k * side));
        line(w, format_args!("    let y{k} = tile_b[{}u + tx];", k * side));
        for (r, lane) in LANES.iter().enumerate() {
            line(w, format_args!("    c{r}_0 = fma(vec4<f32>(x{k}.{lane}), y{k}, c{r}_0);"));
        }
    }
    line(w, format_args!("    workgroupBarrier();\n  }}"));
    biases(w, form, end, 1);
    for r in 0..4 {
        finish(w, form, end, &format!("row + {r}u"), r, 1);
    }
    line(w, format_args!("}}"));
}
