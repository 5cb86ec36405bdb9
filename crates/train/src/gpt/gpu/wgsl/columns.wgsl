// Gradient of a linear layer's bias: columns summed over chunks of rows; `fold` adds the chunks.

struct Op { rows: u32, width4: u32, chunk: u32, chunks: u32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> d_y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> parts: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let id = linear(group, groups, t);
  let c = id % op.width4;
  let i = id / op.width4;
  if (i >= op.chunks) {
    return;
  }
  let end = min(op.rows, (i + 1u) * op.chunk);
  var sum = vec4<f32>();
  for (var row = i * op.chunk; row < end; row++) {
    sum += d_y[row * op.width4 + c];
  }
  parts[id] = sum;
}
