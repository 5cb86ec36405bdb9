//! What the operator switches off is worked on by nobody, and all else goes on.

use super::*;
use crate::switches::{Kernel, Switches};
use std::collections::BTreeSet;

fn revoked(world: &mut World, session: SessionId) -> Option<potluck_types::LeaseId> {
    world.heard(session, |m| match m {
        Message::Revoke(revoke) => Some(revoke.lease),
        _ => None,
    })
}

#[test]
fn a_kernel_that_is_off_is_leased_to_nobody_and_others_are() {
    let mut world = World::new();
    let token = world.join(S1, 1);
    world.add(job(1, 2048, 64, 2048));
    let lease = world.request(S1, token, 1000).unwrap();
    let off = Switches { kernels: BTreeSet::from([Kernel::MatmulF32]), ..Switches::default() };
    world.input(Input::Switched(off));
    assert_eq!(revoked(&mut world, S1), Some(lease.lease));
    // Nothing is too large for this volunteer: there is nothing.
    assert_eq!(world.request(S1, token, 1000).unwrap_err(), NoWorkReason::Idle);
    let other = JobSpec { dtype: DType::Int8, ..job(2, 512, 64, 512) };
    world.add(other.clone());
    let work = world.request(S1, token, 1000).unwrap();
    assert_eq!(work.job, other.id);
    world.accept(S1, &work);
    world.input(Input::Switched(Switches::default()));
    let again = world.request(S1, token, 1000).unwrap();
    assert_eq!(world.accept(S1, &again).job, again.job);
}

#[test]
fn a_project_that_is_off_waits_and_says_so_to_nobody_else() {
    let mut world = World::new();
    let token = world.join(S1, 1);
    let [one, two] = [job(1, 2048, 64, 2048), job(2, 2048, 64, 2048)];
    world.add(one.clone());
    world.add(two.clone());
    let off = Switches { projects: BTreeSet::from([one.id]), ..Switches::default() };
    world.input(Input::Switched(off.clone()));
    for _ in 0..2 {
        let work = world.request(S1, token, 1000).unwrap();
        assert_eq!(work.job, two.id);
        world.accept(S1, &work);
    }
    // What is not named is on, and what is said again changes nothing.
    world.input(Input::Switched(off));
    let work = world.request(S1, token, 1000).unwrap();
    assert_eq!(revoked(&mut world, S1), None);
    world.input(Input::Switched(Switches { projects: BTreeSet::from([two.id]), ..Switches::default() }));
    assert_eq!(revoked(&mut world, S1), Some(work.lease));
    assert_eq!(world.request(S1, token, 1000).unwrap().job, one.id);
}

#[test]
fn a_site_that_is_off_lends_nothing_now_and_later() {
    let site = "https://school.example";
    let consent = || Consent {
        text_version: 1,
        origin: format!("{}{site}", crate::EMBED_PREFIX),
        preset: Preset::Quiet,
        valid_for: Duration::from_secs(3600),
    };
    let refused = |world: &mut World, session| {
        world.heard(session, |m| match m {
            Message::Refusal(refusal) => Some(refusal.message.clone()),
            _ => None,
        })
    };
    let mut world = World::new();
    let now = world.now;
    let greeted = greet(&mut world.relay, now, S1, None, 1);
    world.out.extend(greeted);
    world.say(S1, consent());
    let elsewhere = world.join(S2, 2);
    world.add(job(1, 2048, 64, 2048));
    world
        .input(Input::Switched(Switches { sites: BTreeSet::from([site.to_owned()]), ..Switches::default() }));
    assert!(refused(&mut world, S1).is_some_and(|why| why.contains(site)));
    assert!(world.request(S2, elsewhere, 1000).is_ok(), "who lends elsewhere goes on");
    let greeted = greet(&mut world.relay, now, S1, None, 1);
    world.out.extend(greeted);
    world.say(S1, consent());
    assert!(refused(&mut world, S1).is_some_and(|why| why.contains("switched")));
    world.input(Input::Switched(Switches::default()));
    let greeted = greet(&mut world.relay, now, S1, None, 1);
    world.out.extend(greeted);
    world.say(S1, consent());
    assert_eq!(refused(&mut world, S1), None);
}
