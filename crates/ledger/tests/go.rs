//! Go's implementation of transparency logs accepts our logs, and refuses them once a byte is changed.
//!
//! See `tests/go-ledger/README.md` at the root for what has to be installed.

#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

mod common;

use common::{Log, ORIGIN, log_key, signed};
use potluck_ledger::TreeHead;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where Debian puts the sources of Go libraries.
const GOPATH: &str = "/usr/share/gocode";

/// Batches that end before, at and behind the edges of tiles, and that fill several at once.
const BATCHES: [usize; 11] = [1, 1, 253, 1, 1, 200, 55, 256, 1, 700, 531];

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A log's folder, with all checkpoints that it ever signed.
fn write_log(folder: &Path, batches: &[usize]) -> Log {
    let mut log = Log::default();
    write(&folder.join("key"), log_key().verifier().to_string());
    write(&folder.join("checkpoints/0"), signed(TreeHead::EMPTY).to_string());
    for batch in batches {
        let first = log.entries.len();
        let head = log.append((first..first + batch).map(common::entry).collect());
        write(&folder.join(format!("checkpoints/{}", head.size)), signed(head).to_string());
    }
    for (file, bytes) in &log.files {
        write(&folder.join(file.to_string()), bytes);
    }
    write(&folder.join("checkpoint"), log.note().to_string());
    log
}

/// Builds the Go program; none, after saying why, if that cannot be done here and need not be.
fn build(folder: &Path) -> Option<PathBuf> {
    let gopath = std::env::var("GOPATH").unwrap_or_else(|_| GOPATH.to_owned());
    let library = Path::new(&gopath).join("src/golang.org/x/mod/sumdb/tlog");
    let missing = if Command::new("go").arg("version").output().is_err() {
        "go is not installed"
    } else if !library.exists() {
        "golang.org/x/mod is not installed"
    } else {
        let program = folder.join("go-ledger");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/go-ledger/main.go");
        let output = Command::new("go")
            .args(["build", "-o"])
            .args([&program, &source])
            .env("GO111MODULE", "off")
            .env("GOPATH", gopath)
            .env("GOCACHE", folder.join("cache"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return Some(program);
    };
    assert!(std::env::var_os("POTLUCK_REQUIRE_GO").is_none_or(|value| value != "1"), "{missing}");
    // Not `eprintln`: the test harness shows that of failing tests only.
    let said = format!("SKIPPED: the log was not checked by Go: {missing}\n");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
    None
}

fn run(program: &Path, log: &Path) -> Output {
    Command::new(program).arg(log).output().unwrap()
}

#[test]
fn go_accepts_our_log_and_refuses_a_changed_one() {
    let temporary = tempfile::tempdir().unwrap();
    let Some(program) = build(temporary.path()) else { return };
    let folder = temporary.path().join("log");
    let log = write_log(&folder, &BATCHES);
    assert_eq!(log.head().size, 2000);

    let output = run(&program, &folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Of each batch, of the empty log, and the latest once more. All but the empty one pair with each other and themselves.
    let summary = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(summary.trim(), "ok: 2000 records, 13 checkpoints, 78 pairs");
    eprintln!("Go: {}", summary.trim());

    let refuses = |file: &str, at: usize| {
        let path = folder.join(file);
        let good = fs::read(&path).unwrap();
        let mut changed = good.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).unwrap();
        let output = run(&program, &folder);
        assert!(!output.status.success(), "{file} was changed");
        fs::write(&path, good).unwrap();
    };
    refuses("tile/0/003", 1000);
    refuses("tile/0/007.p/208", 0);
    refuses("tile/1/000.p/7", 100);
    refuses("tile/entries/004", 500);
    refuses("tile/entries/007.p/208", 3);
    refuses("checkpoint", ORIGIN.len() + 1);
    refuses("checkpoints/257", ORIGIN.len() + 10);

    // An older checkpoint that the log signed, but of another history.
    let mut entries = log.entries[..257].to_vec();
    entries[3] = b"rewritten".to_vec();
    write(&folder.join("checkpoints/257"), Log::of(entries).note().to_string());
    let output = run(&program, &folder);
    assert!(!output.status.success(), "a fork");
    assert!(String::from_utf8_lossy(&output.stderr).contains("257"));
}
