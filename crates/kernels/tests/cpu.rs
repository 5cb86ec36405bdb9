//! The CPU kernels against the reference: natively and, with simd128, in a browser.

mod common;

use std::time::Duration;

use common::{Numbers, SHAPES, assert_f32, assert_int8, floats, ints, shape};
use potluck_kernels::limits::MAX_INT8_DEPTH;
use potluck_kernels::{
    CpuJob, DType, KernelError, MatmulShape, Operand, Operands, Output, Progress, cpu, operand_from_le_bytes,
};

#[cfg(target_arch = "wasm32")]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);

/// Unit roundoff of round-to-nearest, which every CPU does.
const U: f64 = 1.0 / (1 << 24) as f64;

both!(f32_is_within_gamma_of_the_reference_and_writes_each_element, async {
    let mut numbers = Numbers::new(1);
    for s in SHAPES.map(shape) {
        let (a, bt) = (numbers.f32s(s.m * s.k), numbers.f32s(s.n * s.k));
        let poison = Output::F32(vec![f32::NAN; (s.m * s.n) as usize]);
        let job =
            CpuJob::with_output(s, Operands::F32 { a: &a, bt: &bt }, poison).expect("valid in this test");
        assert_f32(s, &a, &bt, &floats(job.finish()), U, "cpu");
    }
});

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[wasm_bindgen_test::wasm_bindgen_test]
fn tuned_kernels_keep_the_bound_and_the_plain_one_the_bits() {
    let mut numbers = Numbers::new(7);
    let cases: Vec<_> = SHAPES
        .map(shape)
        .into_iter()
        .map(|s| (s, numbers.f32s(s.m * s.k), numbers.f32s(s.n * s.k)))
        .collect();
    let all = || -> Vec<Vec<f32>> {
        let one = |(s, a, bt): &(MatmulShape, Vec<f32>, Vec<f32>)| {
            floats(cpu::matmul(*s, Operands::F32 { a, bt }).expect("valid in this test"))
        };
        cases.iter().map(one).collect()
    };
    let compiled = all();
    assert_eq!(cpu::tune_plain(), cpu::Tuned::Plain);
    let same = |x: &[Vec<f32>], y: &[Vec<f32>]| {
        x.iter().flatten().zip(y.iter().flatten()).all(|(x, y)| x.to_bits() == y.to_bits())
    };
    assert!(same(&all(), &compiled), "the plain kernel rounds differently");
    // Chromium has relaxed SIMD since version 114.
    assert_eq!(cpu::tune(), cpu::Tuned::Fused);
    let fused = all();
    for ((s, a, bt), c) in cases.iter().zip(&fused) {
        assert_f32(*s, a, bt, c, U, "fused");
    }
    assert!(!same(&fused, &compiled), "the table's slot was not replaced, or this machine does not fuse");
    assert_eq!(cpu::tune_plain(), cpu::Tuned::Plain);
}

both!(int8_is_exact_and_writes_each_element, async {
    let mut numbers = Numbers::new(2);
    for s in SHAPES.map(shape) {
        let (a, bt) = (numbers.i8s(s.m * s.k), numbers.i8s(s.n * s.k));
        let poison = Output::I32(vec![0x5a5a_5a5a; (s.m * s.n) as usize]);
        let job =
            CpuJob::with_output(s, Operands::Int8 { a: &a, bt: &bt }, poison).expect("valid in this test");
        assert_int8(s, &a, &bt, &ints(job.finish()), cpu::description(DType::Int8));
    }
});

both!(int8_extremes_fit_at_the_greatest_depth, async {
    let s = MatmulShape { m: 2, k: MAX_INT8_DEPTH, n: 3 };
    for (x, y) in [(-128, -128), (-128, 127), (127, 127)] {
        let (a, bt) = (vec![x; (s.m * s.k) as usize], vec![y; (s.n * s.k) as usize]);
        let got = ints(cpu::matmul(s, Operands::Int8 { a: &a, bt: &bt }).expect("valid in this test"));
        assert_eq!(got, vec![i32::from(x) * i32::from(y) * MAX_INT8_DEPTH.cast_signed(); 6]);
    }
});

both!(steps_give_the_same_bits_as_one_call, async {
    let mut numbers = Numbers::new(3);
    let s = MatmulShape { m: 300, k: 129, n: 77 };
    let (a, bt) = (numbers.i8s(s.m * s.k), numbers.i8s(s.n * s.k));
    let operands = Operands::Int8 { a: &a, bt: &bt };
    let mut job = CpuJob::new(s, operands).expect("valid in this test");
    let mut last = 0;
    let mut steps = 0;
    while let Progress::Running { permille } = job.step(Duration::ZERO) {
        assert!(permille >= last && permille <= 1000, "{permille} after {last}");
        last = permille;
        steps += 1;
    }
    assert!(steps >= 3, "300 rows are more than three steps of no time: {steps}");
    assert_eq!(job.step(Duration::ZERO), Progress::Finished);
    assert_eq!(job.finish(), cpu::matmul(s, operands).expect("valid in this test"));

    let (a, bt) = (numbers.f32s(s.m * s.k), numbers.f32s(s.n * s.k));
    let operands = Operands::F32 { a: &a, bt: &bt };
    let mut job = CpuJob::new(s, operands).expect("valid in this test");
    while job.step(Duration::from_micros(1)) != Progress::Finished {}
    assert_f32(s, &a, &bt, &floats(job.finish()), U, "stepped");
});

both!(nan_and_infinity_reach_their_row_and_column_and_nothing_else, async {
    let s = MatmulShape { m: 9, k: 40, n: 11 };
    let mut numbers = Numbers::new(4);
    let (mut a, mut bt) = (numbers.f32s(s.m * s.k), numbers.f32s(s.n * s.k));
    a[3 * 40 + 17] = f32::NAN;
    bt[5 * 40 + 39] = f32::INFINITY;
    let c = floats(cpu::matmul(s, Operands::F32 { a: &a, bt: &bt }).expect("valid in this test"));
    for (i, x) in c.iter().enumerate() {
        match (i / 11, i % 11) {
            (3, _) => assert!(x.is_nan(), "element {i}"),
            (_, 5) => assert!(x.is_infinite(), "element {i}"),
            _ => assert!(x.is_finite(), "element {i}"),
        }
    }
});

both!(wrong_lengths_and_sizes_are_refused, async {
    let s = MatmulShape { m: 2, k: 3, n: 4 };
    let zeros = [0.0; 12];
    let error = |s, a, bt| cpu::matmul(s, Operands::F32 { a, bt }).expect_err("refused in this test");
    assert_eq!(
        error(s, &zeros[..5], &zeros),
        KernelError::ShapeMismatch { operand: "a", expected: 6, actual: 5 }
    );
    assert_eq!(
        error(s, &zeros[..6], &zeros[..11]),
        KernelError::ShapeMismatch { operand: "bt", expected: 12, actual: 11 }
    );
    assert!(matches!(error(MatmulShape { m: 0, ..s }, &[], &zeros), KernelError::ShapeMismatch { .. }));
    let huge = MatmulShape { m: 1 << 20, k: 1, n: 1 << 20 };
    assert!(matches!(error(huge, &[], &[]), KernelError::TooLarge { .. }));
    let deep = MatmulShape { m: 1, k: MAX_INT8_DEPTH + 1, n: 1 };
    let bytes = vec![0; deep.k as usize];
    let refused =
        cpu::matmul(deep, Operands::Int8 { a: &bytes, bt: &bytes }).expect_err("refused in this test");
    assert!(matches!(refused, KernelError::TooLarge { .. }) && !refused.hint().is_empty());
    let operands = Operands::F32 { a: &zeros[..6], bt: &zeros };
    assert!(CpuJob::with_output(s, operands, Output::F32(vec![0.0; 7])).is_err());
    assert!(CpuJob::with_output(s, operands, Output::I32(vec![0; 8])).is_err());
});

both!(bytes_make_the_round_trip, async {
    let s = MatmulShape { m: 1, k: 1, n: 3 };
    let out = Output::F32(vec![1.0, -0.0, f32::INFINITY]);
    assert_eq!(out.to_le_bytes()[..4], [0, 0, 0x80, 0x3f]);
    assert_eq!(Output::from_le_bytes(DType::F32, s, &out.to_le_bytes()).expect("valid in this test"), out);
    let out = Output::I32(vec![i32::MIN, -1, 7]);
    assert_eq!(Output::from_le_bytes(DType::Int8, s, &out.to_le_bytes()).expect("valid in this test"), out);
    assert!(Output::from_le_bytes(DType::Int8, s, &[0; 11]).is_err());

    let panel = operand_from_le_bytes(DType::F32, 1, 2, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0])
        .expect("valid in this test");
    assert_eq!(panel, Operand::F32(vec![1.0, -2.0]));
    assert_eq!(
        operand_from_le_bytes(DType::Int8, 2, 1, &[0x80, 0x7f]).expect("valid in this test"),
        Operand::Int8(vec![-128, 127])
    );
    assert!(operand_from_le_bytes(DType::F32, 1, 2, &[0; 7]).is_err());
    assert!(operand_from_le_bytes(DType::F32, u32::MAX, u32::MAX, &[]).is_err());
    let mut two = Operand::new(DType::F32);
    two.extend_from_le_bytes(&[0; 8]).expect("valid in this test");
    assert!(two.extend_from_le_bytes(&[0; 3]).is_err());
    assert_eq!(two.len(), 2);
    assert!(Operand::pair(&two, &Operand::new(DType::Int8)).is_err());
});

#[cfg(not(target_arch = "wasm32"))]
proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    #[test]
    fn any_shape_is_right(m in 1_u32..150, k in 1_u32..600, n in 1_u32..150, seed: u64) {
        let s = MatmulShape { m, k, n };
        let mut numbers = Numbers::new(seed);
        let (a, bt) = (numbers.f32s(m * k), numbers.f32s(n * k));
        assert_f32(s, &a, &bt, &floats(cpu::matmul(s, Operands::F32 { a: &a, bt: &bt }).expect("valid in this test")), U, "cpu");
        let (a, bt) = (numbers.i8s(m * k), numbers.i8s(n * k));
        assert_int8(s, &a, &bt, &ints(cpu::matmul(s, Operands::Int8 { a: &a, bt: &bt }).expect("valid in this test")), "cpu");
    }
}
