//! Who a session is: nobody without a signature over the challenge of that very session.

use super::*;
use potluck_proto::{Hello, PROTOCOL_VERSION};
use potluck_types::VolunteerId;
use potluck_types::limits::HANDSHAKE_TIMEOUT;

const KEY: VolunteerKey = VolunteerKey([1; 32]);

/// What is tried, and the Hello that tries it.
type Attack<'a> = (&'a str, &'a dyn Fn(&Challenge) -> Hello);

fn answer(challenge: &Challenge, key: &VolunteerKey) -> Hello {
    Hello::answer(challenge, key, String::new())
}

impl World {
    /// Opens a session and takes its challenge.
    fn open(&mut self, session: SessionId) -> Challenge {
        self.input(Input::Opened { session, address: None });
        self.heard(session, |m| match m {
            Message::Challenge(challenge) => Some(*challenge),
            _ => None,
        })
        .expect("the relay speaks first")
    }

    fn is_welcome(&mut self, session: SessionId) -> bool {
        self.heard(session, |m| matches!(m, Message::Welcome(_)).then_some(())).is_some()
    }

    /// What the relay answers to a Hello: `None` for a welcome.
    fn hello(&mut self, session: SessionId, hello: Hello) -> Option<RefusalCode> {
        self.say(session, hello);
        let refusal = self.refusal(session);
        assert_eq!(self.is_welcome(session), refusal.is_none());
        refusal
    }
}

#[test]
fn each_session_has_a_challenge_of_its_own() {
    let mut world = World::new();
    let challenges: Vec<_> = (1..100).map(|id| world.open(SessionId(id))).collect();
    for (at, challenge) in challenges.iter().enumerate() {
        assert_eq!(challenge.relay, RELAY);
        assert!(challenges[..at].iter().all(|before| before.nonce != challenge.nonce));
    }
    let mut later = World { relay: Relay::new(Config::new([8; 32], 2, RELAY)), ..World::new() };
    assert_ne!(later.open(S1).nonce, challenges[0].nonce, "another start, another secret");
    for (id, challenge) in (1..).zip(&challenges) {
        assert_eq!(world.hello(SessionId(id), answer(challenge, &KEY)), None);
    }
}

#[test]
fn a_signature_counts_for_one_key_one_session_and_one_relay() {
    let mut world = World::new();
    let first = world.open(S1);
    let said = answer(&first, &KEY);
    assert_eq!(world.hello(S1, said.clone()), None);
    let other = VolunteerKey([2; 32]);
    let attacks: [Attack<'_>; 7] = [
        ("what was overheard in another session", &|_| said.clone()),
        ("another's key", &|challenge| Hello { volunteer: KEY.id(), ..answer(challenge, &other) }),
        ("one's own key, another's signature", &|_| Hello { volunteer: other.id(), ..said.clone() }),
        ("the nonce with another relay's key", &|challenge| {
            answer(&Challenge { relay: [5; 32], ..*challenge }, &KEY)
        }),
        ("no signature", &|_| Hello { signature: [0; 64], ..said.clone() }),
        ("the text without what it is for", &|challenge| Hello {
            signature: KEY.sign(&challenge.text()[19..]),
            ..said.clone()
        }),
        ("a key of small order, under which this signature fits any message", &|_| {
            let mut neutral = [0; 32];
            neutral[0] = 1;
            let mut signature = [0; 64];
            signature[0] = 1;
            Hello { volunteer: VolunteerId(neutral), signature, ..said.clone() }
        }),
    ];
    for (id, (what, attack)) in (10..).map(SessionId).zip(attacks) {
        let challenge = world.open(id);
        let out = world.hello(id, attack(&challenge));
        assert_eq!(out, Some(RefusalCode::Identity), "{what}");
        assert!(world.out.contains(&Output::Close { session: id }), "{what}");
        assert!(!world.relay.sessions.contains_key(&id), "{what}");
    }
    world.agree(S1, Duration(1000));
}

#[test]
fn a_refusal_says_what_to_sign() {
    let mut world = World::new();
    world.open(S1);
    world.say(S1, answer(&Challenge { nonce: [0; 32], relay: RELAY }, &KEY));
    let refusal = world.heard(S1, |m| match m {
        Message::Refusal(refusal) => Some(refusal.clone()),
        _ => None,
    });
    let refusal = refusal.unwrap();
    assert!(refusal.message.contains("nonce") && refusal.message.contains("Challenge"), "{refusal:?}");
    assert!(refusal.retry_after > Duration(0), "the next session has another challenge");
}

#[test]
fn versions_are_compared_before_signatures() {
    let mut world = World::new();
    world.open(S1);
    // Software of another version may not know what to sign: it is told to update.
    let foreign = Hello {
        oldest_version: PROTOCOL_VERSION + 1,
        newest_version: PROTOCOL_VERSION + 1,
        ..answer(&Challenge { nonce: [0; 32], relay: RELAY }, &KEY)
    };
    assert_eq!(world.hello(S1, foreign), Some(RefusalCode::Version));
}

#[test]
fn nobody_asks_for_the_standing_of_another() {
    let mut world = World::new();
    let record = Record { accepted: 0, rejected: 1000 };
    world.input(Input::VolunteerKnown { volunteer: KEY.id(), record });
    let challenge = world.open(S1);
    let spy = Hello { volunteer: KEY.id(), ..answer(&challenge, &VolunteerKey([2; 32])) };
    assert_eq!(world.hello(S1, spy), Some(RefusalCode::Identity));
}

#[test]
fn a_challenge_waits_no_longer_than_a_hello() {
    let mut world = World::new();
    world.open(S1);
    world.wait(HANDSHAKE_TIMEOUT);
    assert_eq!(world.refusal(S1), Some(RefusalCode::TimedOut));
}

#[test]
fn who_is_turned_away_is_not_challenged() {
    let mut world = World::new();
    world.input(Input::ShuttingDown);
    world.input(Input::Opened { session: S1, address: None });
    assert_eq!(challenge_in(&world.out, S1), None);
    assert_eq!(world.refusal(S1), Some(RefusalCode::ShuttingDown));
}
