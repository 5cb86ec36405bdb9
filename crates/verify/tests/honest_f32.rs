//! Honest f32 results of every order of summation and rounding on difficult data are never rejected.

mod common;

use common::{ORDERS, Order, Rng, seed_for, shape};
use potluck_types::MatmulShape;
use potluck_verify::{Params, Report, check_f32};

const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 64, 1),
    (7, 1, 5),
    (1, 33, 17),
    (17, 300, 1),
    (3, 2, 90),
    (40, 64, 40),
    (70, 1024, 20),
    (5, 8192, 6),
];

#[derive(Debug, Clone, Copy)]
enum Data {
    ZeroMean,
    Constant,
    OneSigned,
    Tiny,
    AtUnderflow,
    SubnormalTimesHuge,
    Huge,
    Cancelling,
    ZeroRowsAndColumns,
    MixedScales,
    Sparse,
}

const DATA: [Data; 11] = [
    Data::ZeroMean,
    Data::Constant,
    Data::OneSigned,
    Data::Tiny,
    Data::AtUnderflow,
    Data::SubnormalTimesHuge,
    Data::Huge,
    Data::Cancelling,
    Data::ZeroRowsAndColumns,
    Data::MixedScales,
    Data::Sparse,
];

impl Data {
    /// A and B transposed.
    fn operands(self, (m, k, n): (usize, usize, usize), rng: &mut Rng) -> (Vec<f32>, Vec<f32>) {
        let (mut a, mut bt) = (rng.signed_vec(m * k), rng.signed_vec(n * k));
        let each = |v: &mut [f32], f: &mut dyn FnMut(usize, f32) -> f32| {
            v.iter_mut().enumerate().for_each(|(i, v)| *v = f(i, *v));
        };
        match self {
            Self::ZeroMean => {}
            Self::Constant => {
                let (x, y) = (rng.unit() + 0.1, rng.unit() + 0.1);
                each(&mut a, &mut |_, _| x);
                each(&mut bt, &mut |_, _| -y);
            }
            Self::OneSigned => {
                each(&mut a, &mut |_, v| v.abs());
                each(&mut bt, &mut |_, v| v.abs());
            }
            Self::Tiny => each(&mut a, &mut |_, v| v * 1e-30),
            Self::AtUnderflow => {
                each(&mut a, &mut |_, v| v * 1e-19);
                each(&mut bt, &mut |_, v| v * 1e-19);
            }
            Self::SubnormalTimesHuge => {
                each(&mut a, &mut |_, v| v * 1e-38);
                each(&mut bt, &mut |_, v| v * 1e37);
            }
            Self::Huge => {
                each(&mut a, &mut |_, v| v * 1e17);
                each(&mut bt, &mut |_, v| v * 1e17);
            }
            Self::Cancelling => {
                // Pairs (v, -v) against constant columns: every exact product is 0, or its last term alone.
                for row in a.chunks_exact_mut(k) {
                    for i in (1..k).step_by(2) {
                        row[i] = -row[i - 1];
                    }
                }
                each(&mut bt, &mut |_, _| 0.7);
            }
            Self::ZeroRowsAndColumns => {
                each(&mut a, &mut |i, v| if (i / k).is_multiple_of(3) { 0.0 } else { v });
                each(&mut bt, &mut |i, v| if (i / k).is_multiple_of(2) { -0.0 } else { v });
            }
            Self::MixedScales => {
                let mut scale = 1.0;
                let mut by_row = |i: usize, v: f32, rng: &mut Rng| {
                    if i.is_multiple_of(k) {
                        scale = (rng.below(60) as f32 - 30.0).exp2();
                    }
                    v * scale
                };
                let mut other = rng.clone();
                each(&mut a, &mut |i, v| by_row(i, v, rng));
                each(&mut bt, &mut |i, v| by_row(i, v, &mut other));
            }
            Self::Sparse => each(&mut a, &mut |i, v| if i % 7 == 3 { v * 1e6 } else { 0.0 }),
        }
        (a, bt)
    }
}

fn checked(shape: MatmulShape, a: &[f32], bt: &[f32], c: &[f32], secret: u64, blocked: bool) -> Report {
    check_f32(shape, a, bt, c, &seed_for(secret, c), &Params::default(), blocked).expect("operands fit")
}

#[test]
fn no_conforming_kernel_is_ever_rejected() {
    let mut flagged = 0;
    for data in DATA {
        for (s, &(m, k, n)) in SHAPES.iter().enumerate() {
            let mut rng = Rng(s as u64);
            let (a, bt) = data.operands((m, k, n), &mut rng);
            for order in ORDERS {
                let c = order.product(shape(m, k, n), &a, &bt);
                assert!(c.iter().all(|v| v.is_finite()), "{data:?} was to stay in range");
                for secret in 0..8 {
                    let report = checked(shape(m, k, n), &a, &bt, &c, secret, order.in_blocks());
                    assert!(report.accepted(), "{data:?} {order:?} {m}x{k}x{n}: {report:?}");
                    assert_eq!(report.flagged_rows.min(64), report.recomputed_rows);
                    flagged += u64::from(report.flagged_rows);
                }
            }
        }
    }
    // The data is difficult: without tier 3 honest work would be rejected.
    assert!(flagged > 1000, "only {flagged} rows were flagged");
}

#[test]
fn ordinary_data_needs_no_recomputing() {
    // Residuals of zero-mean data were measured at 0.2 to 2 units; λ is 8, or 3 for sums in blocks.
    for (order, blocked) in [(Order::Sequential, false), (Order::Lanes(8), false), (Order::Blocks32, true)] {
        for (m, k, n) in [(64, 64, 64), (32, 1024, 48), (16, 2048, 16), (90, 16, 200)] {
            let mut rng = Rng(k as u64);
            let (a, bt) = (rng.signed_vec(m * k), rng.signed_vec(n * k));
            let c = order.product(shape(m, k, n), &a, &bt);
            for secret in 0..50 {
                let report = checked(shape(m, k, n), &a, &bt, &c, secret, blocked);
                assert!(report.accepted());
                assert_eq!(report.flagged_rows, 0, "{order:?} {m}x{k}x{n}");
                // 2 probes and a norm over A and B, 2 probes over C.
                assert_eq!(report.work, (3 * (m * k + n * k) + 2 * m * n) as u64);
            }
        }
    }
}

#[test]
fn overflow_is_accepted_only_where_a_sum_can_overflow() {
    let (m, k, n) = (3, 8, 4);
    let mut rng = Rng(5);
    let mut a: Vec<f32> = rng.signed_vec(m * k);
    let bt: Vec<f32> = (0..n * k).map(|_| rng.unit() + 0.5).collect();
    a[k..2 * k].fill(3e38); // row 1: every product is far beyond f32
    for order in [Order::Sequential, Order::Pairwise, Order::Fma, Order::TowardZero] {
        let c = order.product(shape(m, k, n), &a, &bt);
        let c: Vec<f32> = if order == Order::TowardZero {
            c.iter().map(|v| v.clamp(-f32::MAX, f32::MAX)).collect()
        } else {
            c
        };
        for secret in 0..20 {
            let report = checked(shape(m, k, n), &a, &bt, &c, secret, false);
            assert!(report.accepted(), "{order:?}: {report:?}");
            assert_eq!(report.overflowed_elements, n as u32);
        }
    }
    // Inf - Inf on the way to a result that fits.
    let a = [3e38, 3e38, -3e38, -3e38];
    let bt = [1.0; 4];
    for v in [f32::INFINITY, f32::NAN, 0.0] {
        assert!(checked(shape(1, 4, 1), &a, &bt, &[v], 0, false).accepted(), "{v}");
    }
    assert!(!checked(shape(1, 4, 1), &a, &bt, &[1e36], 0, false).accepted());
    assert!(!checked(shape(1, 4, 1), &a, &bt, &[f32::MAX], 0, false).accepted());
}
