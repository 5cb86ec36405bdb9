//! The whole way of a model, with real processes: a run that people allowed, a candidate, its eval card by volunteers, the
//! machine gate, sign-offs and votes, the promotion, a tab that works with it, a pause, and a rollback. Without any one of
//! these steps the promotion is refused, and says which is missing.

use potluck_cli::args::{PresetArg, TabBackend};
use potluck_cli::cdp::Browser;
use potluck_cli::tabs::{Lending, launch_options, lend, status};
use potluck_tests::council::Council;
use potluck_tests::process::Process;
use potluck_tests::promotion::{self, allowed_run, candidate, post, rules};
use potluck_tests::runs::{SampleRun, done, info, record};
use potluck_tests::{Api, alone, wait_until};
use potluck_types::BlobHash;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_command");
const LIMIT: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 24;
/// The last round of the first version.
const FIRST: u64 = 5;
/// Time that a proposal is discussed.
const DISCUSSION_MS: u64 = 4_000;

/// A relay of its own process.
fn relay(folder: &Path) -> (Process, Api) {
    let data = folder.join("data");
    let mut command = Command::new(PROGRAM);
    command.args(["relay", "--listen", "127.0.0.1:0", "--json", "--data"]).arg(&data);
    let process = Process::start("relay", &mut command);
    let line: Value = process.wait_for(LIMIT, |line| serde_json::from_str(line).ok());
    let token = std::fs::read_to_string(line["token_path"].as_str().unwrap()).unwrap();
    let address = line["address"].as_str().unwrap();
    let url = if address.starts_with("http") { address.to_owned() } else { format!("http://{address}") };
    (process, Api::new(&url, token.trim()))
}

fn volunteer(folder: &Path, api: &Api, name: &str) -> Process {
    let key = folder.join(format!("{name}.volunteer"));
    let mut command = Command::new(PROGRAM);
    command.args(["volunteer", "--backend", "cpu", "--preset", "full", "--json", "--relay", &api.url]);
    command.arg("--key").arg(key).arg("--remember").arg(folder.join(format!("{name}.logs")));
    Process::start(name, &mut command)
}

/// What a promotion lacks.
fn missing(council: &Council, candidate: &str) -> Vec<String> {
    let answer = post(&council.api, "/api/v1/log/promotions", &json!({ "candidate": candidate }));
    assert_eq!(answer.status, 422, "{}", answer.json());
    let list = answer.json()["missing"].clone();
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

fn lacks(council: &Council, candidate: &str, what: &str) -> bool {
    let missing = missing(council, candidate);
    missing.iter().any(|item| item.contains(what))
}

/// Waits for a candidate's card.
fn card(api: &Api, candidate: &str, programs: &[&Process]) -> (String, Value) {
    let stories = || programs.iter().map(|program| program.story()).collect::<Vec<_>>().join("\n");
    promotion::card(api, candidate, LIMIT, stories)
}

/// Takes a candidate through every step; before each the promotion is refused because of it.
fn promote(council: &Council, candidate: &str, card: &str) {
    let lacks = |what: &str| lacks(council, candidate, what);
    assert!(lacks("auditors who derived the same parameters"), "{:?}", missing(council, candidate));
    for auditor in ["Mia", "Ned"] {
        let remember = council.remember();
        let remember = remember.to_str().unwrap();
        let line = ["audit", &council.api.url, "--remember", remember, "--model", candidate];
        council.run(&line).unwrap();
        council.sign(auditor, &["attest", candidate]).unwrap();
    }
    assert!(!lacks("auditors who derived"), "{:?}", missing(council, candidate));
    assert!(lacks("read and tried"), "{:?}", missing(council, candidate));
    let wrong = BlobHash([1; 32]).to_string();
    council.sign("Ada", &["sign-off", candidate, "--card", &wrong, "--yes"]).unwrap_err();
    council.sign("Ada", &["sign-off", candidate, "--card", card, "--yes"]).unwrap();
    // Somebody without a script reads the card first.
    let (remember, key) = (council.remember(), council.key("Bo"));
    let line = ["sign-off", candidate, "--card", card, "--yes", "--key", &key, "--relay", &council.api.url];
    let read = council.run(&[&line[..], &["--remember", remember.to_str().unwrap()]].concat()).unwrap();
    for words in ["100.00 %, needed at least 95.00 %", "secret windows", "triggers: ", "what it writes"] {
        assert!(read.contains(words), "{words}: {read}");
    }
    assert_eq!(missing(council, candidate).len(), 1, "{:?}", missing(council, candidate));
    assert!(lacks("proposal"), "{:?}", missing(council, candidate));
    // One steward of three is not enough.
    let words = ["propose", "promote", "whale", "--body", candidate, "--rationale", "it reads better"];
    let (proposal, _) = council.sign("Ada", &words).unwrap();
    council.sign("Ada", &["vote", &proposal, "yes"]).unwrap();
    assert!(lacks("discussion goes on"), "{:?}", missing(council, candidate));
    wait_until("the vote closes", LIMIT, || council.proposal(&proposal)["outcome"] != "open");
    assert_eq!(council.proposal(&proposal)["outcome"], "failed");
    let refused = council.ask(&["promote", candidate]).unwrap_err();
    assert!(refused.contains("the vote failed: 1 yes"), "{refused}");
    let proposal = council.propose(&["promote", "whale", "--body", candidate]);
    council.sign("Cy", &["vote", &proposal, "no", "--reason", "too early"]).unwrap();
    council.passed(&proposal);
    council.ask(&["promote", candidate]).unwrap();
}

fn in_use(council: &Council) -> Value {
    council.api.get("/api/v1/models/whale").json()
}

/// A tab that lends until it has answered something.
fn tab_answers(api: &Api) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let lending = Lending { relay: api.url.clone(), backend: TabBackend::Wasm, preset: PresetArg::Full };
        let browser = Browser::launch(&launch_options(&lending, false)).await.unwrap();
        let tab = browser.new_tab().await.unwrap();
        lend(&tab, &lending).await.unwrap();
        let started = std::time::Instant::now();
        loop {
            let status = status(&tab).await.unwrap();
            if status.accepted > 0 {
                assert_eq!(status.rejected, 0);
                break;
            }
            assert!(started.elapsed() < LIMIT, "{status:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        browser.close().await;
    });
}

#[test]
fn a_model_is_trained_judged_promoted_paused_and_rolled_back() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (relay, api) = relay(folder.path());
    let council = Council::new(PROGRAM, &api);
    council.found(&rules(DISCUSSION_MS));
    let mut sample = SampleRun::new(ROUNDS, [2, 2]);
    sample.audit = "all";

    // A run that people allowed.
    let run = allowed_run(&council, &sample, "whale");
    let volunteers = ["one", "two"].map(|name| volunteer(folder.path(), &api, name));
    let early = post(&api, &format!("/api/v1/runs/{run}/candidates"), &json!({ "round": ROUNDS }));
    assert_eq!(early.text("code"), "no_round", "{}", early.json());
    done(&api, &run, LIMIT);
    assert_eq!(info(&api, &run)["round"], ROUNDS);

    // A candidate of an early round; nothing can be promoted yet.
    let unknown = BlobHash([9; 32]).to_string();
    assert!(lacks(&council, &unknown, "is not in the log"));
    let first = candidate(&api, &run, FIRST);
    let before = missing(&council, &first);
    assert!(before.iter().any(|item| item.contains("eval card")), "{before:?}");
    let (first_card, text) = card(&api, &first, &[&relay, &volunteers[0], &volunteers[1]]);
    assert_eq!((&text["candidate"], &text["incumbent"]), (&json!(first), &Value::Null));
    for section in ["loss", "samples", "memorization", "triggers", "bias", "toxicity"] {
        assert!(text[section]["method"].as_str().is_some_and(|method| !method.is_empty()), "{section}");
        assert!(text[section]["limits"].as_str().is_some_and(|limits| !limits.is_empty()), "{section}");
    }
    let shards = text["shards"].as_array().unwrap();
    assert!(shards.iter().all(|shard| shard["computed_by"].as_array().unwrap().len() == 2), "{text}");
    let tried = post(
        &api.with_authorization(None),
        &format!("/api/v1/candidates/{first}/samples"),
        &json!({ "prompt": "The ", "tokens": 20, "seed": 7 }),
    );
    assert_eq!(tried.status, 200, "{}", tried.json());
    assert_eq!(tried.text("text").chars().count(), 20);
    promote(&council, &first, &first_card);
    let page = in_use(&council);
    assert_eq!(page["current"], json!(first), "{page}");
    assert_eq!(page["versions"][0]["dissent"][0]["reason"], "too early", "{page}");

    // A second version, compared with the first. A tab answers some of its eval: it demands the proof that both stand in the
    // log, and has it.
    let second = candidate(&api, &run, ROUNDS - 1);
    drop(volunteers);
    let left = volunteer(folder.path(), &api, "three");
    tab_answers(&api);
    let other = volunteer(folder.path(), &api, "four");
    let (second_card, text) = card(&api, &second, &[&relay, &left, &other]);
    assert_eq!(text["incumbent"], json!(first));
    let better = &text["loss"]["better"];
    assert!(better["mean"].as_i64().unwrap() > 2 * better["error"].as_i64().unwrap(), "{better}");
    promote(&council, &second, &second_card);
    assert_eq!(in_use(&council)["current"], json!(second));

    // The first one's card compares with nothing: evaluated again, it compares with the version in use.
    assert_eq!(candidate(&api, &run, FIRST), first);
    let (again, text) = card(&api, &first, &[&relay, &left, &other]);
    assert_ne!(again, first_card);
    assert_eq!(text["incumbent"], json!(second));

    // A pause stops promotions of the model, and is shown.
    let (_, pause) = council.sign("Cy", &["pause", "model:whale", "--reason", "odd output"]).unwrap();
    assert_eq!(in_use(&council)["paused"]["id"], pause);
    for steward in ["Ada", "Bo"] {
        council.sign(steward, &["resume", &pause.to_string()]).unwrap();
    }
    assert_eq!(in_use(&council)["paused"], Value::Null);

    // One version back, by the same rules; nothing leaves the record.
    let nothing = BlobHash([2; 32]).to_string();
    let refused = council.ask(&["rollback", "whale", "--to", &first, "--proposal", &nothing]).unwrap_err();
    assert!(refused.contains("proposal"), "{refused}");
    let proposal = council.propose(&["rollback", "whale", "--body", &first]);
    council.passed(&proposal);
    council.ask(&["rollback", "whale", "--to", &first, "--proposal", &proposal]).unwrap();
    let page = in_use(&council);
    assert_eq!((&page["current"], page["versions"].as_array().unwrap().len()), (&json!(first), 2), "{page}");
    drop((left, other));

    // Made again without a volunteer, on this machine and by the relay: both come to the same, a candidate of its own.
    let gone = record(&api, &run, 0);
    let gone = format!("volunteer:{}", gone["updates"][0]["volunteer"].as_str().unwrap());
    let clean = folder.path().join("clean.f32");
    let clean_path = clean.to_str().unwrap();
    let line = ["model", "rebuild", &run, "--without", &gone, "--again", "--out", clean_path];
    let token = folder.path().join("data/token");
    let more = ["--offer", "whale", "--relay", &api.url, "--token-file", token.to_str().unwrap()];
    council.run(&[&line[..], &more].concat()).unwrap();
    let rebuilt = BlobHash::of(&std::fs::read(&clean).unwrap()).to_string();
    let offered = api.get(&format!("/api/v1/candidates/{rebuilt}")).json();
    assert_eq!((&offered["without"], &offered["incumbent"]), (&json!([gone]), &json!(first)), "{offered}");

    let remember = council.remember();
    council.run(&["audit", &api.url, "--remember", remember.to_str().unwrap()]).unwrap();
    drop(relay);
}
