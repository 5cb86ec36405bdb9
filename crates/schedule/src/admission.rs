//! Who gets a session while there is room: no network fills the relay, and no volunteer.

use crate::policy::{BLOCK_FLOOR, MAX_SESSIONS_PER_VOLUNTEER};
use crate::relay::Relay;
use potluck_types::VolunteerId;
use potluck_types::limits::MAX_SESSIONS;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Addresses that one network or household is given together: 256 of IPv4, a /48 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Block {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Block {
    /// The block of an address. `None` for this machine's own: whoever uses these could end the relay as well.
    pub(crate) fn of(address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return None;
        }
        Some(match address {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, ..] = address.octets();
                Self::V6([a, b, c, d, e, f])
            }
        })
    }
}

/// How many sessions there are of whom.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    blocks: BTreeMap<Block, usize>,
    volunteers: BTreeMap<VolunteerId, usize>,
}

fn count<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    *counts.entry(key).or_default() += 1;
}

fn uncount<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Why a session is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// There is no room for anybody.
    Relay,
    /// Its network has its share.
    Block,
}

impl Crowded {
    /// What the volunteer is told.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Relay => "the relay is full: come back later",
            Self::Block => {
                "too many sessions come from your network while the relay is this full: come back later"
            }
        }
    }
}

impl Relay {
    /// Counts a session that opened, and says why it may not stay.
    pub(crate) fn admit(&mut self, address: Option<IpAddr>) -> Result<(), Crowded> {
        let most = self.config.max_sessions.min(MAX_SESSIONS);
        // It is among the sessions already.
        let free = (most + 1).saturating_sub(self.sessions.len());
        let Some(block) = address.and_then(Block::of) else {
            return if free > 0 { Ok(()) } else { Err(Crowded::Relay) };
        };
        // Alone, one network gets half of all; the fuller the relay is, the less of what is left.
        let share = BLOCK_FLOOR.max(free);
        let before = self.admission.blocks.get(&block).copied().unwrap_or(0);
        count(&mut self.admission.blocks, block);
        if free == 0 {
            Err(Crowded::Relay)
        } else if before >= share {
            Err(Crowded::Block)
        } else {
            Ok(())
        }
    }

    /// Counts a volunteer that proved who it is; `false` if it has enough sessions.
    pub(crate) fn admit_volunteer(&mut self, volunteer: VolunteerId) -> bool {
        count(&mut self.admission.volunteers, volunteer);
        self.admission.volunteers.get(&volunteer).is_some_and(|count| *count <= MAX_SESSIONS_PER_VOLUNTEER)
    }

    /// A session ended.
    pub(crate) fn dismiss(&mut self, address: Option<IpAddr>, volunteer: Option<VolunteerId>) {
        if let Some(block) = address.and_then(Block::of) {
            uncount(&mut self.admission.blocks, &block);
        }
        if let Some(volunteer) = volunteer {
            uncount(&mut self.admission.volunteers, &volunteer);
        }
    }

    /// Whether nobody is counted: for tests, once all have left.
    #[cfg(test)]
    pub(crate) fn counts_nobody(&self) -> bool {
        self.admission.blocks.is_empty() && self.admission.volunteers.is_empty()
    }
}
