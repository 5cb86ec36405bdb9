//! Training by rounds holds what it promises: near the synchronous run, better than alone, replay told apart from cheats.

use potluck_tests::train::attack::Attack;
use potluck_tests::train::{Corpus, Method, Plan, attack, drift, run_all};
use potluck_train::codec::Codec;

/// No bar: the test harness shows what fails.
fn quiet(_: u64) {}

#[test]
fn codec_r_is_near_synchronous_and_better_than_alone() {
    let corpus = Corpus::fetched().unwrap();
    let ours = Plan::tiny(&corpus, 1);
    let synchronous = Plan { name: "synchronous", method: Method::Synchronous, ..ours };
    let alone = Plan { name: "alone", method: Method::Alone, ..ours };
    let outcomes = run_all(&[ours, synchronous, alone], &corpus, &quiet).unwrap();
    let [ours, synchronous, alone] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    let figures = format!("{}: ours {ours:?}, synchronous {synchronous:?}, alone {alone:?}", corpus.name);
    assert_eq!(ours.tokens, synchronous.tokens, "{figures}");
    assert!(ours.loss - synchronous.loss <= 0.06, "{figures}");
    assert!(alone.loss - ours.loss >= 0.12, "{figures}");
    // What was counted are the lengths that the codecs say.
    let parameters = synchronous.up as usize / 600 / 4;
    assert_eq!(ours.up, 60 * Codec::Int4.encoded_len(parameters) as u64, "{figures}");
    let down = Codec::F16.encoded_len(parameters) + 60 * Codec::Int8.encoded_len(parameters);
    assert_eq!(ours.down, down as u64, "{figures}");
}

#[test]
fn replay_confirms_honest_work_and_refutes_cheats() {
    let corpus = Corpus::fetched().unwrap();
    let mut stage = drift::Stage::new(&corpus).unwrap();
    for drift in drift::measure(&mut stage, 5).unwrap() {
        let expected = if drift.honest { drift.samples } else { 0 };
        assert_eq!(drift.confirmed, expected, "{drift:?}");
    }
}

#[test]
fn cheats_are_found_before_they_do_harm() {
    let corpus = Corpus::fetched().unwrap();
    let attacks = [Attack::SignFlip, Attack::Copy, Attack::Bf16Update, Attack::Backdoor(10.0 / 3.0)];
    let (clean, damages) = attack::play(&corpus, &attacks, 4, 1, &quiet).unwrap();
    assert!(clean < 3.0, "{clean}");
    for damage in damages {
        assert!(damage.found > 0, "{damage:?}");
        assert!(damage.harm[0].loss <= 0.02, "{damage:?}");
        assert!(damage.harm[0].backdoor <= 0.03, "{damage:?}");
    }
}
