// Sum of squares of the gradient, one part for each LANES threads.

struct Op { count4: u32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  var sum = 0.0;
  let id = linear(group, groups, t);
  for (var i = id; i < op.count4; i += groups.x * THREADS) {
    sum += dot(gradient[i], gradient[i]);
  }
  let total = row_sum(t, sum);
  if (t % LANES == 0u) {
    parts[id / LANES] = total;
  }
}
