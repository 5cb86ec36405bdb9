//! The pages of a whole cycle: what is missing before a promotion, the model's page after it, and after a rollback; read
//! from the log's files, as a page reads them.

#[path = "../../governance/tests/common/mod.rs"]
mod common;

use common::*;
use potluck_governance::entry::Rollback;
use potluck_governance::statement::ProposalKind;
use potluck_ledger::{Appender, Checkpoint, KeyKind, LogFile, SignerKey};
use potluck_web_trust::pages::{model, overview, proposal};
use potluck_web_trust::reader::Reader;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The log's files, and its key and checkpoint.
fn published(world: &World) -> (BTreeMap<LogFile, Vec<u8>>, String, String) {
    let key = SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[7; 32]).unwrap();
    let mut appender = Appender::new();
    let appended = appender.append(&world.log).unwrap();
    let mut note = Checkpoint::new(ORIGIN, appended.head).unwrap().to_note();
    note.sign(&key).unwrap();
    (appended.files.into_iter().collect(), key.verifier().to_string(), note.to_string())
}

/// A page's reader of this log, which saw an earlier checkpoint first.
fn read(world: &World, earlier: &World) -> Reader {
    let (files, key, note) = published(world);
    let mut reader = Reader::new(&key).unwrap();
    for note in [published(earlier).2, note] {
        reader.begin(&note).unwrap();
        while let Some(wanted) = reader.wanted() {
            // As a copy has it that kept the last files only: a partial one gave way to a wider one.
            let exact = files.get(&wanted.path.parse().unwrap());
            let bytes = exact.cloned().unwrap_or_else(|| cut(&files, reader.begin(&note).unwrap().size));
            reader.take(&bytes, false).unwrap();
        }
    }
    reader
}

/// The first `size` entries of the only bundle.
fn cut(files: &BTreeMap<LogFile, Vec<u8>>, size: u64) -> Vec<u8> {
    let whole = files.iter().find_map(|(file, bytes)| matches!(file, LogFile::Bundle(_)).then_some(bytes));
    let whole = whole.unwrap();
    let mut end = 0;
    for _ in 0..size {
        end += 2 + usize::from(u16::from_be_bytes([whole[end], whole[end + 1]]));
    }
    whole[..end].to_vec()
}

fn names(voices: &Value) -> Vec<&str> {
    voices.as_array().unwrap().iter().map(|voice| voice["name"].as_str().unwrap()).collect()
}

#[test]
fn a_cycle_shows_on_the_pages() {
    let mut world = World::new();
    let first = world.candidate();
    let before = world.clone();
    let id = world.all_but("sign-off", first).unwrap();
    let reader = read(&world, &before);
    let log = reader.read().unwrap();
    let page = proposal(log, &id, world.now).unwrap();
    let missing = page["promotion"]["missing"].as_array().unwrap();
    assert!(
        missing.iter().any(|step| step.as_str().unwrap().contains("1 of 2 people signed")),
        "{missing:?}"
    );
    assert_eq!(page["promotion"]["incumbent"], Value::Null);
    assert_eq!(page["promotion"]["checks"].as_array().unwrap().len(), 7);
    assert_eq!(page["outcome"]["state"], "passed");
    let list = overview(log, world.now);
    assert_eq!(
        list["models"],
        json!([{ "name": "small", "current": null, "versions": 0, "candidates": 1, "paused": false }])
    );

    let mut world = before.clone();
    let id = world.all_but("nothing", first).unwrap();
    world.log(world.promotion(first, id));
    for round in 3..6 {
        world.round(round, 2_400_000);
    }
    world.log(candidate(5));
    let second = parameters(5);
    let id = world.all_but("nothing", second).unwrap();
    world.log(world.promotion(second, id));
    let reader = read(&world, &before);
    let page = model(reader.read().unwrap(), "small", world.now).unwrap();
    assert_eq!(page["current"], second.to_string());
    assert_eq!(page["runs"][0]["request"].as_str().unwrap().len(), 64, "what says how large the model is");
    let version = &page["versions"][1];
    assert_eq!(version["rollbackTarget"], first.to_string());
    assert_eq!(names(&version["approvals"]), ["Ada", "Bo"]);
    assert_eq!(
        (names(&version["dissent"]), &version["dissent"][0]["reason"]),
        (vec!["Cy"], &json!("Too early."))
    );
    assert_eq!(version["lineage"]["dataSets"][0]["license"], "public domain");
    assert_eq!(version["lineage"]["contributors"].as_array().unwrap().len(), 4);
    // Contributors are shown by the first digits of their keys.
    assert_eq!(version["lineage"]["contributors"][0]["volunteer"].as_str().unwrap().len(), 8);
    assert_eq!(version["lineage"]["card"]["candidate"], second.to_string());

    let id = world.pass(ProposalKind::RollBack, "small", first);
    world.log(Rollback { model: "small".to_owned(), to: first, proposal: id });
    let reader = read(&world, &before);
    let log = reader.read().unwrap();
    let page = model(log, "small", world.now).unwrap();
    assert_eq!(
        (&page["current"], page["versions"].as_array().unwrap().len()),
        (&json!(first.to_string()), 2)
    );
    assert_eq!(page["changes"][2]["rollback"], true);
    assert_eq!(overview(log, world.now)["decisions"].as_array().unwrap().len(), 5);
    if let Ok(folder) = std::env::var("LOOK_AT") {
        let (files, key, note) = published(&world);
        for (file, bytes) in files {
            let path = std::path::Path::new(&folder).join(file.to_string());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        std::fs::write(format!("{folder}/key"), key).unwrap();
        std::fs::write(format!("{folder}/checkpoint"), note).unwrap();
    }
}
