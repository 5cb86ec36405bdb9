//! The npm package's client and its check of the log, in Node, with a real relay and a volunteer.

use potluck_ledger::{Policy, Receipt, VerifierKey};
use potluck_proto::Preset;
use potluck_tests::npy::f32_file;
use potluck_tests::{TestRelay, Volunteer, node};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn a_script_submits_a_job_and_checks_its_receipt() {
    let Some(folder) = node::installed() else { return };
    let relay = TestRelay::start();
    let token = relay.api.authorization.clone().unwrap().replace("Bearer ", "");
    let environment = [("POTLUCK_RELAY", relay.api.url.as_str()), ("POTLUCK_TOKEN", &token)];
    let volunteer = Volunteer::start(&relay.api.url, 9, Preset::Full);
    let (passed, said) = node::run(&folder, "job.js", &environment, LIMIT);
    drop(volunteer);
    assert!(passed, "{said}");
    assert_eq!((&said["shape"], &said["state"]), (&json!([2, 2]), &json!("done")));
    assert_eq!(said["data"], json!([7, 8, 16, 17]));

    // What it says of the receipt is what the receipt says.
    let key: VerifierKey = relay.api.get("/api/v1/log").text("key").parse().unwrap();
    let policy = Policy::new(key.name(), key.clone(), Vec::new(), 0).unwrap();
    let receipt = Receipt::parse(said["receipt"].as_str().unwrap().as_bytes()).unwrap();
    receipt.verify(&policy).unwrap();
    let entry: Value = serde_json::from_slice(&receipt.entry).unwrap();
    assert_eq!((&said["kind"], &said["index"]), (&entry["kind"], &json!(receipt.index)));
    assert_eq!(said["origin"], key.name());

    let wrong = [environment[0], ("POTLUCK_TOKEN", "not the token")];
    let (passed, said) = node::run(&folder, "job.js", &wrong, LIMIT);
    assert!(!passed);
    assert_eq!((&said["code"], &said["status"]), (&json!("token_needed"), &json!(401)));
    assert!(said["hint"].as_str().unwrap().contains("Bearer"), "{said}");

    let nobody = [("POTLUCK_RELAY", "http://127.0.0.1:9"), environment[1]];
    let (passed, said) = node::run(&folder, "job.js", &nobody, LIMIT);
    assert!(!passed && said["code"] == "unreachable" && said["status"].is_null(), "{said}");
}

#[test]
fn a_script_reads_a_whole_log_and_believes_no_other_key() {
    let Some(folder) = node::installed() else { return };
    let (relay, other) = (TestRelay::start(), TestRelay::start());
    let keys = [&relay, &other].map(|relay| relay.api.get("/api/v1/log").text("key"));
    let script = format!(
        "import {{ readLog, verifyReceipt }} from 'potluck-client/trust';
         const [relay, key, another] = {};
         const read = async (path) => {{
           const answer = await fetch(`${{relay}}/log/${{path}}`);
           return answer.ok ? new Uint8Array(await answer.arrayBuffer()) : undefined;
         }};
         const code = (promise) => promise.then(() => 'nothing', (error) => error.code);
         const reader = await readLog(key, read);
         const receipt = await (await fetch(`${{relay}}/api/v1/log/receipts/0`)).text();
         console.log(JSON.stringify({{
           overview: JSON.parse(reader.overview(Date.now())),
           kind: (await verifyReceipt(receipt, {{ log: key }})).kind,
           refused: [
             await code(readLog(another, read)),
             await code(readLog(key, async () => undefined)),
             await code(readLog(key, async (path) => path === 'checkpoint' ? read(path) : new Uint8Array(9))),
             await code(verifyReceipt(receipt, {{ log: another }})),
             await code(verifyReceipt(receipt.replace(/^extra ..../m, 'extra AAAA'), {{ log: key }})),
           ],
         }}));",
        json!([relay.api.url, keys[0], keys[1]])
    );
    let (passed, said) = node::run(&folder, &script, &[], LIMIT);
    assert!(passed);
    assert_eq!(said["refused"], json!(["wrong_log", "no_file", "wrong_log", "not_proved", "not_proved"]));
    assert_eq!(said["kind"], "genesis");
    assert!(said["overview"].is_object(), "{said}");
}

#[test]
fn the_client_keeps_the_token_to_one_relay_and_waits_for_a_busy_one() {
    let Some(folder) = node::installed() else { return };
    let script = "import { createPotluck, encodeNpy, decodeNpy } from 'potluck-client';
         const seen = [];
         const busy = new Response('{\"code\":\"shutting_down\",\"message\":\"it restarts\",\"hint\":\"\"}', { status: 503, headers: { 'retry-after': '1' } });
         const answers = [busy, Response.json({ state: 'running', progress: { accepted: 3 } }), Response.json({ state: 'done' })];
         const fetch = async (request) => {
           const { origin, pathname, search } = new URL(request.url);
           seen.push([origin, pathname + search, request.headers.get('authorization')]);
           return pathname === '/healthz' ? Response.json({ status: 'ok' }) : answers.shift();
         };
         const potluck = createPotluck({ relay: 'https://a.example/', token: 'secret', fetch });
         await potluck.api.GET('/healthz', { baseUrl: 'https://b.example' });
         const { state } = await potluck.wait('0f');
         const refuse = (relay) => { try { createPotluck({ relay }); return 'nothing'; } catch (error) { return error.code; } };
         const matrix = { shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) };
         const file = encodeNpy(matrix);
         const cut = () => { try { decodeNpy(file.slice(0, -1)); return 'nothing'; } catch (error) { return error.code; } };
         const shifted = new Uint8Array([0, ...file]).subarray(1);
         console.log(JSON.stringify({
           seen, state, file: [...file], cut: cut(), back: [decodeNpy(file), decodeNpy(shifted)].map(({ data }) => [...data]),
           refused: ['a.example', 'ftp://a.example', 'https://a.example/path', 'https://you@a.example'].map(refuse),
         }));";
    let (passed, said) = node::run(&folder, script, &[], LIMIT);
    assert!(passed);
    let job = |query: &str| json!(["https://a.example", format!("/api/v1/jobs/0f?{query}"), "Bearer secret"]);
    let first = job("wait_ms=0");
    let expected =
        json!([["https://b.example", "/healthz", null], first, first, job("wait_ms=25000&seen=3")]);
    assert_eq!(said["seen"], expected);
    assert_eq!(said["state"], "done");
    assert_eq!(said["refused"], json!(["bad_relay", "bad_relay", "bad_relay", "bad_relay"]));
    assert_eq!(said["file"], json!(f32_file(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])));
    assert_eq!(said["back"], json!([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]));
    assert_eq!(said["cut"], "bad_matrix");
}
