// LANES threads (a power of two) share a row: sums and greatest values over them, in a fixed order.

var<workgroup> part: array<f32, THREADS>;

fn row_sum(t: u32, x: f32) -> f32 {
  part[t] = x;
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (t % LANES < s) {
      part[t] += part[t + s];
    }
    workgroupBarrier();
  }
  let total = part[t - t % LANES];
  workgroupBarrier();
  return total;
}

fn row_max(t: u32, x: f32) -> f32 {
  part[t] = x;
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (t % LANES < s) {
      part[t] = max(part[t], part[t + s]);
    }
    workgroupBarrier();
  }
  let most = part[t - t % LANES];
  workgroupBarrier();
  return most;
}
