// Causal softmax of attention scores, in place; zeros after the query's own position.

struct Op { rows: u32, length: u32, stride: u32, scale: f32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read_write> p: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let row = linear(group, groups, t) / LANES;
  let lane = t % LANES;
  let seen = select(0u, row % op.length + 1u, row < op.rows);
  let at = row * op.stride;
  var most = -3.0e38;
  for (var j = lane; j < seen; j += LANES) {
    most = max(most, p[at + j]);
  }
  most = row_max(t, most);
  var sum = 0.0;
  for (var j = lane; j < seen; j += LANES) {
    sum += exp((p[at + j] - most) * op.scale);
  }
  let share = 1.0 / row_sum(t, sum);
  for (var j = lane; j < seen; j += LANES) {
    p[at + j] = exp((p[at + j] - most) * op.scale) * share;
  }
  // The first position of this lane that was not seen.
  let rest = seen + (lane + LANES - seen % LANES) % LANES;
  let end = select(0u, op.stride, row < op.rows);
  for (var j = rest; j < end; j += LANES) {
    p[at + j] = 0.0;
  }
}
