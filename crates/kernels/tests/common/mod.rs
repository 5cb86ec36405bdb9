//! Inputs and checks shared by the kernel tests, native and in a browser.

use potluck_kernels::reference::{abs_matmul_nt_f64, gamma, matmul_nt_f64, matmul_nt_i64};
use potluck_kernels::{MatmulShape, Output};

/// Declares a test that runs natively and, as an asynchronous one, in a browser.
#[macro_export]
macro_rules! both {
    ($name:ident, $body:expr) => {
        #[cfg(not(target_arch = "wasm32"))]
        #[test]
        fn $name() {
            futures_executor::block_on($body);
        }
        #[cfg(target_arch = "wasm32")]
        #[wasm_bindgen_test::wasm_bindgen_test]
        async fn $name() {
            $body.await;
        }
    };
}

/// Shapes that find edges: single elements, vectors, primes, whole tiles and one more, K around the block of 32.
pub(crate) const SHAPES: [(u32, u32, u32); 16] = [
    (1, 1, 1),
    (1, 129, 1),
    (1, 67, 53),
    (101, 67, 1),
    (5, 1, 7),
    (101, 67, 53),
    (64, 64, 64),
    (65, 33, 65),
    (128, 32, 128),
    (129, 31, 129),
    (32, 96, 64),
    (7, 257, 130),
    (4, 512, 8),
    (67, 515, 21),
    (200, 300, 100),
    (1, 1024, 256),
];

pub(crate) fn shape((m, k, n): (u32, u32, u32)) -> MatmulShape {
    MatmulShape { m, k, n }
}

/// A stream of numbers from a seed.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    pub(crate) fn f32s(&mut self, count: u32) -> Vec<f32> {
        (0..count).map(|_| (self.next() % (1 << 24)) as f32 / 8_388_608.0 - 1.0).collect()
    }

    pub(crate) fn i8s(&mut self, count: u32) -> Vec<i8> {
        (0..count).map(|_| (self.next() as u8).cast_signed()).collect()
    }
}

pub(crate) fn floats(output: Output) -> Vec<f32> {
    match output {
        Output::F32(v) => v,
        Output::I32(_) => panic!("expected f32"),
    }
}

pub(crate) fn ints(output: Output) -> Vec<i32> {
    match output {
        Output::I32(v) => v,
        Output::F32(_) => panic!("expected i32"),
    }
}

/// Every element is within gamma_K of the reference, in units of |A|·|B|. Written so that NaN fails.
pub(crate) fn assert_f32(shape: MatmulShape, a: &[f32], bt: &[f32], got: &[f32], u: f64, what: &str) {
    let want = matmul_nt_f64(shape, a, bt).expect("valid in this test");
    let scale = abs_matmul_nt_f64(shape, a, bt).expect("valid in this test");
    assert_eq!(got.len(), want.len(), "{what} {shape:?}");
    for (i, ((got, want), scale)) in got.iter().zip(&want).zip(&scale).enumerate() {
        let tolerance = gamma(shape.k, u) * scale + shape.k as f64 * 2.0_f64.powi(-126);
        let error = (*got as f64 - want).abs();
        assert!(
            error <= tolerance,
            "{what} {shape:?} element {i}: {got} for {want}, {error:e} > {tolerance:e}"
        );
    }
}

pub(crate) fn assert_int8(shape: MatmulShape, a: &[i8], bt: &[i8], got: &[i32], what: &str) {
    let want = matmul_nt_i64(shape, a, bt).expect("valid in this test");
    assert_eq!(got.len(), want.len(), "{what} {shape:?}");
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(i64::from(*got), *want, "{what} {shape:?} element {i}");
    }
}
