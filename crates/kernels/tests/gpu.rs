//! The WGSL kernels against the reference: natively on any adapter, and in a browser through WebGPU.
//!
//! Where there is no adapter each test says so and passes: the CPU path is what such a machine uses. A build with
//! `POTLUCK_REQUIRE_GPU` set fails there instead, so that CI cannot skip them unseen.
#![cfg(feature = "gpu")]

mod common;

use std::sync::atomic::AtomicBool;

use common::{Numbers, SHAPES, assert_f32, assert_int8, floats, ints, shape};
use potluck_kernels::limits::MAX_INT8_DEPTH;
use potluck_kernels::{
    Backend, BackendChoice, Gpu, GpuOptions, KernelError, MatmulShape, Operands, Variant, calibrate, cpu,
};

#[cfg(target_arch = "wasm32")]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);

/// WGSL lets a device truncate instead of rounding to nearest.
const U: f64 = 1.0 / (1 << 23) as f64;
/// A NaN that no arithmetic makes.
const POISON: u32 = 0x7fc0_dead;

fn say(text: &str) {
    #[cfg(not(target_arch = "wasm32"))]
    println!("{text}");
    #[cfg(target_arch = "wasm32")]
    wasm_bindgen_test::console_log!("{text}");
}

async fn gpu_with(options: GpuOptions) -> Option<Gpu> {
    match Gpu::request(options).await {
        Ok(gpu) => Some(gpu),
        Err(KernelError::NoAdapter { reason }) => {
            assert!(option_env!("POTLUCK_REQUIRE_GPU").is_none(), "no GPU adapter: {reason}");
            say(&format!("skipped: no GPU adapter here ({reason})"));
            None
        }
        Err(e) => panic!("{e}"),
    }
}

async fn gpu() -> Option<Gpu> {
    gpu_with(GpuOptions::default()).await
}

/// Each inner shape is a pipeline of its own, which a software adapter compiles for tenths of a second, and for seconds
/// with the large tiles: one kernel meets all shapes, the others those that find their edges.
fn shapes(variant: Variant) -> Vec<MatmulShape> {
    let edges = [(1, 1, 1), (101, 67, 53), (129, 31, 129)];
    if variant == Variant::Direct4x4 { SHAPES.map(shape).to_vec() } else { edges.map(shape).to_vec() }
}

both!(f32_is_within_gamma_of_the_reference_and_writes_each_element, async {
    let Some(gpu) = gpu().await else { return };
    say(&format!("{:?}", gpu.adapter()));
    let never = AtomicBool::new(false);
    let mut numbers = Numbers::new(1);
    for variant in Variant::ALL {
        assert!(gpu.supports(variant), "the default limits of WebGPU suffice for {variant:?}");
        for s in shapes(variant) {
            let (a, bt) = (numbers.f32s(s.m * s.k), numbers.f32s(s.n * s.k));
            let product =
                gpu.upload(s, Operands::F32 { a: &a, bt: &bt }, variant).await.expect("valid in this test");
            gpu.fill_output(&product, POISON);
            let got = floats(gpu.run_and_read(&product, &never).await.expect("valid in this test"));
            assert_f32(s, &a, &bt, &got, U, variant.name());
            gpu.fill_output(&product, POISON);
            gpu.run(&product, &never).await.expect("valid in this test");
            assert_eq!(
                floats(gpu.read(&product).await.expect("valid in this test")),
                got,
                "{variant:?} {s:?} again"
            );
        }
    }
    assert!(!gpu.is_lost());
});

both!(int8_is_exact_on_both_paths_and_writes_each_element, async {
    let never = AtomicBool::new(false);
    for without_packed_dot in [false, true] {
        let Some(gpu) = gpu_with(GpuOptions { without_packed_dot, ..GpuOptions::default() }).await else {
            return;
        };
        let mut numbers = Numbers::new(2);
        for variant in Variant::ALL {
            for s in [(101, 67, 53), (129, 257, 65)].map(shape) {
                let (a, bt) = (numbers.i8s(s.m * s.k), numbers.i8s(s.n * s.k));
                let product = gpu
                    .upload(s, Operands::Int8 { a: &a, bt: &bt }, variant)
                    .await
                    .expect("valid in this test");
                gpu.fill_output(&product, POISON);
                let got = ints(gpu.run_and_read(&product, &never).await.expect("valid in this test"));
                assert_int8(s, &a, &bt, &got, variant.name());
            }
        }
        let s = MatmulShape { m: 2, k: MAX_INT8_DEPTH, n: 3 };
        for (x, y) in [(-128, -128), (-128, 127)] {
            let (a, bt) = (vec![x; (s.m * s.k) as usize], vec![y; (s.n * s.k) as usize]);
            let operands = Operands::Int8 { a: &a, bt: &bt };
            let got =
                ints(gpu.matmul(s, operands, Variant::Direct4x4, &never).await.expect("valid in this test"));
            assert_eq!(got, vec![i32::from(x) * i32::from(y) * MAX_INT8_DEPTH.cast_signed(); 6]);
        }
    }
});

both!(many_bands_give_the_same_as_one, async {
    let Some(gpu) = gpu().await else { return };
    let never = AtomicBool::new(false);
    let mut numbers = Numbers::new(3);
    // 0.4 GFLOP: tens of bands on a software adapter, and columns are split where a row of tiles is too long.
    let s = MatmulShape { m: 70, k: 700, n: 4100 };
    let (a, bt) = (numbers.f32s(s.m * s.k), numbers.f32s(s.n * s.k));
    let product = gpu
        .upload(s, Operands::F32 { a: &a, bt: &bt }, Variant::Direct4x4)
        .await
        .expect("valid in this test");
    gpu.fill_output(&product, POISON);
    let first = floats(gpu.run_and_read(&product, &never).await.expect("valid in this test"));
    assert_f32(s, &a, &bt, &first, U, "bands");
    gpu.fill_output(&product, POISON);
    // By now the bands have another size.
    assert_eq!(floats(gpu.run_and_read(&product, &never).await.expect("valid in this test")), first);
});

both!(a_canceled_product_stops_and_the_device_goes_on, async {
    let Some(gpu) = gpu().await else { return };
    let mut numbers = Numbers::new(4);
    let s = MatmulShape { m: 64, k: 64, n: 64 };
    let (a, bt) = (numbers.f32s(s.m * s.k), numbers.f32s(s.n * s.k));
    let operands = Operands::F32 { a: &a, bt: &bt };
    let cancel = AtomicBool::new(true);
    let stopped = gpu.matmul(s, operands, Variant::Direct4x4, &cancel).await;
    assert_eq!(stopped.expect_err("refused in this test"), KernelError::Cancelled);
    let cancel = AtomicBool::new(false);
    let got = floats(gpu.matmul(s, operands, Variant::Direct4x4, &cancel).await.expect("valid in this test"));
    assert_f32(s, &a, &bt, &got, U, "after cancel");
});

both!(a_lost_device_says_so, async {
    let Some(gpu) = gpu().await else { return };
    let never = AtomicBool::new(false);
    let s = MatmulShape { m: 8, k: 8, n: 8 };
    let ones = [1.0; 64];
    let operands = Operands::F32 { a: &ones, bt: &ones };
    let product = gpu.upload(s, operands, Variant::Direct4x4).await.expect("valid in this test");
    gpu.destroy();
    assert!(gpu.is_lost());
    for lost in [
        gpu.run(&product, &never).await.expect_err("refused in this test"),
        gpu.read(&product).await.expect_err("refused in this test"),
        gpu.matmul(s, operands, Variant::Direct4x4, &never).await.expect_err("refused in this test"),
    ] {
        assert!(matches!(lost, KernelError::DeviceLost { .. }), "{lost:?}");
    }
});

both!(bad_input_is_refused_before_it_reaches_the_device, async {
    let Some(gpu) = gpu().await else { return };
    let never = AtomicBool::new(false);
    let s = MatmulShape { m: 2, k: 3, n: 4 };
    let zeros = [0.0; 12];
    let short = Operands::F32 { a: &zeros[..5], bt: &zeros };
    let refused = gpu.matmul(s, short, Variant::Tiled64, &never).await.expect_err("refused in this test");
    assert_eq!(refused, KernelError::ShapeMismatch { operand: "a", expected: 6, actual: 5 });
    let huge = MatmulShape { m: 1 << 20, k: 1, n: 1 << 20 };
    let refused = gpu
        .matmul(huge, Operands::F32 { a: &[], bt: &[] }, Variant::Tiled64, &never)
        .await
        .expect_err("refused in this test");
    assert!(matches!(refused, KernelError::TooLarge { .. }), "{refused:?}");
    assert!(!gpu.is_lost());
});

both!(calibration_picks_a_checked_backend_and_obeys_the_user, async {
    let gpu = gpu().await;
    let auto = calibrate(gpu.as_ref(), BackendChoice::Auto).await.expect("valid in this test");
    for c in &auto.candidates {
        say(&format!("{:16} {:8.2} GFLOP/s in {:?} {:?}", c.backend.name(), c.gflops, c.elapsed, c.rejected));
        assert_eq!(c.rejected, None);
    }
    say(&format!("{} in {:?}", auto.backend, auto.elapsed));
    assert_eq!(auto.gpu_checked, gpu.is_some());
    assert!(auto.candidates.iter().all(|c| c.gflops <= auto.gflops()));
    let forced = calibrate(gpu.as_ref(), BackendChoice::Cpu).await.expect("valid in this test");
    assert_eq!((forced.backend, forced.candidates.len()), (Backend::Cpu, 1));
    let forced = calibrate(gpu.as_ref(), BackendChoice::Gpu).await;
    match gpu {
        Some(_) => assert!(matches!(forced.expect("valid in this test").backend, Backend::Gpu(_))),
        None => assert!(matches!(forced.expect_err("refused in this test"), KernelError::NoAdapter { .. })),
    }
});

both!(the_kernels_agree_with_the_cpu_at_a_real_size, async {
    let Some(gpu) = gpu().await else { return };
    let never = AtomicBool::new(false);
    let mut numbers = Numbers::new(5);
    let s = MatmulShape { m: 256, k: 256, n: 256 };
    let (a, bt) = (numbers.i8s(s.m * s.k), numbers.i8s(s.n * s.k));
    let operands = Operands::Int8 { a: &a, bt: &bt };
    assert_eq!(
        gpu.matmul(s, operands, Variant::Direct4x4, &never).await.expect("valid in this test"),
        cpu::matmul(s, operands).expect("valid in this test")
    );
});
