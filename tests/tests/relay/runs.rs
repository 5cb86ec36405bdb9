//! A training run on a real relay: native volunteers train, every round can be repeated, the model is exported, and a
//! relay that is stopped in the middle goes on from the last closed round.

use potluck_cli::args::{RelayAddress, ReplayArgs};
use potluck_cli::client::Client;
use potluck_cli::runs::replay;
use potluck_cli::stop::Stop;
use potluck_proto::Preset;
use potluck_tests::runs::{SampleRun, done, record, rounds};
use potluck_tests::{TestRelay, Volunteer, wait_until};
use potluck_types::BlobHash;
use std::time::Duration;

const WORKERS: u32 = 4;
const ROUNDS: u64 = 6;
/// Time for rounds of four volunteers on two cores that have other things to do.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn volunteers_train_as_one_thread_would_and_each_round_can_be_repeated() {
    let sample = SampleRun::new(ROUNDS, [WORKERS; 2]);
    let mut relay = TestRelay::start();
    let (status, id) = sample.create(&relay.api, "one");
    assert_eq!(status, 201);
    assert_eq!(sample.create(&relay.api, "one"), (200, id.clone()), "a key names one run");
    let volunteers: Vec<_> =
        (1..=4).map(|name| Volunteer::start(&relay.api.url, name, Preset::Full)).collect();
    wait_until("two rounds", LIMIT, || rounds(&relay.api, &id) >= 2);

    // The relay is stopped, whatever the round does, and comes back on the same data.
    relay.restart();
    let info = done(&relay.api, &id, LIMIT);
    drop(volunteers);

    let history = info["history"].as_array().unwrap();
    assert_eq!(history.len() as u64, ROUNDS);
    let expected = sample.expected(|_| (0..WORKERS).map(|worker| (worker, 1.0)).collect());
    for (round, info) in history.iter().enumerate() {
        assert_eq!((&info["workers"], &info["rejected"]), (&WORKERS.into(), &0.into()), "{info}");
        let record = record(&relay.api, &id, round as u64);
        assert_eq!(record["next_parameters_hash"], *expected.hashes[round], "round {round}");
        // JSON may cost the last bit.
        let (loss, of_thread) = (info["validation_loss"].as_f64().unwrap(), expected.losses[round]);
        assert!((loss - of_thread).abs() < 1e-12, "round {round}: {loss}, {of_thread}");
        assert!(info["upload_bytes"].as_u64().unwrap() > 0);
        assert_eq!(info["tokens"], u64::from(WORKERS) * sample.worker_tokens());
    }
    let (first, last) = (expected.losses[0], expected.losses[ROUNDS as usize - 1]);
    assert!(last < first - 0.2, "{first} -> {last}");

    let parameters = relay.api.get(&format!("/api/v1/runs/{id}/rounds/{ROUNDS}/parameters")).body;
    assert_eq!(BlobHash::of(&parameters).to_string(), expected.hashes[ROUNDS as usize - 1]);
    assert_eq!(relay.api.get(&format!("/api/v1/runs/{id}/rounds/{ROUNDS}")).status, 404);
    assert_eq!(relay.api.get(&format!("/api/v1/runs/{id}/tokenizer")).body, sample.tokenizer().as_bytes());

    // Without the token: what a round was made of is for everybody.
    let client = Client::new(&relay.api.url, None, Stop::default()).unwrap();
    for round in [0, ROUNDS - 1] {
        let address = RelayAddress { relay: relay.api.url.clone() };
        let args = ReplayArgs { run: id.clone(), round, volunteer: None, json: true, relay: address };
        replay::command(&args, &client).unwrap();
    }
}
