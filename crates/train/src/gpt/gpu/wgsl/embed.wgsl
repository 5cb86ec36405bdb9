// The residual stream starts as token embedding + position embedding. One thread for each vec4.

struct Op { rows: u32, width4: u32, length: u32, tokens_at: u32, positions_at: u32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> parameters: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> batch: array<u32>;
@group(0) @binding(3) var<storage, read_write> stream: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let id = linear(group, groups, t);
  if (id >= op.rows * op.width4) {
    return;
  }
  let row = id / op.width4;
  let c = id % op.width4;
  stream[id] = parameters[op.tokens_at + batch[row] * op.width4 + c]
    + parameters[op.positions_at + (row % op.length) * op.width4 + c];
}
