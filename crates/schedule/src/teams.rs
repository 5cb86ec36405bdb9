//! What a volunteer says of itself to others: its team, and whether its name may be shown. Neither changes what it is leased.
//!
//! It becomes durable with the volunteer's next accepted result, so that names which never computed anything fill no store. Who
//! takes it back is heard at once.

use crate::io::Output;
use crate::policy::REFUSED_RETRY;
use crate::relay::Relay;
use potluck_proto::{Membership, RefusalCode};
use potluck_types::SessionId;
use potluck_types::limits::MAX_MEMBERSHIPS_SAID;

/// What a session said, and has not become durable.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pending: Option<Membership>,
    /// Whether nothing is shown of the volunteer, as far as this session said.
    hidden: bool,
    times: u32,
}

impl Relay {
    pub(crate) fn membership(&mut self, id: SessionId, membership: Membership) {
        if let Some(mistake) = membership.mistake() {
            return self.refuse(id, RefusalCode::Garbage, mistake, REFUSED_RETRY);
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(volunteer) = session.volunteer else { return };
        session.said.times += 1;
        if session.said.times > MAX_MEMBERSHIPS_SAID {
            return self.refuse(
                id,
                RefusalCode::Limit,
                "the team was changed too often: wait a while",
                REFUSED_RETRY,
            );
        }
        if !membership.is_hidden() {
            session.said.pending = Some(membership);
            session.said.hidden = false;
            return;
        }
        session.said.pending = None;
        if !std::mem::replace(&mut session.said.hidden, true) {
            self.out.push(Output::Membership { volunteer, membership });
        }
    }

    /// A result of the session was accepted.
    pub(crate) fn count_for_team(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let (Some(volunteer), Some(membership)) = (session.volunteer, session.said.pending.take()) {
            self.out.push(Output::Membership { volunteer, membership });
        }
    }
}
