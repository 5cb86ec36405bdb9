//! Signing and sending: a person sees exactly what it signs, and where it stands afterwards.

use super::log::{TheLog, wall_ms};
use crate::args::SignArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::volunteer::load_key;
use potluck_governance::entry::Signed;
use potluck_governance::statement::Said;
use potluck_governance::{Key, SigningKey, State, Statement};
use potluck_types::BlobHash;
use serde_json::json;
use ureq::http::Method;

/// A person with a log.
pub(super) struct Signer<'a> {
    pub(super) log: TheLog<'a>,
    secret: SigningKey,
    json: bool,
}

/// In which roles a key stands in the roles document.
fn roles_of(state: &State, key: Key) -> String {
    let roles = state.roles();
    let mut held = Vec::new();
    for (role, people) in
        [("steward", &roles.stewards), ("auditor", &roles.auditors), ("operator", &roles.operators)]
    {
        held.extend(people.iter().filter(|person| person.key == key).map(|person| (role, &person.name)));
    }
    match held.first() {
        None => "of no role".to_owned(),
        Some((_, name)) => {
            let roles: Vec<&str> = held.iter().map(|(role, _)| *role).collect();
            format!("{name}, {}", roles.join(" and "))
        }
    }
}

impl<'a> Signer<'a> {
    /// Reads key and log.
    pub(super) fn open(args: &'a SignArgs, client: &'a Client) -> Result<Self, CliError> {
        Self::with_key(&args.key, &args.log, client)
    }

    pub(super) fn with_key(
        key: &std::path::Path,
        log: &'a crate::args::LogArgs,
        client: &'a Client,
    ) -> Result<Self, CliError> {
        let secret = SigningKey::from_bytes(&load_key(key)?.0);
        Ok(Self { log: TheLog::open(log, client)?, secret, json: log.json })
    }

    pub(super) fn key(&self) -> Key {
        Key::of(&self.secret)
    }

    /// Shows what is signed, signs and sends it. The statement's id and its entry's index.
    pub(super) fn say(&self, said: impl Into<Said>) -> Result<(BlobHash, u64), CliError> {
        let now_ms = wall_ms();
        let statement =
            Statement { origin: self.log.origin().to_owned(), seq: now_ms, at_ms: now_ms, said: said.into() };
        let refused = |error: potluck_governance::FormError| CliError::Input {
            message: error.to_string(),
            hint: "shorten or change what you want to say".into(),
        };
        let signed = statement.sign(&self.secret).map_err(refused)?;
        if !self.json {
            println!("you sign, as {} ({}):", signed.key, roles_of(self.log.state(), signed.key));
            println!("{}", signed.body);
        }
        let index = self.send(&signed)?;
        let id = signed.id();
        if self.json {
            println!("{}", json!({ "signed": signed.body, "id": id.to_string(), "index": index }));
        } else {
            println!("entry {index} of {}", self.log.origin());
        }
        Ok((id, index))
    }

    fn send(&self, signed: &Signed) -> Result<u64, CliError> {
        let body = json!({
            "body": signed.body, "key": signed.key.to_string(), "signature": signed.signature.to_string(),
        });
        let path = "/api/v1/log/statements";
        let logged: potluck_relay::api::Logged =
            self.log.client.send_json(&Method::POST, path, &[], Some(&body), |_| {})?;
        Ok(logged.index)
    }
}
