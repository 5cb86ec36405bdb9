//! A backdoor that comes in with a source, or with a volunteer's updates, works; after quarantine and rebuild it does not.

use potluck_tests::train::Corpus;
use potluck_tests::train::poison::{Defence, Poisoning, Way};

#[test]
fn explore() {
    let corpus = Corpus::fetched().unwrap();
    let get = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let way = if get("WAY", 0) == 0 { Way::Source } else { Way::Volunteer };
    let defence = if get("MEAN", 0) == 0 { Defence::Usual } else { Defence::MeanOfTwo };
    for seed in 1..=get("SEEDS", 1) {
        let poisoning =
            Poisoning { way, defence, workers: get("WORKERS", 3) as u32, rounds: get("ROUNDS", 20), seed };
        let begun = std::time::Instant::now();
        let done = poisoning.play(&corpus, &|_| {}).unwrap();
        println!(
            "{poisoning:?}\n start {:?}\n before {:?}\n after {:?}\n updates {:?} refuted {} {:?}",
            done.start,
            done.before,
            done.after,
            done.updates,
            done.refuted,
            begun.elapsed()
        );
    }
}
