//! What others may see of a volunteer counts from its next accepted result; who takes it back is heard at once.

use super::*;
use crate::policy::MEMBERSHIP_REFRESH;
use potluck_proto::Membership;
use potluck_types::VolunteerId;
use potluck_types::limits::MAX_MEMBERSHIPS_SAID;

fn member(team: &str, listed: bool) -> Membership {
    Membership { team: team.to_owned(), listed }
}

impl World {
    /// What is recorded of whom.
    fn recorded(&mut self) -> Option<(VolunteerId, Membership)> {
        self.take(|output| match output {
            Output::Membership { volunteer, membership } => Some((*volunteer, membership.clone())),
            _ => None,
        })
    }
}

#[test]
fn a_team_counts_from_the_next_result_and_what_is_taken_back_at_once() {
    let mut world = World::new();
    let token = world.join(S1, 1);
    let volunteer = VolunteerKey([1; 32]).id();
    world.add(job(1, 2048, 64, 2048));
    world.say(S1, member("Chess Club", false));
    assert_eq!(world.recorded(), None, "a name without a result fills no store");
    let lease = world.request(S1, token, 1000).unwrap();
    // The last word before the result is what counts.
    world.say(S1, member("Café Zürich", true));
    world.accept(S1, &lease);
    assert_eq!(world.recorded(), Some((volunteer, member("Café Zürich", true))));
    let lease = world.request(S1, token, 1000).unwrap();
    world.accept(S1, &lease);
    assert_eq!(world.recorded(), None, "it is recorded once");
    // And once a day as long as the session lasts, so that it is known to be meant still.
    for _ in 0..MEMBERSHIP_REFRESH.0 / 30_000 {
        world.now += Duration::from_secs(30);
        world.say(S1, Ping { nonce: 1 });
    }
    let token = world.agree(S1, Duration::from_secs(3600));
    let lease = world.request(S1, token, 1000).unwrap();
    world.accept(S1, &lease);
    assert_eq!(world.recorded(), Some((volunteer, member("Café Zürich", true))));

    world.say(S1, member("", false));
    assert_eq!(world.recorded(), Some((volunteer, member("", false))));
    world.say(S1, member("", false));
    assert_eq!(world.recorded(), None);
    // Taken back before the result that it waits for: nothing is left of it.
    world.say(S1, member("Chess Club", false));
    world.say(S1, member("", false));
    assert_eq!(world.recorded(), Some((volunteer, member("", false))));
    let lease = world.request(S1, token, 1000).unwrap();
    world.accept(S1, &lease);
    assert_eq!(world.recorded(), None);
    // What one session takes back, another of the same volunteer does not bring.
    world.say(S1, member("Chess Club", true));
    world.join(S2, 1);
    world.say(S2, member("", false));
    assert_eq!(world.recorded(), Some((volunteer, member("", false))));
    let lease = world.request(S1, token, 1000).unwrap();
    world.accept(S1, &lease);
    assert_eq!(world.recorded(), None);
    // The same again is no change, however often.
    for _ in 0..3 * MAX_MEMBERSHIPS_SAID {
        world.now += Duration::from_secs(1);
        world.say(S2, member("", false));
    }
    assert_eq!(world.refusal(S2), None);
}

#[test]
fn names_that_no_team_can_have_and_too_many_of_them_end_the_session() {
    let long = "x".repeat(49);
    for name in [
        " padded",
        "two  spaces",
        "line\nbreak",
        "turned\u{202e}around",
        "zero\u{200b}width",
        "filled\u{3164}",
        &long,
    ] {
        let mut world = World::new();
        world.join(S1, 1);
        world.say(S1, member(name, true));
        assert_eq!(world.refusal(S1), Some(RefusalCode::Garbage), "{name:?}");
        assert_eq!(world.recorded(), None);
    }
    let mut world = World::new();
    world.join(S1, 1);
    for n in 0..MAX_MEMBERSHIPS_SAID {
        world.now += Duration::from_secs(1);
        world.say(S1, member(&format!("team {n}"), false));
    }
    assert_eq!(world.refusal(S1), None);
    world.say(S1, member("one more", false));
    assert_eq!(world.refusal(S1), Some(RefusalCode::Limit));
}
