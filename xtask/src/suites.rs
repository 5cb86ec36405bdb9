//! The native test programs, in two lanes: the suite in browsers beside all others. For most of its time it waits for pages,
//! and a processor with it.

use crate::run::root;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

/// Has a lane of its own.
const BROWSER: &str = "browser";
/// Runs twice: once with its relays' records in files, once with them in PostgreSQL.
const RELAY: &str = "relay";
/// Says so to the second one.
const STORE: (&str, &str) = ("POTLUCK_TEST_STORE", "postgres");
/// Of its tests, those whose relays are programs of their own and have the same store both times.
const ONCE: [&str; 6] = ["backup::", "doctor::", "faults::", "mirror::", "operator::", "store::"];

/// A test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suite {
    name: String,
    program: PathBuf,
    /// Where it runs: its package's folder.
    folder: PathBuf,
}

/// What cargo says of an artifact, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// Builds test programs: which there are. `build` is `cargo test` with everything but what this adds.
///
/// # Errors
/// They cannot be built.
pub(crate) fn built(mut build: Command) -> Result<Vec<Suite>> {
    build.args(["--no-run", "--message-format=json-render-diagnostics"]).stdout(Stdio::piped());
    let output = build.spawn().and_then(std::process::Child::wait_with_output).context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests cannot be built: see above");
    }
    let suites = programs(&String::from_utf8_lossy(&output.stdout));
    if suites.is_empty() {
        bail!("cargo names no test program");
    }
    Ok(suites)
}

fn programs(messages: &str) -> Vec<Suite> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let tests = artifacts.filter(|artifact| artifact.profile.test);
    tests
        .filter_map(|Artifact { manifest_path, target, executable, .. }| {
            let folder = manifest_path.parent().unwrap_or(Path::new(".")).to_owned();
            Some(Suite { name: target.name, program: executable?, folder })
        })
        .collect()
}

/// Runs all, and shows what they print: of the lane beside when it has ended. `false` if one failed.
///
/// # Errors
/// A program cannot be run.
pub(crate) fn run(
    suites: &[Suite],
    environment: &[(&str, std::ffi::OsString)],
    postgres: bool,
) -> Result<bool> {
    let (beside, here): (Vec<_>, Vec<_>) = suites.iter().partition(|suite| suite.name == BROWSER);
    let command = |suite: &Suite| {
        let mut command = Command::new(&suite.program);
        command.current_dir(&suite.folder).env("CARGO_MANIFEST_DIR", &suite.folder).stdin(Stdio::null());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command
    };
    thread::scope(|scope| {
        let browsers = scope.spawn(|| {
            let output = |suite: &&Suite| {
                let began = Instant::now();
                let output = command(suite).output().with_context(|| format!("cannot run {}", suite.name))?;
                Ok((suite.name.clone(), began.elapsed().as_secs_f64(), output))
            };
            beside.iter().map(output).collect::<Result<Vec<_>>>()
        });
        let mut failed = Vec::new();
        let mut run_here = |name: &str, suite: &Suite, mut command: Command| {
            let folder = suite.folder.strip_prefix(root()).unwrap_or(&suite.folder);
            println!("\n--- {name} ({})", folder.display());
            let began = Instant::now();
            let status = command.status().with_context(|| format!("cannot run {name}"))?;
            println!("--- {name}: {:.1} s", began.elapsed().as_secs_f64());
            if !status.success() {
                failed.push(name.to_owned());
            }
            Ok::<_, anyhow::Error>(())
        };
        for suite in &here {
            run_here(&suite.name, suite, command(suite))?;
            if suite.name == RELAY && postgres {
                let mut again = command(suite);
                again.env(STORE.0, STORE.1).args(ONCE.iter().flat_map(|name| ["--skip", name]));
                run_here("relay, on PostgreSQL", suite, again)?;
            }
        }
        println!("\n--- waiting for the suite in browsers");
        let browsers = browsers.join().map_err(|_| anyhow::anyhow!("the lane of browsers broke down"))??;
        for (name, seconds, output) in browsers {
            println!("\n--- {name}, beside the others: {seconds:.1} s");
            std::io::stdout().write_all(&output.stdout)?;
            std::io::stderr().write_all(&output.stderr)?;
            if !output.status.success() {
                failed.push(name);
            }
        }
        for name in &failed {
            println!("FAILED: {name}");
        }
        Ok(failed.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_names_the_programs_that_are_tests() {
        let artifact = |name: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"x","manifest_path":"/w/{name}/Cargo.toml","target":{{"kind":["test"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let messages = [
            r#"{"reason":"build-script-executed","package_id":"x"}"#.to_owned(),
            artifact("one", true, r#""/t/one-1""#),
            artifact("command", false, r#""/t/command""#),
            artifact("lib", true, "null"),
            "no JSON".to_owned(),
        ];
        let expected = Suite { name: "one".into(), program: "/t/one-1".into(), folder: "/w/one".into() };
        assert_eq!(programs(&messages.join("\n")), [expected]);
    }

    #[cfg(unix)]
    #[test]
    fn a_suite_that_fails_fails_all_and_the_others_run() {
        let folder = tempfile::tempdir().unwrap();
        let suite = |name: &str, program: &str| Suite {
            name: name.into(),
            program: program.into(),
            folder: folder.path().to_owned(),
        };
        let all = |suites: &[Suite]| run(suites, &[("POTLUCK_LANE", "1".into())], true);
        assert!(all(&[suite("one", "true"), suite(BROWSER, "true")]).unwrap());
        assert!(!all(&[suite("one", "false"), suite(BROWSER, "true")]).unwrap());
        assert!(!all(&[suite("one", "true"), suite(BROWSER, "false")]).unwrap());
        assert!(all(&[suite("one", "no-such-program-anywhere")]).is_err());
        // The second run of the same program, and nothing else, is told of the other store.
        let twice = folder.path().join("twice");
        std::fs::write(&twice, "#!/bin/sh\ntest -z \"$POTLUCK_TEST_STORE\"\n").unwrap();
        std::fs::set_permissions(&twice, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let relay = [suite(RELAY, twice.to_str().unwrap())];
        assert!(!all(&relay).unwrap());
        assert!(run(&relay, &[], false).unwrap());
    }
}
