//! The exact int8 check: honest results always pass, every cheat is caught.

mod common;

use common::{Rng, shape};
use potluck_types::{BlobHash, MatmulShape};
use potluck_verify::{CheckError, Params, RejectReason, Report, Secret, Verdict, check_int8, probe_seed};

struct Claim {
    shape: MatmulShape,
    a: Vec<i8>,
    bt: Vec<i8>,
    c: Vec<i32>,
}

impl Claim {
    fn new((m, k, n): (usize, usize, usize), mut value: impl FnMut() -> i8) -> Self {
        let a: Vec<i8> = (0..m * k).map(|_| value()).collect();
        let bt: Vec<i8> = (0..n * k).map(|_| value()).collect();
        let c = product(k, &a, &bt);
        Self { shape: shape(m, k, n), a, bt, c }
    }

    fn random(dims: (usize, usize, usize), seed: u64) -> Self {
        let mut rng = Rng(seed);
        Self::new(dims, || rng.word() as i8)
    }

    fn check(&self, c: &[i32], secret: u64) -> Report {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&secret.to_le_bytes());
        let bytes: Vec<u8> = c.iter().flat_map(|v| v.to_le_bytes()).collect();
        let seed = probe_seed(&Secret(key), &BlobHash::of(&bytes));
        check_int8(self.shape, &self.a, &self.bt, c, &seed, &Params::default()).expect("operands fit")
    }

    fn always_caught(&self, c: &[i32], cheat: &str) {
        assert_ne!(c, self.c, "{cheat} changes nothing");
        for secret in 0..100 {
            assert!(!self.check(c, secret).accepted(), "{cheat}");
        }
    }
}

fn product(k: usize, a: &[i8], bt: &[i8]) -> Vec<i32> {
    let dot = |a: &[i8], b: &[i8]| a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
    a.chunks_exact(k).flat_map(|a| bt.chunks_exact(k).map(move |b| dot(a, b))).collect()
}

#[test]
fn honest_results_pass() {
    for dims in [(1, 1, 1), (1, 9, 1), (5, 1, 7), (33, 100, 47), (64, 1024, 64), (3, 8192, 2), (1, 7, 300)] {
        for claim in [Claim::random(dims, 3), Claim::new(dims, || -128), Claim::new(dims, || 0)] {
            for secret in 0..20 {
                let report = claim.check(&claim.c, secret);
                assert!(report.accepted(), "{dims:?}: {report:?}");
                let (m, k, n) = (dims.0 as u64, dims.1 as u64, dims.2 as u64);
                assert_eq!(report.work, 2 * (m * k + n * k + m * n));
            }
        }
    }
}

#[test]
fn the_deepest_product_stays_exact() {
    let claim = Claim::new((1, 131_071, 1), || -128);
    assert_eq!(claim.c, [131_071 * 16_384]);
    assert!(claim.check(&claim.c, 0).accepted());
    claim.always_caught(&[i32::MAX], "saturated at the top");
    let deeper = check_int8(
        shape(1, 131_072, 1),
        &vec![1; 131_072],
        &vec![1; 131_072],
        &[131_072],
        &probe_seed(&Secret([0; 32]), &BlobHash([0; 32])),
        &Params::default(),
    );
    assert_eq!(deeper, Err(CheckError::Dimension { name: "k", found: 131_072, max: 131_071 }));
}

#[test]
fn every_wrong_bit_of_one_entry_is_caught_and_named() {
    // Flipping bit b is an error of ±2^b, which passes a probe with chance 2^(b - 64): 2^-33 for the top bit.
    let claim = Claim::random((17, 130, 29), 8);
    let mut rng = Rng(1);
    for bit in 0..32 {
        for secret in 0..30 {
            let at = rng.below(claim.c.len());
            let mut c = claim.c.clone();
            c[at] ^= 1 << bit;
            let (row, col, found, expected) = (at / 29, at % 29, c[at], claim.c[at]);
            assert_eq!(
                claim.check(&c, secret).verdict,
                Verdict::Rejected(RejectReason::Int8Mismatch { row, col, found, expected })
            );
        }
    }
}

#[test]
fn cheats_are_caught() {
    let claim = Claim::random((40, 1024, 40), 4);
    let n = 40;
    let honest = &claim.c;
    let map = |f: fn(i32) -> i32| honest.iter().map(|&v| f(v)).collect::<Vec<_>>();
    claim.always_caught(&map(|_| 0), "zeros");
    claim.always_caught(&map(|v| v.clamp(-32768, 32767)), "saturated to 16 bits");
    claim.always_caught(&map(|v| i32::from(v as i16)), "wrapped to 16 bits");
    claim.always_caught(&map(|v| v as f32 as i32 / 2 * 2), "through a lossy float");
    claim.always_caught(&map(|v| v.wrapping_add(i32::MIN)), "2^31 everywhere");
    let mut c = honest.clone();
    for j in 0..n {
        c.swap(2 * n + j, 9 * n + j);
    }
    claim.always_caught(&c, "swapped rows");
    let mut c = honest.clone();
    (c[5], c[6]) = (c[5] + 1, c[6] - 1);
    claim.always_caught(&c, "a pair that cancels");
    let mut c = honest.clone();
    (c[5], c[6]) = (c[5] ^ i32::MIN, c[6] ^ i32::MIN);
    claim.always_caught(&c, "a pair of 2^31");
    let mut a = claim.a.clone();
    a.chunks_exact_mut(1024).for_each(|row| row[1023] = 0);
    claim.always_caught(&product(1024, &a, &claim.bt), "one dropped term");
    let other = Claim::random((40, 1024, 40), 5);
    claim.always_caught(&other.c, "another shard's result");
    let unsigned: Vec<i32> = {
        let wide = |v: &[i8]| v.iter().map(|&v| i32::from(v as u8)).collect::<Vec<_>>();
        let (a, bt) = (wide(&claim.a), wide(&claim.bt));
        let dot = |a: &[i32], b: &[i32]| a.iter().zip(b).map(|(x, y)| x * y).sum();
        a.chunks_exact(1024).flat_map(|a| bt.chunks_exact(1024).map(move |b| dot(a, b))).collect()
    };
    claim.always_caught(&unsigned, "read as unsigned");
}

#[test]
fn a_wrong_length_is_rejected() {
    let claim = Claim::random((4, 8, 5), 4);
    for len in [0, 19] {
        let expected = RejectReason::WrongLength { expected: 80, found: 4 * len as u64 };
        assert_eq!(claim.check(&claim.c[..len], 0).verdict, Verdict::Rejected(expected));
    }
}
