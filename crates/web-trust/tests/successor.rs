//! A tab goes to the relay that people appointed, and to no other: logs that hold a vote that nobody of the real one cast, that begin
//! elsewhere than where the relay before had signed, or forget what was seen.

#[path = "../../governance/tests/common/mod.rs"]
mod common;

use common::*;
use potluck_governance::Key;
use potluck_governance::entry::{Job, NewMirrors, Succession};
use potluck_governance::mirrors::{Mirror, Mirrors};
use potluck_governance::statement::ProposalKind;
use potluck_ledger::{Appender, Checkpoint, KeyKind, LogFile, SignerKey};
use potluck_types::{BlobHash, JobId};
use potluck_web_trust::reader::Reader;
use potluck_web_trust::successor::{Remembered, Taken, size_of, taken};
use std::collections::BTreeMap;

fn signer(n: u8) -> SignerKey {
    SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[n; 32]).unwrap()
}

fn listed(n: u8) -> Mirror {
    let key = Key(*signer(n).verifier().public_key());
    Mirror { name: format!("mirror {n}"), url: format!("https://m{n}.example"), key }
}

/// The log's files, and its checkpoint by a key.
fn published(log: &[Vec<u8>], n: u8) -> (BTreeMap<LogFile, Vec<u8>>, String) {
    let mut appender = Appender::new();
    let appended = appender.append(log).unwrap();
    let mut note = Checkpoint::new(ORIGIN, appended.head).unwrap().to_note();
    note.sign(&signer(n)).unwrap();
    (appended.files.into_iter().collect(), note.to_string())
}

/// A log whose relay has the key 1 and which lists the mirrors 2 and 3.
fn mirrored() -> World {
    let mut world = World::new();
    let document = Mirrors { mirrors: vec![listed(2), listed(3)] };
    let proposal = world.pass_votes(ProposalKind::Mirrors, "mirrors", document.hash());
    world.log(NewMirrors { proposal, mirrors: document.mirrors });
    world
}

fn root(log: &[Vec<u8>]) -> BlobHash {
    BlobHash(Appender::new().append(log).unwrap().head.root.0)
}

/// People appoint a mirror, after `from` entries.
fn appoint(world: &mut World, n: u8, from: usize, root: BlobHash) {
    let mirror = listed(n);
    let proposal = world.pass_votes(ProposalKind::Succession, &mirror.name, mirror.hash());
    world.log(Succession { proposal, mirror: mirror.key, from: from as u64, root });
}

/// What a tab makes of a log that is signed with a key, when it knows a checkpoint of the relay with another.
fn judge(log: &[Vec<u8>], n: u8, known: (u8, &str), predecessor: &str) -> Result<Taken, String> {
    let (files, note) = published(log, n);
    let mut reader = Reader::new(&signer(n).verifier().to_string()).unwrap();
    reader.mark(size_of(known.1));
    reader.mark(size_of(predecessor));
    reader.begin(&note)?;
    while let Some(wanted) = reader.wanted() {
        reader.take(&files[&wanted.path.parse().unwrap()], false)?;
    }
    let key = signer(known.0).verifier().to_string();
    taken(reader.read()?, Remembered { key: &key, note: known.1 }, predecessor)
}

fn predecessor(note: &str, n: u8) -> String {
    format!("{}\n\n{note}", signer(n).verifier())
}

#[test]
fn the_relay_that_people_appointed_is_followed_also_where_entries_were_lost() {
    let mut world = mirrored();
    let from = world.log.len();
    let last = published(&world.log, 1).1;
    let before = predecessor(&last, 1);
    assert_eq!(size_of(&before), from as u64);
    let root_then = root(&world.log);
    let mut beyond = world.clone();
    beyond.log(Job { job: JobId([9; 16]), name: String::new(), spec: hash(1), submitter: None });
    appoint(&mut world, 2, from, root_then);
    let went = |lost| Ok(Taken { name: "mirror 2".into(), url: "https://m2.example".into(), lost });
    assert_eq!(judge(&world.log, 2, (1, &last), &before), went(0));
    let earlier = published(&world.log[..from - 2], 1).1;
    assert_eq!(judge(&world.log, 2, (1, &earlier), &before), went(0));
    // The relay had signed one entry more before it died.
    assert_eq!(judge(&world.log, 2, (1, &published(&beyond.log, 1).1), &before), went(1));
    // The log as it is, but by another mirror's key, or by that of the relay that was replaced.
    for other in [1, 3] {
        assert!(
            judge(&world.log, other, (1, &last), &before).unwrap_err().contains("appointed another relay")
        );
    }
    assert!(judge(&world.log[..from], 2, (1, &last), &before).unwrap_err().contains("no decision"));
}

#[test]
fn a_log_that_somebody_made_up_is_followed_by_nobody() {
    let real = mirrored();
    let seen = published(&real.log, 1).1;
    let old = published(&real.log[..3], 1).1;
    // A mirror invents people who appoint it, and pads its log to where the real one was.
    let mut invented = mirrored();
    while invented.log.len() < real.log.len() + 4 {
        let id = invented.log.len() as u8;
        invented.log(Job { job: JobId([id; 16]), name: String::new(), spec: hash(2), submitter: None });
    }
    let from = invented.log.len();
    let own_root = root(&invented.log);
    appoint(&mut invented, 2, from, own_root);
    let of_its_own = predecessor(&published(&invented.log[..from], 2).1, 2);
    let refused = |world: &World, before: &str| judge(&world.log, 2, (1, &seen), before).unwrap_err();
    assert!(refused(&invented, &of_its_own).contains("relay before"));
    // With what the real relay signed once: that is not in its tree.
    for genuine in [&seen, &old] {
        assert!(refused(&invented, &predecessor(genuine, 1)).contains("does not go on"));
    }
    let mut placed = mirrored();
    let from = placed.log.len() as u64;
    let mirror = listed(2);
    let proposal = placed.pass_votes(ProposalKind::Succession, &mirror.name, mirror.hash());
    // It says what the real relay signed, and has something else.
    placed.log(Succession { proposal, mirror: mirror.key, from, root: root(&real.log[..3]) });
    assert!(refused(&placed, &predecessor(&old, 1)).contains("does not go on"));
    // An entry of its own between what the relay before had signed and the vote.
    let mut added = mirrored();
    let before = predecessor(&published(&added.log, 1).1, 1);
    added.log(Job { job: JobId([9; 16]), name: String::new(), spec: hash(3), submitter: None });
    let from = added.log.len();
    let with_it = root(&added.log);
    appoint(&mut added, 2, from, with_it);
    assert!(judge(&added.log, 2, (1, &old), &before).unwrap_err().contains("does not go on"));
}
