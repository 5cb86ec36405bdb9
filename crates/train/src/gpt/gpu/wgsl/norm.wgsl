// Layer norm of each row. Keeps (mean, 1 / deviation) for the way back.

struct Op { rows: u32, width4: u32, weight_at: u32, bias_at: u32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> parameters: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> spread: array<vec2<f32>>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let row = linear(group, groups, t) / LANES;
  let lane = t % LANES;
  // Threads beyond the last row only meet the barriers.
  let end = select(0u, op.width4, row < op.rows);
  let at = row * op.width4;
  let width = f32(op.width4 * 4u);
  var sum = vec4<f32>();
  for (var c = lane; c < end; c += LANES) {
    sum += x[at + c];
  }
  let mean = row_sum(t, dot(sum, vec4<f32>(1.0))) / width;
  var squares = 0.0;
  for (var c = lane; c < end; c += LANES) {
    let d = x[at + c] - mean;
    squares += dot(d, d);
  }
  let scale = 1.0 / sqrt(row_sum(t, squares) / width + 1e-5);
  for (var c = lane; c < end; c += LANES) {
    var value = (x[at + c] - mean) * scale * parameters[op.weight_at + c];
    if (op.bias_at != NONE) {
      value += parameters[op.bias_at + c];
    }
    y[at + c] = value;
  }
  if (lane == 0u && row < op.rows) {
    spread[row] = vec2<f32>(mean, scale);
  }
}
