//! Every cheat that the design names, against the f32 check, with detection rates that theory predicts.

mod common;

use common::{Order, Rng, norm, round_f16, round_mantissa, seed_for, shape};
use potluck_types::{BlobHash, MatmulShape};
use potluck_verify::{Params, RejectReason, Report, Verdict, check_blob, check_f32};

/// A product with the honest result of a kernel that sums in blocks, or not.
struct Claim {
    shape: MatmulShape,
    a: Vec<f32>,
    bt: Vec<f32>,
    c: Vec<f32>,
    blocked: bool,
}

impl Claim {
    fn new((m, k, n): (usize, usize, usize), blocked: bool) -> Self {
        let mut rng = Rng((m * 31 + k * 7 + n) as u64);
        let (a, bt) = (rng.signed_vec(m * k), rng.signed_vec(n * k));
        let order = if blocked { Order::Blocks32 } else { Order::Sequential };
        let c = order.product(shape(m, k, n), &a, &bt);
        Self { shape: shape(m, k, n), a, bt, c, blocked }
    }

    fn k(&self) -> usize {
        self.shape.k as usize
    }

    fn n(&self) -> usize {
        self.shape.n as usize
    }

    fn check(&self, c: &[f32], secret: u64) -> Report {
        let seed = seed_for(secret, c);
        check_f32(self.shape, &self.a, &self.bt, c, &seed, &Params::default(), self.blocked)
            .expect("operands fit")
    }

    /// In how many of `secrets` epochs this result would have been rejected.
    fn caught(&self, c: &[f32], secrets: u64) -> u64 {
        (0..secrets).filter(|&s| !self.check(c, s).accepted()).count() as u64
    }

    fn always_caught(&self, c: &[f32], cheat: &str) {
        assert_ne!(c, self.c, "{cheat} changes nothing");
        assert_eq!(self.caught(c, 200), 200, "{cheat}");
    }

    /// The error of element (i, j) that makes a residual of λ units with |w| = 1.
    fn flag_unit(&self, i: usize, j: usize) -> f64 {
        let k = self.k();
        let lambda = if self.blocked { 3.0 } else { 8.0 };
        let (a, b) = (norm(&self.a[i * k..][..k]), norm(&self.bt[j * k..][..k]));
        lambda / 16_777_216.0 * a * b * (self.n() as f64).sqrt()
    }

    /// Tier 3's tolerance for element (i, j), from the formula of the design.
    fn tolerance(&self, i: usize, j: usize) -> f64 {
        let k = self.k();
        let size: f64 = self.a[i * k..][..k]
            .iter()
            .zip(&self.bt[j * k..][..k])
            .map(|(&x, &y)| (f64::from(x) * f64::from(y)).abs())
            .sum();
        let operations = if self.blocked { 32 + k.div_ceil(32) } else { k };
        2.0 * operations as f64 / 8_388_608.0 * size
    }
}

fn claims() -> [Claim; 4] {
    [
        Claim::new((64, 256, 64), false),
        Claim::new((33, 100, 47), false),
        Claim::new((48, 1024, 64), true),
        Claim::new((20, 517, 263), true),
    ]
}

#[test]
fn gross_cheats_are_always_caught() {
    for claim in claims() {
        let (n, honest) = (claim.n(), &claim.c);
        claim.always_caught(&vec![0.0; honest.len()], "zeros");
        claim.always_caught(&honest.iter().map(|v| v * 1.001).collect::<Vec<_>>(), "scaled by 1 + 1e-3");
        let mut c = honest.clone();
        c[3 * n..4 * n].fill(0.0);
        claim.always_caught(&c, "one row of zeros");
        let mut c = honest.clone();
        let noise = Rng(9).signed_vec(n);
        c[5 * n..6 * n].iter_mut().zip(noise).for_each(|(v, e)| *v += 0.01 * e);
        claim.always_caught(&c, "one wrong row");
        let mut c = honest.clone();
        for j in 0..n {
            c.swap(2 * n + j, 11 * n + j);
        }
        claim.always_caught(&c, "swapped rows");
        let mut c = honest.clone();
        for row in c.chunks_exact_mut(n) {
            row.swap(1, n - 2);
        }
        claim.always_caught(&c, "swapped columns");
        let mut c = honest.clone();
        c[7] = -c[7];
        claim.always_caught(&c, "one sign");
        let other = Rng(77).signed_vec(claim.a.len());
        let copied = Order::Sequential.product(claim.shape, &other, &claim.bt);
        claim.always_caught(&copied, "another shard's result");
    }
}

#[test]
fn low_precision_and_dropped_terms_are_always_caught() {
    for claim in claims() {
        let rounded = |f: fn(f32) -> f32| {
            let a: Vec<f32> = claim.a.iter().map(|&v| f(v)).collect();
            let bt: Vec<f32> = claim.bt.iter().map(|&v| f(v)).collect();
            Order::Sequential.product(claim.shape, &a, &bt)
        };
        claim.always_caught(&rounded(round_f16), "f16 inputs");
        claim.always_caught(&rounded(|v| round_mantissa(v, 7)), "bf16 inputs");
        claim.always_caught(&rounded(|v| round_mantissa(v, 10)), "tf32 inputs");
        let k = claim.k();
        let mut a = claim.a.clone();
        a.chunks_exact_mut(k).for_each(|row| row[k - 1] = 0.0);
        let dropped = Order::Sequential.product(claim.shape, &a, &claim.bt);
        claim.always_caught(&dropped, "one dropped term");
    }
}

#[test]
fn one_element_above_the_limit_is_always_caught() {
    for claim in claims() {
        let n = claim.n();
        for (i, j) in [(0, 0), (4, n - 1), (19, n / 2)] {
            // The smallest weight is 0.654; an honest row uses up at most a third of λ (2 of 8, 1 of 3).
            let limit = (claim.flag_unit(i, j) * 1.34 / 0.654).max(claim.tolerance(i, j) * 1.05);
            for sign in [1.0, -1.0] {
                let mut c = claim.c.clone();
                c[i * n + j] = (f64::from(c[i * n + j]) + sign * limit) as f32;
                claim.always_caught(&c, "one element above the limit");
                let Verdict::Rejected(RejectReason::RowMismatch { row, col, .. }) =
                    claim.check(&c, 0).verdict
                else {
                    panic!("{:?}", claim.check(&c, 0));
                };
                assert_eq!((row, col), (i, j));
            }
            // The stated blind spot: what stays under the threshold passes.
            let mut c = claim.c.clone();
            c[i * n + j] = (f64::from(c[i * n + j]) + 0.1 * claim.flag_unit(i, j)) as f32;
            assert_eq!(claim.caught(&c, 50), 0);
        }
    }
}

/// A product of few terms: tier 3 is tight there and the probes alone decide what is caught.
fn shallow() -> Claim {
    Claim::new((24, 8, 512), false)
}

#[test]
fn detection_rate_at_the_threshold_is_as_predicted() {
    // |w| is uniform in [0.654, 1.309]: an error of flag_unit / (0.654 + q · 0.655) flags one probe with chance
    // 1 - q, and the result with 1 - q². Honest noise, a fiftieth of λ, moves that by under 0.03.
    let claim = shallow();
    for (q, expected) in [(0.5f64, 0.75), (0.8, 0.36), (0.2, 0.96)] {
        let (mut caught, mut of) = (0, 0);
        for i in 0..20 {
            let j = 17 * i + 5;
            let mut c = claim.c.clone();
            let error = claim.flag_unit(i, j) / (0.6547 + q * 0.6547);
            c[i * 512 + j] = (f64::from(c[i * 512 + j]) + error) as f32;
            caught += claim.caught(&c, 40);
            of += 40;
        }
        // Standard deviation over 800 trials: at most 0.018.
        let rate = caught as f64 / f64::from(of);
        assert!((rate - expected).abs() < 0.07, "q = {q}: caught {rate}, expected {expected}");
    }
}

#[test]
fn a_pair_that_cancels_is_caught_by_the_weights() {
    // Errors d and -d, scaled to their columns, leave d · (w_1 - w_2) where the signs agree. A probe misses with
    // chance 1/2 · P(|w_1 - w_2| <= 1/20) = 0.07, both with 0.005; with plain signs both would miss 0.25.
    let claim = shallow();
    let (mut caught, mut of) = (0, 0);
    for i in 0..20 {
        let (j, l) = (11 * i + 2, 13 * i + 200);
        let mut c = claim.c.clone();
        c[i * 512 + j] = (f64::from(c[i * 512 + j]) + 20.0 * claim.flag_unit(i, j)) as f32;
        c[i * 512 + l] = (f64::from(c[i * 512 + l]) - 20.0 * claim.flag_unit(i, l)) as f32;
        caught += claim.caught(&c, 40);
        of += 40;
    }
    let rate = caught as f64 / f64::from(of);
    assert!((0.98..1.0).contains(&rate), "caught {rate}, expected 0.995");
}

#[test]
fn what_is_not_finite_is_rejected_and_named() {
    let claim = Claim::new((64, 256, 64), false);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 5 * 64 + 9, 64 * 64 - 1] {
            let mut c = claim.c.clone();
            c[at] = bad;
            let expected = RejectReason::NotFinite { row: at / 64, col: at % 64 };
            assert_eq!(claim.check(&c, 3).verdict, Verdict::Rejected(expected));
        }
    }
    let mut c = claim.c.clone();
    (c[70], c[71]) = (f32::INFINITY, f32::NEG_INFINITY);
    assert_eq!(claim.caught(&c, 50), 50);
    assert_eq!(claim.caught(&vec![f32::NAN; c.len()], 50), 50);
}

#[test]
fn a_zero_column_or_row_must_stay_zero() {
    let mut claim = Claim::new((9, 32, 13), false);
    claim.bt[4 * 32..5 * 32].fill(0.0);
    claim.a[7 * 32..8 * 32].fill(0.0);
    claim.c = Order::Sequential.product(claim.shape, &claim.a, &claim.bt);
    assert_eq!(claim.caught(&claim.c, 20), 0);
    for bad in [1e-30, -1.0, f32::NAN] {
        let mut c = claim.c.clone();
        c[2 * 13 + 4] = bad;
        let expected = RejectReason::ZeroColumnNotZero { row: 2, col: 4 };
        assert_eq!(claim.check(&c, 0).verdict, Verdict::Rejected(expected));
    }
    let mut c = claim.c.clone();
    c[7 * 13 + 3] = 1e-30;
    assert_eq!(claim.caught(&c, 50), 50);
}

#[test]
fn length_and_hash_are_checked() {
    let claim = Claim::new((9, 32, 13), false);
    for len in [0, 9 * 13 - 1, 8 * 13] {
        let expected = RejectReason::WrongLength { expected: 9 * 13 * 4, found: 4 * len as u64 };
        assert_eq!(claim.check(&claim.c[..len], 0).verdict, Verdict::Rejected(expected));
    }
    let mut long = claim.c.clone();
    long.push(0.0);
    assert!(!claim.check(&long, 0).accepted());
    let bytes = common::bytes(&claim.c);
    let committed = BlobHash::of(&bytes);
    assert_eq!(check_blob(&bytes, &committed), Ok(()));
    let found = BlobHash::of(&bytes[1..]);
    assert_eq!(
        check_blob(&bytes[1..], &committed),
        Err(RejectReason::WrongHash { expected: committed, found })
    );
}

#[test]
fn one_liar_among_many_flagged_rows_is_caught() {
    // Constant data on round-to-zero hardware flags every row; a wrong row must not hide among them.
    let (m, k, n) = (200, 512, 16);
    let (a, bt) = (vec![0.3; m * k], vec![0.7; n * k]);
    let c = Order::TowardZero.product(shape(m, k, n), &a, &bt);
    let mut claim = Claim { shape: shape(m, k, n), a, bt, c, blocked: false };
    let report = claim.check(&claim.c, 1);
    assert!(report.accepted());
    assert_eq!((report.flagged_rows, report.recomputed_rows), (200, 64));
    assert!(report.worst_ratio > 1.0);
    claim.c[150 * n + 3] *= 0.99;
    for secret in 0..100 {
        let report = claim.check(&claim.c, secret);
        assert!(!report.accepted());
        assert_eq!(report.recomputed_rows, 1, "the worst row is recomputed first");
    }
}
