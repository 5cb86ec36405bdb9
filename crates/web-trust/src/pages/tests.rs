//! Pages of a small log, and readers that are given the wrong one.

use super::*;
use crate::reader::Reader;
use potluck_governance::statement::{Ballot, ProposalKind, Propose, Said, Statement, Vote};
use potluck_governance::{Body, Constitution, Entry, Roles, SigningKey, entry};
use potluck_ledger::{Appender, Checkpoint, KeyKind, LogFile, SignerKey};
use potluck_types::BlobHash;
use std::collections::BTreeMap;

const ORIGIN: &str = "relay.example/log";
const START_MS: u64 = 1_700_000_000_000;

/// A log with its entries' files.
struct Log {
    appender: Appender,
    files: BTreeMap<LogFile, Vec<u8>>,
    key: SignerKey,
}

impl Log {
    fn new(entries: &[Entry]) -> Self {
        let key = SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[7; 32]).unwrap();
        let mut log = Self { appender: Appender::new(), files: BTreeMap::new(), key };
        log.append(entries);
        log
    }

    fn append(&mut self, entries: &[Entry]) {
        let texts: Vec<_> = entries.iter().map(|entry| entry.encode().unwrap()).collect();
        self.files.extend(self.appender.append(&texts).unwrap().files);
    }

    fn note(&self) -> String {
        let mut note = Checkpoint::new(ORIGIN, self.appender.head()).unwrap().to_note();
        note.sign(&self.key).unwrap();
        note.to_string()
    }

    fn reader(&self) -> Reader {
        Reader::new(&self.key.verifier().to_string()).unwrap()
    }

    fn feed(&self, reader: &mut Reader) {
        while let Some(wanted) = reader.wanted() {
            reader.take(&self.files[&wanted.path.parse().unwrap()], false).unwrap();
        }
    }
}

fn secret(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn person(name: &str, n: u8) -> Person {
    Person { name: name.to_owned(), key: Key::of(&secret(n)) }
}

fn said(n: u8, seq: u64, said: impl Into<Said>) -> (BlobHash, Entry) {
    let statement = Statement { origin: ORIGIN.to_owned(), seq, at_ms: START_MS + seq, said: said.into() };
    let signed = statement.sign(&secret(n)).unwrap();
    (signed.id(), Entry::new(START_MS + seq, signed))
}

fn founded() -> Vec<Entry> {
    let roles = Roles {
        stewards: vec![person("Ada", 1), person("Bo", 2), person("Cy", 3)],
        auditors: vec![person("Mia", 11), person("Ned", 12)],
        operators: vec![person("Olu", 21)],
    };
    let constitution = Constitution::hasty(1000);
    let genesis = entry::Genesis { origin: ORIGIN.to_owned(), constitution, roles };
    vec![Entry::new(START_MS, Body::from(genesis))]
}

/// A founded log with an open proposal.
fn proposed() -> (Vec<Entry>, BlobHash) {
    let (proposal, entry) = said(
        1,
        1,
        Propose {
            proposal: ProposalKind::DataSet,
            subject: "novels".to_owned(),
            body: BlobHash([5; 32]),
            diff: None,
            rationale: "They are in the public domain.".to_owned(),
            opens: START_MS + 1,
            closes: START_MS + 1100,
        },
    );
    ([founded(), vec![entry]].concat(), proposal)
}

#[test]
fn what_follows_is_shown_once_all_entries_are_those_that_were_signed() {
    let (mut entries, proposal) = proposed();
    let vote = |n, vote| Vote { proposal, vote, reason: (n == 3).then(|| "Not these.".to_owned()) };
    entries.push(said(1, 2, vote(1, Ballot::Yes)).1);
    entries.push(said(3, 3, vote(3, Ballot::No)).1);
    let mut log = Log::new(&entries);

    let mut reader = log.reader();
    assert!(reader.read().is_err());
    reader.begin(&log.note()).unwrap();
    assert!(reader.read().is_err());
    log.feed(&mut reader);
    let now = START_MS + 10;
    let page = overview(reader.read().unwrap(), now);
    assert_eq!(page["proposals"][0]["outcome"]["state"], "open");
    assert_eq!(page["proposals"][0]["outcome"]["tally"]["yes"], 1);
    assert_eq!(page["report"]["errorCount"], 0);
    assert_eq!(page["roles"]["stewards"][1]["name"], "Bo");
    let page = super::proposal(reader.read().unwrap(), &proposal, now).unwrap();
    assert_eq!(page["votes"].as_array().unwrap().len(), 2);
    assert_eq!(page["voters"], json!(["Ada", "Bo", "Cy"]));
    assert_eq!(page["events"].as_array().unwrap().len(), 5);
    let who = holder(reader.read().unwrap(), &Key::of(&secret(2)));
    assert_eq!((&who["name"], &who["steward"], &who["auditor"]), (&json!("Bo"), &json!(true), &json!(false)));
    assert!(super::proposal(reader.read().unwrap(), &BlobHash([9; 32]), now).is_none());
    assert!(model(reader.read().unwrap(), "none", now).is_none());

    // The log goes on within the same bundle.
    log.append(&[said(2, 4, vote(2, Ballot::Yes)).1]);
    reader.begin(&log.note()).unwrap();
    assert!(reader.read().is_err(), "not before the rest is read");
    log.feed(&mut reader);
    let page = super::proposal(reader.read().unwrap(), &proposal, START_MS + 5000).unwrap();
    assert_eq!(page["outcome"]["state"], "passed");
}

#[test]
fn other_entries_break_a_reader_and_a_shorter_log_is_refused() {
    let (mut long, proposal) = proposed();
    for seq in 2..300 {
        // One who cannot decide.
        let vote = if seq % 2 == 0 { Ballot::Yes } else { Ballot::No };
        long.push(said(1, seq, Vote { proposal, vote, reason: None }).1);
    }
    let log = Log::new(&long);
    let mut reader = log.reader();
    reader.begin(&log.note()).unwrap();
    log.feed(&mut reader);
    let verified = reader.read().unwrap();
    assert_eq!(verified.head().size, 300);
    assert_eq!(verified.state().proposals()[&proposal].votes["ada"].index, 299);
    assert!(reader.begin(&Log::new(&long[..299]).note()).unwrap_err().contains("rolled back"));

    let mut reader = log.reader();
    reader.begin(&log.note()).unwrap();
    let other = Log::new(&[long[..7].to_vec(), vec![long[6].clone()], long[8..].to_vec()].concat());
    let mut found = Ok(crate::reader::Progress { read: 0, size: 0 });
    while let Some(wanted) = reader.wanted() {
        found = reader.take(&other.files[&wanted.path.parse().unwrap()], false);
    }
    assert!(found.unwrap_err().contains("not its entries"));
    assert!(reader.read().is_err() && reader.begin(&log.note()).is_err());
    assert!(log.reader().begin(&log.note().replace("300", "301")).is_err());
    assert!(Reader::new("nonsense").is_err());
}
