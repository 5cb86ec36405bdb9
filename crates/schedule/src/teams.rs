//! What a volunteer says of itself to others: its team, and whether its name may be shown. Neither changes what it is leased.
//!
//! It becomes durable with the volunteer's next accepted result, so that names which never computed anything fill no store. Who
//! takes it back is heard at once, in whichever session.

use crate::io::Output;
use crate::policy::{MEMBERSHIP_REFRESH, REFUSED_RETRY};
use crate::relay::Relay;
use potluck_proto::{Membership, RefusalCode};
use potluck_types::limits::MAX_MEMBERSHIPS_SAID;
use potluck_types::{Instant, SessionId};

/// What a session said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The last of it; what another session of the volunteer took back is taken back here too.
    last: Option<Membership>,
    /// When a result last made it durable.
    recorded: Option<Instant>,
    /// How often it was something else than before.
    times: u32,
}

impl Relay {
    pub(crate) fn membership(&mut self, id: SessionId, membership: Membership) {
        if let Some(mistake) = membership.mistake() {
            return self.refuse(id, RefusalCode::Garbage, mistake, REFUSED_RETRY);
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(volunteer) = session.volunteer else { return };
        let said = &mut session.said;
        if said.last.as_ref() == Some(&membership) {
            return;
        }
        said.times += 1;
        if said.times > MAX_MEMBERSHIPS_SAID {
            let message = "the team was changed too often: wait a while";
            return self.refuse(id, RefusalCode::Limit, message, REFUSED_RETRY);
        }
        (said.last, said.recorded) = (Some(membership.clone()), None);
        if membership.is_hidden() {
            let own = self.sessions.values_mut().filter(|session| session.volunteer == Some(volunteer));
            for other in own.filter(|session| session.said.last.is_some()) {
                other.said.last = Some(membership.clone());
            }
            self.out.push(Output::Membership { volunteer, membership });
        }
    }

    /// A result of the session was accepted.
    pub(crate) fn count_for_team(&mut self, id: SessionId) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let shown = session.said.last.as_ref().filter(|membership| !membership.is_hidden());
        let (Some(volunteer), Some(membership)) = (session.volunteer, shown.cloned()) else { return };
        if session.said.recorded.is_none_or(|recorded| now.since(recorded) >= MEMBERSHIP_REFRESH) {
            session.said.recorded = Some(now);
            self.out.push(Output::Membership { volunteer, membership });
        }
    }
}
