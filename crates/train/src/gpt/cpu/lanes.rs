//! Loops that the compiler vectorizes for the best instruction set of this machine.
#![expect(clippy::inline_always, reason = "see `Job`")]

/// Partial sums of each sum in f32: two AVX2 registers, four of simd128.
pub(super) const LANES: usize = 16;

/// Work for vector units. Its body, and all that it calls in loops, must be `#[inline(always)]`: only what is inlined
/// into the dispatched function is compiled for that function's instruction set.
pub(super) trait Job {
    /// `FUSED`: fused multiply-add is one instruction (where it is not, it would be a slow call).
    fn run<const FUSED: bool>(self);
}

/// Runs a job with the best instruction set of this machine.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn dispatch<J: Job>(job: J) {
    let arch = pulp::Arch::new();
    if has_fma(arch) { arch.dispatch(On::<J, true>(job)) } else { arch.dispatch(On::<J, false>(job)) }
}

/// Runs a closure with the best instruction set of this machine. The closure must be `#[inline(always)]`, as all that
/// it calls in loops.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn vectorize(work: impl FnOnce()) {
    pulp::Arch::new().dispatch(work);
}

#[cfg(not(target_arch = "wasm32"))]
struct On<J, const FUSED: bool>(J);

#[cfg(not(target_arch = "wasm32"))]
impl<J: Job, const FUSED: bool> pulp::WithSimd for On<J, FUSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.0.run::<FUSED>();
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn has_fma(arch: pulp::Arch) -> bool {
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) && !matches!(arch, pulp::Arch::Scalar)
}

/// Runs a job: the instruction set was chosen when this was built.
#[cfg(target_arch = "wasm32")]
pub(super) fn dispatch<J: Job>(job: J) {
    job.run::<false>();
}

/// Runs a closure: the instruction set was chosen when this was built.
#[cfg(target_arch = "wasm32")]
pub(super) fn vectorize(work: impl FnOnce()) {
    work();
}

/// The total of partial sums, in a fixed order.
#[inline(always)]
pub(super) fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of `term(i)` for i below `count`, over [`LANES`] interleaved partial sums: the vector width does not matter.
#[inline(always)]
pub(super) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (body, tail) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in body {
        for l in 0..LANES {
            sums[l] += term(chunk[l]);
        }
    }
    for (sum, value) in sums.iter_mut().zip(tail) {
        *sum += term(*value);
    }
    total(sums)
}

/// Sum of `term(a[i], b[i])`, as [`sum`].
///
/// Shapes: both have the same length.
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a_body.iter().zip(b_body) {
        for l in 0..LANES {
            sums[l] += term(a[l], b[l]);
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_tail.iter().zip(b_tail)) {
        *sum += term(*a, *b);
    }
    total(sums)
}

/// Greatest value; NaN may be passed over.
#[inline(always)]
pub(super) fn greatest(values: &[f32]) -> f32 {
    let (body, tail) = values.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for chunk in body {
        for l in 0..LANES {
            most[l] = if chunk[l] > most[l] { chunk[l] } else { most[l] };
        }
    }
    for (most, value) in most.iter_mut().zip(tail) {
        *most = if *value > *most { *value } else { *most };
    }
    most.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
}
