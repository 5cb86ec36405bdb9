//! Who is linked with whom: each member with a bounded number of others, chosen by what they share and at random.

use super::{End, Link, Member, Relay, pair};
use crate::policy::{CONNECT_TO, NEIGHBOR_SCAN};
use potluck_proto::Neighbor;
use potluck_types::limits::MAX_NEIGHBORS;
use potluck_types::{SessionId, VolunteerId};
use std::collections::BTreeSet;

impl Relay {
    /// Links that a member is given: all others, where they are so few.
    pub(super) fn wanted_links(&self) -> usize {
        if self.mesh.members.len() <= MAX_NEIGHBORS + 1 { MAX_NEIGHBORS } else { CONNECT_TO }
    }

    fn draw_below(&mut self, count: usize) -> usize {
        let drawn = u64::from_le_bytes(self.draw()[..8].try_into().unwrap_or_default());
        (drawn % count.max(1) as u64) as usize
    }

    fn linked_with(&self, member: &Member) -> BTreeSet<SessionId> {
        let links = member.links.iter().filter_map(|link| self.mesh.links.get(link));
        links.flat_map(|link| link.ends.iter().filter_map(|end| end.session)).collect()
    }

    fn may_link(&self, a: VolunteerId, b: VolunteerId) -> bool {
        !self.mesh.apart.contains(&pair(a, b)) && !self.is_banned(&b)
    }

    /// Gives a member neighbors, if it has few: every second one by what they have in common.
    pub(super) fn assign(&mut self, id: SessionId) {
        let wanted = self.wanted_links();
        for turn in 0..wanted {
            let Some(member) = self.mesh.members.get(&id) else { return };
            // Seeds are linked to; they do not look for links themselves.
            if member.links.len() >= wanted || member.seed || self.is_banned(&member.volunteer) {
                return;
            }
            let linked = self.linked_with(member);
            let own = member.volunteer;
            let by_blobs = turn % 2 == 0;
            let start = self.draw_below(self.mesh.members.len());
            let Some(member) = self.mesh.members.get(&id) else { return };
            let fits = |(other, them): &(&SessionId, &Member)| {
                **other != id
                    && !linked.contains(other)
                    && them.links.len() < them.most()
                    && self.may_link(own, them.volunteer)
            };
            let around = self.mesh.members.iter().skip(start).chain(self.mesh.members.iter().take(start));
            let candidates = around.filter(fits).take(NEIGHBOR_SCAN);
            let common = |them: &Member| {
                let shared = them.blobs.intersection(&member.blobs).count();
                if by_blobs { shared + usize::from(them.seed) } else { 0 }
            };
            // The first of those with most in common: a random one, as the scan begins at random.
            let best = candidates
                .map(|(other, them)| (common(them), *other))
                .reduce(|best, next| if next.0 > best.0 { next } else { best });
            let Some((_, other)) = best else { return self.make_room(id) };
            self.link(id, other);
        }
    }

    /// All others have as many links as they may: the newcomer goes in between two that are linked, which changes the number
    /// of nobody else's links.
    fn make_room(&mut self, id: SessionId) {
        loop {
            let Some(member) = self.mesh.members.get(&id) else { return };
            if member.links.len() + 2 > CONNECT_TO {
                return;
            }
            let own = member.volunteer;
            let linked = self.linked_with(member);
            let start = self.draw_below(self.mesh.links.len());
            let fits = |link: &Link| {
                let ends = link.ends.each_ref().map(|end| end.session);
                // One that is being made is left to be made.
                let [Some(a), Some(b)] = ends else { return None };
                let runs = link.ends.iter().any(|end| end.path.is_some());
                let may = |end: SessionId| {
                    let other = self.mesh.members.get(&end);
                    let fits = |them: &Member| !them.seed && self.may_link(own, them.volunteer);
                    end != id && !linked.contains(&end) && other.is_some_and(fits)
                };
                (runs && may(a) && may(b)).then_some([a, b])
            };
            let around = self.mesh.links.iter().skip(start).chain(self.mesh.links.iter().take(start));
            let found = around.take(NEIGHBOR_SCAN).find_map(|(link, of)| fits(of).map(|ends| (*link, ends)));
            let Some((link, ends)) = found else { return };
            self.remove_link(&link, None);
            for end in ends {
                self.link(id, end);
            }
        }
    }

    /// Links two members. The one that was there first offers: it is the more likely to be set up.
    fn link(&mut self, newcomer: SessionId, other: SessionId) {
        let id = self.new_link_id();
        let now = self.now;
        let volunteer = |relay: &Self, id| relay.mesh.members.get(&id).map(|member| member.volunteer);
        let ends = [other, newcomer].map(|end| End::new(Some(end), volunteer(self, end), now));
        let near = self.are_near(newcomer, other);
        self.mesh.links.insert(id, Link { ends, near });
        self.mesh.counts.links_assigned += 1;
        for (end, offers) in [(other, true), (newcomer, false)] {
            if let Some(member) = self.mesh.members.get_mut(&end) {
                member.links.insert(id);
            }
            self.send(end, Neighbor { link: id, offers });
        }
    }
}
