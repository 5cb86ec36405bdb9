//! No network and no volunteer fills the relay.

use super::*;
use crate::policy::{BLOCK_FLOOR, MAX_SESSIONS_PER_VOLUNTEER};

const ROOM: usize = 400;

fn small() -> World {
    let config = Config { max_sessions: ROOM, ..Config::new([7; 32], 1, RELAY) };
    World { relay: Relay::new(config), ..World::new() }
}

/// Whether a session that opens may stay, and what it is told else.
fn opens(world: &mut World, session: u64, address: &str) -> Result<(), String> {
    let (session, address) = (SessionId(session), Some(address.parse().unwrap()));
    world.input(Input::Opened { session, address });
    world
        .heard(session, |m| match m {
            Message::Challenge(_) => Some(Ok(())),
            Message::Refusal(refusal) => {
                assert_eq!(refusal.code, RefusalCode::Full);
                Some(Err(refusal.message.clone()))
            }
            _ => None,
        })
        .expect("an answer")
}

#[test]
fn one_network_gets_half_of_the_room_and_others_the_rest() {
    let mut world = small();
    let mut open = Vec::new();
    let mut session = 0;
    let mut fill = |world: &mut World, network: u8, open: &mut Vec<SessionId>| {
        let mut stayed = 0;
        for host in 0..ROOM {
            session += 1;
            // Another address each time does not help within the network.
            let address = format!("203.0.{network}.{}", host % 256);
            if opens(world, session, &address).is_ok() {
                stayed += 1;
                open.push(SessionId(session));
            }
        }
        stayed
    };
    let first = fill(&mut world, 1, &mut open);
    assert_eq!(first, ROOM / 2);
    assert_eq!(fill(&mut world, 2, &mut open), ROOM / 4);
    // There is room for few, and networks that ask for few get it.
    assert_eq!(fill(&mut world, 3, &mut open), BLOCK_FLOOR);
    assert_eq!(fill(&mut world, 4, &mut open), ROOM - ROOM / 2 - ROOM / 4 - BLOCK_FLOOR);
    let full = opens(&mut world, 100_000, "198.51.100.1").unwrap_err();
    assert!(full.contains("relay is full"), "{full}");
    for session in open {
        world.input(Input::Closed { session });
    }
    assert!(world.relay.counts_nobody());
    assert_eq!(opens(&mut world, 100_001, "203.0.1.1"), Ok(()));
}

#[test]
fn networks_are_told_apart_and_this_machine_is_none() {
    let mut world = small();
    for session in 0..ROOM as u64 / 2 {
        assert_eq!(opens(&mut world, session, &format!("2001:db8:1:{session:x}::1")), Ok(()));
    }
    let crowded = opens(&mut world, 1_000, "2001:db8:1:ffff::1").unwrap_err();
    assert!(crowded.contains("your network"), "{crowded}");
    assert_eq!(opens(&mut world, 1_001, "2001:db8:2::1"), Ok(()));
    // The same network of IPv4, however it is written.
    for session in 2_000..2_000 + BLOCK_FLOOR as u64 * 2 {
        let address = if session % 2 == 0 { "203.0.113.7" } else { "::ffff:203.0.113.8" };
        let _ = opens(&mut world, session, address);
    }
    let crowded = opens(&mut world, 3_000, "203.0.113.9").unwrap_err();
    assert!(crowded.contains("your network"), "{crowded}");
    for session in 4_000..4_020 {
        assert_eq!(opens(&mut world, session, if session % 2 == 0 { "127.0.0.1" } else { "::1" }), Ok(()));
    }
}

#[test]
fn a_key_has_enough_sessions_at_some_point() {
    let mut world = World::new();
    for session in 1..=MAX_SESSIONS_PER_VOLUNTEER as u64 {
        world.join(SessionId(session), 1);
    }
    let (session, now) = (SessionId(10_000), world.now);
    let out = greet(&mut world.relay, now, session, None, 1);
    assert!(out.iter().any(|output| matches!(
        output,
        Output::Send { message: Message::Refusal(refusal), .. } if refusal.code == RefusalCode::Limit
    )));
    // Others are not kept out, and who leaves makes room.
    world.join(SessionId(10_001), 2);
    world.input(Input::Closed { session: SessionId(1) });
    world.join(SessionId(10_002), 1);
}

#[test]
fn who_lends_is_counted_as_it_changes() {
    let mut world = World::new();
    assert_eq!(world.relay.totals().consenting, 0);
    world.join(S1, 1);
    world.out.extend(greet(&mut world.relay, world.now, S2, None, 2));
    world.agree(S2, Duration::from_secs(10));
    assert_eq!(world.relay.totals().consenting, 2);
    world.now = Instant(11_000);
    world.input(Input::Tick);
    assert_eq!(world.relay.totals().consenting, 1);
    world.agree(S2, Duration::from_secs(10));
    world.agree(S2, Duration::from_secs(20));
    assert_eq!(world.relay.totals().consenting, 2);
    world.say(S1, Withdraw {});
    assert_eq!(world.relay.totals().consenting, 1);
    world.input(Input::Closed { session: S2 });
    assert_eq!(world.relay.totals().consenting, 0);
}
