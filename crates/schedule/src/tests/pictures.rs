//! When pictures of jobs are sent.

use super::*;

#[test]
fn pictures_come_once_an_interval_however_many_jobs_came() {
    let mut world = World::new();
    world.join(S1, 1);
    for id in 1..=20 {
        world.now += Duration(10);
        world.add(job(id, 256, 32, 256));
    }
    world.now += Duration(10_000);
    world.input(Input::Tick);
    // However often pictures were sent: what is due next is one timer for all.
    let mut wakes = 0;
    let begins = world.now;
    while let Some(wake) = world.relay.next_wake().filter(|wake| *wake <= begins + Duration(5_000)) {
        world.now = wake;
        world.input(Input::Tick);
        wakes += 1;
    }
    assert_eq!(wakes, 5);
}
