// Cross-entropy of each row, and in place of the logits the gradient of the mean over all rows.

struct Op { rows: u32, vocabulary: u32, stride: u32, targets_at: u32, share: f32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> batch: array<u32>;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let row = linear(group, groups, t) / LANES;
  let lane = t % LANES;
  let end = select(0u, op.vocabulary, row < op.rows);
  let at = row * op.stride;
  var most = -3.0e38;
  for (var j = lane; j < end; j += LANES) {
    most = max(most, logits[at + j]);
  }
  most = row_max(t, most);
  var sum = 0.0;
  for (var j = lane; j < end; j += LANES) {
    sum += exp(logits[at + j] - most);
  }
  let total = row_sum(t, sum);
  if (row >= op.rows) {
    return;
  }
  let answer = batch[op.targets_at + row];
  for (var j = lane; j < op.stride; j += LANES) {
    var d = 0.0;
    if (j < op.vocabulary) {
      let x = logits[at + j] - most;
      d = exp(x) / total;
      if (j == answer) {
        losses[row] = log(total) - x;
        d -= 1.0;
      }
    }
    logits[at + j] = d * op.share;
  }
}
