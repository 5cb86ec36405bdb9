//! A disk that gives other bytes back: the relay notices, makes again what it can, and hands out nothing that is wrong.

use super::operator::{LIMIT, files, flip, potluck};
use potluck_proto::Preset;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::{TestRelay, Volunteer, wait_until};
use potluck_types::{BlobHash, MatmulShape};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Results are files: the smaller ones of other products are rows of the database.
const SHAPE: MatmulShape = MatmulShape { m: 1024, k: 64, n: 1024 };

/// So large that a panel is 128 rows.
const TALL: MatmulShape = MatmulShape { m: 1024, k: 64, n: 1024 };

fn blob(data: &Path, hash: &str) -> PathBuf {
    data.join("blobs").join(&hash[..2]).join(&hash[2..])
}

fn product(relay: &TestRelay, known: &LowRank, shape: MatmulShape) -> String {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    relay.api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({}))
}

/// A relay with a product that is done.
fn with_product(relay: &TestRelay, known: &LowRank) -> String {
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    let id = product(relay, known, SHAPE);
    assert!(relay.api.result(&id, LIMIT).1 == known.c);
    drop(volunteer);
    id
}

#[test]
fn a_damaged_result_is_not_handed_out_and_comes_back_from_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    let backups = folder.path().join("backups");
    let kept = backups.clone();
    let relay = TestRelay::start_configured(|config| {
        config.upkeep.backups = Some(kept);
        // `potluck relay backup` is not told of another store.
        config.store = None;
    });
    let known = LowRank::new(SHAPE, 1);
    let id = with_product(&relay, &known);
    let path = format!("/api/v1/jobs/{id}/result");
    let tiles = files(&relay.data().join("blobs"));
    assert!(!tiles.is_empty());
    // Read before, so that it is in memory that it was right.
    flip(&tiles[0]);
    let answer = relay.api.try_send("GET", &path, &[], &[]);
    let refused = match answer {
        // What was on its way already is cut off, and never whole.
        Err(_) => relay.api.get(&path),
        Ok(answer) => answer,
    };
    assert_eq!(
        (refused.status, refused.text("code").as_str()),
        (500, "result_damaged"),
        "{:?}",
        refused.json()
    );
    assert_eq!(relay.api.metric("blobs_damaged_total"), 1);
    wait_until("the relay has looked for another copy", LIMIT, || relay.api.metric("blobs_lost") == 1);
    assert_eq!(relay.api.get(&path).text("code"), "result_damaged", "it stays so");
    let admin = relay.api.with_authorization(Some(&format!("Bearer {}", relay.admin_token())));
    assert!(admin.get("/api/v1/operator").json()["errors"].to_string().contains("damaged on disk"));

    // Another one, of which there is a backup.
    let other = LowRank::new(SHAPE, 2);
    let id = with_product(&relay, &other);
    let data = relay.data().to_str().unwrap();
    let made = potluck(&["relay", "backup", "--data", data, "--to", backups.to_str().unwrap(), "--json"]);
    assert!(made.code == 1 && made.json["damaged"].as_array().unwrap().len() == 1, "{made:?}");
    let whole: Vec<_> = files(&relay.data().join("blobs"))
        .into_iter()
        .filter(|path| !path.to_str().unwrap().contains("damaged"))
        .filter(|path| !tiles.contains(path))
        .collect();
    for tile in &whole {
        flip(tile);
    }
    let path = format!("/api/v1/jobs/{id}/result");
    wait_until("the result is whole again", LIMIT, || {
        relay.api.try_send("GET", &path, &[], &[]).is_ok_and(|answer| answer.status == 200)
    });
    assert!(relay.api.result(&id, LIMIT).1 == other.c);
    assert_eq!(relay.api.metric("blobs_healed_total"), whole.len() as u64);
    assert_eq!(relay.api.metric("blobs_lost"), 1);
}

#[test]
fn a_damaged_input_is_cut_again_and_the_search_finds_what_nobody_asks_for() {
    let relay = TestRelay::start_configured(|config| config.upkeep.search_bytes_per_s = 0);
    let known = LowRank::new(TALL, 3);
    // The first panel of A is its first 128 rows. It lies there already, so the relay does not keep it in memory.
    let bytes: Vec<u8> =
        known.a[..128 * TALL.k as usize].iter().flat_map(|value| value.to_le_bytes()).collect();
    let hash = BlobHash::of(&bytes).to_string();
    let place = blob(relay.data(), &hash);
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(&place, &bytes).unwrap();
    flip(&place);
    let id = product(&relay, &known, TALL);
    assert!(files(&relay.data().join("blobs")) == [place], "a panel is something else now: change this test");
    let volunteer = Volunteer::start(&relay.api.url, 1, Preset::Full);
    assert!(relay.api.result(&id, LIMIT).1 == known.c, "the product is wrong");
    drop(volunteer);
    assert_eq!(relay.api.metric("blobs_damaged_total"), 1);
    assert_eq!((relay.api.metric("blobs_healed_total"), relay.api.metric("blobs_lost")), (1, 0));
    assert_eq!(relay.api.metric("results_rejected_total"), 0, "nobody is blamed");
    drop(relay);

    // A result that is damaged and that nobody fetches again.
    let relay = TestRelay::start_configured(|config| config.upkeep.search_bytes_per_s = u64::MAX);
    let known = LowRank::new(SHAPE, 4);
    let id = with_product(&relay, &known);
    let before = relay.api.metric("blobs_damaged_total");
    let mut relay = relay;
    relay.restart_after(|data| flip(&files(&data.join("blobs"))[0]));
    wait_until("the search finds it", LIMIT, || relay.api.metric("blobs_damaged_total") > before);
    assert_eq!(relay.api.get(&format!("/api/v1/jobs/{id}/result")).text("code"), "result_damaged");
}
