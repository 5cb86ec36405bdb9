//! Deployments that are broken in one way each, and what the doctor says of them.

use super::operator::{LIMIT, Relay, files, flip, potluck};
use potluck_proto::Preset;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::{Volunteer, copy};
use potluck_types::MatmulShape;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Results are files: the smaller ones of other products are rows of the database.
const SHAPE: MatmulShape = MatmulShape { m: 1024, k: 64, n: 1024 };

/// What is broken, what the doctor is to call it, and how it is done.
type Break<'a> = (&'a str, &'a str, &'a dyn Fn(&Path));

/// What is wrong, each with its text and what to do. A test's folder may lie anywhere, so that disks are left aside.
fn wrong(data: &Path, more: &[&str]) -> (i32, Vec<(String, String)>) {
    let line = [&["relay", "doctor", "--json", "--data", data.to_str().unwrap()], more].concat();
    let done = potluck(&line);
    let findings = done.json["findings"].as_array().unwrap_or_else(|| panic!("{done:?}")).clone();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    for one in &findings {
        assert!(one["level"] == "good" || !text(one, "hint").is_empty(), "{one} says not what to do");
    }
    let bad = findings.iter().filter(|one| one["level"] == "wrong");
    let bad = bad.filter(|one| !["file system", "space"].contains(&text(one, "what").as_str()));
    (done.code, bad.map(|one| (text(one, "what"), text(one, "text"))).collect())
}

#[test]
fn a_sound_deployment_has_nothing_to_fix_and_broken_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = path("data");
    let relay = Relay::start(&data);
    let known = LowRank::new(SHAPE, 1);
    let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
    let id = relay.api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({}));
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    assert!(relay.api.result(&id, LIMIT).1 == known.c);
    drop(volunteer);
    relay.published(3);
    let url = relay.api.url.clone();
    // While it runs, asked from outside too. It listens on a port that its settings do not name.
    let config = path("potluck.toml");
    fs::write(&config, format!("listen = \"{}\"\ndata = {:?}\n", url.replace("http://", ""), data)).unwrap();
    let settings = ["--config", config.to_str().unwrap(), "--deep", "--relay", &url];
    assert_eq!(wrong(&data, &settings).1, []);
    drop(relay);
    let settings = ["--config", config.to_str().unwrap()];
    assert_eq!(wrong(&data, &settings).1, [], "it is stopped, which is no mistake");
    let gone = wrong(&data, &[&settings[..], &["--relay", &url]].concat());
    assert_eq!((gone.0, gone.1[0].0.as_str()), (1, "outside"), "{gone:?}");

    let blob = |data: &Path| -> PathBuf { files(&data.join("blobs"))[0].clone() };
    let log_file = |data: &Path, name: &str| -> PathBuf {
        files(&data.join("log")).into_iter().find(|path| path.to_str().unwrap().contains(name)).unwrap()
    };
    let broken: [Break<'_>; 8] = [
        ("blobs", "are damaged", &|data| flip(&blob(data))),
        ("blobs", "are gone", &|data| fs::remove_file(blob(data)).unwrap()),
        ("log", "checkpoint", &|data| flip(&data.join("log/checkpoint"))),
        ("log", "entr", &|data| flip(&log_file(data, "entries"))),
        ("log", "the database those from", &|data| {
            // Yesterday's database with today's log.
            let connection = data.join("potluck.db");
            assert!(connection.is_file());
            let old = files(data).into_iter().find(|path| path.ends_with("older.db")).unwrap();
            fs::copy(old, connection).unwrap();
        }),
        ("database", "", &|data| {
            let path = data.join("potluck.db");
            let mut bytes = fs::read(&path).unwrap();
            let end = bytes.len();
            bytes[4096..end].fill(0x55);
            fs::write(path, bytes).unwrap();
        }),
        ("data", "cut short", &|data| fs::write(data.join("restoring"), "").unwrap()),
        ("permissions", "no relay.key", &|data| fs::remove_file(data.join("relay.key")).unwrap()),
    ];
    // A database of a moment before anything was published.
    let (empty, backups) = (path("empty"), path("backups"));
    let first = Relay::start(&empty);
    drop(first);
    // So that all of both lies in one file: whoever leaves a database last cleans up.
    for folder in [&data, &empty] {
        let line = ["relay", "backup", "--to", backups.to_str().unwrap(), "--data", folder.to_str().unwrap()];
        assert_eq!(potluck(&line).code, 0);
        assert!(!folder.join("potluck.db-wal").exists());
    }
    fs::copy(empty.join("potluck.db"), data.join("older.db")).unwrap();
    for (index, (what, text, damage)) in broken.iter().enumerate() {
        let copy_of = path(&format!("broken-{index}"));
        copy(&data, &copy_of);
        for name in ["potluck.db-wal", "potluck.db-shm"] {
            drop(fs::remove_file(copy_of.join(name)));
        }
        damage(&copy_of);
        let (code, found) = wrong(&copy_of, &[&settings[..], &["--deep"]].concat());
        assert_eq!(code, 1, "{what} {text}: {found:?}");
        let named = found.iter().any(|(found, said)| found == what && said.contains(text));
        assert!(named, "{what} {text}: {found:?}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(data.join("relay.key"), fs::Permissions::from_mode(0o644)).unwrap();
        let (_, found) = wrong(&data, &settings);
        assert!(
            found.iter().any(|(what, text)| what == "permissions" && text.contains("relay.key")),
            "{found:?}"
        );
    }
    fs::write(&config, "lisen = 1").unwrap();
    let (code, found) = wrong(&data, &settings);
    assert!(code == 1 && found[0].0 == "settings" && found[0].1.contains("lisen"), "{found:?}");
}
