// Gradient of the position embedding: a sum over the sequences; zero beyond the batch's length.

struct Op { sequences: u32, width4: u32, length: u32, context: u32, positions_at: u32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> d_stream: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> gradient: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let id = linear(group, groups, t);
  if (id >= op.context * op.width4) {
    return;
  }
  var sum = vec4<f32>();
  if (id < op.length * op.width4) {
    for (var s = 0u; s < op.sequences; s++) {
      sum += d_stream[s * op.length * op.width4 + id];
    }
  }
  gradient[op.positions_at + id] = sum;
}
