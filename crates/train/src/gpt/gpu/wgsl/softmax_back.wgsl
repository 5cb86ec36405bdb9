// Gradient of the scores from that of the probabilities, in place; zeros after the query's own position.

struct Op { rows: u32, length: u32, stride: u32, scale: f32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> p: array<f32>;
@group(0) @binding(2) var<storage, read_write> d_p: array<f32>;

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
  var sum = 0.0;
  for (var j = lane; j < seen; j += LANES) {
    sum += p[at + j] * d_p[at + j];
  }
  let along = row_sum(t, sum);
  for (var j = lane; j < seen; j += LANES) {
    d_p[at + j] = p[at + j] * (d_p[at + j] - along) * op.scale;
  }
  let rest = seen + (lane + LANES - seen % LANES) % LANES;
  let end = select(0u, op.stride, row < op.rows);
  for (var j = rest; j < end; j += LANES) {
    d_p[at + j] = 0.0;
  }
}
