//! The mesh as the operator sees it.

use crate::relay::Relay;
use potluck_proto::LinkPath;
use potluck_types::{JobId, SessionId, VolunteerId};

/// Counters of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeshCounts {
    /// Sessions that have joined.
    pub members: u64,
    /// Links that both ends say are direct.
    pub direct: u64,
    /// Links that run through TURN.
    pub turn: u64,
    /// Links that are not connected.
    pub unconnected: u64,
    /// Links ever assigned.
    pub links_assigned: u64,
    /// Signals passed on.
    pub signals: u64,
    /// Signals that were not passed on.
    pub signals_refused: u64,
    /// Bytes that volunteers say came from peers.
    pub peer_bytes: u64,
    /// Links given up because they could not be connected.
    pub unreachable: u64,
    /// Links ended for a wrong group.
    pub bad_groups: u64,
    /// Links ended because a peer stalled.
    pub stalled: u64,
    /// Links ended because a peer lied about what it holds.
    pub lied: u64,
    /// Links ended for a flood.
    pub flooded: u64,
}

/// A member of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshMember {
    /// Who.
    pub volunteer: VolunteerId,
    /// Stays for others' sake.
    pub seed: bool,
    /// Neighbors.
    pub links: usize,
}

/// A link of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshLink {
    /// Its ends, where they are known.
    pub ends: [Option<VolunteerId>; 2],
    /// How it runs, as the ends say; `None` while it is not connected.
    pub path: Option<LinkPath>,
    /// Bytes that each end says it got.
    pub received: [u64; 2],
    /// Bytes per second lately, to each end.
    pub rates: [u64; 2],
}

/// The mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeshPicture {
    /// Its members.
    pub members: Vec<MeshMember>,
    /// Its links.
    pub links: Vec<MeshLink>,
}

impl Relay {
    /// The mesh: in whole, or the members that work on one job or run, and the links between them.
    pub fn mesh_picture(&self, job: Option<&JobId>) -> MeshPicture {
        let works = |session: &SessionId| {
            let viewing = self.sessions.get(session).and_then(|session| session.viewing.as_ref());
            job.is_none() || viewing == job
        };
        let members = self.mesh.members.iter().filter(|(id, _)| works(id)).map(|(_, member)| MeshMember {
            volunteer: member.volunteer,
            seed: member.seed,
            links: member.links.len(),
        });
        let inside = |link: &&super::Link| link.ends.iter().all(|end| end.session.as_ref().is_none_or(works));
        let links = self.mesh.links.values().filter(inside).map(|link| {
            let paths = link.ends.each_ref().map(|end| end.path);
            let path = match paths {
                [Some(LinkPath::Turn), Some(_)] | [Some(_), Some(LinkPath::Turn)] => Some(LinkPath::Turn),
                [Some(_), Some(_)] => Some(LinkPath::Direct),
                _ => None,
            };
            MeshLink {
                ends: link.ends.each_ref().map(|end| end.volunteer),
                path,
                received: link.ends.each_ref().map(|end| end.received),
                // A report covers its own time: one that is old says that nothing came since.
                rates: link.ends.each_ref().map(|end| {
                    let recent = self.now.since(end.reported) < crate::policy::REPORT_COUNTS;
                    if recent { end.rate } else { 0 }
                }),
            }
        });
        MeshPicture { members: members.collect(), links: links.collect() }
    }

    /// Counters of the mesh.
    pub fn mesh_counts(&self) -> MeshCounts {
        let picture = self.mesh_picture(None);
        let of = |path| picture.links.iter().filter(|link| link.path == path).count() as u64;
        MeshCounts {
            members: self.mesh.members.len() as u64,
            direct: of(Some(LinkPath::Direct)),
            turn: of(Some(LinkPath::Turn)),
            unconnected: of(None),
            ..self.mesh.counts
        }
    }
}
