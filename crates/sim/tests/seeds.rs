//! Seeds hold every invariant, the same seed is the same run, and planted bugs are caught.

use potluck_schedule::PlantedBug;
use potluck_sim::{Options, run};

/// Seeds of this test; `cargo xtask sim --seeds 2000` runs more.
const SEEDS: u64 = 300;
/// A planted bug must show within this many seeds.
const CAUGHT_WITHIN: u64 = 200;

#[test]
fn every_invariant_holds() {
    let violations: Vec<_> = (0..SEEDS).filter_map(|seed| run(seed, Options::default()).err()).collect();
    assert!(
        violations.is_empty(),
        "{} of {SEEDS} seeds fail; the first:\n{}",
        violations.len(),
        violations[0]
    );
}

#[test]
fn the_seeds_reach_what_they_are_meant_to_test() {
    let outcomes: Vec<_> = (0..SEEDS).filter_map(|seed| run(seed, Options::default()).ok()).collect();
    let sum = |of: fn(&potluck_sim::RunOutcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    assert!(sum(|o| o.leases) > 10 * SEEDS);
    assert!(sum(|o| o.rejected) > SEEDS / 5);
    assert!(sum(|o| o.late_commits) > SEEDS / 5);
    assert!(sum(|o| o.impostors) > SEEDS / 20);
    assert!(sum(|o| o.crashes) > SEEDS / 2);
    assert!(sum(|o| o.rounds) > SEEDS);
    assert!(sum(|o| o.updates) > SEEDS);
    assert!(sum(|o| o.settled) > SEEDS / 4);
    assert!(sum(|o| o.refuted) > SEEDS / 20);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, Options::default()), run(seed, Options::default()));
    }
    let traces: Vec<_> =
        (0..20).filter_map(|seed| run(seed, Options::default()).ok()).map(|o| o.trace).collect();
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]), "different seeds are different runs");
}

/// The bug shows as what it is, within so many seeds, and the same seed is clean without it.
fn caught(name: &str, configure: fn(&mut potluck_schedule::Config), says: &[&str]) {
    let options = Options { configure, ..Options::default() };
    let tells = |what: &str| says.iter().any(|word| what.contains(word));
    let mut found =
        (0..CAUGHT_WITHIN).filter_map(|seed| run(seed, options).err()).inspect(|v| println!("{name}: {v}"));
    let violation = found.find(|violation| tells(&violation.what));
    let violation = violation.unwrap_or_else(|| panic!("{name} is not caught within {CAUGHT_WITHIN} seeds"));
    println!("{name} is caught after {} seeds", violation.seed + 1);
    assert!(run(violation.seed, Options::default()).is_ok(), "the same seed is clean without the bug");
}

#[test]
fn a_late_fence_that_is_accepted_is_caught() {
    caught("AcceptLateFence", |config| config.planted = Some(PlantedBug::AcceptLateFence), &["late fence"]);
}

#[test]
fn an_ignored_consent_is_caught() {
    caught(
        "IgnoreConsentExpiry",
        |config| config.planted = Some(PlantedBug::IgnoreConsentExpiry),
        &["without consent"],
    );
}

#[test]
fn a_forgotten_lease_is_caught() {
    caught(
        "ForgetRelease",
        |config| config.planted = Some(PlantedBug::ForgetRelease),
        &["no progress", "still holds"],
    );
}

#[test]
fn a_second_acceptance_is_caught() {
    caught("AcceptTwice", |config| config.planted = Some(PlantedBug::AcceptTwice), &["accepted twice"]);
}

#[test]
fn an_update_that_counts_unchecked_is_caught() {
    caught(
        "CountUnchecked",
        |config| config.planted = Some(PlantedBug::CountUnchecked),
        &["an unchecked update counts"],
    );
}

#[test]
fn a_name_that_is_believed_unproven_is_caught() {
    caught("BelieveNames", |config| config.planted = Some(PlantedBug::BelieveNames), &["false name"]);
}

#[test]
fn a_draw_before_the_last_commit_is_caught() {
    caught(
        "DrawEarly",
        |config| config.planted = Some(PlantedBug::DrawEarly),
        &["before all commits are in"],
    );
}

#[test]
fn answers_that_are_compared_with_none_are_caught() {
    caught(
        "SettleAlone",
        |config| config.planted = Some(PlantedBug::SettleAlone),
        &["is settled from 1 answers"],
    );
}

#[test]
fn a_volunteer_that_is_compared_with_itself_is_caught() {
    caught("AskTwice", |config| config.planted = Some(PlantedBug::AskTwice), &["asked twice"]);
}
