// AdamW, after the gradient was scaled so that its norm is at most `clip`. One thread for each vec4.

struct Op {
  count4: u32,
  rate: f32,
  keep: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
  unbias1: f32,
  unbias2: f32,
  clip: f32,
}
@group(0) @binding(0) var<uniform> op: Op;
@group(0) @binding(1) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> decays: array<u32>;
@group(0) @binding(3) var<storage, read> answers: array<f32>;
@group(0) @binding(4) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> second: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> parameters: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let i = linear(group, groups, t);
  if (i >= op.count4) {
    return;
  }
  var factor = 1.0;
  if (answers[1] > op.clip) {
    factor = op.clip / answers[1];
  }
  let g = gradient[i] * factor;
  let m = op.beta1 * first[i] + (1.0 - op.beta1) * g;
  let v = op.beta2 * second[i] + (1.0 - op.beta2) * g * g;
  first[i] = m;
  second[i] = v;
  var p = parameters[i];
  if (((decays[i / 32u] >> (i % 32u)) & 1u) == 1u) {
    p *= op.keep;
  }
  parameters[i] = p - op.rate * (m * op.unbias1) / (sqrt(v * op.unbias2) + op.epsilon);
}
