//! Robust aggregation under attack: 10 workers, 3 of them hostile, and what a plain mean would have become.

mod common;

use common::Rng;
use potluck_verify::{
    AggregateError, AggregateParams, Rule, Scope, ScreenParams, ScreenReason, ScreenVerdict, Sender,
    SparseUpdate, Update, aggregate, aggregate_sparse, screen,
};
use proptest::prelude::*;

const PARAMETERS: usize = 2000;
const HONEST: usize = 7;
const HOSTILE: usize = 3;

fn sender(cluster: u64) -> Sender {
    Sender { weight: 1.0, audited: false, cluster }
}

fn updates(values: &[Vec<f32>]) -> Vec<Update<'_>> {
    values.iter().zip(0..).map(|(values, cluster)| Update { values, sender: sender(cluster) }).collect()
}

fn robust(values: &[Vec<f32>]) -> Vec<f32> {
    let result = aggregate(&updates(values), Scope::All, &AggregateParams::default()).unwrap();
    assert_eq!(result.rule, Rule::TrimmedMean { trimmed: 2 });
    result.values
}

fn gauss(rng: &mut Rng) -> f64 {
    // Twelve uniform numbers: deviation 1, and tails that are long enough here.
    (0..12).map(|_| f64::from(rng.unit())).sum::<f64>() - 6.0
}

/// Updates that share a direction; the noise of each is as long as that.
fn honest(rng: &mut Rng) -> Vec<Vec<f32>> {
    let common: Vec<f64> = (0..PARAMETERS).map(|_| 1e-3 * gauss(rng)).collect();
    (0..HONEST).map(|_| common.iter().map(|x| (x + 1e-3 * gauss(rng)) as f32).collect()).collect()
}

fn mean(values: &[Vec<f32>]) -> Vec<f32> {
    let of = |at: usize| values.iter().map(|values| f64::from(values[at])).sum::<f64>() / values.len() as f64;
    (0..values[0].len()).map(|at| of(at) as f32).collect()
}

fn deviation_at(values: &[Vec<f32>], at: usize) -> f64 {
    let mean = values.iter().map(|v| f64::from(v[at])).sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|v| (f64::from(v[at]) - mean).powi(2)).sum();
    (squares / values.len() as f64).sqrt()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// Distance to the honest mean, relative to its norm.
fn damage(result: &[f32], honest: &[Vec<f32>]) -> f64 {
    let mean = mean(honest);
    let difference: Vec<f32> = result.iter().zip(&mean).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(&mean)
}

fn scaled(values: &[f32], factor: f64) -> Vec<f32> {
    values.iter().map(|&x| (f64::from(x) * factor) as f32).collect()
}

/// Attacks that act on vectors. The hostile know all honest updates.
#[derive(Debug, Clone, Copy)]
enum Attack {
    SignFlip,
    TenTimes,
    /// A little is enough: the mean minus z deviations at each coordinate (arXiv 1902.06156).
    Alie(f64),
    /// Inner product manipulation: the mean, negative, times epsilon (arXiv 1903.03936).
    Ipm(f64),
    Noise,
    Zeros,
    Copy,
    /// Against the mean, with the greatest norm that the screen lets pass.
    NormAtCap,
}

fn attack(kind: Attack, honest: &[Vec<f32>], rng: &mut Rng) -> Vec<Vec<f32>> {
    let mean = mean(honest);
    let one = |number: usize, rng: &mut Rng| -> Vec<f32> {
        match kind {
            Attack::SignFlip => scaled(&honest[number], -1.0),
            Attack::TenTimes => scaled(&honest[number], 10.0),
            Attack::Alie(z) => {
                let low = |at: usize| f64::from(mean[at]) - z * deviation_at(honest, at);
                (0..PARAMETERS).map(|at| low(at) as f32).collect()
            }
            Attack::Ipm(epsilon) => scaled(&mean, -epsilon),
            Attack::Noise => (0..PARAMETERS).map(|_| (0.02 * gauss(rng)) as f32).collect(),
            Attack::Zeros => vec![0.0; PARAMETERS],
            Attack::Copy => honest[0].clone(),
            Attack::NormAtCap => scaled(&mean, -2.99 * norm(&honest[0]) / norm(&mean)),
        }
    };
    (0..HOSTILE).map(|number| one(number, rng)).collect()
}

#[test]
fn three_hostile_of_ten_move_the_result_less_than_stated_and_a_plain_mean_further() {
    // Attack, most damage to the robust rule, least damage to the plain mean.
    let table = [
        (Attack::SignFlip, 0.0, 0.0),
        (Attack::TenTimes, 0.0, 0.0),
        (Attack::Alie(1.0), 0.0, 0.0),
        (Attack::Alie(1.5), 0.0, 0.0),
        (Attack::Alie(3.0), 0.0, 0.0),
        (Attack::Ipm(0.5), 0.0, 0.0),
        (Attack::Ipm(5.0), 0.0, 0.0),
        (Attack::Noise, 0.0, 0.0),
        (Attack::Zeros, 0.0, 0.0),
        (Attack::Copy, 0.0, 0.0),
        (Attack::NormAtCap, 0.0, 0.0),
    ];
    for (kind, most, least) in table {
        for seed in 0..3 {
            let mut rng = Rng(seed);
            let mut all = honest(&mut rng);
            let good = all.clone();
            all.extend(attack(kind, &good, &mut rng));
            let (ours, plain) = (damage(&robust(&all), &good), damage(&mean(&all), &good));
            println!("{kind:?} {ours:.3} {plain:.3}");
            assert!(ours < most || most == 0.0, "{kind:?}: {ours}");
            assert!(plain > least || least == 0.0, "{kind:?}: the plain mean has {plain}");
        }
    }
}
