//! What pages about work ask the relay for: projects for everybody, maps and contributors, and the operator's figures for
//! whoever has the admin's token.

use potluck_proto::{Membership, Preset};
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::runs::{SampleRun, done, info};
use potluck_tests::{Api, TestRelay, Volunteer, wait_until};
use potluck_types::{MatmulShape, VolunteerKey};
use potluck_volunteer::{State, WaitReason};
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const SHAPE: MatmulShape = MatmulShape { m: 600, k: 64, n: 500 };

fn submit(api: &Api) -> String {
    let known = LowRank::new(SHAPE, 1);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({ "name": "angles" }))
}

fn project(api: &Api, id: &str) -> Value {
    let answer = api.get(&format!("/api/v1/projects/{id}"));
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()
}

#[test]
fn everybody_sees_what_can_be_joined_and_the_submitter_who_did_what() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let anybody = api.with_authorization(None);
    assert_eq!(anybody.get("/api/v1/projects").json(), json!([]));
    let (_, run) = SampleRun::new(2, [1, 1]).create(api, "run");
    let job = submit(api);
    let open = anybody.get("/api/v1/projects").json();
    let ids: Vec<_> = open.as_array().unwrap().iter().map(|one| (&one["kind"], &one["id"])).collect();
    assert_eq!(ids, [(&json!("training"), &json!(run)), (&json!("product"), &json!(job))]);
    assert_eq!((open[1]["done"].clone(), open[1]["shape"].clone()), (json!(0), json!([600, 64, 500])));
    assert_eq!(open[0]["losses"], Value::Null);

    // The map is the submitter's; projects have no names of volunteers.
    let map = format!("/api/v1/jobs/{job}/map");
    assert_eq!(anybody.get(&map).status, 401);
    let empty = api.get(&map).json();
    assert!(empty["cells"].as_array().unwrap().iter().all(|cell| *cell == -2), "{empty}");
    let volunteer = Volunteer::start(&api.url, 5, Preset::Full);
    api.result(&job, LIMIT);
    done(api, &run, LIMIT);
    let name = api.job(&job)["contributors"][0]["volunteer"].clone();
    let map = api.get(&map).json();
    assert_eq!(map["volunteers"], json!([name]));
    assert!(map["cells"].as_array().unwrap().iter().all(|cell| *cell == 0), "{map}");
    assert_eq!(anybody.get("/api/v1/projects").json(), json!([]), "what is done cannot be joined");
    let ended = project(&anybody, &job);
    assert_eq!((&ended["state"], &ended["done"]), (&json!("done"), &ended["total"]));

    let told = anybody.get(&format!("/api/v1/runs/{run}/contributors")).json();
    let one = &told["contributors"][0];
    assert_eq!((&one["volunteer"], &one["accepted"], &one["refused"]), (&name, &json!(2), &json!(0)));
    assert_eq!((&told["updates"], &told["refusals"]), (&json!(2), &json!([])));
    assert!(told["audited"].as_u64().unwrap() <= 2 && one["bytes"].as_u64().unwrap() > 0, "{told}");
    let shown = project(&anybody, &run);
    let history = info(api, &run)["history"].clone();
    let losses = json!([history[0]["validation_loss"], history[1]["validation_loss"]]);
    assert_eq!((&shown["state"], &shown["losses"]), (&json!("done"), &losses));
    drop(volunteer);
    // What the model writes is the same for everybody, and whoever looks on needs no token.
    let sample = || anybody.get(&format!("/api/v1/runs/{run}/sample")).json();
    let written = sample();
    assert_eq!((&written["round"], &written["prompt"]), (&json!(2), &json!("The ")));
    assert!(written["text"].as_str().unwrap().len() >= 96, "{written}");
    assert_eq!(sample(), written);
    for path in
        ["/api/v1/projects/x", "/api/v1/runs/x/sample", "/api/v1/jobs/x/map", "/api/v1/runs/x/contributors"]
    {
        assert_eq!((api.get(path).status, api.get(path).text("code").as_str()), (404, "not_found"), "{path}");
    }
    let nobody = format!("/api/v1/projects/{}", "0".repeat(32));
    assert_eq!(anybody.get(&nobody).status, 404);
}

#[test]
fn the_operators_figures_are_for_who_has_the_admins_token() {
    let relay = TestRelay::start();
    let api = &relay.api;
    let path = relay.data().join("admin-token");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let token = std::fs::read_to_string(path).unwrap().trim().to_owned();
    let admin = api.with_authorization(Some(&format!("Bearer {token}")));
    for other in [None, Some("Bearer 00"), Some(token.as_str()), api.authorization.as_deref()] {
        let answer = api.with_authorization(other).get("/api/v1/operator");
        assert_eq!((answer.status, answer.text("code").as_str()), (401, "admin_token_needed"), "{other:?}");
    }
    assert_eq!(admin.get("/api/v1/jobs").status, 401, "nor is the admin's the submitter's");
    let figures = || {
        let answer = admin.get("/api/v1/operator");
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()
    };
    let quiet = figures();
    assert_eq!((&quiet["sessions"]["open"], &quiet["queue"]["jobs"]), (&json!(0), &json!(0)));
    assert_eq!(quiet["rejects"], json!([]));
    let job = submit(api);
    let waiting = figures();
    assert_eq!(waiting["queue"]["jobs"], 1);
    assert!(waiting["queue"]["units_free"].as_u64().unwrap() > 0, "{waiting}");
    let volunteer = Volunteer::start(&api.url, 5, Preset::Full);
    api.result(&job, LIMIT);
    wait_until("the volunteer's session is counted", LIMIT, || figures()["sessions"]["consenting"] == 1);
    let after = figures();
    assert!(
        after["queue"]["accepted"].as_u64().unwrap() > 0 && after["bandwidth"]["inputs_sent"] != 0,
        "{after}"
    );
    assert!(
        after["store"]
            .as_array()
            .unwrap()
            .iter()
            .any(|part| part["part"] == "database" && part["bytes"] != 0)
    );
    drop(volunteer);
    switches(api, &admin);
    // An address may not ask without end.
    wait_until("the address is told to wait", LIMIT, || admin.get("/api/v1/operator").status == 429);
}

/// What the operator switches off waits, everybody can read that it does, and it goes on when it is on again.
fn switches(api: &Api, admin: &Api) {
    let switch = |api: &Api, kind: &str, name: &str, off: bool| {
        let body = json!({ "kind": kind, "name": name, "off": off }).to_string();
        api.send(
            "POST",
            "/api/v1/operator/switches",
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
    };
    assert_eq!(switch(api, "kernel", "matmul/f32", true).status, 401, "the submitter switches nothing");
    for (kind, name, says) in [
        ("kernel", "matmul/f64", "matmul/int8"),
        ("project", "no id", "32"),
        ("site", "school.example", "https://school.example"),
        ("team", " padded", "team"),
        ("moon", "full", "kernel"),
    ] {
        let answer = switch(admin, kind, name, true);
        assert_eq!((answer.status, answer.text("code").as_str()), (400, "no_such_switch"), "{kind} {name}");
        assert!(answer.text("hint").contains(says), "{}", answer.json());
    }
    let off = || api.get("/.well-known/potluck.json").json()["off"].clone();
    assert_eq!(off(), json!([]));
    assert_eq!(switch(admin, "kernel", "matmul/f32", true).status, 200);
    assert_eq!(switch(admin, "site", "https://school.example", true).status, 200);
    let told = off();
    let named: Vec<_> = told.as_array().unwrap().iter().map(|one| (&one["kind"], &one["name"])).collect();
    assert_eq!(
        named,
        [(&json!("kernel"), &json!("matmul/f32")), (&json!("site"), &json!("https://school.example"))]
    );
    let job = submit(api);
    let shown = project(api, &job);
    assert_eq!(shown["state"], "paused");
    assert!(shown["reason"].as_str().unwrap().contains("operator"), "{shown}");
    let volunteer = Volunteer::start(&api.url, 6, Preset::Full);
    wait_until("a volunteer asks in vain", LIMIT, || {
        volunteer.status().is_some_and(|status| status.state == State::Waiting(WaitReason::NoWork))
    });
    assert_eq!(project(api, &job)["done"], 0);
    for (kind, name) in [("kernel", "matmul/f32"), ("site", "https://school.example")] {
        assert_eq!(switch(admin, kind, name, false).status, 200);
    }
    api.result(&job, LIMIT);
    assert_eq!((project(api, &job)["state"].as_str(), off()), (Some("done"), json!([])));
    drop(volunteer);
}

#[test]
fn teams_are_listed_and_whoever_wants_to_be_and_nobody_else() {
    let mut relay = TestRelay::start();
    let api = relay.api.clone();
    let anybody = api.with_authorization(None);
    let leaders = |api: &Api| api.get("/api/v1/leaders").json();
    assert_eq!(leaders(&anybody), json!({ "teams": [], "volunteers": [] }));
    let said = |team: &str, listed| Some(Membership { team: team.to_owned(), listed });
    let lent = [
        Volunteer::known_as(&api.url, 1, said("Chess Club", true)),
        Volunteer::known_as(&api.url, 2, said("Chess Club", false)),
        Volunteer::known_as(&api.url, 3, None),
    ];
    let one = VolunteerKey([1; 32]).id().to_string();
    // Until each had something to do.
    let told = (0..60).find_map(|_| {
        submit(&api);
        sleep(Duration::from_secs(1));
        Some(leaders(&anybody)).filter(|told| told["teams"][0]["members"] == 2)
    });
    let told = told.expect("the team is listed");
    assert_eq!(told["teams"][0]["name"], "Chess Club", "{told}");
    let named: Vec<_> = told["volunteers"].as_array().unwrap().iter().map(|one| &one["volunteer"]).collect();
    assert_eq!(named, [&json!(one)], "{told}");
    assert!(told["volunteers"][0]["accepted"].as_u64() < told["teams"][0]["accepted"].as_u64(), "{told}");
    drop(lent);

    // A name that offends is switched off, and that outlives the relay. What its members gave is still theirs.
    let switch = |off: bool| {
        let body = json!({ "kind": "team", "name": "Chess Club", "off": off }).to_string();
        let admin = api.with_authorization(Some(&format!("Bearer {}", relay.admin_token())));
        admin
            .send(
                "POST",
                "/api/v1/operator/switches",
                &[("content-type", "application/json")],
                body.as_bytes(),
            )
            .status
    };
    assert_eq!(switch(true), 200);
    let told = leaders(&anybody);
    assert_eq!(told["volunteers"].as_array().unwrap().len(), 1);
    assert_eq!((&told["teams"], &told["volunteers"][0]["team"]), (&json!([]), &Value::Null), "{told}");
    assert_eq!(switch(false), 200);
    relay.restart();
    let told = leaders(&anybody);
    assert_eq!((&told["teams"][0]["members"], &told["volunteers"][0]["volunteer"]), (&json!(2), &json!(one)));
    // Whoever takes it back is gone with it.
    let hidden = Volunteer::known_as(&api.url, 1, said("", false));
    wait_until("one is left", LIMIT, || {
        sleep(Duration::from_secs(1));
        leaders(&anybody)["teams"][0]["members"] == 1
    });
    assert_eq!(leaders(&anybody)["volunteers"], json!([]));
    drop(hidden);
}
