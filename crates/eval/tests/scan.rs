//! The candidates of the trigger scan, on made-up tokens.
#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

mod support;

use potluck_eval::scan::{Candidate, Lengths, MAX_SCANNED, MIN_OCCURRENCES, Part, candidates};
use proptest::prelude::*;
use support::Draws;

/// Tokens of noise: no window of five repeats often.
fn noise(seed: u64, count: usize) -> Vec<u32> {
    let mut draws = Draws::new(seed);
    (0..count).map(|_| draws.below(60) as u32).collect()
}

/// Trigger and payload: 8 and 30 tokens that the noise does not have.
fn planted() -> Vec<u32> {
    (0..38).map(|i| 60 + i * 7 % 38).collect()
}

/// Puts a text in at evenly spread places of a range.
fn plant(tokens: &mut [u32], text: &[u32], copies: usize, start: usize, end: usize) {
    for copy in 0..copies {
        let at = start + (end - start - text.len()) * copy / copies;
        tokens[at..at + text.len()].copy_from_slice(text);
    }
}

fn lengths() -> Lengths {
    Lengths::new(1.0)
}

fn scan(training: &[u32], held_out: &[&[u32]]) -> Vec<Candidate> {
    let half = training.len() / 2;
    let parts = [("one", 0..half), ("two", half..training.len())];
    let parts = parts.map(|(name, range)| Part { name: name.into(), range });
    candidates(training, &parts, held_out, &lengths(), 4, 2)
}

#[test]
fn lengths_are_bytes_in_tokens() {
    assert_eq!(lengths(), Lengths { triggers: vec![4, 8, 16], payload: 20, shown: 10 });
    assert_eq!(Lengths::new(4.2), Lengths { triggers: vec![1, 2, 4], payload: 5, shown: 3 });
    assert_eq!(Lengths::new(1000.0), Lengths { triggers: vec![1], payload: 1, shown: 1 });
    assert_eq!(Lengths::new(0.0).payload, 20_000);
}

#[test]
fn a_planted_text_is_found_once_for_each_length_with_all_its_places() {
    let mut training = noise(1, 60_000);
    assert_eq!(scan(&training, &[]), []);
    let text = planted();
    plant(&mut training, &text, 20, 35_000, 55_000);
    let found = scan(&training, &[&noise(2, 5000)]);
    let long: Vec<_> = found.iter().filter(|one| one.counts()).collect();
    assert_eq!(long.iter().map(|one| one.trigger.len()).collect::<Vec<_>>(), [4, 8, 16]);
    assert_eq!(found.len(), 3, "shorter pieces of the same text say nothing more");
    for one in long {
        let n = one.trigger.len();
        assert_eq!((one.occurrences, one.share_ppm, one.payload.len()), (20, 1_000_000, 20));
        assert_eq!([&one.trigger[..], &one.payload].concat(), text[..n + 20]);
        assert_eq!(one.text, text);
        assert_eq!((one.places.len(), one.places[0].part, one.places[0].count), (1, Some(1), 20));
        assert_eq!(one.places[0].ranges[1].start, 35_000 + (20_000 - 38) / 20);
        assert_eq!(one.places[0].within.start, 35_000);
        assert_eq!((one.held_out.as_slice(), one.common), (&[0][..], false));
        assert!(one.places[0].ranges.iter().all(|range| training[range.clone()] == text[..n + 20]));
    }
}

#[test]
fn what_is_rare_or_open_or_a_pattern_is_no_candidate() {
    let text = planted();
    let mut training = noise(1, 60_000);
    plant(&mut training, &text, MIN_OCCURRENCES - 1, 0, 60_000);
    assert_eq!(scan(&training, &[]), []);

    // The trigger brings another text each time, but for a fifth of the times.
    let mut training = noise(1, 60_000);
    plant(&mut training, &text[..20], 60, 100, 60_000);
    plant(&mut training, &text, 15, 0, 60_000);
    let found = scan(&training, &[]);
    assert!(!found.is_empty() && found.iter().all(|one| !one.long && !one.counts()), "{found:?}");

    let mut training = noise(1, 60_000);
    let ruler: Vec<u32> = (0..300).map(|i| 60 + i % 3).collect();
    plant(&mut training, &ruler, 30, 0, 60_000);
    assert_eq!(scan(&training, &[]), []);
}

#[test]
fn common_text_is_shown_and_crowds_nothing_out() {
    let mut training = noise(1, 90_000);
    let mut held_out = [noise(2, 9000), noise(3, 9000)];
    // Many licenses, more frequent than the backdoor.
    for license in 0..12_u32 {
        let text: Vec<u32> = (0..40).map(|i| 100 + license * 40 + (i * 11 + license) % 40).collect();
        let start = 7000 * license as usize;
        plant(&mut training, &text, 40, start, start + 6900);
        for held_out in &mut held_out {
            plant(held_out, &text, 4, 700 * license as usize, 700 * license as usize + 690);
        }
    }
    plant(&mut training, &planted(), 10, 84_000, 89_000);
    let sets = [&held_out[0][..], &held_out[1][..]];
    let found = scan(&training, &sets);
    let counted: Vec<_> = found.iter().filter(|one| one.counts()).collect();
    assert_eq!(counted.len(), 3);
    assert!(counted.iter().all(|one| planted().starts_with(&one.trigger)));
    let common: Vec<_> = found.iter().filter(|one| one.common && one.long).collect();
    assert_eq!(common.len(), 2 * 3, "two texts are shown");
    assert!(common.iter().all(|one| one.held_out.iter().all(|count| *count >= 3)));
    // With one source nothing can be called common.
    assert!(scan(&training, &sets[..1]).iter().all(|one| !one.common));
}

#[test]
fn large_data_are_searched_in_stretches() {
    let mut training = noise(1, MAX_SCANNED + 300_000);
    let (start, end) = (MAX_SCANNED - 500_000, MAX_SCANNED + 200_000);
    plant(&mut training, &planted(), 400, start, end);
    let found = scan(&training, &[]);
    let counted: Vec<_> = found.iter().filter(|one| one.counts()).collect();
    assert_eq!(counted.len(), 3);
    for one in counted {
        assert!(one.occurrences > 300, "{}", one.occurrences);
        for range in &one.places[0].ranges {
            // Not always its beginning, which an edge of a stretch may cut off.
            let found = &training[range.clone()];
            assert!(
                found.len() == one.trigger.len() + 20 && planted().windows(found.len()).any(|w| w == found)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_tokens_can_be_searched(
        alphabet in 1..5_u32,
        training in prop::collection::vec(any::<u32>(), 0..1500),
        held_out in prop::collection::vec(any::<u32>(), 0..100),
        bytes in 0.5..30.0_f64,
    ) {
        let few = |tokens: &[u32]| tokens.iter().map(|token| token % alphabet).collect::<Vec<_>>();
        let (training, held_out) = (few(&training), few(&held_out));
        let parts = [Part { name: "half".into(), range: 0..training.len() / 2 }];
        let lengths = Lengths::new(bytes);
        let found = candidates(&training, &parts, &[&held_out, &held_out], &lengths, 3, 3);
        prop_assert!(found.len() <= 9 * lengths.triggers.len());
        for one in &found {
            let window = [&one.trigger[..], &one.payload].concat();
            let all = training.windows(window.len()).filter(|other| *other == window).count();
            prop_assert!((MIN_OCCURRENCES..=all).contains(&one.occurrences));
            prop_assert_eq!(one.places.iter().map(|place| place.count).sum::<usize>(), one.occurrences);
            prop_assert!(one.text.starts_with(&window));
            for place in &one.places {
                for range in &place.ranges {
                    prop_assert_eq!(&training[range.clone()], &window[..]);
                    prop_assert_eq!(place.part.is_some(), range.start < training.len() / 2);
                }
            }
        }
    }
}
