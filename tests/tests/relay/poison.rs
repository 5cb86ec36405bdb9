//! A backdoor that comes in with a source works and is found by the trigger scan, which names the source; the model that is
//! made again without it has no backdoor, and loses nothing else.

use potluck_tests::train::Corpus;
use potluck_tests::train::poison::{Defence, Poisoning, ROUNDS, SOURCE_NAME, Way};

#[test]
fn a_poisoned_source_is_found_and_the_rebuilt_model_is_clean() {
    let corpus = Corpus::fetched().unwrap();
    let poisoning =
        Poisoning { way: Way::Source, defence: Defence::Usual, workers: 3, rounds: ROUNDS, seed: 1 };
    let done = poisoning.play(&corpus, &|_| {}).unwrap();
    println!("{done:?}");
    assert!(done.start.success <= 0.0, "nothing was planted yet");
    // Honest work on poisoned data: no replay helps.
    assert_eq!(done.refuted, 0);
    assert!(done.before.figures.success >= 0.9, "{:?}", done.before);
    assert!(done.before.scan.success >= 0.5, "{:?}", done.before);
    assert_eq!(done.before.scan.part.as_deref(), Some(SOURCE_NAME));
    let [updates, left_out] = done.updates;
    assert!(0 < left_out && left_out < updates, "{:?}", done.updates);
    for rebuilt in [&done.again, &done.logged] {
        assert!(rebuilt.figures.success <= 0.0, "{rebuilt:?}");
        assert_eq!((rebuilt.scan.success, &rebuilt.scan.part), (0.0, &None), "{rebuilt:?}");
    }
    let rise = done.again.figures.loss - done.before.figures.loss;
    assert!(rise < 0.1, "{rise}");
}
