//! A backup of a relay in the middle of its work, and the way back: the job goes on, the product is right, the log holds; what
//! was cut short or damaged is not taken for whole; and going on from an old one is noticed.

use super::operator::{LIMIT, Relay, files, flip, potluck};
use potluck_proto::Preset;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::{Api, Volunteer, wait_until};
use potluck_types::MatmulShape;
use serde_json::json;
use std::fs;
use std::path::Path;

/// 256 units: enough for a backup in the middle of them.
const LARGE: MatmulShape = MatmulShape { m: 4096, k: 512, n: 4096 };
const SMALL: MatmulShape = MatmulShape { m: 256, k: 64, n: 256 };

fn submit(api: &Api, known: &LowRank, shape: MatmulShape) -> String {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({}))
}

fn accepted(api: &Api, id: &str) -> u64 {
    api.job(id)["progress"]["accepted"].as_u64().unwrap_or(0)
}

fn work_until_done(api: &Api, id: &str, known: &LowRank) {
    let volunteer = Volunteer::start(&api.url, 7, Preset::Full);
    assert!(api.result(id, LIMIT).1 == known.c, "the product is wrong");
    drop(volunteer);
}

#[test]
fn a_relay_goes_on_from_a_backup_that_was_made_in_the_middle_of_a_job() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (data, backups) = (path("data"), path("backups"));
    let mut relay = Relay::start(Path::new(&data));
    let (small, large) = (LowRank::new(SMALL, 1), LowRank::new(LARGE, 2));
    let done = submit(&relay.api, &small, SMALL);
    work_until_done(&relay.api, &done, &small);
    let running = submit(&relay.api, &large, LARGE);
    let volunteer = Volunteer::start(&relay.api.url, 3, Preset::Quiet);
    wait_until("a part of the job is done", LIMIT, || accepted(&relay.api, &running) > 0);
    let line = ["relay", "backup", "--data", &data, "--to", &backups, "--json", "--with-keys"];
    let first = potluck(&line);
    assert_eq!(first.code, 0, "{first:?}");
    drop(volunteer);
    // What it had delivered is judged and stored.
    wait_until("nothing is under way", LIMIT, || {
        ["leases", "result_bytes"].iter().all(|figure| relay.api.metric(figure) == 0)
    });
    let then = accepted(&relay.api, &running);
    assert_eq!(relay.api.job(&running)["state"], "running", "the job is too small for this test");
    let ages = || -> Vec<_> {
        let blobs = files(&folder.path().join("backups/pool")).into_iter();
        blobs.map(|path| (fs::metadata(&path).unwrap().modified().unwrap(), path)).collect()
    };
    let before = ages();
    let second = potluck(&line);
    assert_eq!(second.code, 0, "{second:?}");
    let count = |done: &super::operator::Done, field: &str| done.json[field].as_u64().unwrap();
    assert!(count(&second, "files") >= count(&first, "files"));
    let after = ages();
    assert!(before.len() > 1 && before.iter().all(|file| after.contains(file)), "nothing is copied again");

    // What was cut short is none, and is removed by the next one.
    let cut = folder.path().join("backups/9999-01-01T00-00-00.000Z.partial");
    fs::create_dir(&cut).unwrap();
    fs::write(cut.join("manifest.json"), "{}").unwrap();
    // A damaged copy is noticed before anything is written, and the next backup makes it good.
    let copy = files(&folder.path().join("backups/pool/blobs"))[0].clone();
    flip(&copy);
    let restored = path("restored");
    let back = ["relay", "restore", "--from", &backups, "--data", &restored, "--json"];
    let refused = potluck(&back);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.errors.contains("damaged or gone, pool/blobs/"), "{refused:?}");
    assert!(files(Path::new(&restored)).is_empty());
    let third = potluck(&line);
    assert_eq!((third.code, cut.exists()), (0, false), "{third:?}");
    assert!(count(&third, "copied_files") > 0);
    let third_name = third.json["backup"].as_str().unwrap().to_owned();

    // The original goes on, and is seen.
    work_until_done(&relay.api, &running, &large);
    let seen = relay.published(third.json["log_entries"].as_u64().unwrap() + 1);
    let (remember, url) = (path("remember"), relay.api.url.clone());
    let audit = potluck(&["audit", &url, "--remember", &remember, "--json"]);
    assert_eq!(audit.code, 0, "{audit:?}");
    relay.kill();
    let log = path("newer-log");
    fs::rename(folder.path().join("data/log"), &log).unwrap();
    fs::remove_dir_all(&data).unwrap();

    // The disk is gone. Whoever has a copy of the log is warned.
    let mut back =
        vec!["relay", "restore", "--from", &backups, "--data", &data, "--json", "--backup", &third_name];
    let forked = potluck(&[&back[..], &["--newer-log", &log]].concat());
    assert_eq!(forked.code, 7, "{forked:?}");
    assert!(forked.errors.contains("the log went on after the backup"), "{forked:?}");
    assert!(!Path::new(&data).join("potluck.db").exists());
    back.extend(["--newer-log", &log, "--fork"]);
    let done_back = potluck(&back);
    assert_eq!(done_back.code, 0, "{done_back:?}");
    assert_eq!(potluck(&back).code, 1, "nothing is overwritten");

    // Nothing that was accepted by then is lost, and nothing counts twice.
    relay.again();
    assert_eq!(accepted(&relay.api, &running), then);
    assert!(relay.api.result(&done, LIMIT).1 == small.c);
    work_until_done(&relay.api, &running, &large);
    let job = relay.api.job(&running);
    let elements: u64 =
        job["contributors"].as_array().unwrap().iter().map(|one| one["elements"].as_u64().unwrap()).sum();
    assert_eq!(elements, u64::from(LARGE.m * LARGE.n), "{job}");
    relay.published(third.json["log_entries"].as_u64().unwrap() + 1);
    let fresh = path("fresh");
    let audit = potluck(&["audit", &url, "--remember", &fresh, "--json"]);
    assert_eq!(audit.code, 0, "{audit:?}");
    // Whoever saw the entries that it forgot finds out.
    let mut seed = 10;
    while relay.published(0) <= seen {
        let more = LowRank::new(SMALL, seed);
        let id = submit(&relay.api, &more, SMALL);
        work_until_done(&relay.api, &id, &more);
        seed += 1;
    }
    let audit = potluck(&["audit", &url, "--remember", &remember, "--json"]);
    assert!(audit.code != 0 && audit.errors.contains("forked"), "{audit:?}");
}

#[test]
fn keys_are_copied_only_when_that_is_said_and_a_folder_with_something_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (data, backups, back) = (path("data"), path("backups"), path("back"));
    let relay = Relay::start(Path::new(&data));
    relay.published(1);
    let made = potluck(&["relay", "backup", "--data", &data, "--to", &backups, "--json"]);
    assert_eq!(made.code, 0, "{made:?}");
    let key = fs::read_to_string(folder.path().join("data/relay.key")).unwrap();
    let token = fs::read_to_string(folder.path().join("data/token")).unwrap();
    for file in files(Path::new(&backups)) {
        let bytes = fs::read(&file).unwrap();
        let holds = |secret: &str| bytes.windows(64).any(|part| part == secret.trim().as_bytes());
        assert!(!holds(&key) && !holds(&token), "{} holds a secret", file.display());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            let empty = bytes.is_empty() || file.ends_with("files") || file.ends_with("manifest.json");
            assert!(empty || mode.trailing_zeros() >= 6, "{}: {mode:o}", file.display());
        }
    }
    // Another relay's key is no way back, its own is.
    let other = path("other");
    fs::write(&other, "0f".repeat(32)).unwrap();
    let line = ["relay", "restore", "--from", &backups, "--data", &back];
    let refused = potluck(&line);
    assert!(refused.code == 1 && refused.errors.contains("--key"), "{refused:?}");
    let refused = potluck(&[&line[..], &["--key", &other]].concat());
    assert!(refused.code == 1 && refused.errors.contains("the key is of the relay"), "{refused:?}");
    let own = path("data/relay.key");
    let good = potluck(&[&line[..], &["--key", &own]].concat());
    assert_eq!(good.code, 0, "{good:?}");
    // The token that the submitter has still is the right one.
    let restored = Relay::start(Path::new(&back));
    let api = restored.api.with_authorization(Some(&format!("Bearer {}", token.trim())));
    assert_eq!(api.get("/api/v1/jobs").status, 200);
    // Letters are not overwritten, and a backup of what is no relay is none.
    let letters = path("letters");
    fs::create_dir(&letters).unwrap();
    fs::write(folder.path().join("letters/dear"), "dear").unwrap();
    let refused = potluck(&["relay", "backup", "--data", &data, "--to", &letters]);
    assert!(refused.code == 1 && refused.errors.contains("holds no backups"), "{refused:?}");
    let refused = potluck(&["relay", "backup", "--data", &letters, "--to", &backups]);
    assert!(refused.code == 1 && refused.errors.contains("no relay's data"), "{refused:?}");
    // No relay starts where a backup came back in part only.
    drop(restored);
    fs::write(folder.path().join("back/restoring"), "").unwrap();
    let refused = potluck(&["relay", "--data", &back, "--listen", "127.0.0.1:0"]);
    assert!(refused.code == 1 && refused.errors.contains("cut short"), "{refused:?}");
}
