//! A stop of everything.

use super::*;

#[test]
fn while_everything_is_halted_nothing_is_leased() {
    let mut world = World::new();
    let token = world.join(S1, 1);
    world.add(job(1, 2048, 64, 2048));
    let lease = world.request(S1, token, 1000).unwrap();
    world.input(Input::Halted { halted: true });
    let revoked = world.heard(S1, |m| match m {
        Message::Revoke(revoke) => Some(revoke.lease),
        _ => None,
    });
    assert_eq!(revoked, Some(lease.lease));
    assert_eq!(world.request(S1, token, 1000).unwrap_err(), NoWorkReason::Idle);
    // Said again, it changes nothing; and what comes in meanwhile waits too.
    world.input(Input::Halted { halted: true });
    world.add(job(2, 512, 64, 512));
    assert_eq!(world.request(S1, token, 1000).unwrap_err(), NoWorkReason::Idle);
    world.input(Input::Halted { halted: false });
    let again = world.request(S1, token, 1000).unwrap();
    assert_eq!(world.accept(S1, &again).job, again.job);
}
