//! The volunteer as a witness of the relay's log: it remembers what it saw, checks that the log goes on from there, cosigns
//! what does, and leaves a relay that shows two histories.
//!
//! A log that signed two histories is proven guilty by its own signatures: the evidence is kept, and sent to the relay, so
//! that everybody else hears of it too. A log that is shorter than before, or does not show how it goes on, proves nothing by
//! itself, and is left after a few looks.

use crate::client::Client;
use crate::error::CliError;
use crate::ledger::known::Known;
use crate::ledger::read::read;
use crate::ledger::source::{Reader, Source};
use crate::runs::read_bytes;
use crate::stop::Stop;
use potluck_governance::{Key, witness_name, witness_seed, witness_text};
use potluck_ledger::{
    Accepted, AddCheckpoint, Checkpoint, ForkEvidence, KeyKind, MAX_REQUEST_BYTES, Note, SignedCheckpoint,
    SignerKey, VerifierKey, Witness, WitnessError,
};
use potluck_relay::api::{Cosigned, Logged, NewCosignatures, VolunteerWitness};
use potluck_types::VolunteerKey;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use ureq::http::Method;

/// Pause between two looks at the log.
const INTERVAL: Duration = Duration::from_secs(10);
/// Pause after one that left doubts.
const DOUBT_INTERVAL: Duration = Duration::from_secs(2);
/// Looks in a row that leave doubts before the relay is left: a copy behind a cache may lag for a moment.
const MAX_DOUBTS: u32 = 3;
/// How long a relay that does not answer is tried at each look: there is a next one.
const PATIENCE: Duration = Duration::from_secs(2);

/// What keeps a look from being one more step.
enum Trouble {
    /// The relay does not answer, or has nothing to show yet.
    Later(String),
    /// The log is not as it has to be. No proof, but no reason to work for it either.
    Doubt(String),
    /// The log signed two histories.
    Fork(Box<ForkEvidence>),
    /// This machine cannot remember.
    Own(CliError),
}

/// A witness at work. It ends when this is dropped.
pub(super) struct Watching {
    stop: Stop,
    verdict: oneshot::Receiver<CliError>,
}

impl Watching {
    /// Begins to watch a relay's log. What is seen is remembered in a folder.
    ///
    /// # Errors
    /// The address is not one, or the thread cannot be started.
    pub(super) fn start(relay: &str, root: PathBuf, key: &VolunteerKey) -> Result<Self, CliError> {
        let stop = Stop::default();
        let client = Client::new(relay, None, stop.clone())?.with_patience(PATIENCE, PATIENCE);
        let (sender, verdict) = oneshot::channel();
        let key = key.clone();
        std::thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || {
                if let Err(error) = watch(&client, &root, &key) {
                    // Nobody listens any more when the command ends.
                    let _ = sender.send(error);
                }
            })
            .map_err(|cause| CliError::System { what: "the witness's thread could not be started", cause })?;
        Ok(Self { stop, verdict })
    }

    /// Why the relay has to be left; never, while there is no reason.
    pub(super) async fn verdict(&mut self) -> CliError {
        match (&mut self.verdict).await {
            Ok(error) => error,
            // It ended without a verdict: it was told to.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.request();
    }
}

/// What is known of one log.
struct Memory {
    origin: String,
    key: VerifierKey,
    known: Known,
    witness: Witness,
    /// Entries of the checkpoint that was cosigned last.
    cosigned: Option<u64>,
}

fn watch(client: &Client, root: &std::path::Path, key: &VolunteerKey) -> Result<(), CliError> {
    let (mut memory, mut doubts) = (None, 0);
    loop {
        let looked = match &mut memory {
            None => remember(client, root).map(|found| memory = Some(found)),
            Some(_) => Ok(()),
        };
        let looked = looked.and_then(|()| memory.as_mut().map_or(Ok(()), |memory| look(client, memory, key)));
        let pause = match looked {
            Ok(()) => {
                doubts = 0;
                INTERVAL
            }
            Err(Trouble::Later(cause)) => {
                tracing::debug!(cause, "the log was not looked at");
                INTERVAL
            }
            Err(Trouble::Doubt(cause)) => {
                doubts += 1;
                tracing::warn!(cause, "the relay's log is not as it has to be");
                if doubts >= MAX_DOUBTS {
                    return Err(leave(client, &cause, None));
                }
                DOUBT_INTERVAL
            }
            Err(Trouble::Fork(evidence)) => return Err(shout(client, root, memory.as_ref(), &evidence)),
            Err(Trouble::Own(error)) => {
                tracing::warn!(%error, "what was seen of the log cannot be remembered");
                INTERVAL
            }
        };
        if !client.stop().sleep(pause) {
            return Ok(());
        }
    }
}

fn leave(client: &Client, cause: &str, evidence: Option<&std::path::Path>) -> CliError {
    let hint = match evidence {
        Some(path) => format!(
            "{} proves it to anybody: show it to others, and ask who runs the relay; people have to look at it before \
             work goes on",
            path.display()
        ),
        None => {
            "ask who runs the relay whether an old backup was put back; others who audited it remember too"
                .to_owned()
        }
    };
    CliError::Forked { message: format!("no more work for {}: {cause}", client.relay()), hint }
}

/// Keeps the evidence, tells the relay, and gives the reason to leave it.
fn shout(
    client: &Client,
    root: &std::path::Path,
    memory: Option<&Memory>,
    evidence: &ForkEvidence,
) -> CliError {
    let text = evidence.to_string();
    let kept = match memory.map(|memory| memory.known.keep_evidence(&text)) {
        Some(Ok(path)) => Some(path),
        Some(Err(error)) => {
            tracing::error!(%error, "the evidence could not be kept in {}", root.display());
            None
        }
        None => None,
    };
    let reported: Result<Logged, CliError> =
        client.upload(&Method::POST, "/api/v1/log/forks", text.len() as u64, || Ok(text.as_bytes()), |_| {});
    if let Err(error) = reported {
        tracing::warn!(%error, "the relay does not take the evidence against itself");
    }
    let sizes = |note: &Note| note.text().lines().nth(1).unwrap_or("?").to_owned();
    let cause = format!(
        "its log was forked: it signed two histories, of {} and of {} entries, that contradict each other",
        sizes(evidence.older()),
        sizes(evidence.newer())
    );
    leave(client, &cause, kept.as_deref())
}

fn later(error: CliError) -> Trouble {
    match error {
        CliError::Record { .. } => Trouble::Doubt(error.to_string()),
        error => Trouble::Later(error.to_string()),
    }
}

/// What this machine knows of the relay's log; the first time, what the relay says.
fn remember(client: &Client, root: &std::path::Path) -> Result<Memory, Trouble> {
    let source = Source::Relay(client);
    let note = source.checkpoint().map_err(later)?;
    let claimed = Note::parse(&note).ok().and_then(|note| note.text().parse::<Checkpoint>().ok());
    let claimed = claimed.ok_or_else(|| Trouble::Doubt("its checkpoint is none".to_owned()))?;
    let origin = claimed.origin().to_owned();
    let mut known = Known::read(root, &origin).map_err(Trouble::Own)?;
    let before = known.key.as_ref().and_then(|key| key.parse::<VerifierKey>().ok());
    if before.is_some_and(|before| SignedCheckpoint::open(&note, &origin, &before).is_err()) {
        // Another relay may have taken the log over: then the log shows that, and is remembered as its.
        read(client, None, Some(root)).map_err(later)?;
        known = Known::read(root, &origin).map_err(Trouble::Own)?;
    }
    let text = match &known.key {
        Some(key) => key.clone(),
        None => source.key().map_err(later)?,
    };
    let key: VerifierKey =
        text.parse().map_err(|error| Trouble::Doubt(format!("its key is none: {error}")))?;
    let witness = match &known.checkpoint {
        Some(last) => Witness::restore(&origin, key.clone(), last).map_err(|error| {
            Trouble::Doubt(format!("what was seen of it before is not signed by its key: {error}"))
        })?,
        None => Witness::new(&origin, key.clone()),
    };
    Ok(Memory { origin, key, known, witness, cosigned: None })
}

/// Looks at the log once: checks that it goes on, remembers where it is, and cosigns that.
fn look(client: &Client, memory: &mut Memory, volunteer: &VolunteerKey) -> Result<(), Trouble> {
    let size = memory.witness.head().size;
    let path = format!("/api/v1/log/since/{size}");
    let bytes = match read_bytes(client, &path, MAX_REQUEST_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(CliError::Api(error)) if error.status == 404 && size > 0 => {
            return Err(Trouble::Doubt(format!("its log had {size} entries, and now: {}", error.message)));
        }
        Err(error) => return Err(Trouble::Later(error.to_string())),
    };
    let AddCheckpoint { old_size, proof, note } =
        AddCheckpoint::parse(&bytes).map_err(|error| Trouble::Doubt(error.to_string()))?;
    if old_size != size {
        return Err(Trouble::Doubt(format!(
            "it proves how the log goes on from {old_size} entries, not from {size}"
        )));
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let accepted = match memory.witness.offer(note.to_string().as_bytes(), &proof, now_s) {
        Ok(accepted) => accepted,
        Err(WitnessError::Fork { evidence, .. }) => return Err(Trouble::Fork(evidence)),
        Err(WitnessError::BadProof { notes: Some(notes), .. }) => {
            // Either the proof is wrong or the log is: its own files tell which.
            let source = Source::Relay(client);
            let mut reader = Reader { source: &source, failed: None };
            return Err(match ForkEvidence::from_tiles(&notes.older, &notes.newer, &mut reader) {
                Ok(Some(evidence)) => Trouble::Fork(Box::new(evidence)),
                Ok(None) => Trouble::Later("a proof was wrong, and the log goes on all the same".to_owned()),
                Err(error) => Trouble::Doubt(format!("it does not show how its log goes on: {error}")),
            });
        }
        Err(error) => return Err(Trouble::Doubt(error.to_string())),
    };
    // Before the cosignature leaves: a witness that forgets could be led onto a fork.
    memory.known.remember(&memory.key, &accepted.checkpoint).map_err(Trouble::Own)?;
    let now = accepted.checkpoint.head().size;
    if memory.cosigned == Some(now) {
        return Ok(());
    }
    if let Err(error) = cosign(client, memory, &accepted, volunteer) {
        // Who has no accepted work yet is no witness yet.
        tracing::debug!(%error, "a cosignature was not taken");
        return Ok(());
    }
    memory.cosigned = Some(now);
    Ok(())
}

fn cosign(
    client: &Client,
    memory: &Memory,
    accepted: &Accepted,
    volunteer: &VolunteerKey,
) -> Result<Cosigned, CliError> {
    let broken = |error: &dyn std::error::Error| CliError::System {
        what: "a cosignature could not be made",
        cause: std::io::Error::other(error.to_string()),
    };
    let whose = Key(volunteer.id().0);
    let key =
        SignerKey::from_seed(&witness_name(&whose), KeyKind::CosignatureV1, &witness_seed(&volunteer.0));
    let key = key.map_err(|error| broken(&error))?;
    let mut note = Note::new(accepted.checkpoint.note().text()).map_err(|error| broken(&error))?;
    note.cosign(&key, accepted.timestamp_s).map_err(|error| broken(&error))?;
    let lines: Vec<String> = note.signatures().iter().map(ToString::to_string).collect();
    let witness_key = key.verifier().to_string();
    let signature = volunteer.sign(witness_text(&memory.origin, &witness_key).as_bytes());
    let body = NewCosignatures {
        size: accepted.checkpoint.head().size,
        lines: lines.join("\n"),
        volunteer: Some(VolunteerWitness {
            key: witness_key,
            volunteer: whose.to_string(),
            signature: potluck_governance::Signature(signature).to_string(),
        }),
    };
    client.send_json(&Method::POST, "/api/v1/log/cosignatures", &[], Some(&json!(body)), |_| {})
}
