//! Who links to whom, and what passes between them through the relay.
//!
//! The relay assigns each member of the mesh some neighbors, a part of them by what they have in common, the others at
//! random; chooses who offers; passes signals on between the two ends of a link, and nobody else; and forgets a link when
//! an end leaves, or does not come back in time. Complaints about a peer end the link between the two. They never touch the
//! credibility of its results: a link leaves no evidence that a third party could check. A peer that several complain
//! about gets no neighbors for a while, and goes on with the relay alone.
//!
//! Architecture invariant: a signal goes only to the other end of a link that the relay assigned.

mod candidate;
mod neighbors;
mod report;
#[cfg(test)]
mod tests;

pub use report::{MeshCounts, MeshLink, MeshMember, MeshPicture};

use crate::io::Output;
use crate::policy::{
    COMPLAINTS, MESH_BAN, MESH_INTERVAL, NEIGHBOR_SCAN, QUEUED_SIGNALS, REFUSED_RETRY, RESUME_GRACE,
    SETTINGS_INTERVAL, SIGNAL_TTL,
};
use crate::relay::{Relay, Timer};
use potluck_proto::{
    BlobMissing, JoinMesh, LinkPath, LinkReport, Neighbor, RefusalCode, Signal, SignalKind, TreeRequest,
    Unlink, UnlinkReason,
};
use potluck_types::limits::{
    GROUP_BYTES, MAX_NEIGHBORS, MAX_SEED_NEIGHBORS, MAX_SESSIONS, SIGNAL_BURST_BYTES, SIGNAL_BYTES_PER_SECOND,
};
use potluck_types::{BlobHash, Bucket, Instant, LinkId, SessionId, VolunteerId};
use std::collections::{BTreeMap, BTreeSet};

/// A session that has joined.
#[derive(Debug)]
pub(crate) struct Member {
    volunteer: VolunteerId,
    seed: bool,
    links: BTreeSet<LinkId>,
    signals: Bucket,
    /// When it was last told of servers.
    told: Instant,
    /// Blobs that it said to hold, or needs for its leases.
    blobs: BTreeSet<BlobHash>,
}

impl Member {
    const fn most(&self) -> usize {
        if self.seed { MAX_SEED_NEIGHBORS } else { MAX_NEIGHBORS }
    }
}

/// One end of a link.
#[derive(Debug)]
struct End {
    /// `None` after the session was lost, until it resumes.
    session: Option<SessionId>,
    volunteer: Option<VolunteerId>,
    /// Since when there is no session.
    lost: Instant,
    /// How it says that the link runs.
    path: Option<LinkPath>,
    /// Bytes that it says came to it, and lately per second.
    received: u64,
    rate: u64,
    reported: Instant,
    /// Signals for it that wait.
    waiting: Vec<(Instant, Signal)>,
}

impl End {
    const fn new(session: Option<SessionId>, volunteer: Option<VolunteerId>, now: Instant) -> Self {
        Self {
            session,
            volunteer,
            lost: now,
            path: None,
            received: 0,
            rate: 0,
            reported: now,
            waiting: Vec::new(),
        }
    }
}

/// A link. Its first end offers.
#[derive(Debug)]
pub(crate) struct Link {
    ends: [End; 2],
    near: bool,
}

impl Link {
    fn end_of(&self, session: SessionId) -> Option<usize> {
        self.ends.iter().position(|end| end.session == Some(session))
    }
}

/// The mesh, as the relay knows it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) members: BTreeMap<SessionId, Member>,
    pub(crate) links: BTreeMap<LinkId, Link>,
    /// Who complained about whom, and when.
    complaints: BTreeMap<VolunteerId, BTreeMap<VolunteerId, Instant>>,
    /// Pairs that do not link again: a complaint lies between them.
    apart: BTreeSet<(VolunteerId, VolunteerId)>,
    draws: u64,
    armed: bool,
    pub(crate) counts: MeshCounts,
}

/// Links that are remembered: twice what all members together are given. Who comes back may name links that this relay never
/// assigned; beyond this it is not believed.
const MAX_LINKS: usize = MAX_SESSIONS * MAX_NEIGHBORS;
/// Bytes that each signal is charged beside its body: its envelope, so that empty ones do not come for free.
const SIGNAL_ENVELOPE_BYTES: u64 = 64;
/// Pairs that are kept apart, and volunteers that were complained about, are remembered; so many of each.
const MAX_REMEMBERED: usize = 4096;

fn pair(a: VolunteerId, b: VolunteerId) -> (VolunteerId, VolunteerId) {
    if a < b { (a, b) } else { (b, a) }
}

impl Relay {
    fn draw(&mut self) -> [u8; 32] {
        self.mesh.draws += 1;
        let mut hasher = blake3::Hasher::new_keyed(&self.config.seed);
        hasher.update(b"mesh").update(&self.mesh.draws.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    fn new_link_id(&mut self) -> LinkId {
        let drawn = self.draw();
        let mut id = [0; 16];
        id.copy_from_slice(&drawn[..16]);
        LinkId(id)
    }

    pub(crate) fn join_mesh(&mut self, id: SessionId, join: &JoinMesh) {
        let volunteer = self.sessions.get(&id).and_then(|session| session.volunteer);
        let Some(volunteer) = volunteer.filter(|_| self.consents(id, &join.consent)) else { return };
        let bucket = Bucket::new(self.now, SIGNAL_BURST_BYTES.into(), SIGNAL_BYTES_PER_SECOND.into());
        let member = Member {
            volunteer,
            seed: join.seed,
            links: BTreeSet::new(),
            signals: bucket,
            told: self.now,
            // What it fetches without a lease it asked for before it joined.
            blobs: self
                .sessions
                .get(&id)
                .map(|session| session.fetches.keys().copied().collect())
                .unwrap_or_default(),
        };
        if self.mesh.members.contains_key(&id) {
            return self.out.push(Output::MeshSettings { session: id });
        }
        self.mesh.members.insert(id, member);
        self.out.push(Output::MeshSettings { session: id });
        for kept in &join.links {
            self.resume(id, volunteer, *kept);
        }
        self.assign(id);
        self.arm_mesh();
    }

    /// A member names a link of an earlier session. Both ends know its id, and nobody else.
    fn resume(&mut self, id: SessionId, volunteer: VolunteerId, kept: Neighbor) {
        let now = self.now;
        let Neighbor { link: link_id, offers } = kept;
        let at = usize::from(!offers);
        let room = self.mesh.members.get(&id).is_some_and(|member| member.links.len() < member.most());
        if !room || self.mesh.links.len() >= MAX_LINKS {
            return;
        }
        // If it is not known, this relay has restarted: the other end will say the same, or the link is forgotten.
        let link = self.mesh.links.entry(link_id).or_insert_with(|| Link {
            ends: [End::new(None, None, now), End::new(None, None, now)],
            near: false,
        });
        let end = &mut link.ends[at];
        if end.session.is_some() || end.volunteer.is_some_and(|who| who != volunteer) {
            return;
        }
        (end.session, end.volunteer) = (Some(id), Some(volunteer));
        let waiting = std::mem::take(&mut end.waiting);
        let both = link.ends.each_ref().map(|end| end.session);
        if let Some(member) = self.mesh.members.get_mut(&id) {
            member.links.insert(link_id);
        }
        if let [Some(a), Some(b)] = both {
            let near = self.are_near(a, b);
            if let Some(link) = self.mesh.links.get_mut(&link_id) {
                link.near = near;
            }
        }
        self.send(id, kept);
        for (_, signal) in waiting {
            self.send(id, signal);
        }
    }

    fn are_near(&self, a: SessionId, b: SessionId) -> bool {
        let address = |id| self.sessions.get(&id).and_then(|session| session.address);
        candidate::are_near(address(a), address(b))
    }

    fn is_banned(&self, volunteer: &VolunteerId) -> bool {
        let recent = |since: &&Instant| self.now.since(**since) < MESH_BAN;
        let of = self.mesh.complaints.get(volunteer);
        of.is_some_and(|complaints| complaints.values().filter(recent).count() >= COMPLAINTS)
    }

    /// Passes a signal on to the other end.
    pub(crate) fn signal(&mut self, id: SessionId, signal: Signal) {
        let now = self.now;
        let bytes = signal.body.len() as u64 + SIGNAL_ENVELOPE_BYTES;
        let Some(member) = self.mesh.members.get_mut(&id) else { return };
        if !member.signals.take(now, bytes) {
            self.mesh.counts.signals_refused += 1;
            return self.refuse(id, RefusalCode::Limit, "too many signals: slow down", REFUSED_RETRY);
        }
        let link_id = signal.link;
        let Some((link, from)) =
            self.mesh.links.get_mut(&link_id).and_then(|link| link.end_of(id).map(|at| (link, at)))
        else {
            // It ended meanwhile, or never was.
            return self.send(id, Unlink { link: link_id, reason: UnlinkReason::Left });
        };
        let crossed = matches!((signal.kind, from), (SignalKind::Offer, 1) | (SignalKind::Answer, 0));
        let passed = if crossed { None } else { candidate::pass(signal, link.near) };
        let Some(signal) = passed else {
            self.mesh.counts.signals_refused += 1;
            return;
        };
        self.mesh.counts.signals += 1;
        let to = &mut link.ends[1 - from];
        match to.session {
            Some(other) => self.send(other, signal),
            None if to.waiting.len() < QUEUED_SIGNALS => to.waiting.push((now, signal)),
            None => self.mesh.counts.signals_refused += 1,
        }
    }

    /// An end ends a link.
    pub(crate) fn unlink(&mut self, id: SessionId, unlink: &Unlink) {
        let Unlink { link: link_id, reason } = *unlink;
        let Some(link) = self.mesh.links.get(&link_id) else { return };
        let Some(at) = link.end_of(id) else { return };
        let (own, other) = (link.ends[at].volunteer, link.ends[1 - at].volunteer);
        if let (Some(own), Some(other)) = (own, other) {
            self.complain(own, other, reason);
        }
        self.remove_link(&link_id, Some(id));
        self.assign(id);
    }

    /// Remembers a complaint. It keeps the two apart; those of several keep the accused from everybody for a while.
    fn complain(&mut self, by: VolunteerId, about: VolunteerId, reason: UnlinkReason) {
        let counts = &mut self.mesh.counts;
        match reason {
            UnlinkReason::Left => return,
            UnlinkReason::Unreachable => {
                counts.unreachable += 1;
                return;
            }
            UnlinkReason::BadGroup => counts.bad_groups += 1,
            UnlinkReason::Stalled => counts.stalled += 1,
            UnlinkReason::Lied => counts.lied += 1,
            UnlinkReason::Flooded => counts.flooded += 1,
        }
        if self.mesh.apart.len() >= MAX_REMEMBERED {
            self.mesh.apart.pop_first();
        }
        self.mesh.apart.insert(pair(by, about));
        if self.mesh.complaints.len() >= MAX_REMEMBERED {
            self.mesh.complaints.pop_first();
        }
        let complaints = self.mesh.complaints.entry(about).or_default();
        if complaints.len() < COMPLAINTS || complaints.contains_key(&by) {
            complaints.insert(by, self.now);
        } else if let Some(oldest) = complaints.iter().min_by_key(|(_, since)| **since).map(|(who, _)| *who) {
            complaints.remove(&oldest);
            complaints.insert(by, self.now);
        }
    }

    /// Removes a link and tells the ends that do not know.
    fn remove_link(&mut self, link_id: &LinkId, by: Option<SessionId>) {
        let Some(link) = self.mesh.links.remove(link_id) else { return };
        for end in link.ends {
            let Some(session) = end.session else { continue };
            if let Some(member) = self.mesh.members.get_mut(&session) {
                member.links.remove(link_id);
            }
            if by != Some(session) {
                self.send(session, Unlink { link: *link_id, reason: UnlinkReason::Left });
            }
        }
    }

    /// A member leaves: it, or its consent.
    pub(crate) fn leave_mesh(&mut self, id: SessionId) {
        let Some(member) = self.mesh.members.remove(&id) else { return };
        for link in member.links {
            self.remove_link(&link, Some(id));
        }
    }

    /// A member's session ended. Its links may still run; it may come back.
    pub(crate) fn member_lost(&mut self, id: SessionId) {
        let Some(member) = self.mesh.members.remove(&id) else { return };
        for link in member.links {
            let Some(link) = self.mesh.links.get_mut(&link) else { continue };
            for end in &mut link.ends {
                if end.session == Some(id) {
                    (end.session, end.lost) = (None, self.now);
                }
            }
        }
    }

    /// How a link does, as one end says.
    pub(crate) fn link_report(&mut self, id: SessionId, report: &LinkReport) {
        let now = self.now;
        let Some(link) = self.mesh.links.get_mut(&report.link) else { return };
        let Some(at) = link.end_of(id) else { return };
        let end = &mut link.ends[at];
        let elapsed = now.since(end.reported).0.max(1);
        end.rate = report.received.saturating_mul(1000) / elapsed;
        end.received = end.received.saturating_add(report.received);
        (end.path, end.reported) = (report.path, now);
        self.mesh.counts.peer_bytes = self.mesh.counts.peer_bytes.saturating_add(report.received);
    }

    /// What a member holds or needs, for the choice of its neighbors.
    pub(crate) fn member_blobs(&mut self, id: SessionId, blobs: impl Iterator<Item = BlobHash>) {
        if let Some(member) = self.mesh.members.get_mut(&id) {
            member.blobs.extend(blobs);
            while member.blobs.len() > crate::policy::MEMBER_BLOBS {
                member.blobs.pop_first();
            }
        }
    }

    /// Blobs that a session's neighbors hold or are about to.
    pub(crate) fn peers_blobs(&self, id: SessionId) -> BTreeSet<BlobHash> {
        let mut blobs = BTreeSet::new();
        let Some(member) = self.mesh.members.get(&id) else { return blobs };
        let links = member.links.iter().filter_map(|link| self.mesh.links.get(link));
        for end in
            links.filter(|link| link.ends.iter().all(|end| end.path.is_some())).flat_map(|link| &link.ends)
        {
            if let Some(other) =
                end.session.filter(|other| *other != id).and_then(|id| self.mesh.members.get(&id))
            {
                blobs.extend(other.blobs.iter().copied());
            }
        }
        blobs
    }

    /// Serves the tree of a blob that the session may have.
    pub(crate) fn tree_request(&mut self, id: SessionId, request: TreeRequest) {
        let blob = self.may_have(id, &request.hash);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(blob) = blob else { return self.send(id, BlobMissing { hash: request.hash }) };
        // As many bytes as a group, at most.
        let Some(credit) = session.input_credit.checked_sub(GROUP_BYTES as u64) else {
            return self.refuse(
                id,
                RefusalCode::Limit,
                "trees were fetched too many times: keep what you fetch",
                REFUSED_RETRY,
            );
        };
        session.input_credit = credit;
        self.out.push(Output::SendTree { session: id, hash: blob.hash });
    }

    fn arm_mesh(&mut self) {
        if !self.mesh.armed && !self.mesh.members.is_empty() {
            self.mesh.armed = true;
            self.arm(self.now + MESH_INTERVAL, Timer::Mesh);
        }
    }

    /// Now and then: ends the links of those whose consent is over, forgets who did not come back, and finds neighbors for those who have few.
    pub(crate) fn tend_mesh(&mut self) {
        self.mesh.armed = false;
        let now = self.now;
        let consents = |id: &SessionId| self.sessions.get(id).is_some_and(|session| session.consents(now));
        let ended: Vec<_> = self.mesh.members.keys().filter(|id| !consents(id)).copied().collect();
        for id in ended {
            self.leave_mesh(id);
        }
        let mut over = Vec::new();
        for (id, link) in &mut self.mesh.links {
            for end in &mut link.ends {
                end.waiting.retain(|(since, _)| now.since(*since) < SIGNAL_TTL);
            }
            let gone = |end: &End| end.session.is_none() && now.since(end.lost) >= RESUME_GRACE;
            if link.ends.iter().any(gone) || link.ends.iter().all(|end| end.session.is_none()) {
                over.push(*id);
            }
        }
        for link in over {
            self.remove_link(&link, None);
        }
        for (id, member) in &mut self.mesh.members {
            if now.since(member.told) >= SETTINGS_INTERVAL {
                member.told = now;
                self.out.push(Output::MeshSettings { session: *id });
            }
        }
        self.mesh.complaints.retain(|_, by| {
            by.retain(|_, since| now.since(*since) < MESH_BAN);
            !by.is_empty()
        });
        let goal = self.wanted_links();
        let few: Vec<_> = self
            .mesh
            .members
            .iter()
            .filter(|(_, member)| member.links.len() < goal && !member.seed)
            .map(|(id, _)| *id)
            .take(NEIGHBOR_SCAN)
            .collect();
        for id in few {
            self.assign(id);
        }
        self.arm_mesh();
    }
}
