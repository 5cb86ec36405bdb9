//! People with keys who decide, through the command as they do.

use crate::runs::SampleRun;
use crate::{Api, wait_until};
use potluck_governance::{Constitution, Key, SigningKey};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Time for a vote to close.
const VOTE_LIMIT: Duration = Duration::from_secs(120);

/// Stewards of a [`Council`].
pub const STEWARDS: [&str; 3] = ["Ada", "Bo", "Cy"];
/// Its auditors.
pub const AUDITORS: [&str; 2] = ["Mia", "Ned"];
/// Who runs the relay.
pub const OPERATOR: &str = "Olu";

/// Stewards, auditors and an operator, with a folder for their keys and what their machine remembers.
pub struct Council {
    /// The relay.
    pub api: Api,
    /// Where keys lie: `Ada.key` and so on.
    pub folder: TempDir,
    program: PathBuf,
}

impl Council {
    /// Makes keys for everybody. `program` is the `potluck` command.
    ///
    /// # Panics
    /// The command fails.
    pub fn new(program: &str, api: &Api) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let council = Self { api: api.clone(), folder, program: program.into() };
        for name in STEWARDS.iter().chain(&AUDITORS).chain([&OPERATOR]) {
            let path = council.key(name);
            let line = council.run(&["key", "new", "--out", &path, "--name", name]).expect("a key");
            let line: Value = serde_json::from_str(&line).expect("a line for the roles document");
            assert_eq!(line["key"], council.public(name));
        }
        council
    }

    /// The file of a person's key.
    pub fn key(&self, name: &str) -> String {
        self.folder.path().join(format!("{name}.key")).to_string_lossy().into_owned()
    }

    /// The secret half of a person's key.
    ///
    /// # Panics
    /// There is no such person.
    pub fn secret(&self, name: &str) -> SigningKey {
        let text = std::fs::read_to_string(self.key(name)).expect("a key file");
        let seed: potluck_types::VolunteerKey = text.trim().parse().expect("a seed");
        SigningKey::from_bytes(&seed.0)
    }

    /// The public half.
    pub fn public(&self, name: &str) -> String {
        Key::of(&self.secret(name)).to_string()
    }

    /// The roles document.
    pub fn roles(&self) -> Value {
        let list = |names: &[&str]| -> Vec<Value> {
            names.iter().map(|name| json!({ "name": name, "key": self.public(name) })).collect()
        };
        json!({ "stewards": list(&STEWARDS), "auditors": list(&AUDITORS), "operators": list(&[OPERATOR]) })
    }

    /// Writes a document into the folder.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn document(&self, name: &str, value: &Value) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, value.to_string()).expect("a document");
        path.to_string_lossy().into_owned()
    }

    /// Names the people, under these rules.
    ///
    /// # Panics
    /// The relay refuses.
    pub fn found(&self, constitution: &Constitution) {
        let roles = self.document("roles.json", &self.roles());
        let rules = self.document("constitution.json", &json!(constitution));
        let token = self.folder.path().join("token");
        let bearer = self.api.authorization.clone().unwrap_or_default();
        std::fs::write(&token, bearer.trim_start_matches("Bearer ")).expect("a token file");
        let line =
            ["governance", "found", "--roles", &roles, "--constitution", &rules, "--relay", &self.api.url];
        let token = token.to_string_lossy().into_owned();
        self.run(&[&line[..], &["--token-file", &token]].concat()).expect("the log is founded");
    }

    /// Runs the command. What it printed, or what it said is wrong.
    ///
    /// # Errors
    /// Its standard error, after its exit code.
    ///
    /// # Panics
    /// It does not start.
    pub fn run(&self, line: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.program)
            .args(line)
            .env("HOME", self.folder.path())
            .env_remove("POTLUCK_KEY_FILE")
            .env_remove("POTLUCK_TOKEN")
            .env_remove("POTLUCK_RELAY")
            .current_dir(self.folder.path())
            .output()
            .expect("the command starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(format!("{}: {}", output.status.code().unwrap_or(-1), text(&output.stderr)))
    }

    /// Runs a command about the log, and reads the JSON that it prints.
    ///
    /// # Errors
    /// As [`Self::run`].
    ///
    /// # Panics
    /// It prints something else.
    pub fn ask(&self, line: &[&str]) -> Result<Value, String> {
        let remember = self.remember();
        let remember = remember.to_string_lossy();
        let more = ["--json", "--relay", &self.api.url, "--remember", &remember];
        let out = self.run(&[line, &more].concat())?;
        Ok(serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line:?}: {error}: {out}")))
    }

    /// Lets a person sign something: the id of the statement, and the index of its entry.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn sign(&self, name: &str, line: &[&str]) -> Result<(String, u64), String> {
        let key = self.key(name);
        let said = self.ask(&[line, &["--key", &key]].concat())?;
        Ok((said["id"].as_str().unwrap_or_default().to_owned(), said["index"].as_u64().unwrap_or(0)))
    }

    /// Where the people's machine remembers logs.
    pub fn remember(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// Proposes something as the first steward, and lets two of three vote for it. The proposal's id; its vote goes on.
    ///
    /// # Panics
    /// The log does not take it.
    pub fn propose(&self, line: &[&str]) -> String {
        let words = [&["propose"], line, &["--rationale", "it is time"]].concat();
        let (id, _) = self.sign(STEWARDS[0], &words).expect("a proposal");
        for name in &STEWARDS[..2] {
            self.sign(name, &["vote", &id, "yes"]).expect("a vote");
        }
        id
    }

    /// What the relay says of a proposal.
    pub fn proposal(&self, id: &str) -> Value {
        self.api.get(&format!("/api/v1/proposals/{id}")).json()
    }

    /// Waits until the vote on a proposal is over.
    ///
    /// # Panics
    /// It did not pass.
    pub fn passed(&self, id: &str) {
        let outcome = || self.proposal(id)["outcome"].clone();
        wait_until("the vote closes", VOTE_LIMIT, || outcome() != "open");
        assert_eq!(outcome(), "passed", "{}", self.proposal(id));
    }

    /// Uploads the data of a run of a model and lets people allow them: the request, ready to be proposed.
    ///
    /// # Panics
    /// The log does not take it.
    pub fn request(&self, sample: &SampleRun, model: &str) -> Value {
        let mut request = sample.request(&self.api);
        request["model_name"] = model.into();
        let sets = [&request["train"], &request["validation"]].map(|set| set.as_str().unwrap_or_default());
        let proposals = sets.map(|set| {
            let proposal = self.propose(&["data-set", &set[..20]]);
            let manifest = self.proposal(&proposal)["body"].as_str().unwrap_or_default().to_owned();
            self.sign(AUDITORS[0], &["attest", &manifest]).expect("an attestation");
            proposal
        });
        for proposal in &proposals {
            self.passed(proposal);
            self.ask(&["enact", proposal]).expect("data sets that were decided on");
        }
        request
    }
}
