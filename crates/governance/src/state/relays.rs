//! Who signs the log: the mirrors that may take over, and those that did.

use super::{Refused, State};
use crate::entry::{NewMirrors, Succession};
use crate::gate::Missing;
use crate::key::Key;
use crate::limits::MAX_SUCCESSION_DELAY_MS;
use crate::mirrors::{Mirror, Mirrors};
use crate::statement::ProposalKind;
use potluck_types::BlobHash;

const NOT_LISTED: &str = "no mirror is listed so: propose a list of mirrors with it first";
const SIGNS_NOW: &str = "its key signs the log now: name another mirror";

/// A mirror that took over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuccessionState {
    /// Index of its entry.
    pub index: u64,
    /// Time of its entry.
    pub at_ms: u64,
    /// How many entries the log had under the last checkpoint of the relay before.
    pub from: u64,
    /// Their Merkle root, as the mirror says. The state cannot check it; auditors compare it with the tree.
    pub root: BlobHash,
    /// The mirror, as it was listed then.
    pub mirror: Mirror,
    /// The proposal.
    pub proposal: BlobHash,
}

impl State {
    /// The mirrors as they are listed.
    pub fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }

    /// Every mirror that took over, in order.
    pub fn successions(&self) -> &[SuccessionState] {
        &self.successions
    }

    /// The key that signs the log's checkpoints since the last succession; none while the relay that began the log signs,
    /// whose key no entry names. It stays, whatever becomes of the list.
    pub fn signer(&self) -> Option<Key> {
        self.successions.last().map(|last| last.mirror.key)
    }

    /// How the log passed on from the relay that signed with this key; none if that signs still. A key that no entry names is
    /// that of the relay that began the log.
    pub fn succession_after(&self, signer: Key) -> Option<&SuccessionState> {
        let after = self.successions.iter().rposition(|one| one.mirror.key == signer);
        self.successions.get(after.map_or(0, |after| after + 1))
    }

    pub(super) fn examine_mirrors(&self, new: &NewMirrors, now_ms: u64) -> Result<(), Refused> {
        let document = Mirrors { mirrors: new.mirrors.clone() };
        self.justified(new.proposal, ProposalKind::Mirrors, document.hash(), now_ms)
            .map_err(Refused::Unjustified)
    }

    pub(super) fn record_mirrors(&mut self, index: u64, now_ms: u64, new: &NewMirrors) {
        self.mirrors.clone_from(&new.mirrors);
        self.decide(index, now_ms, Some(new.proposal));
    }

    /// Why the mirror of this name and hash cannot be proposed to take over.
    pub(super) fn cannot_succeed(&self, name: &str, hash: BlobHash) -> Option<&'static str> {
        match self.mirrors.iter().find(|mirror| mirror.name == name) {
            None => Some(NOT_LISTED),
            Some(mirror) if mirror.hash() != hash => {
                Some("the mirror is listed with another url or key: name the hash of it as it is listed")
            }
            Some(mirror) if self.signer() == Some(mirror.key) => Some(SIGNS_NOW),
            Some(_) => None,
        }
    }

    pub(super) fn examine_succession(&self, succession: &Succession, now_ms: u64) -> Result<(), Refused> {
        let Succession { proposal, mirror: key, from, .. } = *succession;
        let unfit = |problem| Refused::Unfit { what: format!("mirror {key}"), problem };
        let mirror = self.mirrors.iter().find(|mirror| mirror.key == key).ok_or(unfit(NOT_LISTED))?;
        if self.signer() == Some(key) {
            return Err(unfit(SIGNS_NOW));
        }
        if from > self.next {
            return Err(Refused::BeyondLog { from, index: self.next });
        }
        if from < self.facts_end {
            return Err(Refused::NotOnlyStatements { from, fact: self.facts_end - 1 });
        }
        // The hash is that of the mirror as it is listed now: a vote on another url or key does not count for it.
        self.justified(proposal, ProposalKind::Succession, mirror.hash(), now_ms)
            .map_err(Refused::Unjustified)?;
        // Otherwise whoever won a vote once and did not take over could depose a later relay that nobody voted on.
        let since = self.successions.last().map_or(0, |last| last.index);
        let found = self.proposals.get(&proposal);
        if found.is_some_and(|found| found.index < since) {
            return Err(Refused::Unjustified(Missing::OtherRelay { proposal }));
        }
        if found.is_some_and(|found| now_ms.saturating_sub(found.closes) > MAX_SUCCESSION_DELAY_MS) {
            return Err(Refused::Unjustified(Missing::OldVote { proposal }));
        }
        Ok(())
    }

    pub(super) fn record_succession(&mut self, index: u64, now_ms: u64, succession: &Succession) {
        let Succession { proposal, mirror: key, from, root } = *succession;
        let Some(mirror) = self.mirrors.iter().find(|mirror| mirror.key == key).cloned() else { return };
        self.successions.push(SuccessionState { index, at_ms: now_ms, from, root, mirror, proposal });
        self.decide(index, now_ms, Some(proposal));
    }
}
