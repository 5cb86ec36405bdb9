//! Operands that come as panels: any split gives the same report, and wrong panels are the caller's error.

mod common;

use common::{Order, Rng, bytes, seed_for, shape};
use potluck_types::DType;
use potluck_verify::{CheckError, Params, Product, check_bytes, check_f32};
use proptest::prelude::*;

/// Cuts rows of `row_bytes` into panels after the rows that `cuts` names.
fn split<'a>(whole: &'a [u8], row_bytes: usize, cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let rows = whole.len() / row_bytes;
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(rows + 1) * row_bytes).collect();
    at.extend([0, whole.len()]);
    at.sort_unstable();
    at.windows(2).map(|w| &whole[w[0]..w[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn split_panels_give_the_same_report_as_whole_ones(
        (m, k, n) in (1usize..40, 1usize..80, 1usize..40),
        dtype in prop::sample::select(vec![DType::F32, DType::Int8]),
        seed in any::<u64>(),
        a_cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        b_cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        unaligned in 0usize..4,
        wrong in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut rng = Rng(seed);
        let (a, bt, mut c) = match dtype {
            DType::F32 => {
                let (a, bt) = (rng.signed_vec(m * k), rng.signed_vec(n * k));
                let c = Order::Lanes(4).product(shape(m, k, n), &a, &bt);
                (bytes(&a), bytes(&bt), bytes(&c))
            }
            DType::Int8 => {
                let mut random = |len| (0..len).map(|_| rng.word() as u8).collect::<Vec<u8>>();
                let (a, bt) = (random(m * k), random(n * k));
                let dot = |a: &[u8], b: &[u8]| {
                    a.iter().zip(b).map(|(&x, &y)| i32::from(x.cast_signed()) * i32::from(y.cast_signed())).sum::<i32>()
                };
                let c = a.chunks_exact(k).flat_map(|a| bt.chunks_exact(k).map(move |b| dot(a, b).to_le_bytes()));
                let c = c.flatten().collect();
                (a, bt, c)
            }
        };
        if let Some(at) = &wrong {
            let at = 4 * at.index(m * n);
            let element: [u8; 4] = c[at..at + 4].try_into().unwrap();
            let element = match dtype {
                DType::F32 => (f32::from_le_bytes(element) + 1.0).to_le_bytes(),
                DType::Int8 => (i32::from_le_bytes(element) + 1).to_le_bytes(),
            };
            c[at..at + 4].copy_from_slice(&element);
        }
        let key = seed_for(seed, &[]);
        let params = Params::default();
        let check = |a: &[&[u8]], bt: &[&[u8]], c: &[u8]| {
            check_bytes(&Product { dtype, shape: shape(m, k, n), a, bt }, c, &key, &params, false)
        };
        let whole = check(&[&a], &[&bt], &c);
        prop_assert!(whole.is_ok());
        prop_assert_eq!(whole.as_ref().unwrap().accepted(), wrong.is_none(), "{:?}", whole);
        // Panels at odd addresses, cut anywhere between rows.
        let shift = |v: &[u8]| [&vec![0; unaligned], v].concat();
        let (a, bt, c) = (shift(&a), shift(&bt), shift(&c));
        let row = k * dtype.operand_bytes();
        let parts =
            check(&split(&a[unaligned..], row, &a_cuts), &split(&bt[unaligned..], row, &b_cuts), &c[unaligned..]);
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn no_shape_and_no_bytes_panic(
        (m, k, n) in (0u32..6, 0u32..6, 0u32..6),
        dtype in prop::sample::select(vec![DType::F32, DType::Int8]),
        blobs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 3),
    ) {
        let product = Product {
            dtype,
            shape: potluck_types::MatmulShape { m, k, n },
            a: &[&blobs[0]],
            bt: &[&blobs[1]],
        };
        let _ = check_bytes(&product, &blobs[2], &seed_for(0, &[]), &Params::default(), true);
    }
}

#[test]
fn operands_that_do_not_fit_are_the_callers_error() {
    let key = seed_for(0, &[]);
    let check = |shape, a: &[f32], bt: &[f32]| {
        check_f32(shape, a, bt, &[0.0; 4], &key, &Params::default(), false).map(|r| r.accepted())
    };
    assert_eq!(check(shape(2, 3, 2), &[0.0; 6], &[0.0; 6]), Ok(true));
    assert_eq!(
        check(shape(2, 3, 2), &[0.0; 9], &[0.0; 6]),
        Err(CheckError::RowCount { operand: "A", expected: 2, found: 3 })
    );
    assert_eq!(
        check(shape(2, 3, 2), &[0.0; 6], &[0.0; 7]),
        Err(CheckError::PartialRow { operand: "B transposed", panel: 0, found: 28, row_bytes: 12 })
    );
    for dims in [(0, 3, 2), (2, 0, 2), (2, 3, 0), ((1 << 20) + 1, 3, 2)] {
        let shape = shape(dims.0, dims.1, dims.2);
        assert!(matches!(check(shape, &[], &[]), Err(CheckError::Dimension { .. })), "{dims:?}");
    }
    let mut a = [1.0; 6];
    a[4] = f32::NAN;
    let expected = |operand| Err(CheckError::OperandNotFinite { operand, row: 1 });
    assert_eq!(check(shape(2, 3, 2), &a, &[1.0; 6]), expected("A"));
    assert_eq!(check(shape(2, 3, 2), &[1.0; 6], &a), expected("B transposed"));
    a[4] = f32::NEG_INFINITY;
    assert_eq!(check(shape(2, 3, 2), &[1.0; 6], &a), expected("B transposed"));
}
