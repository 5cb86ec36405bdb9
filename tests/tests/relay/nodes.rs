//! A relay of three nodes behind a balancer: whichever dies, stands still or is told to end, another one leads, and nobody who
//! works or asks has to do anything about it.

use super::faults::{Work, signal};
use super::operator::{LIMIT, Relay, potluck_with};
use super::store::{audited, goes_on, started};
use potluck_proto::Preset;
use potluck_tests::balancer::Balancer;
use potluck_tests::bucket::Bucket;
use potluck_tests::runs::{SampleRun, rounds};
use potluck_tests::{Api, Volunteer, copy_node, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A node that is told to end does so within this.
const END_LIMIT: Duration = Duration::from_secs(60);

/// What a node says about itself.
fn about(node: &Relay) -> Option<Value> {
    node.api.try_send("GET", "/node", &[], &[]).ok().map(|answer| answer.json())
}

/// Waits until one of these leads, and says which.
fn leader(nodes: &[Relay]) -> usize {
    let find = || {
        nodes.iter().position(|node| node.runs() && about(node).is_some_and(|said| said["role"] == "leading"))
    };
    wait_until("a node leads", LIMIT, || find().is_some());
    find().unwrap()
}

/// The folder of a node that was not there before.
fn joining(folder: &Path, name: &str) -> PathBuf {
    let data = folder.join(name);
    copy_node(&folder.join("0"), &data);
    data
}

#[test]
fn whichever_node_is_lost_another_one_leads_and_work_goes_on() {
    let Some(server) = started() else { return };
    let bucket = Bucket::start();
    let folder = tempfile::tempdir().unwrap();
    let shared = [("POTLUCK_STORE", server.last_url()), ("POTLUCK_BLOBS", Bucket::place("nodes"))];
    let environment: Vec<_> = shared.into_iter().chain(bucket.environment()).collect();
    let first = Relay::node(&folder.path().join("0"), &environment);
    assert_eq!(leader(std::slice::from_ref(&first)), 0);
    let more = ["1", "2"].map(|name| Relay::node(&joining(folder.path(), name), &environment));
    let mut nodes: Vec<Relay> = [first].into_iter().chain(more).collect();
    let token = fs::read_to_string(folder.path().join("0/token")).unwrap();
    let balancer = Balancer::start(([127, 0, 0, 1], 0).into(), nodes.iter().map(Relay::address));
    let api = Api::new(&balancer.url(), &token);

    // A node of somebody else's is refused, and told what it lacks.
    let other = folder.path().join("other");
    let line = [
        "relay",
        "--data",
        other.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--node",
        "http://127.0.0.1:1",
    ];
    let refused = potluck_with(&line, &environment);
    assert!(refused.code != 0 && refused.errors.contains("copy relay.key"), "{refused:?}");
    assert!(!other.join("relay.key").exists(), "nothing was made up");

    let sample = SampleRun::new(16, [1, 2]);
    let (_, run) = sample.create(&api, "on three nodes");
    let trainer = Volunteer::start(&api.url, 2, Preset::Quiet);
    wait_until("a round is closed", LIMIT, || rounds(&api, &run) >= 1);

    // Killed.
    let (work, led) = (Work::begin(&api, 41), leader(&nodes));
    let then = work.accepted(&api);
    nodes[led].kill();
    let leads = leader(&nodes);
    assert_ne!(leads, led);
    nodes[led].again();
    work.end(&api, then);
    wait_until("it follows", LIMIT, || about(&nodes[led]).unwrap()["role"] == "following");

    // Stands still: whoever holds its connections waits, until its lock is taken from it.
    let work = Work::begin(&api, 42);
    let then = work.accepted(&api);
    signal(&nodes[leads], Signal::STOP);
    let others: Vec<usize> = (0..nodes.len()).filter(|at| *at != leads).collect();
    let next = || others.iter().find(|at| about(&nodes[**at]).unwrap()["role"] == "leading").copied();
    wait_until("another node leads", LIMIT, || next().is_some());
    let next = next().unwrap();
    work.end(&api, then);
    signal(&nodes[leads], Signal::CONT);
    wait_until("it follows", LIMIT, || about(&nodes[leads]).is_some_and(|said| said["role"] == "following"));

    // Told to end.
    let work = Work::begin(&api, 43);
    let then = work.accepted(&api);
    signal(&nodes[next], Signal::TERM);
    nodes[next].process().succeeds(END_LIMIT);
    nodes[next].kill();
    assert_ne!(leader(&nodes), next);
    nodes[next].again();
    work.end(&api, then);

    // What came in by one node the others have: a lost folder costs nothing but a copy of the key.
    let leads = leader(&nodes);
    let closed = rounds(&api, &run);
    nodes[leads].kill();
    fs::remove_dir_all(folder.path().join(leads.to_string())).unwrap();
    leader(&nodes);
    assert!(rounds(&api, &run) >= closed, "what was closed is lost");
    drop(trainer);
    goes_on(&api, &run);
    audited(&api, &folder.path().join("seen"));
    // Whichever leads can be backed up, also what others took in.
    let data = folder.path().join(leader(&nodes).to_string());
    let (data, backups) = (data.to_str().unwrap(), folder.path().join("backups"));
    let line =
        ["relay", "backup", "--data", data, "--to", backups.to_str().unwrap(), "--with-keys", "--json"];
    let made = potluck_with(&line, &environment);
    assert_eq!(made.code, 0, "{made:?}");
    let back = folder.path().join("back");
    let line =
        ["relay", "restore", "--from", backups.to_str().unwrap(), "--data", back.to_str().unwrap(), "--json"];
    let restored = potluck_with(&line, &environment);
    assert_eq!(restored.code, 0, "{restored:?}");
    for (name, node) in nodes.iter().enumerate().filter(|(_, node)| node.runs()) {
        let data = folder.path().join(name.to_string());
        let line = ["relay", "doctor", "--data", data.to_str().unwrap(), "--relay", &node.api.url, "--json"];
        let found = potluck_with(&line, &environment).json;
        // Of a relay on its usual port it knows nothing.
        let wrong = |one: &&Value| one["level"] == "wrong" && one["what"] != "relay";
        assert_eq!(found["findings"].as_array().unwrap().iter().find(wrong), None, "{found}");
    }
    let passed = |node: &Relay| about(node).unwrap()["passed"].as_u64().unwrap();
    assert!(nodes.iter().filter(|node| node.runs()).any(|node| passed(node) > 0), "followers hand on");
}
