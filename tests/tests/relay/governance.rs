//! People decide through the command: a run that trains a model is proposed, voted on, attested and only then begun; a pause
//! stops its volunteers and its end lets them go on; what the log does not justify is refused with what is missing, and
//! hostile words with what is wrong.

use potluck_governance::statement::{Ballot, ProposalKind, Propose, Said, Vote};
use potluck_governance::{Constitution, Key, Statement, entry};
use potluck_proto::Preset;
use potluck_tests::council::{Council, STEWARDS};
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::runs::{SampleRun, info, rounds};
use potluck_tests::{Answer, Api, TestRelay, Volunteer, wait_until};
use potluck_types::{BlobHash, MatmulShape};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PROGRAM: &str = env!("CARGO_BIN_EXE_command");
const LIMIT: Duration = Duration::from_secs(120);
/// How long nothing must happen before it counts as stopped: several rounds of these runs.
const STILL: Duration = Duration::from_secs(3);

/// Rules under which a cycle takes seconds, and a slow machine's clock is no reason to refuse.
fn rules(discussion_ms: u64) -> Constitution {
    let mut rules = Constitution::hasty(discussion_ms);
    rules.skew_ms = 60_000;
    rules.pause.expires_ms = 600_000;
    rules
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn post(api: &Api, path: &str, body: &Value) -> Answer {
    api.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
}

#[test]
fn a_run_is_decided_on_and_a_pause_stops_it_until_people_end_it() {
    let mut relay = TestRelay::start();
    let api = relay.api.clone();
    let council = Council::new(PROGRAM, &api);
    council.found(&rules(3_000));
    let again = council.document("roles.json", &council.roles());
    let error = council.run(&[
        "governance",
        "found",
        "--roles",
        &again,
        "--relay",
        &api.url,
        "--token-file",
        "token",
    ]);
    assert!(error.unwrap_err().contains("people are in office"));

    let sample = SampleRun::new(40, [3, 3]);
    // Each data set and the run itself are named as missing.
    let mut nothing = sample.request(&api);
    nothing["model_name"] = "whale".into();
    let refused = post(&api, "/api/v1/runs", &nothing);
    let missing = refused.json()["missing"].clone();
    assert!(refused.status == 422 && missing.as_array().unwrap().len() == 3, "{}", refused.json());
    assert!(missing[0].as_str().unwrap().contains(nothing["train"].as_str().unwrap()), "{missing}");
    let mut request = council.request(&sample, "whale");
    let create = |request: &Value, key: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        api.send("POST", "/api/v1/runs", &headers, request.to_string().as_bytes())
    };
    // The hash under which people vote is the relay's, and the same whatever proposal is named.
    let named = post(&api, "/api/v1/runs/hash", &request);
    let hash = named.text("hash");
    assert_eq!(BlobHash::of(named.text("request").as_bytes()).to_string(), hash);
    let refused = create(&request, "early");
    assert_eq!((refused.status, refused.text("code").as_str()), (422, "not_justified"), "{}", refused.json());
    assert!(refused.text("message").contains(&hash), "{}", refused.json());
    assert_eq!(refused.json()["missing"].as_array().unwrap().len(), 1);

    let proposal = council.propose(&["run", "whale", "--body", &hash]);
    request["proposal"] = proposal.as_str().into();
    assert_eq!(post(&api, "/api/v1/runs/hash", &request).text("hash"), hash);
    let refused = create(&request, "still early");
    assert!(refused.text("message").contains("discussion goes on"), "{}", refused.json());
    council.passed(&proposal);
    let refused = create(&request, "not attested");
    assert!(refused.text("message").contains("0 of 1 auditors"), "{}", refused.json());
    council.sign("Ned", &["attest", &hash]).unwrap();
    let other = json!({ "rounds": 41, "proposal": proposal });
    let mut changed = request.clone();
    changed["rounds"] = other["rounds"].clone();
    let refused = create(&changed, "another");
    assert!(refused.text("message").contains("about something else"), "{}", refused.json());
    let created = create(&request, "decided");
    assert_eq!(created.status, 201, "{}", created.json());
    let run = created.text("id");
    assert_eq!(council.proposal(&proposal)["outcome"], "passed");
    assert!(council.proposal(&proposal)["applied"].is_u64());
    let text = api.get(&format!("/api/v1/runs/{run}/request")).body;
    assert_eq!(BlobHash::of(&text).to_string(), hash);
    // Its own entry has a receipt, which volunteers can ask for.
    wait_until("the entry is published", LIMIT, || api.get(&format!("/api/v1/log/jobs/{run}")).status == 200);

    let volunteers: Vec<_> = (1..=3).map(|name| Volunteer::start(&api.url, name, Preset::Full)).collect();
    wait_until("a round is closed", LIMIT, || rounds(&api, &run) > 0);
    let (_, pause) =
        council.sign("Cy", &["pause", &format!("run:{run}"), "--reason", "something looks wrong"]).unwrap();
    let paused = |api: &Api| info(api, &run)["phase"] == "paused" && info(api, &run)["state"] == "paused";
    wait_until("the run is paused", LIMIT, || paused(&api));
    let reason = info(&api, &run)["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains(&format!("entry {pause}")) && reason.contains("something looks wrong"),
        "{reason}"
    );
    let before = rounds(&api, &run);
    std::thread::sleep(STILL);
    assert_eq!((rounds(&api, &run), api.metric("leases")), (before, 0));
    // The submitter does not end what people began; nor does a restart.
    let resume = post(&api, &format!("/api/v1/runs/{run}/resume"), &json!({}));
    assert_eq!((resume.status, resume.text("code").as_str()), (409, "paused_by_log"));
    relay.restart();
    wait_until("the run is still paused", LIMIT, || paused(&api));
    assert_eq!(rounds(&api, &run), before);

    // One steward of three does not end it, two do.
    council.sign("Ada", &["resume", &pause.to_string()]).unwrap();
    let shown = council.ask(&["governance", "show"]).unwrap();
    assert_eq!(shown["governance"]["pauses"][0]["id"], pause, "{shown}");
    assert!(paused(&api));
    council.sign("Bo", &["resume", &pause.to_string()]).unwrap();
    wait_until("work goes on", LIMIT, || rounds(&api, &run) > before + 1);
    drop(volunteers);
    let model = council.ask(&["models", "whale"]).unwrap();
    assert_eq!(model["runs"][0]["run"], run.as_str(), "{model}");
    let page = api.get("/api/v1/models/whale").json();
    assert_eq!(page["runs"][0]["run"], run.as_str());
    let remember = council.remember();
    council.run(&["audit", &api.url, "--remember", remember.to_str().unwrap()]).unwrap();
}

#[test]
fn a_pause_of_everything_stops_jobs_too_and_expires() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let council = Council::new(PROGRAM, api);
    let mut rules = rules(1_000);
    rules.pause.expires_ms = 8_000;
    council.found(&rules);
    let volunteer = Volunteer::start(&api.url, 1, Preset::Full);
    let (_, pause) = council.sign("Ada", &["pause", "all", "--reason", "a drill"]).unwrap();
    let started = std::time::Instant::now();
    let shape = MatmulShape { m: 256, k: 64, n: 256 };
    let known = LowRank::new(shape, 1);
    let job = api.submit(&f32_file(&[256, 64], &known.a), &f32_file(&[64, 256], &known.b), &json!({}));
    std::thread::sleep(STILL);
    assert_eq!((api.job(&job)["progress"]["accepted"].as_u64(), api.metric("leases")), (Some(0), 0));
    let all = api.get("/api/v1/governance").json();
    assert_eq!(
        (all["pauses"][0]["scope"].as_str(), all["pauses"][0]["id"].as_u64()),
        (Some("all"), Some(pause))
    );
    assert!(api.result(&job, LIMIT).1 == known.c);
    assert!(started.elapsed() >= Duration::from_secs(7), "it ended when it expired, not before");
    drop(volunteer);
}

#[test]
fn what_is_not_justified_is_refused_with_what_is_missing() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let council = Council::new(PROGRAM, api);
    let mut rules = rules(4_000);
    rules.parameters = vec![potluck_governance::constitution::Parameter {
        name: "max_workers".to_owned(),
        least: 1,
        most: 9,
        value: 3,
    }];
    council.found(&rules);
    let nothing = BlobHash([3; 32]).to_string();
    for (path, body, says) in [
        ("promotions", json!({ "candidate": nothing }), "is not in the log"),
        ("rollbacks", json!({ "model": "whale", "to": nothing, "proposal": nothing }), "one version back"),
        (
            "kernels",
            json!({ "name": "k", "hash": nothing, "proposal": nothing }),
            "no proposal of kind kernel",
        ),
        ("roles", json!({ "proposal": nothing, "roles": council.roles() }), "no proposal of kind roles"),
        (
            "amendments",
            json!({ "proposal": nothing, "constitution": rules }),
            "no proposal of kind constitution",
        ),
        (
            "parameters",
            json!({ "name": "max_workers", "value": 4, "proposal": nothing }),
            "no proposal of kind",
        ),
        ("parameters", json!({ "name": "max_workers", "value": 10, "proposal": nothing }), "outside"),
        ("datasets", json!({ "id": "x", "proposal": nothing }), "data set x is not in the log"),
    ] {
        let answer = post(&api.with_authorization(None), &format!("/api/v1/log/{path}"), &body);
        assert_eq!(answer.status, 422, "{path}: {}", answer.json());
        assert!(answer.text("message").contains(says), "{path}: {}", answer.json());
    }
    assert_eq!(post(api, "/api/v1/log/promotions", &json!({ "candidate": "x" })).status, 400);

    // A parameter, from the proposal to its effect; the value is what was voted on.
    let proposal = council.propose(&["parameter", "max_workers", "--value", "4"]);
    let error = council.run(&["models", "whale", "--relay", &api.url]).unwrap_err();
    assert!(error.starts_with("4:") && error.contains("no model whale"), "{error}");
    let early = council.ask(&["enact", &proposal]).unwrap_err();
    assert!(early.starts_with("4:") && early.contains("discussion goes on"), "{early}");
    council.passed(&proposal);
    // A person sees exactly what it signs, and where it stands.
    let remember = council.remember();
    let place = ["--relay", &api.url, "--remember", remember.to_str().unwrap()];
    let key = council.key("Mia");
    let line = [&["pause", "all", "--reason", "a drill", "--key", &key][..], &place].concat();
    let shown = council.run(&line).unwrap();
    let who = format!("you sign, as {} (Mia, auditor):\n", council.public("Mia"));
    assert!(shown.starts_with(&who), "{shown}");
    let lines: Vec<&str> = shown.lines().collect();
    let origin = api.get("/api/v1/log").text("origin");
    assert!(
        lines[1].starts_with(&format!(r#"{{"v":1,"origin":"{origin}","kind":"pause","seq":"#)),
        "{shown}"
    );
    assert!(lines[2].starts_with("entry ") && lines[2].ends_with(&origin), "{shown}");
    let shown = council.run(&[&["governance", "show"][..], &place].concat()).unwrap();
    for line in ["steward", "Ada", "rule      roles, constitution", "max_workers (passed)", "2 yes, 0 no"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let other = council.ask(&["enact", &proposal, "--value", "5"]).unwrap_err();
    assert!(other.contains("not what was voted on"), "{other}");
    council.ask(&["enact", &proposal[..16]]).unwrap();
    let used = council.ask(&["enact", &proposal]).unwrap_err();
    assert!(used.contains("taken effect already"), "{used}");
    let rules = api.get("/api/v1/governance").json();
    assert_eq!(rules["constitution"]["parameters"][0]["value"], 4);

    // Roles: three of three, since 2/3 is less than 3:1.
    let mut roles = council.roles();
    roles["operators"] = json!([]);
    let file = council.document("new-roles.json", &roles);
    let proposal = council.propose(&["roles", "--file", &file]);
    council.sign("Cy", &["vote", &proposal, "yes", "--reason", "fine"]).unwrap();
    council.passed(&proposal);
    council.ask(&["enact", &proposal]).unwrap();
    assert_eq!(api.get("/api/v1/governance").json()["roles"]["operators"], json!([]));
    let events = council.proposal(&proposal)["events"].clone();
    assert!(events.as_array().unwrap().iter().any(|event| event["reason"] == "fine"), "{events}");
}

/// Says what somebody signed.
fn say(api: &Api, signed: &entry::Signed) -> Answer {
    let body = json!({
        "body": signed.body, "key": signed.key.to_string(), "signature": signed.signature.to_string(),
    });
    post(&api.with_authorization(None), "/api/v1/log/statements", &body)
}

#[test]
fn hostile_words_are_refused_with_what_is_wrong() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let council = Council::new(PROGRAM, api);
    // One person, one key.
    let mut twice = council.roles();
    twice["stewards"][1]["key"] = council.public("Ada").into();
    let file = council.document("roles.json", &twice);
    std::fs::write(
        council.folder.path().join("token"),
        api.authorization.clone().unwrap().trim_start_matches("Bearer "),
    )
    .unwrap();
    let line = ["governance", "found", "--roles", &file, "--relay", &api.url, "--token-file", "token"];
    let error = council.run(&line).unwrap_err();
    assert!(error.starts_with("4:") && error.contains("one person, one key"), "{error}");
    let answer = post(api, "/api/v1/log/founding", &json!({ "roles": twice }));
    assert!(
        answer.status == 422 && answer.text("message").contains("one person, one key"),
        "{}",
        answer.json()
    );
    let mut rules = Constitution::hasty(2_000);
    rules.skew_ms = 30_000;
    council.found(&rules);

    let origin = api.get("/api/v1/log").text("origin");
    let statement = |seq: u64, at_ms: u64, said: Said| Statement { origin: origin.clone(), seq, at_ms, said };
    let now = now_ms();
    let propose = |closes: u64| {
        Said::from(Propose {
            proposal: ProposalKind::Kernel,
            subject: "matmul".to_owned(),
            body: BlobHash([5; 32]),
            diff: None,
            rationale: "it is faster".to_owned(),
            opens: now,
            closes,
        })
    };
    let signed = statement(now, now, propose(now + 5_000)).sign(&council.secret("Ada")).unwrap();
    let proposal = signed.id();
    assert_eq!(say(api, &signed).status, 201);
    let vote = |vote: Ballot| Said::from(Vote { proposal, vote, reason: None });
    let refused = |signed: &entry::Signed, says: &str| {
        let answer = say(api, signed);
        assert_eq!(answer.status, 422, "{says}: {}", answer.json());
        assert!(answer.text("message").contains(says), "{says}: {}", answer.json());
    };
    // Forged: Bo's name under another's signature, and a text changed after it was signed.
    let mut forged = statement(now, now_ms(), vote(Ballot::Yes)).sign(&council.secret("Mia")).unwrap();
    forged.key = Key::of(&council.secret("Bo"));
    refused(&forged, "the signature is not that of");
    let mut changed = statement(now, now_ms(), vote(Ballot::No)).sign(&council.secret("Bo")).unwrap();
    changed.body = changed.body.replace("\"no\"", "\"yes\"");
    refused(&changed, "the signature is not that of");
    // An auditor and a stranger have no vote.
    refused(&statement(now, now_ms(), vote(Ballot::Yes)).sign(&council.secret("Ned")).unwrap(), "a steward");
    let stranger = potluck_governance::SigningKey::from_bytes(&[77; 32]);
    refused(&statement(now, now_ms(), vote(Ballot::Yes)).sign(&stranger).unwrap(), "no role and no credit");
    // Said twice, or again what counted before something newer.
    let first = statement(now, now_ms(), vote(Ballot::Yes)).sign(&council.secret("Bo")).unwrap();
    assert_eq!(say(api, &first).status, 201);
    refused(&first, "in the log already");
    let second = statement(now + 1, now_ms(), vote(Ballot::No)).sign(&council.secret("Bo")).unwrap();
    assert_eq!(say(api, &second).status, 201);
    refused(&first, "is not above");
    // For another log.
    let elsewhere =
        Statement { origin: "example.org/other".to_owned(), ..statement(now, now_ms(), vote(Ballot::Yes)) };
    refused(&elsewhere.sign(&council.secret("Cy")).unwrap(), "signed for the log example.org/other");
    // Clocks that are wrong, either way.
    for at_ms in [now_ms() - 60_000, now_ms() + 60_000] {
        let skewed = statement(now, at_ms, vote(Ballot::Yes)).sign(&council.secret("Cy")).unwrap();
        refused(&skewed, "set the clock");
    }
    // Too little time to discuss, and none of the proposals that there are.
    refused(
        &statement(now, now_ms(), propose(now_ms() + 100)).sign(&council.secret("Cy")).unwrap(),
        "close later",
    );
    let unknown = Vote { proposal: BlobHash([9; 32]), vote: Ballot::Yes, reason: None };
    refused(&statement(now, now_ms(), unknown.into()).sign(&council.secret("Cy")).unwrap(), "no proposal");
    // A statement of 65,536 bytes, and one that is not canonical.
    let long =
        json!({ "body": "x".repeat(65_536), "key": council.public("Cy"), "signature": "00".repeat(64) });
    let answer = post(api, "/api/v1/log/statements", &long);
    assert_eq!(answer.status, 400, "{}", answer.json());
    let long =
        json!({ "body": "x".repeat(20_000), "key": council.public("Cy"), "signature": "00".repeat(64) });
    let answer = post(api, "/api/v1/log/statements", &long);
    assert!(
        answer.status == 422 && answer.text("message").contains("the limit is 16384"),
        "{}",
        answer.json()
    );
    let mut spaced = statement(now, now_ms(), vote(Ballot::Yes)).sign(&council.secret("Cy")).unwrap();
    spaced.body = spaced.body.replacen(':', ": ", 1);
    refused(&spaced, "byte ");
    // Late.
    wait_until("the vote closes", LIMIT, || council.proposal(&proposal.to_string())["outcome"] == "failed");
    refused(
        &statement(now, now_ms(), vote(Ballot::Yes)).sign(&council.secret("Cy")).unwrap(),
        "the vote closed",
    );
    let error = council.sign("Cy", &["vote", &proposal.to_string(), "yes"]).unwrap_err();
    assert!(error.starts_with("4:") && error.contains("the vote closed"), "{error}");
    let shown = council.proposal(&proposal.to_string());
    assert_eq!(
        (shown["tally"]["yes"].as_u64(), shown["tally"]["no"].as_u64()),
        (Some(0), Some(1)),
        "{shown}"
    );
    // What was refused is not in the log: it still passes its audit.
    let remember = council.remember();
    council.run(&["audit", &api.url, "--remember", remember.to_str().unwrap()]).unwrap();
    assert_eq!(STEWARDS.len(), shown["tally"]["eligible"].as_u64().unwrap() as usize);
}

#[test]
fn an_address_may_not_flood_the_log() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let limited =
        || post(api, "/api/v1/log/statements", &json!({ "body": "", "key": "", "signature": "" })).status;
    wait_until("the address is told to wait", LIMIT, || limited() == 429);
    let answer = post(api, "/api/v1/log/promotions", &json!({ "candidate": "" }));
    // A token may have come back meanwhile.
    assert!(matches!(answer.status, 429 | 400), "{}", answer.json());
    // Reading the log's files and proofs is another thing.
    assert_eq!(api.get("/log/checkpoint").status, 200);
    assert_eq!(api.get("/api/v1/log/since/0").status, 200);
}

#[test]
fn sources_are_named_one_by_one() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let sample = SampleRun::new(1, [3, 3]);
    let (tokens, vocabulary) = sample.training_tokens();
    let count = tokens.len() as u64 / 2;
    let manifest = |cut: u64| {
        let part = |name: &str, first: u64, end: u64| json!({ "name": name, "source": format!("the {name} file"), "license": "CC0-1.0", "first": first, "end": end });
        json!({ "name": "books", "source": "two files", "license": "CC0-1.0",
            "parts": [part("whale", 0, cut), part("poems", cut, count)] })
    };
    let upload = |described: Option<&Value>| {
        let line = described.map(|manifest| format!("{manifest}\n").into_bytes()).unwrap_or_default();
        let path = format!("/api/v1/datasets?vocabulary={vocabulary}&manifest={}", described.is_some());
        api.send("POST", &path, &[], &[line, tokens.clone()].concat())
    };
    let wrong = upload(Some(&manifest(count + 1)));
    assert_eq!((wrong.status, wrong.text("code").as_str()), (422, "bad_manifest"), "{}", wrong.json());
    let answer = upload(Some(&manifest(1000)));
    assert_eq!(answer.status, 201, "{}", answer.json());
    let id = answer.text("id");
    assert_eq!(answer.json()["sources"], json!([format!("{id}/whale"), format!("{id}/poems")]));
    // The same again is the same, without a manifest too; another one is refused.
    assert_eq!((upload(Some(&manifest(1000))).status, upload(None).status), (201, 201));
    assert_eq!(upload(Some(&manifest(2000))).status, 409);
    let parts = api.get(&format!("/api/v1/datasets/{id}/parts")).json();
    assert_eq!(parts["parts"][1]["first"], 1000);
    assert_eq!(parts["parts"][1]["end"], count);
    // The line before the tokens is no part of them.
    assert_eq!(api.get(&format!("/api/v1/datasets/{id}/blocks")).status, 200);
    let (_, run) = sample.create(api, "parts");
    let page = |run: &str| {
        let receipt = api.get(&format!("/api/v1/log/jobs/{run}"));
        (receipt.status == 200).then(|| String::from_utf8(receipt.body).unwrap())
    };
    wait_until("the run's entry is published", LIMIT, || page(&run).is_some());
    let receipt = potluck_ledger::Receipt::parse(page(&run).unwrap().as_bytes()).unwrap();
    let entry: Value = serde_json::from_slice(&receipt.entry).unwrap();
    let sets: Vec<&str> = entry["data_sets"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(sets[..2], [format!("{id}/whale"), format!("{id}/poems")]);
    assert_eq!(sets.len(), 3, "the validation data were uploaded without a manifest: {sets:?}");
}
