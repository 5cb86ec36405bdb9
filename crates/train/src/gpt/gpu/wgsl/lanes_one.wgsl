// One thread a row: software adapters, where barriers are dear and nothing is gained by coalescing.

fn row_sum(t: u32, x: f32) -> f32 {
  return x;
}

fn row_max(t: u32, x: f32) -> f32 {
  return x;
}
