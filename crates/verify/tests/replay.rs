//! Replay comparison and the gate: what passes, what does not, and with which reason.
#![expect(clippy::float_cmp, reason = "these figures are exact by construction")]

mod common;

use common::Rng;
use potluck_verify::{
    Gate, GateAction, GateParams, ReplayError, ReplayReason, ReplayReport, ReplayVerdict, Tolerances, compare,
};
use std::ops::Range;

const PARAMETERS: usize = 1000;

fn tensors() -> Vec<Range<usize>> {
    vec![0..700, 700..990, 990..1000]
}

/// A replayed update whose last tensor is a hundredth of the others.
fn replayed() -> Vec<f32> {
    let mut values = Rng(1).signed_vec(PARAMETERS);
    for value in &mut values[990..] {
        *value *= 0.01;
    }
    values
}

fn noisy(values: &[f32], relative: f32) -> Vec<f32> {
    let noise = Rng(2).signed_vec(values.len());
    values.iter().zip(noise).map(|(x, n)| x + x * relative * n).collect()
}

fn judge(claimed: &[f32], claimed_losses: &[f32]) -> ReplayReport {
    compare(claimed, &replayed(), &tensors(), claimed_losses, &LOSSES, &Tolerances::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

const LOSSES: [f32; 3] = [2.5, 2.25, 2.0];

fn reason(report: &ReplayReport) -> ReplayReason {
    match report.verdict {
        ReplayVerdict::Refuted(reason) => reason,
        ReplayVerdict::Confirmed => panic!("confirmed: {report:?}"),
    }
}

#[test]
fn rounding_passes_and_coarser_arithmetic_does_not() {
    let exact = judge(&replayed(), &LOSSES);
    assert!(exact.confirmed());
    assert_eq!(
        (exact.whole, exact.tensors.as_slice(), exact.losses.as_slice()),
        (0.0, &[0.0; 3][..], &[0.0; 3][..])
    );
    for relative in [1e-5, 8e-5, 8e-4] {
        let report = judge(&noisy(&replayed(), relative), &LOSSES);
        assert!(report.confirmed(), "{relative}: {report:?}");
        assert!(report.whole > 0.0 && report.whole < f64::from(relative));
    }
    // As tf32 and bf16 were measured.
    for relative in [3e-3, 1e-2, 5e-2] {
        let report = judge(&noisy(&replayed(), relative), &LOSSES);
        assert!(matches!(reason(&report), ReplayReason::Whole { .. }), "{relative}");
    }
    // Other data; nothing; ten times as much; the opposite.
    for claimed in [Rng(9).signed_vec(PARAMETERS), vec![0.0; PARAMETERS]] {
        assert!(judge(&claimed, &LOSSES).whole > 0.9);
    }
    let scaled: Vec<f32> = replayed().iter().map(|x| 10.0 * x).collect();
    assert!((judge(&scaled, &LOSSES).whole - 9.0).abs() < 1e-6);
    let flipped: Vec<f32> = replayed().iter().map(|x| -x).collect();
    assert!((judge(&flipped, &LOSSES).whole - 2.0).abs() < 1e-6);
}

#[test]
fn a_small_tensor_cannot_hide_in_the_whole() {
    let mut claimed = replayed();
    for value in &mut claimed[990..] {
        *value *= 1.5;
    }
    let report = judge(&claimed, &LOSSES);
    assert!(report.whole < 1e-3, "{}", report.whole);
    assert!(matches!(reason(&report), ReplayReason::Tensor { tensor: 2, .. }));
    assert_eq!(report.worst_tensor().unwrap().0, 2);
    // But what is nothing beside the whole is rounding.
    let mut nothing = replayed();
    nothing[990..].fill(0.0);
    let mut noise = nothing.clone();
    noise[995] = 1e-5;
    let compare = |claimed: &[f32], floor| {
        let tolerances = Tolerances { tensor_floor: floor, ..Tolerances::default() };
        compare(claimed, &nothing, &tensors(), &[], &[], &tolerances).unwrap()
    };
    assert!(compare(&noise, 1e-3).confirmed());
    assert_eq!(compare(&noise, 0.0).tensors[2], f64::INFINITY);
    assert!(!compare(&noise, 0.0).confirmed());
    noise[995] = 1e-2;
    assert!(!compare(&noise, 1e-3).confirmed());
}

#[test]
fn losses_are_compared_step_by_step() {
    assert!(judge(&replayed(), &[2.5005, 2.25, 1.9995]).confirmed());
    let report = judge(&replayed(), &[2.5, 2.252, 2.0]);
    assert!(matches!(reason(&report), ReplayReason::Loss { step: 1, .. }));
    let report = judge(&replayed(), &[2.5, 2.25]);
    assert_eq!(reason(&report), ReplayReason::Steps { found: 2, expected: 3 });
    assert!(report.losses.is_empty());
    let report = judge(&replayed(), &[2.5, f32::NAN, 2.0]);
    assert!(matches!(reason(&report), ReplayReason::Loss { step: 1, .. }), "NaN never passes");
}

#[test]
fn nan_never_passes() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut claimed = replayed();
        claimed[17] = bad;
        let report = judge(&claimed, &LOSSES);
        assert_eq!(reason(&report), ReplayReason::NotFinite { index: 17 });
        assert!(!(report.whole <= 1e9 && report.tensors[0] <= 1e9));
        // The auditor's own failure is no verdict.
        let failed = compare(&replayed(), &claimed, &tensors(), &LOSSES, &LOSSES, &Tolerances::default());
        assert_eq!(failed, Err(ReplayError::NotFinite));
    }
    let broken = Tolerances { whole: f64::NAN, ..Tolerances::default() };
    assert!(!compare(&replayed(), &replayed(), &tensors(), &[], &[], &broken).unwrap().confirmed());
    assert!(judge(&[], &LOSSES).whole.is_nan());
    assert_eq!(reason(&judge(&[], &LOSSES)), ReplayReason::Length { found: 0, expected: PARAMETERS });
    // Steps that change nothing: only nothing is right.
    let zeros = vec![0.0; PARAMETERS];
    let of_zeros =
        |claimed: &[f32]| compare(claimed, &zeros, &tensors(), &[], &[], &Tolerances::default()).unwrap();
    assert!(of_zeros(&zeros).confirmed());
    assert!(!of_zeros(&replayed()).confirmed());
}

#[test]
fn a_layout_of_another_model_is_the_auditors_fault() {
    let beyond = compare(&[0.0; 4], &[0.0; 4], &[0..2, 2..5], &[], &[], &Tolerances::default());
    assert_eq!(beyond, Err(ReplayError::Tensor { tensor: 1, range: 2..5, parameters: 4 }));
    let backwards = Range { start: 3, end: 2 };
    assert!(compare(&[0.0; 4], &[0.0; 4], &[backwards], &[], &[], &Tolerances::default()).is_err());
}

#[test]
fn the_gate_keeps_aggregates_again_and_reverts() {
    let mut gate = Gate::new(4.0, GateParams::default()).unwrap();
    assert_eq!(gate.sigma(), 0.3);
    for round in 0..8 {
        // Falls by 0.1 and trembles by 0.01.
        let loss = 4.0 - 0.1 * f64::from(round + 1) + 0.01 * f64::from(round % 2);
        assert_eq!(gate.judge(loss), GateAction::Keep);
    }
    assert!(gate.sigma() > 0.005 && gate.sigma() < 0.02, "{}", gate.sigma());
    let (limit, sigma) = (gate.limit(), gate.sigma());
    assert!(limit < 3.21 + 0.06);
    // A rise within three deviations is noise, above it is an alarm; nothing is learned from what is not kept.
    assert_eq!(gate.judge(limit + 0.001), GateAction::AggregateAudited);
    assert!(gate.audited_only());
    assert_eq!((gate.limit(), gate.sigma()), (limit, sigma));
    assert_eq!(gate.judge(limit - 0.001), GateAction::Keep);
    assert!(!gate.audited_only());
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
        let before = gate.clone();
        assert_eq!(gate.judge(bad), GateAction::AggregateAudited);
        assert_eq!(gate.judge(bad), GateAction::Revert);
        assert_eq!(gate, before, "a round without a step leaves the gate as it was");
    }
    assert_eq!(gate.judge(9.0), GateAction::AggregateAudited);
    assert_eq!(gate.give_up(), GateAction::Revert);
    assert_eq!(gate.judge(gate.limit()), GateAction::Keep, "the next round starts with all again");
}

#[test]
fn the_gate_forgets_old_changes_and_follows_the_shard() {
    let params = GateParams { window: 6, ..GateParams::default() };
    let mut gate = Gate::new(5.0, params).unwrap();
    for loss in [4.0, 3.9, 3.0, 2.9, 2.0] {
        assert_eq!(gate.judge(loss), GateAction::Keep);
    }
    assert!(gate.sigma() > 0.3);
    for _ in 0..6 {
        assert_eq!(gate.judge(2.0), GateAction::Keep);
    }
    assert_eq!(gate.sigma(), 0.002, "a run that stands still has the least deviation");
    assert_eq!(gate.judge(2.1), GateAction::AggregateAudited);
    assert_eq!(gate.give_up(), GateAction::Revert);
    gate.rotate(2.1).unwrap();
    assert_eq!(gate.judge(2.1), GateAction::Keep);
    assert!(gate.rotate(f64::NAN).is_err());
    assert!(Gate::new(f64::INFINITY, params).is_err());
}
