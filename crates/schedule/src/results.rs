//! Results: commit, arrival, check, store, acceptance.
//!
//! The hash is committed before a byte arrives, so the probe that checks the product can depend on it.

use crate::io::{AcceptedTile, Check, CheckVerdict, Output, Ticket};
use crate::leasing::{Blamed, Claim, Lease, Stage, Work};
use crate::policy::{LINK_BYTES_PER_SECOND, MIN_DEADLINE, REFUSED_RETRY};
use crate::relay::{PlantedBug, Relay, Timer};
use crate::session::Session;
use potluck_proto::{
    BlobChunk, BlobRequest, Commit, Outcome, RefusalCode, RejectReason, RevokeReason, Verdict,
};
use potluck_types::limits::{
    MAX_CHUNK_BYTES, MAX_CHUNKS_IN_FLIGHT, MAX_LEASES_PER_SESSION, MAX_RESULTS_IN_MEMORY_BYTES,
};
use potluck_types::{BlobHash, Duration, LeaseId, SessionId};
use std::sync::Arc;

/// A result whose bytes are here: it no longer depends on its session.
#[derive(Debug)]
pub(crate) struct Delivered {
    lease_id: LeaseId,
    lease: Lease,
    claim: Claim,
    bytes: Arc<Vec<u8>>,
    cleared_rows: u32,
}

impl Relay {
    pub(crate) fn commit(&mut self, id: SessionId, commit: &Commit) {
        let lease_id = commit.lease;
        let current =
            self.leases.get_mut(&lease_id).filter(|lease| lease.session == id && lease.fence == commit.fence);
        let Some(lease) = current else {
            self.totals.superseded += 1;
            return self.send(id, Verdict { lease: lease_id, outcome: Outcome::Late });
        };
        if !matches!(lease.stage, Stage::Computing) {
            return self.out_of_order(id, "Commit", "the lease was committed before");
        }
        let expected = lease.work.result_bytes();
        let training = lease.work.is_training();
        let flops = lease.flops;
        let claim = Claim { result: commit.result, compute_ms: commit.compute_ms, backend: commit.backend };
        lease.stage = Stage::Waiting(claim);
        self.computing.remove(&(lease.granted + lease.expected, lease_id));
        self.totals.inputs_needed += lease.missing;
        self.measure(id, flops, training);
        if commit.result.bytes != expected {
            return self.reject(lease_id, RejectReason::WrongLength);
        }
        self.waiting.push_back(lease_id);
        self.start_arrivals();
    }

    /// Asks for results as long as there is memory for them.
    fn start_arrivals(&mut self) {
        while let Some(&id) = self.waiting.front() {
            let Some(lease) = self.leases.get_mut(&id) else {
                self.waiting.pop_front();
                continue;
            };
            let Stage::Waiting(claim) = lease.stage else {
                self.waiting.pop_front();
                continue;
            };
            if self.result_bytes + claim.result.bytes > MAX_RESULTS_IN_MEMORY_BYTES as u64 {
                return;
            }
            self.waiting.pop_front();
            self.result_bytes += claim.result.bytes;
            // The deadline moves to the delivery of the bytes.
            let before = lease.deadline;
            let seconds = claim.result.bytes as f64 / LINK_BYTES_PER_SECOND;
            lease.deadline = self.now + MIN_DEADLINE + Duration((seconds * 1e3) as u64);
            let after = lease.deadline;
            let bytes = Vec::with_capacity(claim.result.bytes as usize);
            lease.stage = Stage::Arriving { claim, bytes, requested: 0, since: self.now };
            self.disarm(before, Timer::Lease(id));
            self.arm(after, Timer::Lease(id));
            // All leases of a session together stay within the limit of chunks in flight.
            for _ in 0..MAX_CHUNKS_IN_FLIGHT / MAX_LEASES_PER_SESSION {
                self.request_chunk(id);
            }
        }
    }

    /// Asks for the next chunk of an arriving result, if there is one.
    fn request_chunk(&mut self, id: LeaseId) {
        let Some(Lease { session, stage: Stage::Arriving { claim, requested, .. }, .. }) =
            self.leases.get_mut(&id)
        else {
            return;
        };
        let bytes = (claim.result.bytes - *requested).min(MAX_CHUNK_BYTES as u64);
        if bytes > 0 {
            let request = BlobRequest { hash: claim.result.hash, offset: *requested, bytes: bytes as u32 };
            *requested += bytes;
            let session = *session;
            self.send(session, request);
        }
    }

    pub(crate) fn chunk(&mut self, id: SessionId, chunk: &BlobChunk) {
        let Some(lease_id) = self.arriving(id, &chunk.hash, Some(chunk.offset)) else {
            // The lease may just have ended; the bytes are dropped. A flood of them is paid for by number.
            return self.charge_stray(id);
        };
        let Some(Lease { stage: Stage::Arriving { claim, bytes, requested, since }, .. }) =
            self.leases.get_mut(&lease_id)
        else {
            return;
        };
        let due = (*requested - chunk.offset).min(MAX_CHUNK_BYTES as u64);
        if chunk.data.len() as u64 != due {
            return self.out_of_order(id, "BlobChunk", "it is not the part that was asked for");
        }
        bytes.extend_from_slice(&chunk.data);
        if (bytes.len() as u64) < claim.result.bytes {
            return self.request_chunk(lease_id);
        }
        let (claim, bytes, since) = (*claim, std::mem::take(bytes), *since);
        self.measure_uplink(id, claim.result.bytes, since);
        self.deliver(lease_id, claim, bytes);
    }

    fn charge_stray(&mut self, id: SessionId) {
        let now = self.now;
        if self.sessions.get_mut(&id).is_some_and(|session| !session.take_message(now)) {
            self.refuse(id, RefusalCode::Limit, "chunks came that nobody asked for", REFUSED_RETRY);
        }
    }

    /// The session's lease whose result has this hash and goes on at this offset. Two shards may well have the
    /// same result (zeros): the offset tells which request a chunk answers.
    fn arriving(&self, id: SessionId, hash: &BlobHash, offset: Option<u64>) -> Option<LeaseId> {
        let fits = |lease: &Lease| match &lease.stage {
            Stage::Arriving { claim, bytes, .. } => {
                claim.result.hash == *hash && offset.is_none_or(|offset| offset == bytes.len() as u64)
            }
            _ => false,
        };
        let leases = &self.sessions.get(&id)?.leases;
        leases.iter().copied().find(|lease| self.leases.get(lease).is_some_and(fits))
    }

    pub(crate) fn result_missing(&mut self, id: SessionId, hash: BlobHash) {
        if let Some(lease) = self.arriving(id, &hash, None) {
            self.reject(lease, RejectReason::NotDelivered);
        }
    }

    /// All bytes are here: the lease's slot is free, the shard waits for the check.
    fn deliver(&mut self, id: LeaseId, claim: Claim, bytes: Vec<u8>) {
        let ticket = self.new_ticket();
        // The shard must not be dissolved with the lease: the ticket takes the lease's place in it.
        let Some(mut lease) = self.leases.remove(&id) else { return };
        self.disarm(lease.deadline, Timer::Lease(id));
        if let Some(session) = self.sessions.get_mut(&lease.session) {
            session.leases.retain(|other| *other != id);
        }
        lease.stage = Stage::Waiting(claim);
        let bytes = Arc::new(bytes);
        let task = match &lease.work {
            Work::Tile { task, .. } => task.clone(),
            Work::Round { .. } => return self.update_delivered(ticket, id, &lease, claim, bytes),
            Work::Eval { .. } => return self.eval_delivered(ticket, id, &lease, claim, bytes),
        };
        let widened = self.standings.widened(&lease.volunteer);
        self.out.push(Output::Check(Check {
            ticket,
            job: lease.job,
            task,
            claim: claim.result,
            result: Arc::clone(&bytes),
            backend: claim.backend,
            widened,
        }));
        self.delivered.insert(ticket, Delivered { lease_id: id, lease, claim, bytes, cleared_rows: 0 });
    }

    pub(crate) fn checked(&mut self, ticket: Ticket, verdict: CheckVerdict) {
        let Some(delivered) = self.delivered.get_mut(&ticket) else { return };
        match verdict {
            CheckVerdict::Right { cleared_rows } => {
                delivered.cleared_rows = cleared_rows;
                self.store(ticket);
            }
            CheckVerdict::Wrong(reason) => {
                let Some(delivered) = self.finish_delivery(ticket) else { return };
                self.give_up_shard(&delivered);
                let Delivered {
                    lease_id, lease: Lease { job, shard, volunteer, session, .. }, claim, ..
                } = delivered;
                let (backend, claim) = (claim.backend, Some(claim.result));
                self.blame(
                    &Blamed { job, shard, volunteer, session, lease: lease_id, backend, claim },
                    reason,
                );
            }
            CheckVerdict::Undecided => {
                let Some(delivered) = self.finish_delivery(ticket) else { return };
                self.give_up_shard(&delivered);
                self.tell(&delivered, Outcome::Superseded);
            }
        }
    }

    /// The result is right: it becomes durable, unless another result for the shard was first.
    fn store(&mut self, ticket: Ticket) {
        let accept_twice = self.planted(PlantedBug::AcceptTwice);
        let accept_late = self.planted(PlantedBug::AcceptLateFence);
        let Some(delivered) = self.delivered.get(&ticket) else { return };
        let Delivered { lease, claim, bytes, .. } = delivered;
        let (Some(job), Work::Tile { block, .. }) = (self.jobs.get_mut(&lease.job), &lease.work) else {
            return self.second(ticket);
        };
        match job.shards.get_mut(&lease.shard) {
            Some(shard) if !shard.storing || accept_twice => shard.storing = true,
            None if accept_late || accept_twice => {}
            _ => return self.second(ticket),
        }
        let tile = AcceptedTile {
            job: lease.job,
            shard: lease.shard,
            tile: job.spec.grid.tile_of(block),
            result: claim.result,
            volunteer: lease.volunteer,
            backend: claim.backend,
            compute_ms: claim.compute_ms,
        };
        let site = self.sessions.get(&lease.session).and_then(Session::site);
        self.out.push(Output::Store { ticket, tile, result: Arc::clone(bytes), site });
    }

    /// Right, but second: no blame.
    fn second(&mut self, ticket: Ticket) {
        if let Some(delivered) = self.finish_delivery(ticket) {
            self.totals.superseded += 1;
            // Should the store of the first result fail, nobody must seem to hold the shard.
            if let Some(job) = self.jobs.get_mut(&delivered.lease.job) {
                job.unlease(delivered.lease.shard, delivered.lease_id);
            }
            self.standings.accepted(delivered.lease.volunteer, delivered.cleared_rows);
            self.tell(&delivered, Outcome::Superseded);
        }
    }

    pub(crate) fn stored(&mut self, ticket: Ticket) {
        let Some(delivered) = self.finish_delivery(ticket) else { return };
        let Delivered { lease, lease_id, cleared_rows, .. } = &delivered;
        self.totals.accepted += 1;
        self.standings.accepted(lease.volunteer, *cleared_rows);
        let job_id = lease.job;
        let others = match self.jobs.get_mut(&job_id) {
            Some(job) => job.accept(lease.shard, lease.volunteer),
            None => Vec::new(),
        };
        for other in others.into_iter().filter(|other| other != lease_id) {
            self.revoke(other, RevokeReason::Superseded);
        }
        self.tell(&delivered, Outcome::Accepted);
        self.finish_if_complete(&job_id);
    }

    pub(crate) fn store_failed(&mut self, ticket: Ticket) {
        let Some(delivered) = self.finish_delivery(ticket) else { return };
        let lease = &delivered.lease;
        if let Some(shard) = self.jobs.get_mut(&lease.job).and_then(|job| job.shards.get_mut(&lease.shard)) {
            shard.storing = false;
        }
        self.give_up_shard(&delivered);
        self.tell(&delivered, Outcome::Superseded);
    }

    /// Lets the shard of a result that does not count go back to the free units.
    fn give_up_shard(&mut self, delivered: &Delivered) {
        if let Some(job) = self.jobs.get_mut(&delivered.lease.job) {
            job.unlease(delivered.lease.shard, delivered.lease_id);
            job.service = job.service.saturating_sub(delivered.lease.flops);
        }
    }

    /// Takes a ticket out of the tables and lets its memory go.
    fn finish_delivery(&mut self, ticket: Ticket) -> Option<Delivered> {
        let delivered = self.delivered.remove(&ticket)?;
        let session = delivered.lease.session;
        if let Some(job) = self.jobs.get_mut(&delivered.lease.job)
            && let Some(count) = job.holders.get_mut(&session)
        {
            *count -= 1;
            if *count == 0 {
                job.holders.remove(&session);
            }
        }
        self.let_go(delivered.claim.result.bytes);
        Some(delivered)
    }

    /// Result bytes left memory: the next may arrive.
    pub(crate) fn let_go(&mut self, bytes: u64) {
        self.result_bytes -= bytes;
        self.start_arrivals();
    }

    fn tell(&mut self, delivered: &Delivered, outcome: Outcome) {
        self.verdict(delivered.lease.session, delivered.lease_id, outcome);
    }
}
