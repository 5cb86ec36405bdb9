//! The relay is killed in the middle of a training run, at random moments, and everybody goes on: no closed round is
//! lost or changed, each starts where the one before ended, and each can be replayed.

use super::processes::{Guarded, POLL, Random, Relay, START_LIMIT};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often the relay is killed.
const KILLS: usize = 8;
const ROUNDS: u64 = 16;
/// Time for the volunteers to come back and complete a round.
const PROGRESS_LIMIT: Duration = Duration::from_secs(90);
/// Time for the rounds after the last kill.
const END_LIMIT: Duration = Duration::from_secs(240);
/// A round takes about so long.
const ROUND_MILLIS: u64 = 1200;

/// Text with something to learn in it.
fn corpus(random: &mut Random) -> String {
    let words = ["soup ", "bread ", "a pot of beans ", "salt ", "more wine ", "and ", "figs\n"];
    (0..12_000).map(|_| words[random.next() as usize % words.len()]).collect()
}

/// Everything that the relay says of its closed rounds: round, and the record as text.
fn closed(relay: &Relay, id: &str) -> Option<BTreeMap<u64, String>> {
    let run = relay.get(&format!("/api/v1/runs/{id}"))?;
    let rounds = run["round"].as_u64()?;
    let record = |round| {
        let record = relay.get(&format!("/api/v1/runs/{id}/rounds/{round}"))?;
        Some((round, format!("{} {record}", run["history"][round as usize])))
    };
    (0..rounds).map(record).collect()
}

#[test]
fn eight_kills_lose_no_closed_round() {
    let mut random = Random::seeded();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("corpus.txt"), corpus(&mut random)).unwrap();
    let run = format!(
        "corpus = \"corpus.txt\"\nrounds = {ROUNDS}\nsteps = 8\nvolunteers = 2\nlearning-rate.peak = 0.001\n\
         learning-rate.warmup = 8\naudit.start = 1.0\naudit.least = 1.0\n"
    );
    std::fs::write(path("run.toml"), run).unwrap();

    let mut relay = Relay::new(folder.path());
    relay.start();
    relay.wait("the relay answers", START_LIMIT, |relay| relay.get("/healthz"));
    let url = relay.url();
    let keys = [1, 2].map(|number| path(&format!("volunteer{number}.key")));
    let mut volunteers: Vec<_> = keys
        .iter()
        .map(|key| {
            let key = key.to_str().unwrap();
            let args = ["volunteer", "--backend", "cpu", "--relay", &url, "--preset", "full", "--key", key];
            Guarded::start(&args, &[], &path("volunteer.log"))
        })
        .collect();
    let (token, run) = (path("data/token"), path("run.toml"));
    let [token, run] = [&token, &run].map(|path| path.to_str().unwrap());
    let submit = ["submit", "train", run, "--watch", "--json", "--relay", &url, "--token-file", token];
    let mut watcher = Guarded::start(&submit, &[], &path("submit.log"));
    let id = relay.wait("the run is there", START_LIMIT, |relay| {
        Some(relay.get("/api/v1/runs")?[0]["id"].as_str()?.to_owned())
    });

    let mut before = BTreeMap::new();
    for kill in 1..=KILLS {
        // Some hit a relay that just starts; the others one that closed a round since the last kill.
        let early = kill > 1 && random.next() % 10 < 3;
        if !early {
            before = relay.wait("a round is closed", PROGRESS_LIMIT, |relay| {
                closed(relay, &id).filter(|now| now.len() > before.len())
            });
        }
        std::thread::sleep(random.millis(if early { 250 } else { ROUND_MILLIS }));
        let phase = if early { Value::Null } else { relay.get(&format!("/api/v1/runs/{id}")).unwrap() };
        if let Some(now) = closed(&relay, &id) {
            before = now;
        }
        relay.kill();
        println!("kill {kill}: after {} rounds, {} {}", before.len(), phase["state"], phase["phase"]);
        assert!((before.len() as u64) < ROUNDS, "the run ended before kill {kill}: it is too short");
        assert_eq!(watcher.ended(), None, "who watches gave up");
        assert!(volunteers.iter_mut().all(|volunteer| volunteer.ended().is_none()), "a volunteer gave up");
        relay.start();
        let now = relay.wait("the relay answers", START_LIMIT, |relay| closed(relay, &id));
        for (round, record) in &before {
            assert_eq!(now.get(round), Some(record), "round {round} after kill {kill}");
        }
    }

    let done = relay.wait("the run is done", END_LIMIT, |relay| {
        relay.get(&format!("/api/v1/runs/{id}")).filter(|run| run["state"] == "done")
    });
    let history = done["history"].as_array().unwrap();
    assert_eq!(history.len() as u64, ROUNDS);
    let loss = |round: &Value| round["validation_loss"].as_f64().unwrap();
    let (first, last) = (loss(&history[0]), loss(&history[history.len() - 1]));
    assert!(last < first - 0.5, "{first} to {last}");
    assert_eq!(relay.get("/healthz").unwrap()["incarnation"].as_u64(), Some(KILLS as u64 + 1));

    let mut next = None;
    for round in 0..ROUNDS {
        let record = relay.get(&format!("/api/v1/runs/{id}/rounds/{round}")).unwrap();
        let starts = record["parameters_hash"].as_str().unwrap().to_owned();
        assert!(next.is_none_or(|ended| ended == starts), "round {round} starts where the one before ended");
        next = Some(record["next_parameters_hash"].as_str().unwrap().to_owned());
        assert!(record["updates"].as_array().unwrap().iter().all(|update| update["verdict"] == "accepted"));
    }
    for round in [0, ROUNDS / 2, ROUNDS - 1] {
        let (number, log) = (round.to_string(), path(&format!("replay{round}.log")));
        let args = ["replay", &id, "--round", &number, "--json", "--relay", &url];
        let mut replay = Guarded::start(&args, &[], &log);
        let started = Instant::now();
        let status = loop {
            if let Some(status) = replay.ended() {
                break status;
            }
            assert!(started.elapsed() < PROGRESS_LIMIT, "the replay does not end");
            std::thread::sleep(POLL);
        };
        assert!(status.success(), "{status}: {}", std::fs::read_to_string(&log).unwrap());
    }
    let started = Instant::now();
    while watcher.ended().is_none() {
        assert!(started.elapsed() < PROGRESS_LIMIT, "who watches is not told that the run is done");
        std::thread::sleep(POLL);
    }
    assert!(watcher.ended().unwrap().success(), "{}", std::fs::read_to_string(path("submit.log")).unwrap());
}
