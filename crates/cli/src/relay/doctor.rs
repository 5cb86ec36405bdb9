//! `potluck relay doctor`: what `potluck_relay::doctor` finds in a deployment, and how the relay looks from outside.

use super::settings_of;
use crate::args::DoctorArgs;
use crate::client::{Client, is_loopback};
use crate::error::CliError;
use potluck_relay::Config;
use potluck_relay::doctor::{DoctorOptions, Finding, Level, examine};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the relay is waited for: a doctor asks once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Examines a deployment.
///
/// # Errors
/// Something must be fixed.
pub fn command(
    args: &DoctorArgs,
    runtime: &Runtime,
    open: impl Fn(&str) -> Result<Client, CliError>,
) -> Result<(), CliError> {
    let config = match settings_of(&args.data, Path::new(".")) {
        Ok(config) => config,
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            return end(&[Finding::wrong("settings", error.to_string(), hint)], args.json);
        }
    };
    let options = DoctorOptions { deep: args.deep, backups: args.backups.clone() };
    let mut examined = runtime.block_on(examine(&config, &options));
    if examined.runs {
        let here = format!("http://{}", config.listen);
        // Port 0 is any free one, and nobody knows which.
        if config.listen.port() != 0 {
            examined.findings.push(answers("relay", &here, &open));
        }
    }
    if let Some(address) = &args.relay {
        outside(&config, address, &open, &mut examined.findings);
    }
    end(&examined.findings, args.json)
}

/// Whether a relay answers at an address.
fn answers(what: &'static str, address: &str, open: &impl Fn(&str) -> Result<Client, CliError>) -> Finding {
    let health = open(address)
        .and_then(|client| client.with_patience(PATIENCE, PATIENCE).get::<Value>("/healthz", |_| {}));
    match health {
        Ok(health) => {
            let version = health["version"].as_str().unwrap_or_default();
            Finding::good(what, format!("it answers at {address}, version {version}"))
        }
        Err(error) => Finding::wrong(
            what,
            format!("it does not answer at {address}: {error}"),
            "if it is up there, a proxy or firewall is in the way; else its log says what it does",
        ),
    }
}

/// How others see the relay.
fn outside(
    config: &Config,
    address: &str,
    open: &impl Fn(&str) -> Result<Client, CliError>,
    found: &mut Vec<Finding>,
) {
    found.push(answers("outside", address, open));
    if is_loopback(address) {
        return;
    }
    if !address.starts_with("https://") {
        found.push(Finding::wrong(
            "outside",
            "others reach the relay without TLS: tokens are readable on the way, and browsers give its page no WebGPU",
            "put a proxy in front that does TLS: docs/operating.md shows two",
        ));
    }
    if !config.behind_proxy {
        found.push(Finding::wrong(
            "settings",
            "a proxy stands before the relay, which takes its address for every volunteer's",
            "set `behind_proxy = true`, and let the proxy write X-Forwarded-For",
        ));
    }
}

fn end(found: &[Finding], as_json: bool) -> Result<(), CliError> {
    let wrong = found.iter().filter(|finding| finding.level == Level::Wrong).count();
    if as_json {
        let findings: Vec<_> = found
            .iter()
            .map(|one| json!({ "what": one.what, "level": one.level.name(), "text": one.text, "hint": one.hint }))
            .collect();
        println!("{}", json!({ "findings": findings, "wrong": wrong }));
    } else {
        for one in found {
            println!("{:8} {}: {}", one.level.name(), one.what, one.text);
            if !one.hint.is_empty() {
                println!("         -> {}", one.hint);
            }
        }
    }
    if wrong == 0 {
        return Ok(());
    }
    Err(CliError::Relay {
        message: format!("{wrong} things must be fixed"),
        hint: "each line marked `wrong` says what to do".into(),
    })
}
