// Before every kernel: THREADS and LANES are constants that the host puts in front.

// Number of this thread among all of a dispatch, whose workgroups may need two dimensions.
fn linear(group: vec3<u32>, groups: vec3<u32>, t: u32) -> u32 {
  return (group.y * groups.x + group.x) * THREADS + t;
}
