// Gradient of the token embedding, added to what the tied head left there.
//
// The host sorted the rows by token: an entry of three words is a token, the first of its rows in the sorted list, and
// their number (zero for entries that are not used). One thread for each vec4 of an entry: no atomics, a fixed order.

struct Op { entries: u32, width4: u32, tokens_at: u32, sorted_at: u32, entries_at: u32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> batch: array<u32>;
@group(0) @binding(2) var<storage, read> d_stream: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> gradient: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let id = linear(group, groups, t);
  if (id >= op.entries * op.width4) {
    return;
  }
  let entry = op.entries_at + id / op.width4 * 3u;
  let c = id % op.width4;
  let first = op.sorted_at + batch[entry + 1u];
  let count = batch[entry + 2u];
  if (count == 0u) {
    return;
  }
  var sum = vec4<f32>();
  for (var i = 0u; i < count; i++) {
    sum += d_stream[batch[first + i] * op.width4 + c];
  }
  gradient[op.tokens_at + batch[entry] * op.width4 + c] += sum;
}
