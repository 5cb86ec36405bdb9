// Adds all parts in one workgroup: the mean loss (times `scale`), or the gradient's norm (the root).

struct Op { count: u32, at: u32, root: u32, scale: f32 }
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(2) var<storage, read_write> answers: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) t: u32) {
  var sum = 0.0;
  for (var i = t; i < op.count; i += THREADS) {
    sum += parts[i];
  }
  let total = row_sum(t, sum);
  if (t == 0u) {
    var answer = total * op.scale;
    if (op.root == 1u) {
      answer = sqrt(total);
    }
    answers[op.at] = answer;
  }
}
