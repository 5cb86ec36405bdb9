//! What a volunteer says of itself to others: its team, and whether its name may be shown. Neither changes what it is leased.
//!
//! It becomes durable with the volunteer's next accepted result, so that names which never computed anything fill no store. Who
//! takes it back is heard at once, in whichever session.

use crate::io::Output;
use crate::policy::REFUSED_RETRY;
use crate::relay::Relay;
use potluck_proto::{Membership, RefusalCode};
use potluck_types::SessionId;
use potluck_types::limits::MAX_MEMBERSHIPS_SAID;

/// What a session said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    last: Option<Membership>,
    /// Whether the next accepted result makes it durable.
    pending: bool,
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
        said.last = Some(membership.clone());
        said.pending = true;
        if membership.is_hidden() {
            for session in self.sessions.values_mut().filter(|session| session.volunteer == Some(volunteer)) {
                session.said.pending = false;
            }
            self.out.push(Output::Membership { volunteer, membership });
        }
    }

    /// A result of the session was accepted.
    pub(crate) fn count_for_team(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !std::mem::take(&mut session.said.pending) {
            return;
        }
        if let (Some(volunteer), Some(membership)) = (session.volunteer, session.said.last.clone()) {
            self.out.push(Output::Membership { volunteer, membership });
        }
    }
}
