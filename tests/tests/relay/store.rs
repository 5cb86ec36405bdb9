//! Records in PostgreSQL and blobs in a bucket: a relay moves there and back, a server dies in mid-work, and of two relays one writes. The whole
//! suite of this program runs on PostgreSQL as well (`cargo xtask test` does that); what is here needs a server to itself.

use super::faults::{Work, signal};
use super::operator::{LIMIT, Relay, files, flip, potluck, potluck_with};
use potluck_proto::Preset;
use potluck_tests::bucket::Bucket;
use potluck_tests::postgres::{Postgres, is_installed};
use potluck_tests::runs::{SampleRun, done, info, rounds};
use potluck_tests::{Api, Volunteer, copy, wait_until};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long the server is gone.
const GONE: Duration = Duration::from_secs(2);
/// So is the bucket: longer than a few attempts take.
const BUCKET_GONE: Duration = Duration::from_secs(10);
/// A relay that is told to end does so within this, store or no store.
const END_LIMIT: Duration = Duration::from_secs(80);
/// A relay notices within this that another one took over.
const NOTICE: Duration = Duration::from_secs(30);

/// A server with a database; none where PostgreSQL is not installed, which is said.
pub(super) fn started() -> Option<Postgres> {
    if !is_installed() {
        eprintln!("skipped: PostgreSQL is not installed");
        return None;
    }
    let server = Postgres::start();
    drop(server.database());
    Some(server)
}

fn on(data: &Path, store: &str) -> Relay {
    Relay::start_by(data, &["env", &format!("POTLUCK_STORE={store}")], &[])
}

/// A run ends, which may have paused because a round could not be stored.
pub(super) fn goes_on(api: &Api, run: &str) {
    let volunteer = Volunteer::start(&api.url, 3, Preset::Full);
    if info(api, run)["state"] == "paused" {
        let resumed = api.send("POST", &format!("/api/v1/runs/{run}/resume"), &[], &[]);
        assert_eq!(resumed.status, 200, "{}", resumed.json());
    }
    done(api, run, LIMIT);
    drop(volunteer);
}

pub(super) fn audited(api: &Api, remember: &Path) {
    let audit = potluck(&["audit", &api.url, "--remember", remember.to_str().unwrap(), "--json"]);
    assert_eq!(audit.code, 0, "{audit:?}");
}

#[test]
fn a_relay_moves_to_postgresql_in_mid_run_and_comes_back_from_a_backup() {
    let Some(server) = started() else { return };
    let store = server.last_url();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (data, backups, back, remember) =
        (path("data"), path("backups"), path("back"), folder.path().join("seen"));
    let relay = Relay::start(Path::new(&data));
    let sample = SampleRun::new(6, [1, 1]);
    let (_, run) = sample.create(&relay.api, "moving");
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    wait_until("a round is closed", LIMIT, || rounds(&relay.api, &run) >= 1);
    drop(volunteer);
    audited(&relay.api, &remember);
    let line = ["relay", "migrate", "--data", &data, "--store", &store, "--json"];
    let early = potluck(&line);
    assert!(early.code != 0 && early.errors.contains("another relay uses"), "it runs: {early:?}");
    let before = info(&relay.api, &run);
    drop(relay);
    let moved = potluck(&line);
    assert!(moved.code == 0 && moved.json["rows"].as_u64().unwrap() > 20, "{moved:?}");
    let again = potluck(&line);
    assert!(again.code == 0 && again.json["rows"].is_null(), "{again:?}");

    // Without the store it is not started over.
    let refused = potluck(&["relay", "--data", &data, "--listen", "127.0.0.1:0"]);
    assert!(refused.code != 0 && refused.errors.contains("--store"), "{refused:?}");
    // Nor with another one, which would be taken for a relay that has nothing.
    drop(server.database());
    let line = ["relay", "--data", &data, "--store", &server.last_url(), "--listen", "127.0.0.1:0"];
    let refused = potluck(&line);
    assert!(refused.code != 0 && refused.errors.contains("and not in postgres://"), "{refused:?}");
    assert_eq!(server.ask("test_1", "SELECT count(*) FROM pg_tables WHERE tablename = 'meta'").unwrap(), "0");
    let mut relay = on(Path::new(&data), &store);
    let after = info(&relay.api, &run);
    assert_eq!((&after["history"], &after["round"]), (&before["history"], &before["round"]));
    // Nobody else writes there.
    let second = path("second");
    let refused = potluck(&["relay", "--data", &second, "--store", &store, "--listen", "127.0.0.1:0"]);
    assert!(refused.code != 0 && refused.errors.contains("another relay uses the store"), "{refused:?}");
    assert_eq!(server.ask("test_0", "SELECT value FROM meta WHERE name = 'term'").unwrap(), "2");
    let doctor = potluck(&["relay", "doctor", "--data", &data, "--store", &store, "--json"]);
    let database = doctor.json["findings"].as_array().unwrap().iter().find(|one| one["what"] == "database");
    assert!(database.is_some_and(|one| one["level"] == "good"), "{doctor:?}");

    let line =
        ["relay", "backup", "--data", &data, "--store", &store, "--to", &backups, "--json", "--with-keys"];
    let made = potluck(&line);
    assert_eq!(made.code, 0, "{made:?}");
    // Killed, it lets go of the store at once.
    relay.kill();
    relay.again();
    let volunteer = Volunteer::start(&relay.api.url, 2, Preset::Full);
    done(&relay.api, &run, LIMIT);
    drop(volunteer);
    audited(&relay.api, &remember);
    drop(relay);

    // The backup is one of a folder, whatever the records were in.
    let restored = potluck(&["relay", "restore", "--from", &backups, "--data", &back, "--json"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    let relay = Relay::start(Path::new(&back));
    assert_eq!(info(&relay.api, &run)["round"], before["round"]);
    let volunteer = Volunteer::start(&relay.api.url, 3, Preset::Full);
    done(&relay.api, &run, LIMIT);
    drop(volunteer);
    audited(&relay.api, &folder.path().join("somebody else"));
    // And it can move again, but not over what is there.
    drop(relay);
    let line = ["relay", "migrate", "--data", &back, "--store", &store, "--json"];
    assert!(potluck(&line).errors.contains("holds records already"));
    drop(server.database());
    let moved = potluck(&["relay", "migrate", "--data", &back, "--store", &server.last_url(), "--json"]);
    assert_eq!(moved.code, 0, "{moved:?}");
}

#[test]
fn a_database_that_dies_in_mid_work_loses_nothing() {
    let Some(mut server) = started() else { return };
    let folder = tempfile::tempdir().unwrap();
    let relay = on(&folder.path().join("data"), &server.last_url());
    let (_, run) = SampleRun::new(4, [1, 1]).create(&relay.api, "beside it");
    let work = Work::begin(&relay.api, 11);
    for _ in 0..3 {
        let then = work.accepted(&relay.api);
        server.kill();
        // What is tested is time that passes, not a moment that comes.
        std::thread::sleep(GONE);
        server.again();
        wait_until("work goes on", LIMIT, || work.accepted(&relay.api) > then);
    }
    assert!(relay.process().ended().is_none(), "it waited");
    let then = work.accepted(&relay.api);
    work.end(&relay.api, then);
    goes_on(&relay.api, &run);
    audited(&relay.api, &folder.path().join("seen"));
    // Nobody waits for it for ever.
    server.kill();
    signal(&relay, Signal::TERM);
    relay.process().succeeds(END_LIMIT);
}

#[test]
fn a_relay_that_was_away_while_another_took_over_writes_nothing_more() {
    let Some(server) = started() else { return };
    let (folder, store) = (tempfile::tempdir().unwrap(), server.last_url());
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    let first = on(&data, &store);
    let work = Work::begin(&first.api, 21);
    signal(&first, Signal::STOP);
    // As a server does with a connection whose other end is gone.
    let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = 'test_0' AND pid <> pg_backend_pid()";
    assert!(server.ask("test_0", ends).unwrap().parse::<u32>().unwrap() > 0);
    copy(&data, &other);
    let second = on(&other, &store);
    let then = work.accepted(&second.api);
    signal(&first, Signal::CONT);
    wait_until("the first one ends", NOTICE, || first.process().ended().is_some());
    assert!(!first.process().ended().unwrap().success());
    let said = first.process().story();
    assert!(said.contains("another relay took the store over"), "{said}");
    work.end(&second.api, then);
    assert_eq!(second.api.get("/healthz").status, 200);
    let job = json!(second.api.get("/api/v1/log").json()["entries"]);
    assert!(job.as_u64().unwrap() > then, "{job}");
}

#[test]
fn blobs_move_to_a_bucket_in_mid_run_and_its_loss_is_waited_for() {
    let mut bucket = Bucket::start();
    let environment = bucket.environment();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (data, backups, remember) = (path("data"), path("backups"), folder.path().join("seen"));
    let relay = Relay::start(Path::new(&data));
    let sample = SampleRun::new(6, [1, 1]);
    let (_, run) = sample.create(&relay.api, "moving");
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    wait_until("a round is closed", LIMIT, || rounds(&relay.api, &run) >= 1);
    drop(volunteer);
    drop(relay);
    let place = Bucket::place("one");
    let line = ["relay", "migrate", "--data", &data, "--blobs", &place, "--json"];
    let wrong = [&environment[..3], &[("AWS_SECRET_ACCESS_KEY", "guessed".to_owned())]].concat();
    let refused = potluck_with(&line, &wrong);
    assert!(refused.code != 0 && refused.errors.contains("AWS_SECRET_ACCESS_KEY"), "{refused:?}");
    let moved = potluck_with(&line, &environment);
    assert!(moved.code == 0 && moved.json["blobs"].as_u64().unwrap() > 5, "{moved:?}");
    assert!(!Path::new(&data).join("blobs").exists());

    let refused = potluck(&["relay", "--data", &data, "--listen", "127.0.0.1:0"]);
    assert!(refused.code != 0 && refused.errors.contains("--blobs"), "{refused:?}");
    let words: Vec<_> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let words = [words, vec![format!("POTLUCK_BLOBS={place}")]].concat();
    let launcher: Vec<_> = ["env"].into_iter().chain(words.iter().map(String::as_str)).collect();
    // Another relay does not get the place: each removes what it does not need.
    let other = path("other");
    let line = ["relay", "--data", &other, "--listen", "127.0.0.1:0", "--blobs", &place];
    let refused = potluck_with(&line, &environment);
    assert!(refused.code != 0 && refused.errors.contains("this is"), "{refused:?}");
    // Nor does anybody get one that holds something else, or this relay another one.
    let photo = bucket.folder("photos").join("cat.jpg");
    fs::create_dir_all(photo.parent().unwrap()).unwrap();
    fs::write(&photo, "a cat").unwrap();
    let photos = Bucket::place("photos");
    let line = ["relay", "--data", &other, "--listen", "127.0.0.1:0", "--blobs", &photos];
    let refused = potluck_with(&line, &environment);
    assert!(refused.code != 0 && refused.errors.contains("it is not empty"), "{refused:?}");
    let line = ["relay", "--data", &data, "--listen", "127.0.0.1:0", "--blobs", &photos];
    let refused = potluck_with(&line, &environment);
    assert!(refused.code != 0 && refused.errors.contains("and not in s3://"), "{refused:?}");
    // What others put beside the blobs stays.
    let beside = bucket.folder("one").join("notes.txt");
    fs::write(&beside, "ours").unwrap();
    let older = folder.path().join("older");
    copy(Path::new(&data), &older);

    let relay = Relay::start_by(Path::new(&data), &launcher, &[]);
    assert!(photo.is_file() && beside.is_file());
    let line = ["relay", "--data", older.to_str().unwrap(), "--listen", "127.0.0.1:0", "--blobs", &place];
    let refused = potluck_with(&line, &environment);
    assert!(refused.code != 0 && refused.errors.contains("an older copy"), "{refused:?}");
    // Its results are larger than those that are rows.
    let work = Work::begin(&relay.api, 31);
    let then = work.accepted(&relay.api);
    bucket.stop();
    // What is tested is time that passes, not a moment that comes.
    std::thread::sleep(BUCKET_GONE);
    bucket.again();
    wait_until("work goes on", LIMIT, || work.accepted(&relay.api) > then);
    work.end(&relay.api, then);
    goes_on(&relay.api, &run);
    audited(&relay.api, &remember);
    assert!(files(&Path::new(&data).join("blobs")).is_empty(), "nothing came into the folder");

    // A backup has the blobs too, and what the service gives back wrong is found.
    let line =
        ["relay", "backup", "--data", &data, "--blobs", &place, "--to", &backups, "--json", "--with-keys"];
    let made = potluck_with(&line, &environment);
    assert_eq!(made.code, 0, "{made:?}");
    drop(relay);
    let restored = potluck(&["relay", "restore", "--from", &backups, "--data", &path("back"), "--json"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    let doctor = |data: &str, more: &[&str]| {
        let line = [&["relay", "doctor", "--data", data, "--deep", "--json"], more].concat();
        let found = potluck_with(&line, &environment).json["findings"].clone();
        let blobs = found.as_array().unwrap().iter().find(|one| one["what"] == "blobs").unwrap().clone();
        (blobs["level"].as_str().unwrap().to_owned(), blobs["text"].as_str().unwrap().to_owned())
    };
    assert_eq!(doctor(&path("back"), &[]).0, "good");
    assert_eq!(doctor(&data, &["--blobs", &place]).0, "good");
    // In a folder of two letters, as blobs are.
    let stored = files(&bucket.folder("one"));
    flip(stored.iter().find(|path| path.parent().unwrap().file_name().unwrap().len() == 2).unwrap());
    let (level, text) = doctor(&data, &["--blobs", &place]);
    assert!(level == "wrong" && text.contains("damaged"), "{text}");
}
