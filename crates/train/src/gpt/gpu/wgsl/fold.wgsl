// Adds the chunks that `columns` or `norm_columns` left, into the gradient.

struct Op { width4: u32, chunks: u32, to: u32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> gradient: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let c = linear(group, groups, t);
  if (c >= op.width4) {
    return;
  }
  var sum = vec4<f32>();
  for (var i = 0u; i < op.chunks; i++) {
    sum += parts[i * op.width4 + c];
  }
  gradient[op.to + c] = sum;
}
