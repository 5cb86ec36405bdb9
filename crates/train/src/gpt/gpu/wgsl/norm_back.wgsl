// Gradient of a layer norm's input, added to the residual stream's gradient (or written, after the last block).

struct Op { rows: u32, width4: u32, weight_at: u32, add: u32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> parameters: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> spread: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> d_y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> d_stream: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let row = linear(group, groups, t) / LANES;
  let lane = t % LANES;
  let end = select(0u, op.width4, row < op.rows);
  let at = row * op.width4;
  let width = f32(op.width4 * 4u);
  let s = spread[min(row, op.rows - 1u)];
  var plain = vec4<f32>();
  var along = 0.0;
  for (var c = lane; c < end; c += LANES) {
    let d = d_y[at + c] * parameters[op.weight_at + c];
    plain += d;
    along += dot(d, (x[at + c] - s.x) * s.y);
  }
  let mean_plain = row_sum(t, dot(plain, vec4<f32>(1.0))) / width;
  let mean_along = row_sum(t, along) / width;
  for (var c = lane; c < end; c += LANES) {
    let d = d_y[at + c] * parameters[op.weight_at + c];
    var value = (d - mean_plain - (x[at + c] - s.x) * s.y * mean_along) * s.y;
    if (op.add == 1u) {
      value += d_stream[at + c];
    }
    d_stream[at + c] = value;
  }
}
