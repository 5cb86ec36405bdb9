//! A tab whose relay is destroyed goes to the mirror that people appointed, by itself, and the run goes on there from its last
//! closed round.

use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::{Browser, LaunchOptions};
use potluck_cli::tabs::{Lending, lend};
use potluck_proto::Preset;
use potluck_tests::council::Council;
use potluck_tests::process::Process;
use potluck_tests::promotion::rules;
use potluck_tests::runs::{SampleRun, done, record, rounds};
use potluck_tests::screen::{Extent, Looker};
use potluck_tests::{Api, Volunteer, alone, has_page, wait_until};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const ROUNDS: u64 = 4;
/// Time for anything here on two cores that have other things to do.
const LIMIT: Duration = Duration::from_secs(240);
/// Time to discuss anything, in milliseconds.
const DISCUSSION_MS: u64 = 4_000;
const COMMAND: &str = env!("CARGO_BIN_EXE_command");

/// A relay as a process of its own: it, its API and its key.
fn relay(data: &Path, mirrors: Option<&str>) -> (Process, Api, String) {
    let mut command = Command::new(COMMAND);
    command.arg("relay");
    if let Some(of) = mirrors {
        command.args(["mirror", of, "--every", "200ms", "--alone-after", "2s"]);
    }
    command.args(["--json", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    let process = Process::start("a relay", &mut command);
    let ready = process.wait_for(LIMIT, |line| serde_json::from_str::<Value>(line).ok());
    let token = std::fs::read_to_string(data.join("token")).unwrap();
    let text = |field: &str| ready[field].as_str().unwrap().to_owned();
    (process, Api::new(&text("address"), &token), text("key"))
}

fn stage(mirror: &Api) -> Value {
    let answer = mirror.try_send("GET", "/api/v1/mirrors", &[], &[]);
    answer.map_or(Value::Null, |answer| answer.json()["stage"].clone())
}

#[test]
fn a_tab_goes_to_the_relay_that_people_appointed_and_the_run_goes_on() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (process, first, _) = relay(&folder.path().join("first"), None);
    if !has_page(&first) {
        return;
    }
    let mut council = Council::new(COMMAND, &first);
    council.found(&rules(DISCUSSION_MS));
    let (_second_process, second, key) = relay(&folder.path().join("second"), Some(&first.url));
    let line = json!({ "name": "Greta’s mirror", "url": second.url, "key": key });
    let file = council.document("mirrors.json", &json!({ "mirrors": [line] }));
    let proposal = council.propose(&["mirrors", "--file", &file]);
    council.passed(&proposal);
    council.ask(&["enact", &proposal]).expect("the list is in force");
    let sample = SampleRun::new(ROUNDS, [2; 2]);
    let (_, run) = sample.create(&first, "one");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (browser, tab) = runtime.block_on(async {
        let browser = Browser::launch(&LaunchOptions::default()).await.unwrap();
        let tab = browser.new_tab().await.unwrap();
        Looker::prepare(&tab).await;
        let lending =
            Lending { relay: first.url.clone(), backend: TabBackend::Wasm, preset: PresetArg::Full };
        lend(&tab, &lending).await.unwrap();
        (browser, tab)
    });
    let helper = Volunteer::start(&first.url, 1, Preset::Full);
    let mirrored = || second.get(&format!("/api/v1/runs/{run}")).status == 200;
    wait_until("a round is mirrored", LIMIT, || mirrored() && rounds(&second, &run) >= 1);
    // A round takes two: none is closed until another comes.
    drop(helper);
    drop(process);
    std::fs::remove_dir_all(folder.path().join("first")).unwrap();
    let closed = rounds(&second, &run);
    assert!(closed < ROUNDS, "the run was done before its relay was gone");
    wait_until("people may speak there", LIMIT, || stage(&second) == "draft");
    council.api = second.clone();
    let proposal = council.propose(&["succession", "Greta’s mirror"]);
    council.passed(&proposal);
    wait_until("it leads", LIMIT, || stage(&second) == "leading");

    runtime.block_on(async {
        let there = format!("document.body.dataset.relay === {:?}", second.url);
        let arrived = tab.wait_for(&there, LIMIT).await;
        assert!(arrived.is_ok(), "{arrived:?}: {:#?}", tab.console());
        let mut looker = Looker::new();
        looker.look(&tab, "moved", Extent::Page).await;
        assert!(looker.findings.is_empty(), "{:#?}", looker.findings);
        let text: String = tab.evaluate("document.getElementById('moved').innerText").await.unwrap();
        assert!(text.contains("Greta’s mirror") && text.contains(&second.url), "{text}");
    });
    let helper = Volunteer::start(&second.url, 2, Preset::Full);
    done(&second, &run, LIMIT);
    drop(helper);
    for round in 1..ROUNDS {
        let [before, after] = [round - 1, round].map(|round| record(&second, &run, round));
        assert_eq!(before["next_parameters_hash"], after["parameters_hash"], "round {round}");
        assert!(
            after["updates"].as_array().unwrap().iter().any(|update| update["backend"] == "wasm"),
            "{after}"
        );
    }
    let remember = folder.path().join("remember");
    let audit =
        Command::new(COMMAND).args(["audit", &second.url, "--remember"]).arg(remember).output().unwrap();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stderr));
    runtime.block_on(async {
        tab.close().await.unwrap();
        browser.close().await;
    });
}
