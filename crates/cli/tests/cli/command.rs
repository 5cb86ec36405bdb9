//! The command itself: help, version, exit codes, what goes to which stream.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn potluck(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_potluck"));
    command.current_dir(folder).env_clear().env("HOME", folder);
    command
}

fn run(folder: &Path, line: &str) -> (i32, String, String) {
    finished(potluck(folder).args(line.split_whitespace()).output().unwrap())
}

fn finished(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A relay that ends with the test.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn help_version_and_completions() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, _) = run(folder.path(), "--help");
    assert_eq!(code, 0);
    for word in ["relay", "submit", "volunteer", "tabs", "Exit codes", "POTLUCK_TOKEN"] {
        assert!(out.contains(word), "{word} is missing in\n{out}");
    }
    for command in [
        "relay",
        "submit matmul",
        "submit train",
        "watch",
        "replay",
        "model generate",
        "model logits",
        "model export",
        "model import",
        "volunteer",
        "tabs",
        "fetch",
        "peers",
    ] {
        let (code, out, _) = run(folder.path(), &format!("{command} --help"));
        assert!(code == 0 && out.contains("Examples:"), "{command}:\n{out}");
    }
    let (code, out, _) = run(folder.path(), "--version");
    assert_eq!((code, out.as_str()), (0, concat!("potluck ", env!("CARGO_PKG_VERSION"), "\n")));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (code, out, _) = run(folder.path(), &format!("completions {shell}"));
        assert!(code == 0 && out.contains("volunteer"), "{shell}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_enough_is_no_failure_to_talk_about() {
    use std::os::fd::OwnedFd;
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = potluck(folder.path());
    command.arg("completions").arg("zsh").stdout(OwnedFd::from(writer));
    let output = command.stderr(std::process::Stdio::piped()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn exit_codes_say_what_went_wrong() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("no.npy"), "nothing").unwrap();
    std::fs::write(folder.path().join("bad.toml"), "lisen = 1").unwrap();
    for (line, expected) in [
        ("brew", 2),
        ("submit matmul a.npy", 2),
        ("jobs --relay ftp://x", 2),
        ("relay --config bad.toml", 2),
        ("--log =,= jobs", 2),
        ("jobs --relay http://127.0.0.1:1", 3),
        ("submit matmul no.npy no.npy --out c.npy", 4),
        ("submit matmul missing.npy no.npy --out c.npy", 4),
        ("submit train missing.toml", 4),
        ("submit train bad.toml", 4),
        ("model generate missing --prompt x", 4),
        ("model generate missing", 2),
        ("watch abc --relay http://127.0.0.1:1", 3),
        ("peers --relay http://127.0.0.1:1", 3),
        ("replay abc --relay http://127.0.0.1:1", 2),
        ("relay --data no.npy --listen 127.0.0.1:0", 1),
    ] {
        let (code, out, error) = run(folder.path(), line);
        assert_eq!(code, expected, "{line}: {error}");
        assert!(out.is_empty(), "{line} wrote to stdout: {out}");
        assert!(error.contains("error: "), "{line}: {error}");
        // clap's own usage errors bring their usage in place of a hint.
        assert!(error.contains("hint: ") || error.contains("Usage:"), "{line}: {error}");
    }
    let (code, out, error) = run(folder.path(), "jobs --relay http://127.0.0.1:1 --json");
    let object: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((code, object["error"]["code"].as_str()), (3, Some("relay_unreachable")), "{error}");
}

#[test]
fn a_relay_says_where_it_is_and_who_may_submit() {
    let folder = tempfile::tempdir().unwrap();
    let child = potluck(folder.path())
        .args(["relay", "--listen", "127.0.0.1:0", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut relay = Relay(child);
    let mut line = String::new();
    BufReader::new(relay.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let (address, token_path) = (ready["address"].as_str().unwrap(), ready["token_path"].as_str().unwrap());
    assert!(Path::new(token_path).is_absolute() && Path::new(token_path).is_file(), "{token_path}");

    // In the relay's own folder nothing else is needed; the environment serves in place of flags.
    let asked = |set: &dyn Fn(&mut Command)| {
        let elsewhere = tempfile::tempdir().unwrap();
        let mut command = potluck(elsewhere.path());
        set(command.env("POTLUCK_RELAY", address).arg("jobs"));
        finished(command.output().unwrap())
    };
    assert_eq!(
        asked(&|command| {
            command.current_dir(folder.path());
        })
        .0,
        0
    );
    assert_eq!(
        asked(&|command| {
            command.env("POTLUCK_TOKEN_FILE", token_path);
        })
        .0,
        0
    );
    let token = std::fs::read_to_string(token_path).unwrap();
    assert_eq!(
        asked(&|command| {
            command.env("POTLUCK_TOKEN", token.trim());
        })
        .0,
        0
    );
    // A flag comes before the environment.
    let (code, _, error) = asked(&|command| {
        command.env("POTLUCK_TOKEN_FILE", token_path).args(["--token", "x"]);
    });
    assert_eq!(code, 5, "{error}");
    let (code, _, error) = asked(&|_| {});
    assert_eq!(code, 5);
    assert!(error.contains("--token-file"), "{error}");

    // The mesh is for the operator's eyes too, and nobody is in it.
    let peers = |line: &str| run(folder.path(), &format!("peers --relay {address} {line}"));
    let (code, out, error) = peers("");
    assert!(code == 0 && out.starts_with("nobody is in the mesh"), "{out}{error}");
    let (code, out, _) = peers("--json");
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, object), (0, serde_json::json!({ "members": [], "links": [] })));
    assert_eq!(peers("abc").0, 6);
    assert_eq!(peers("--token x").0, 5);

    // The data folder has one relay at a time.
    let second = run(folder.path(), "relay --listen 127.0.0.1:0");
    assert_eq!(second.0, 1);
    assert!(second.2.contains("another relay"), "{}", second.2);
}
