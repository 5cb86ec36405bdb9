//! The commands about training against a small relay that plays the HTTP contract with a real run: real parameters, real
//! updates, and some that are none.

use super::runs_relay::{self, Cheat, Relay};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn potluck(folder: &Path, relay: &Relay, line: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_potluck"));
    command.current_dir(folder).env_clear().env("HOME", folder).stdin(Stdio::null());
    command.env("POTLUCK_RELAY", &relay.address).env("POTLUCK_TOKEN", "secret");
    let output = command.args(line.split_whitespace()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_file_becomes_a_run_and_is_watched_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&[]);
    std::fs::write(folder.path().join("corpus.txt"), runs_relay::corpus()).unwrap();
    std::fs::write(folder.path().join("run.toml"), "corpus = \"corpus.txt\"\nrounds = 3\nseed = 5\n")
        .unwrap();
    let (code, out, error) = potluck(folder.path(), &relay, "submit train run.toml");
    assert_eq!((code, out.trim()), (0, runs_relay::RUN), "{error}");
    let request = relay.created();
    assert_eq!(request["rounds"], 3);
    assert_eq!(request["name"], "corpus.txt");
    let spec = relay.run.data.spec();
    assert_eq!(request["train"], potluck_types::BlobHash(spec.root()).to_string());
    assert_eq!(request["model"]["vocabulary"], spec.vocabulary);
    assert!(request["tokenizer"].as_str().unwrap().contains("\"model\""));
    assert!(request.get("init").is_none());

    let (code, out, error) = potluck(folder.path(), &relay, "submit train run.toml --watch --json --name x");
    assert_eq!(code, 0, "{error}");
    let said = lines(&out);
    assert_eq!(relay.created()["name"], "x");
    assert_eq!(said.len(), 1 + 2 + 1);
    assert_eq!(
        (&said[1]["round"], &said[2]["round"], &said[3]["state"]),
        (&0.into(), &1.into(), &"done".into())
    );
}

#[test]
fn watching_prints_a_line_a_round() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&[]);
    let (code, out, error) = potluck(folder.path(), &relay, "watch 3f2a");
    assert_eq!(code, 0, "{error}");
    let said: Vec<&str> = out.lines().collect();
    assert_eq!(said.len(), 3, "{out}");
    assert!(said[0].starts_with("round 1 of 2: train "), "{out}");
    assert!(said[2].ends_with("is done after 2 of 2 rounds"), "{out}");
    let (code, _, error) = potluck(folder.path(), &relay, "watch 99");
    assert_eq!(code, 6);
    assert!(error.contains("hint: "), "{error}");
}

#[test]
fn a_model_is_exported_writes_and_starts_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&[]);
    let (code, _, error) = potluck(folder.path(), &relay, "model export 3f2a --out gpt");
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = potluck(folder.path(), &relay, "model export 3f2a --round 3 --out late");
    assert_eq!(code, 2, "{error}");
    assert!(!folder.path().join("late").exists());

    let write = "model generate gpt --prompt the --tokens 40 --temperature 1 --seed";
    let (code, first, error) = potluck(folder.path(), &relay, &format!("{write} 3"));
    assert_eq!(code, 0, "{error}");
    assert!(first.starts_with("the") && first.chars().count() == 3 + 40 + 1, "{first:?}");
    assert_eq!(potluck(folder.path(), &relay, &format!("{write} 3")).1, first);
    assert_ne!(potluck(folder.path(), &relay, &format!("{write} 4")).1, first);
    let (_, json, _) = potluck(folder.path(), &relay, &format!("{write} 3 --json"));
    let said: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(format!("the{}\n", said["text"].as_str().unwrap()), first);
    assert_eq!(potluck(folder.path(), &relay, "model generate gpt --prompt €").0, 4);

    let (code, json, error) = potluck(folder.path(), &relay, "model logits gpt --tokens 1,2,3 --all --json");
    assert_eq!(code, 0, "{error}");
    let said: Value = serde_json::from_str(&json).unwrap();
    let (_, json, _) = potluck(folder.path(), &relay, "model logits gpt --tokens 1,2,3 --json");
    let last: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((said["logits"].as_array().unwrap().len(), &last["logits"][0]), (3, &said["logits"][2]));
    assert_eq!(potluck(folder.path(), &relay, "model logits gpt --tokens 1,999").0, 4);

    std::fs::write(folder.path().join("corpus.txt"), runs_relay::corpus()).unwrap();
    std::fs::write(folder.path().join("run.toml"), "corpus = \"corpus.txt\"\nblocks = 0\n").unwrap();
    let (code, _, error) = potluck(folder.path(), &relay, "model import gpt run.toml --json");
    assert_eq!(code, 0, "{error}");
    let request = relay.created();
    assert_eq!(request["init"], relay.run.newest_hash());
    assert_eq!(request["model"]["width"], relay.run.config.width);
}

#[test]
fn an_update_that_did_not_count_is_found_again_from_the_tasks_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("replay 3f2a --round 1 --volunteer {}", runs_relay::LATE);
    let (code, out, error) = potluck(folder.path(), &Relay::start(&[Cheat::Late]), &line);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.contains("verdict     confirmed"), "{out}");
    let (code, out, _) = potluck(folder.path(), &Relay::start(&[Cheat::Forgot]), &line);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("REFUTED"), "{out}");
    let (code, _, error) = potluck(folder.path(), &Relay::start(&[Cheat::Names]), &line);
    assert!(code != 0 && error.contains("names of the data set's blocks"), "{error}");
}

#[test]
fn honest_updates_are_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&[]);
    for round in 0..2 {
        let (code, out, error) =
            potluck(folder.path(), &relay, &format!("replay 3f2a --round {round} --json"));
        assert_eq!(code, 0, "{out}{error}");
        let said = lines(&out);
        assert_eq!(said.len(), 4);
        for update in &said {
            assert_eq!(update["confirmed"], true);
            assert_eq!(update["bytes"], update["equal_bytes"]);
            assert!(update["whole"].as_f64().unwrap() < 1e-6, "{update}");
        }
    }
    let (code, out, error) = potluck(folder.path(), &relay, "replay 3f2a --round 1 --volunteer 01");
    assert_eq!(code, 0, "{error}");
    assert_eq!(out.matches("verdict     confirmed").count(), 1, "{out}");
    assert_eq!(potluck(folder.path(), &relay, "replay 3f2a --round 2").0, 2);
    let (code, _, error) = potluck(folder.path(), &relay, "replay 3f2a --round 1 --volunteer ff");
    assert_eq!(code, 2);
    assert!(error.contains("01010101"), "{error}");
}

#[test]
fn tampered_updates_are_refuted_with_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let cheats = [Cheat::Scaled, Cheat::OtherData, Cheat::Losses, Cheat::Short];
    for (round, cheats) in [(0, &cheats[..]), (1, &[Cheat::Zero][..])] {
        let relay = Relay::start(cheats);
        let (code, out, error) =
            potluck(folder.path(), &relay, &format!("replay 3f2a --round {round} --json"));
        assert_eq!(code, 1, "{out}{error}");
        let said = lines(&out);
        // The last line is the error.
        assert_eq!(said.last().unwrap()["error"]["code"], "refuted");
        for (worker, update) in said[..4].iter().enumerate() {
            assert_eq!(update["confirmed"], worker >= cheats.len(), "{worker}: {update}");
        }
    }
}

#[test]
fn a_relay_that_gives_out_something_else_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for cheat in [Cheat::Blob, Cheat::Block, Cheat::OtherRate] {
        let relay = Relay::start(&[cheat]);
        let (code, out, error) = potluck(folder.path(), &relay, "replay 3f2a --round 0");
        assert_eq!(code, 1, "{cheat:?}: {out}{error}");
        assert!(error.contains("round 0, worker") && error.contains("hint: "), "{cheat:?}: {error}");
    }
    let relay = Relay::start(&[Cheat::Parameters]);
    let (code, _, error) = potluck(folder.path(), &relay, "model export 3f2a --out gpt");
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("the record names"), "{error}");
    assert!(!folder.path().join("gpt").exists());
}

/// A Python that has torch and transformers: `POTLUCK_PYTHON`, else the one that `cargo xtask bench step` installs.
fn python() -> Option<PathBuf> {
    let cache = || -> Option<PathBuf> {
        let folder = std::env::var_os("POTLUCK_CACHE").map(PathBuf::from);
        Some(
            folder.or_else(|| Some(std::env::home_dir()?.join(".cache/potluck")))?.join("pytorch/bin/python"),
        )
    };
    let python = std::env::var_os("POTLUCK_PYTHON").map(PathBuf::from).or_else(cache)?;
    let imports = Command::new(&python).args(["-c", "import torch, transformers"]).output();
    imports.is_ok_and(|output| output.status.success()).then_some(python)
}

#[test]
fn an_exported_model_loads_in_transformers_with_the_same_logits() {
    let Some(python) = python() else {
        println!("skipped: no Python with torch and transformers (5 GB); name one in POTLUCK_PYTHON");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&[]);
    let (code, _, error) = potluck(folder.path(), &relay, "model export 3f2a --out gpt");
    assert_eq!(code, 0, "{error}");
    let (code, logits, error) =
        potluck(folder.path(), &relay, "model logits gpt --text Ishmael --all --json");
    assert_eq!(code, 0, "{error}");
    let file = folder.path().join("logits.json");
    std::fs::write(&file, logits).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/check_transformers.py");
    let output = Command::new(python).arg(script).arg(folder.path().join("gpt")).arg(file).output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    println!("{}", said.concat());
    assert!(output.status.success(), "{}", said.concat());
}
