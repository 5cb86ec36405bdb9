//! Robust aggregation under attack: 10 workers, 3 of them hostile, and what a plain mean would have become.
#![expect(clippy::float_cmp, reason = "these figures are exact by construction")]

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
    let result = aggregate(&updates(values), Scope::All, &AggregateParams::default())
        .unwrap_or_else(|error| panic!("{error}"));
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
    // Attack; damage that the rule lets through at most, although three are one more than it trims; damage that a plain
    // mean lets through at least, where that is more. The others stay inside the honest cloud, which no rule can
    // tell from honest work: the screen, replays and the first rounds of a key are for them.
    let table = [
        (Attack::SignFlip, 0.55, Some(0.58)),
        (Attack::TenTimes, 0.25, Some(2.5)),
        (Attack::Alie(1.0), 0.46, None),
        (Attack::Alie(1.5), 0.52, None),
        (Attack::Alie(3.0), 0.57, Some(0.7)),
        (Attack::Ipm(0.5), 0.55, None),
        (Attack::Ipm(5.0), 0.70, Some(1.7)),
        (Attack::Noise, 0.37, Some(2.5)),
        (Attack::Zeros, 0.44, None),
        (Attack::Copy, 0.44, None),
        (Attack::NormAtCap, 0.70, Some(1.3)),
    ];
    for (kind, most, least) in table {
        for seed in 0..5 {
            let mut rng = Rng(seed);
            let good = honest(&mut rng);
            let mut all = good.clone();
            all.extend(attack(kind, &good, &mut rng));
            let (ours, plain) = (damage(&robust(&all), &good), damage(&mean(&all), &good));
            assert!(ours < most, "{kind:?}: {ours}");
            assert!(plain > least.unwrap_or(0.0), "{kind:?}: the plain mean has {plain}");
        }
    }
}

#[test]
fn as_many_hostile_as_are_trimmed_hardly_matter() {
    for kind in [Attack::SignFlip, Attack::TenTimes, Attack::Alie(1.5), Attack::Ipm(5.0), Attack::NormAtCap] {
        let mut rng = Rng(11);
        let good = [honest(&mut rng), honest(&mut rng)].concat();
        // 14 + 2: three are trimmed at either end. The two halves have no direction in common.
        let mut all = good.clone();
        all.extend(attack(kind, &good, &mut rng).into_iter().take(2));
        let result = aggregate(&updates(&all), Scope::All, &AggregateParams::default()).unwrap();
        assert_eq!(result.rule, Rule::TrimmedMean { trimmed: 3 });
        assert!(damage(&result.values, &good) < 0.36, "{kind:?} {}", damage(&result.values, &good));
    }
}

#[test]
fn the_screen_tells_what_it_can_of_the_attacks() {
    use ScreenVerdict::{Failed, Passed};
    let mut rng = Rng(3);
    let good = honest(&mut rng);
    let previous = mean(&honest(&mut Rng(3)));
    let verdicts = |kind: Attack, rng: &mut Rng| -> Vec<ScreenVerdict> {
        let mut all = good.clone();
        all.extend(attack(kind, &good, rng));
        let slices: Vec<&[f32]> = all.iter().map(Vec::as_slice).collect();
        let reports = screen(&slices, Some(&previous), &ScreenParams::default()).unwrap();
        assert!(reports[..HONEST].iter().all(|report| report.verdict == ScreenVerdict::Passed), "{kind:?}");
        reports[HONEST..].iter().map(|report| report.verdict).collect()
    };
    let all =
        |verdicts: &[ScreenVerdict], expected: fn(&ScreenVerdict) -> bool| verdicts.iter().all(expected);
    let against = |v: &ScreenVerdict| matches!(v, Failed(ScreenReason::Against { .. }));
    let large = |v: &ScreenVerdict| matches!(v, Failed(ScreenReason::TooLarge { .. }));
    let copy = |v: &ScreenVerdict| matches!(v, Failed(ScreenReason::Copy { of: 0, .. }));
    let small = |v: &ScreenVerdict| matches!(v, Failed(ScreenReason::TooSmall { .. }));
    assert!(all(&verdicts(Attack::SignFlip, &mut rng), against));
    assert!(all(&verdicts(Attack::TenTimes, &mut rng), large));
    assert!(all(&verdicts(Attack::Noise, &mut rng), large));
    assert!(all(&verdicts(Attack::Zeros, &mut rng), small));
    assert!(all(&verdicts(Attack::Copy, &mut rng), copy));
    assert!(all(&verdicts(Attack::Ipm(5.0), &mut rng), large));
    // One passes for a moment: it points against the last step, or the others are its copies.
    let at_cap = verdicts(Attack::NormAtCap, &mut rng);
    assert!(against(&at_cap[0]) && !at_cap[1..].contains(&Passed), "{at_cap:?}");
    // Of three that send the same the first looks honest, as it is meant to: replay is for it.
    let alie = verdicts(Attack::Alie(1.0), &mut rng);
    assert!(
        alie[0] == Passed && matches!(alie[1], Failed(ScreenReason::Copy { of: HONEST, .. })),
        "{alie:?}"
    );
}

#[test]
fn the_screen_has_figures_and_edges() {
    let a = [1.0, 0.0, 0.0];
    let b = [0.0, 1.0, 0.0];
    let copy = [2.0, 0.1, 0.0];
    let bad = [0.0, f32::NAN, 0.0];
    let reports = screen(&[&a, &b, &copy, &bad], Some(&b), &ScreenParams::default()).unwrap();
    assert_eq!((reports[0].verdict, reports[0].ratio), (ScreenVerdict::Passed, 1.0));
    assert_eq!((reports[0].cosine, reports[0].nearest), (Some(0.0), None));
    assert_eq!(reports[1].nearest, Some((0, 0.0)));
    assert!(
        matches!(reports[2].verdict, ScreenVerdict::Failed(ScreenReason::Copy { of: 0, cosine }) if cosine > 0.998)
    );
    assert_eq!(reports[3].verdict, ScreenVerdict::Failed(ScreenReason::NotFinite { index: 1 }));
    assert!(screen(&[], Some(&b), &ScreenParams::default()).unwrap().is_empty());
    assert!(screen(&[&a, &b[..2]], None, &ScreenParams::default()).is_err());
    assert!(screen(&[&a], Some(&b[..2]), &ScreenParams::default()).is_err());
    // A majority of zeros does not make zeros pass, nor anything else.
    let zero = [0.0; 3];
    let reports = screen(&[&zero, &zero, &a], None, &ScreenParams::default()).unwrap();
    assert!(reports.iter().all(|report| report.verdict != ScreenVerdict::Passed));
    // At the limits themselves.
    let (low, high) = ([0.0, 0.0, 0.2_f32], [0.0, 3.0, 0.0]);
    let low_norm = ScreenParams { norm_least: f64::from(0.2_f32), ..ScreenParams::default() };
    let reports = screen(&[&a, &low, &high], None, &low_norm).unwrap();
    assert!(reports.iter().all(|report| report.verdict == ScreenVerdict::Passed), "{reports:?}");
}

/// Vectors whose first value is the given one.
fn column(values: &[f32]) -> Vec<Vec<f32>> {
    values.iter().map(|&value| vec![value, 1.0]).collect()
}

fn unclipped(values: &[Vec<f32>], weights: &[f64], params: &AggregateParams) -> (Rule, f32) {
    // The second value makes all norms equal, so that nothing is clipped.
    let padded: Vec<Vec<f32>> = values.iter().map(|v| vec![v[0], (100.0 - v[0] * v[0]).sqrt()]).collect();
    let mut all = updates(&padded);
    for (update, weight) in all.iter_mut().zip(weights) {
        update.sender.weight = *weight;
    }
    let result = aggregate(&all, Scope::All, params).unwrap_or_else(|error| panic!("{error}"));
    (result.rule, result.values[0])
}

#[test]
fn the_rule_follows_the_number_of_votes() {
    let params = AggregateParams::default();
    let ones = [1.0; 32];
    let near = |(rule, value): (Rule, f32), expected: Rule, about: f32| {
        assert_eq!(rule, expected);
        assert!((value - about).abs() < 1e-5, "{value} {about}");
    };
    let of = |values: &[f32]| unclipped(&column(values), &ones, &params);
    near(of(&[4.0, 1.0, 2.0, 9.0]), Rule::Median, 3.0);
    near(of(&[4.0, 1.0, 2.0, 9.0, 8.0]), Rule::Median, 4.0);
    near(of(&[4.0, 1.0, 2.0, 9.0, 8.0, -7.0]), Rule::TrimmedMean { trimmed: 1 }, 3.75);
    near(of(&[1.0; 9]), Rule::TrimmedMean { trimmed: 1 }, 1.0);
    near(of(&[9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -9.0, -9.0]), Rule::TrimmedMean { trimmed: 2 }, 3.5);
    near(of(&[1.0; 15]), Rule::TrimmedMean { trimmed: 3 }, 1.0);
    // Weights count among those that stay, and only there: 1, 2, 4 and 8 are left.
    let weights = [3.0, 1.0, 1.0, 1000.0, 1.0, 1000.0];
    near(
        unclipped(&column(&[4.0, 1.0, 2.0, 9.0, 8.0, -7.0]), &weights, &params),
        Rule::TrimmedMean { trimmed: 1 },
        23.0 / 6.0,
    );
    near(unclipped(&column(&[4.0, 1.0, 2.0, 9.0]), &[1.0, 9.0, 3.0, 9.0], &params), Rule::Median, 2.5);
    // Of equal values the lower cluster is trimmed at the lower end: 1000 stays.
    near(
        unclipped(&column(&[1.0, 1.0, 2.0, 2.0, 2.0, 5.0]), &[1.0, 1000.0, 1.0, 1.0, 1.0, 1.0], &params),
        Rule::TrimmedMean { trimmed: 1 },
        1006.0 / 1003.0,
    );
    let greedy = AggregateParams { trim: 0.5, ..params };
    let all = column(&[1.0; 6]);
    assert_eq!(
        aggregate(&updates(&all), Scope::All, &greedy),
        Err(AggregateError::Params { trimmed: 3, votes: 6 })
    );
}

#[test]
fn few_votes_count_only_if_they_are_audited() {
    let values = column(&[1.0, 3.0, 100.0]);
    let mut all = updates(&values);
    let params = AggregateParams::default();
    assert_eq!(aggregate(&all, Scope::All, &params), Err(AggregateError::NoneAudited { votes: 3 }));
    (all[0].sender.audited, all[1].sender.audited) = (true, true);
    let result = aggregate(&all, Scope::All, &params).unwrap();
    assert_eq!((result.rule, result.votes), (Rule::AuditedMean, 2));
    assert_eq!(result.shares[2].clip, 0.0, "who was not audited took no part");
    assert_eq!(result.shares[0].clip, 1.0);
    // Norms are sqrt(2) and sqrt(10); the second is clipped to the first.
    let expected = f64::midpoint(1.0, 3.0 * (2.0_f64 / 10.0).sqrt());
    assert!((f64::from(result.values[0]) - expected).abs() < 1e-6, "{:?}", result.values);
    // After an alarm the same holds of any number.
    let values = column(&[1.0; 9]);
    let mut all = updates(&values);
    assert_eq!(aggregate(&all, Scope::Audited, &params), Err(AggregateError::NoneAudited { votes: 9 }));
    for update in &mut all[..7] {
        update.sender.audited = true;
    }
    let result = aggregate(&all, Scope::Audited, &params).unwrap();
    assert_eq!((result.rule, result.votes), (Rule::TrimmedMean { trimmed: 1 }, 7));
}

#[test]
fn a_cluster_has_one_vote() {
    let mut rng = Rng(5);
    let mut all = honest(&mut rng);
    let good = all.clone();
    let against = scaled(&mean(&good), -1.5);
    all.extend(vec![against; 40]);
    let mut burst = updates(&all);
    let params = AggregateParams::default();
    let alone = damage(&aggregate(&burst, Scope::All, &params).unwrap().values, &good);
    for update in &mut burst[HONEST..] {
        update.sender.cluster = 99;
    }
    let result = aggregate(&burst, Scope::All, &params).unwrap();
    assert_eq!((result.votes, result.rule), (HONEST + 1, Rule::TrimmedMean { trimmed: 1 }));
    let clustered = damage(&result.values, &good);
    assert!(clustered < 0.3 && alone > 1.5, "{clustered} {alone}");
    // Clusters are told apart by number, not by when they came.
    let mut reversed = burst.clone();
    reversed.reverse();
    assert_eq!(aggregate(&reversed, Scope::All, &params).unwrap().values, result.values);
}

#[test]
fn norms_are_clipped_and_capped() {
    let values: Vec<Vec<f32>> = [1.0, 2.0, 3.0, 40.0, 1.5, 2.5].iter().map(|&x| vec![x, 0.0]).collect();
    let result = aggregate(&updates(&values), Scope::All, &AggregateParams::default()).unwrap();
    assert_eq!(result.median_norm, 2.0, "the lower one of two");
    let clips: Vec<f64> = result.shares.iter().map(|share| share.clip).collect();
    assert_eq!(clips, [1.0, 1.0, 2.0 / 3.0, 0.05, 1.0, 0.8]);
    assert_eq!(result.shares[3].norm, 40.0);
    // 1.5, 2, 2, 2 stay.
    assert_eq!((result.values[0], result.norm, result.cap), (1.875, 1.875, 1.0));
    let params = AggregateParams { norm_cap: 0.5, ..AggregateParams::default() };
    let capped = aggregate(&updates(&values), Scope::All, &params).unwrap();
    assert_eq!((capped.values[0], capped.norm), (0.5, 1.875));
}

#[test]
fn sparse_updates_are_averaged_over_who_sent_an_index() {
    let entries: [&[(u32, f32)]; 5] =
        [&[(0, 1.0), (7, 2.0)], &[(7, 4.0)], &[(3, -2.0)], &[(3, -2.0), (9, 1.0)], &[(7, 300.0)]];
    let mut all: Vec<SparseUpdate<'_>> = entries
        .iter()
        .zip(0..)
        .map(|(entries, cluster)| SparseUpdate { entries, sender: sender(cluster) })
        .collect();
    let params = AggregateParams::default();
    let result = aggregate_sparse(&all, 10, Scope::All, &params).unwrap();
    assert_eq!((result.rule, result.votes), (Rule::MeanPerIndex, 5));
    // The median norm is sqrt(5): 4 and 300 are clipped to it.
    let root = 5.0_f64.sqrt();
    assert!((result.median_norm - root).abs() < 1e-12);
    let expected = [1.0, 0.0, 0.0, -2.0, 0.0, 0.0, 0.0, (2.0 + 2.0 * root) / 3.0, 0.0, 1.0];
    for (found, expected) in result.values.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-6, "{:?}", result.values);
    }
    // The second and the last are one: at index 7 there are two votes.
    all[4].sender.cluster = 1;
    let result = aggregate_sparse(&all, 10, Scope::All, &params).unwrap();
    assert_eq!(result.votes, 4);
    assert!((f64::from(result.values[7]) - f64::midpoint(2.0, result.median_norm)).abs() < 1e-6);
    // Few are as few as with dense updates.
    assert_eq!(
        aggregate_sparse(&all[..3], 10, Scope::All, &params),
        Err(AggregateError::NoneAudited { votes: 3 })
    );
    all[0].sender.audited = true;
    let result = aggregate_sparse(&all[..3], 10, Scope::All, &params).unwrap();
    assert_eq!((result.rule, result.values[7], result.values[3]), (Rule::AuditedMean, 2.0, 0.0));
    // Indices out of order, repeated, beyond; a value that is not finite.
    for (wrong, expected) in [
        (&[(3, 1.0), (2, 1.0)][..], AggregateError::Index { update: 0, entry: 1 }),
        (&[(3, 1.0), (3, 1.0)], AggregateError::Index { update: 0, entry: 1 }),
        (&[(10, 1.0)], AggregateError::Index { update: 0, entry: 0 }),
        (&[(u32::MAX, 1.0)], AggregateError::Index { update: 0, entry: 0 }),
        (&[(2, f32::INFINITY)], AggregateError::NotFinite { update: 0, index: 2 }),
    ] {
        let update = SparseUpdate { entries: wrong, sender: sender(0) };
        assert_eq!(aggregate_sparse(&[update], 10, Scope::All, &params), Err(expected));
    }
}

#[test]
fn what_cannot_be_combined_is_named() {
    let params = AggregateParams::default();
    assert_eq!(aggregate(&[], Scope::All, &params), Err(AggregateError::NoUpdates));
    let mut values = vec![vec![1.0_f32; 3]; 6];
    values[4][2] = f32::NAN;
    assert_eq!(
        aggregate(&updates(&values), Scope::All, &params),
        Err(AggregateError::NotFinite { update: 4, index: 2 })
    );
    values[4] = vec![1.0; 2];
    let length = AggregateError::Length { update: 4, found: 2, expected: 3 };
    assert_eq!(aggregate(&updates(&values), Scope::All, &params), Err(length));
    values[4] = vec![1.0; 3];
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut all = updates(&values);
        all[5].sender.weight = weight;
        assert_eq!(aggregate(&all, Scope::All, &params), Err(AggregateError::Weight { update: 5 }));
    }
    let many = vec![Update { values: &[], sender: sender(0) }; 4097];
    assert_eq!(aggregate(&many, Scope::All, &params), Err(AggregateError::TooMany { found: 4097 }));
    // Zeros everywhere are no reason to divide by them.
    let zeros = vec![vec![0.0; 3]; 6];
    assert_eq!(aggregate(&updates(&zeros), Scope::All, &params).unwrap().values, [0.0; 3]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_many_as_are_trimmed_cannot_leave_the_honest_range(
        good in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 8), 5..12),
        bad in prop::collection::vec((prop::collection::vec(-1e30_f32..1e30, 8), 1e-3..1e9_f64), 1..3),
        turn in any::<prop::sample::Index>(),
    ) {
        let votes = good.len() + bad.len();
        let trimmed = (votes / 5).max(1);
        prop_assume!(votes >= 6 && bad.len() <= trimmed);
        let mut all = good.clone();
        all.extend(bad.iter().map(|bad| bad.0.clone()));
        let mut updates = updates(&all);
        for (update, bad) in updates[good.len()..].iter_mut().zip(&bad) {
            update.sender.weight = bad.1;
        }
        let result = aggregate(&updates, Scope::All, &AggregateParams::default()).unwrap();
        prop_assert_eq!(result.rule, Rule::TrimmedMean { trimmed });
        for (at, &value) in result.values.iter().enumerate() {
            let honest: Vec<f64> =
                good.iter().zip(&result.shares).map(|(values, share)| f64::from(values[at]) * share.clip).collect();
            let low = honest.iter().copied().fold(f64::INFINITY, f64::min);
            let high = honest.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(f64::from(value) >= low - 1e-7 && f64::from(value) <= high + 1e-7);
        }
        // The order in which they came does not matter.
        updates.rotate_left(turn.index(votes));
        let turned = aggregate(&updates, Scope::All, &AggregateParams::default()).unwrap();
        prop_assert_eq!(turned.values, result.values);
    }
}
