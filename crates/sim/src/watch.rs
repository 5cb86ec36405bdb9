//! The invariants, observed on the wire and at the store, independently of the machine that is tested.
//!
//! The watch sees every input and every output of the relay. What it believes about consents, leases and
//! fences comes from the messages alone.

use crate::examiner::{Asked, Examiner};
use crate::product::{Product, tile_of};
use crate::referee::Referee;
use crate::run::refs;
use crate::store::{Store, units};
use potluck_proto::{
    BlobRef, ConsentGranted, Lease, Message, Outcome, RefusalCode, RejectReason, Task, Verdict,
};
use potluck_schedule::{
    AcceptedUpdate, CheckVerdict, EvalAnswer, EvalInput, EvalOutput, Input, Output, RunInput, RunOutput,
    Ticket,
};
use potluck_types::limits::{
    MAX_CHUNK_BYTES, MAX_CHUNKS_IN_FLIGHT, MAX_CONSENT, MAX_LEASES_PER_SESSION, MAX_RESULTS_IN_MEMORY_BYTES,
    MESSAGE_BURST, MESSAGES_PER_SECOND,
};
use potluck_types::{BlobHash, ConsentToken, Fence, JobId, LeaseId, SessionId, Tile, VolunteerId};
use std::collections::{BTreeMap, BTreeSet};

/// Messages that the relay may send to one session in one simulated second: as many as the session may send,
/// each answered, and a few of its own.
pub const MAX_SENT_PER_SECOND: u32 = MESSAGE_BURST + MESSAGES_PER_SECOND + 100;

/// All products of a run.
pub type Products = BTreeMap<JobId, Product>;

#[derive(Debug)]
struct WireLease {
    fence: Fence,
    job: JobId,
    shard: u32,
    until: u64,
    inputs: BTreeMap<BlobHash, u64>,
    committed: Option<BlobRef>,
    /// Once it is here the result waits for others, not for its session: an update, or answers.
    waits: bool,
    /// Bytes of the result that arrived.
    arrived: u64,
}

/// One session, as its messages show it.
#[derive(Debug, Default)]
struct Seen {
    honest: bool,
    /// Whose key the client holds, whatever it says.
    holds: Option<VolunteerId>,
    /// Who it says it is.
    volunteer: Option<VolunteerId>,
    consent: Option<(ConsentToken, u64)>,
    shown: Option<ConsentToken>,
    asked: u32,
    leases: BTreeMap<LeaseId, WireLease>,
    delivered: BTreeMap<LeaseId, (JobId, u32)>,
    chunks_asked: BTreeMap<BlobHash, usize>,
    second: u64,
    sent: u32,
}

/// What was observed since the start; what belongs to one start of the relay is forgotten with it.
#[derive(Debug, Default)]
pub struct Watch {
    sessions: BTreeMap<SessionId, Seen>,
    tickets: BTreeMap<Ticket, Option<CheckVerdict>>,
    shards: BTreeMap<(JobId, u32), Tile>,
    ended: BTreeSet<JobId>,
    result_bytes: BTreeMap<Ticket, u64>,
    /// Whose key the client holds that delivered a result.
    earned: BTreeMap<Ticket, VolunteerId>,
    /// Whose message is being handled.
    speaking: Option<SessionId>,
    // Across restarts:
    tokens: BTreeSet<ConsentToken>,
    /// Who was told that a result was accepted.
    gave: BTreeSet<VolunteerId>,
    newest_fence: Option<Fence>,
    /// Volunteers whose kernel and client are honest.
    pub honest: BTreeSet<VolunteerId>,
    /// Leases seen.
    pub leases: u64,
    /// Rejections seen.
    pub rejected: u64,
    /// Rejections of honest volunteers because a broken link kept their bytes from arriving in time.
    pub honest_undelivered: u64,
    /// Sessions refused because of a name that they cannot prove.
    pub impostors: u64,
    /// Commits with an ended lease or a wrong fence.
    pub late_commits: u64,
    /// What was observed of runs.
    pub referee: Referee,
    /// What was observed of evals.
    pub examiner: Examiner,
}

impl Watch {
    /// The relay died: its sessions, tickets and shard numbers mean nothing any more.
    pub fn relay_died(&mut self) {
        self.sessions.clear();
        self.tickets.clear();
        self.shards.clear();
        self.ended.clear();
        self.result_bytes.clear();
        self.earned.clear();
        self.speaking = None;
        self.referee.relay_died();
        self.examiner.relay_died();
    }

    /// A session opened, by a client that holds this volunteer's key and no other.
    pub fn opened(&mut self, session: SessionId, honest: bool, holds: VolunteerId) {
        self.sessions.insert(session, Seen { honest, holds: Some(holds), ..Seen::default() });
    }

    /// Sees what goes into the relay.
    pub fn input(&mut self, now: u64, input: &Input) {
        self.speaking = match input {
            Input::Message { session, .. } => Some(*session),
            _ => None,
        };
        match input {
            Input::Closed { session } => {
                self.sessions.remove(session);
            }
            Input::Message { session, message } => self.heard(now, *session, message),
            Input::JobCanceled { job } => {
                self.ended.insert(*job);
            }
            Input::Run(input) => {
                if let RunInput::Canceled { run } = input {
                    self.ended.insert(*run);
                }
                self.referee.input(input);
            }
            Input::Eval(input) => {
                if let EvalInput::Canceled { eval } = input {
                    self.ended.insert(*eval);
                }
                self.examiner.input(input);
            }
            Input::Checked { ticket, verdict } => {
                self.tickets.insert(*ticket, Some(*verdict));
                if !matches!(verdict, CheckVerdict::Right { .. }) {
                    self.result_bytes.remove(ticket);
                }
            }
            Input::Stored { ticket } | Input::StoreFailed { ticket } => {
                self.result_bytes.remove(ticket);
            }
            _ => {}
        }
    }

    fn heard(&mut self, now: u64, session: SessionId, message: &Message) {
        let Some(seen) = self.sessions.get_mut(&session) else { return };
        match message {
            Message::Hello(hello) => {
                seen.volunteer.get_or_insert(hello.volunteer);
            }
            Message::LeaseRequest(request) => {
                seen.asked += 1;
                seen.shown = Some(request.consent);
            }
            Message::Withdraw(_) => {
                seen.consent = None;
                seen.leases.clear();
            }
            Message::Release(release) => {
                seen.leases.remove(&release.lease);
            }
            Message::Commit(commit) => {
                let current = |lease: &&mut WireLease| lease.fence == commit.fence && now <= lease.until;
                match seen.leases.get_mut(&commit.lease).filter(current) {
                    Some(lease) if lease.committed.is_none() => {
                        lease.committed = Some(commit.result);
                        self.referee.committed(&lease.job, lease.shard, commit.lease, commit.result);
                    }
                    _ => self.late_commits += 1,
                }
            }
            Message::BlobChunk(chunk) => {
                if let Some(asked) = seen.chunks_asked.get_mut(&chunk.hash) {
                    *asked = asked.saturating_sub(1);
                }
                // Results may be the same: the first that goes on here gets the chunk.
                let goes_on = |lease: &WireLease| {
                    let claim = lease.committed.filter(|claim| claim.hash == chunk.hash);
                    claim.is_some_and(|claim| lease.arrived == chunk.offset && chunk.offset < claim.bytes)
                };
                let Some((id, lease)) = seen.leases.iter_mut().find(|(_, lease)| goes_on(lease)) else {
                    return;
                };
                lease.arrived += chunk.data.len() as u64;
                let Some(claim) = lease.committed.filter(|claim| lease.waits && lease.arrived >= claim.bytes)
                else {
                    return;
                };
                let (id, job, shard) = (*id, lease.job, lease.shard);
                seen.leases.remove(&id);
                seen.delivered.insert(id, (job, shard));
                if let Some(volunteer) = seen.holds {
                    self.examiner.answered(&job, shard, volunteer, claim);
                }
            }
            Message::BlobMissing(missing) => {
                seen.chunks_asked.remove(&missing.hash);
            }
            _ => {}
        }
    }

    /// Sees what comes out of the relay.
    ///
    /// # Errors
    /// The invariant that is violated.
    pub fn output(
        &mut self,
        now: u64,
        output: &Output,
        products: &Products,
        store: &Store,
    ) -> Result<(), String> {
        match output {
            Output::Send { session, message } => self.sent(now, *session, message, products, store),
            Output::SendChunk { session, request } => {
                let Some(seen) = self.sessions.get(session) else {
                    return Err(format!("a chunk is sent to session {session}, which is closed"));
                };
                let bytes = seen.leases.values().find_map(|lease| lease.inputs.get(&request.hash));
                let end = request.offset.saturating_add(u64::from(request.bytes));
                if request.bytes as usize > MAX_CHUNK_BYTES || bytes.is_none_or(|bytes| end > *bytes) {
                    return Err(format!(
                        "session {session} is sent {request:?}, no part of an input of its leases"
                    ));
                }
                Ok(())
            }
            Output::SendTree { session, hash } => {
                let needs = self
                    .sessions
                    .get(session)
                    .is_some_and(|seen| seen.leases.values().any(|lease| lease.inputs.contains_key(hash)));
                if !needs {
                    return Err(format!(
                        "session {session} is sent the tree of {hash:?}, which it does not need"
                    ));
                }
                Ok(())
            }
            Output::AskPublic { .. } | Output::MeshSettings { .. } => Ok(()),
            Output::Close { session } => {
                self.sessions.remove(session).map(|_| ()).ok_or(format!("session {session} is closed twice"))
            }
            Output::Check(check) => {
                // Two volunteers may hold copies of a shard and commit the same bytes: the one who speaks delivers.
                let speaking = self.speaking.and_then(|session| self.sessions.get_key_value(&session));
                let committed = speaking.and_then(|(session, seen)| {
                    let fits =
                        |lease: &&WireLease| lease.job == check.job && lease.committed == Some(check.claim);
                    let held = seen.leases.iter().find(|(_, lease)| fits(lease));
                    held.map(|(id, lease)| (*session, *id, lease.job, lease.shard, seen.holds))
                });
                let Some((session, lease, job, shard, holds)) = committed else {
                    return Err(format!(
                        "late fence: a result of job {:?} ({:?}) is checked, but its session made no such commit \
                         under a current lease and fence",
                        check.job, check.claim.hash
                    ));
                };
                if let Some(holds) = holds {
                    self.earned.insert(check.ticket, holds);
                }
                if let Some(seen) = self.sessions.get_mut(&session) {
                    seen.leases.remove(&lease);
                    seen.delivered.insert(lease, (job, shard));
                }
                self.result_bytes.insert(check.ticket, check.result.len() as u64);
                let bytes: u64 = self.result_bytes.values().sum();
                if bytes > MAX_RESULTS_IN_MEMORY_BYTES as u64 {
                    return Err(format!("{bytes} bytes of results in memory"));
                }
                match self.tickets.insert(check.ticket, None) {
                    None => Ok(()),
                    Some(_) => Err(format!("ticket {} is used twice", check.ticket.0)),
                }
            }
            Output::Store { ticket, tile, .. } => {
                let verdict = self.tickets.remove(ticket).flatten();
                if !matches!(verdict, Some(CheckVerdict::Right { .. })) {
                    return Err(format!("ticket {} is stored after the verdict {verdict:?}", ticket.0));
                }
                let earned = self.earned.remove(ticket);
                if earned != Some(tile.volunteer) {
                    return Err(format!(
                        "false name: {:?} gets credit for a result of {earned:?}",
                        tile.volunteer
                    ));
                }
                match self.shards.get(&(tile.job, tile.shard)) {
                    Some(leased) if *leased == tile.tile => Ok(()),
                    leased => Err(format!(
                        "shard {} is stored as {:?}, leased as {leased:?}",
                        tile.shard, tile.tile
                    )),
                }
            }
            Output::Rejected { volunteer, reason, shard, .. } => {
                self.rejected += 1;
                match (self.honest.contains(volunteer), reason) {
                    (true, RejectReason::NotDelivered) => self.honest_undelivered += 1,
                    (true, _) => {
                        return Err(format!(
                            "honest volunteer {volunteer:?} is rejected: shard {shard}, {reason:?}"
                        ));
                    }
                    (false, _) => {}
                }
                Ok(())
            }
            Output::Membership { volunteer, membership } => {
                if membership.is_hidden() || self.gave.contains(volunteer) {
                    Ok(())
                } else {
                    Err(format!("volunteer {volunteer:?} is named before a result of it was accepted"))
                }
            }
            Output::Eval(output) => {
                if let EvalOutput::Completed { eval } = output {
                    self.ended.insert(*eval);
                }
                self.examiner.output(output, store)
            }
            Output::Run(output) => {
                if let RunOutput::Completed { run } = output {
                    self.ended.insert(*run);
                }
                let computing = match output {
                    RunOutput::CheckUpdate(check) => self.computing(&check.run),
                    _ => None,
                };
                self.referee.output(output, computing, store)
            }
            Output::JobCompleted { job } => {
                if !self.ended.insert(*job) {
                    return Err(format!("job {job:?} is completed a second time, or after it was canceled"));
                }
                let whole = products.get(job).is_some_and(|product| store.is_whole(product));
                if whole {
                    Ok(())
                } else {
                    Err(format!("job {job:?} is completed before every unit is durable"))
                }
            }
        }
    }

    /// The answers to a shard of an eval become durable.
    ///
    /// # Errors
    /// The invariant that is violated.
    pub fn answers_kept(&mut self, eval: &JobId, shard: u32, answers: &[EvalAnswer]) -> Result<(), String> {
        self.examiner.kept(eval, shard, answers, &self.honest)
    }

    /// Who holds a lease of a shard.
    fn holders(&self, job: &JobId, shard: u32) -> Vec<Option<VolunteerId>> {
        let of_shard = |lease: &&WireLease| (lease.job, lease.shard) == (*job, shard);
        let held =
            |seen: &Seen| seen.leases.values().filter(of_shard).map(|_| seen.holds).collect::<Vec<_>>();
        self.sessions.values().flat_map(held).collect()
    }

    /// A lease of a run without a commit.
    fn computing(&self, run: &JobId) -> Option<LeaseId> {
        let leases = self.sessions.values().flat_map(|seen| &seen.leases);
        let computes = |lease: &WireLease| lease.job == *run && lease.committed.is_none();
        leases.into_iter().find(|(_, lease)| computes(lease)).map(|(id, _)| *id)
    }

    fn sent(
        &mut self,
        now: u64,
        session: SessionId,
        message: &Message,
        products: &Products,
        store: &Store,
    ) -> Result<(), String> {
        let Some(seen) = self.sessions.get_mut(&session) else {
            return Err(format!("a {} is sent to session {session}, which is closed", message.name()));
        };
        if seen.second != now / 1000 {
            (seen.second, seen.sent) = (now / 1000, 0);
        }
        seen.sent += 1;
        if seen.sent > MAX_SENT_PER_SECOND {
            return Err(format!("event storm: session {session} is sent {} messages in a second", seen.sent));
        }
        match message {
            Message::Welcome(_) if seen.volunteer != seen.holds => Err(format!(
                "false name: session {session} is welcomed as {:?}, its client holds the key of {:?}",
                seen.volunteer, seen.holds
            )),
            Message::ConsentGranted(granted) => self.consented(now, session, granted),
            Message::Lease(lease) => self.leased(now, session, lease, products, store),
            Message::NoWork(_) => {
                seen.asked = seen.asked.checked_sub(1).ok_or("NoWork without a request")?;
                Ok(())
            }
            Message::Verdict(verdict) => {
                self.gave.extend(seen.holds.filter(|_| verdict.outcome == Outcome::Accepted));
                self.judged(session, verdict, store)
            }
            Message::Revoke(revoke) => {
                seen.leases.remove(&revoke.lease);
                Ok(())
            }
            Message::BlobRequest(request) => {
                *seen.chunks_asked.entry(request.hash).or_default() += 1;
                let current: BTreeSet<_> =
                    seen.leases.values().filter_map(|lease| lease.committed.map(|blob| blob.hash)).collect();
                seen.chunks_asked.retain(|hash, _| current.contains(hash));
                let in_flight: usize = seen.chunks_asked.values().sum();
                if in_flight > MAX_CHUNKS_IN_FLIGHT || request.bytes as usize > MAX_CHUNK_BYTES {
                    return Err(format!("session {session} is asked for {in_flight} chunks at once"));
                }
                Ok(())
            }
            Message::Refusal(refusal) if !seen.honest => {
                self.impostors += u64::from(refusal.code == RefusalCode::Identity);
                Ok(())
            }
            Message::Refusal(refusal) => match refusal.code {
                RefusalCode::TimedOut | RefusalCode::ShuttingDown | RefusalCode::Full => Ok(()),
                // Results that a broken link kept from arriving count against a volunteer, honest or not.
                RefusalCode::NotTrusted if self.honest_undelivered > 0 => Ok(()),
                code => Err(format!("honest session {session} is refused: {code:?}, {}", refusal.message)),
            },
            _ => Ok(()),
        }
    }

    fn consented(&mut self, now: u64, session: SessionId, granted: &ConsentGranted) -> Result<(), String> {
        if !self.tokens.insert(granted.token) {
            return Err(format!("session {session} is given a consent token that was given before"));
        }
        if granted.valid_for > MAX_CONSENT {
            return Err(format!("session {session} is given consent for {}", granted.valid_for));
        }
        if let Some(seen) = self.sessions.get_mut(&session) {
            seen.consent = Some((granted.token, now + granted.valid_for.0));
        }
        Ok(())
    }

    fn leased(
        &mut self,
        now: u64,
        session: SessionId,
        lease: &Lease,
        products: &Products,
        store: &Store,
    ) -> Result<(), String> {
        let is_eval = matches!(lease.task, Task::Eval(_));
        let holders = if is_eval { self.holders(&lease.job, lease.shard) } else { Vec::new() };
        let Some(seen) = self.sessions.get_mut(&session) else { return Ok(()) };
        self.leases += 1;
        seen.asked = seen.asked.checked_sub(1).ok_or("a lease that nobody asked for")?;
        match seen.consent {
            Some((token, until)) if now < until && seen.shown == Some(token) => {}
            consent => {
                return Err(format!(
                    "lease {} without consent: session {session} at {now} ms, valid until {:?}, token shown matches: {}",
                    lease.lease,
                    consent.map(|(_, until)| until),
                    consent.is_some_and(|(token, _)| seen.shown == Some(token)),
                ));
            }
        }
        if self.newest_fence.is_some_and(|newest| newest >= lease.fence) {
            return Err(format!("fence {:#x} is not newer than every fence before it", lease.fence.0));
        }
        self.newest_fence = Some(lease.fence);
        if self.ended.contains(&lease.job) {
            return Err(format!("lease {} of job {:?}, which has ended", lease.lease, lease.job));
        }
        match &lease.task {
            Task::Eval(task) => {
                let asked = Asked { eval: &lease.job, shard: lease.shard, task, volunteer: seen.holds };
                self.examiner.leased(asked, &holders, store)?;
            }
            Task::Train(task) => {
                self.referee.leased(&lease.job, lease.shard, lease.lease, seen.holds, task)?;
            }
            Task::Matmul(task) => {
                let product = products.get(&lease.job).ok_or("a lease of an unknown job")?;
                let tile = tile_of(product, task)
                    .ok_or_else(|| format!("lease {}: its panels are no tile", lease.lease))?;
                units(product, &tile)?;
                let before = self.shards.entry((lease.job, lease.shard)).or_insert_with(|| tile.clone());
                if *before != tile {
                    return Err(format!("shard {} was {before:?} and is leased as {tile:?}", lease.shard));
                }
            }
        }
        let inputs = refs(&lease.task).iter().map(|blob| (blob.hash, blob.bytes)).collect();
        let (until, fence, job, shard) = (now + lease.deadline.0, lease.fence, lease.job, lease.shard);
        seen.leases.insert(
            lease.lease,
            WireLease {
                fence,
                job,
                shard,
                until,
                inputs,
                committed: None,
                waits: matches!(lease.task, Task::Train(_) | Task::Eval(_)),
                arrived: 0,
            },
        );
        if seen.leases.len() > MAX_LEASES_PER_SESSION {
            return Err(format!("session {session} holds {} leases", seen.leases.len()));
        }
        Ok(())
    }

    fn judged(&mut self, session: SessionId, verdict: &Verdict, store: &Store) -> Result<(), String> {
        let Some(seen) = self.sessions.get_mut(&session) else { return Ok(()) };
        if verdict.outcome == Outcome::Late {
            // Answers a commit that did not count; a lease that still runs is not touched by it.
            return Ok(());
        }
        let held = seen.leases.remove(&verdict.lease).map(|lease| (lease.job, lease.shard));
        let held = held.or_else(|| seen.delivered.remove(&verdict.lease));
        if verdict.outcome != Outcome::Accepted {
            return Ok(());
        }
        let durable = held.is_some_and(|(job, shard)| {
            if let Some(run) = store.runs.get(&job) {
                let theirs =
                    |update: &AcceptedUpdate| update.worker == shard && Some(update.volunteer) == seen.holds;
                return run.rounds.last().is_some_and(|round| round.updates.iter().any(theirs));
            }
            if let Some(rows) = store.evals.get(&job) {
                let theirs = |answer: &EvalAnswer| Some(answer.volunteer) == seen.holds;
                return rows.answers(shard).is_some_and(|answers| answers.iter().any(theirs));
            }
            let tile = self.shards.get(&(job, shard));
            let rows = store.jobs.get(&job);
            rows.is_some_and(|rows| rows.tiles.iter().any(|(stored, _)| Some(&stored.tile) == tile))
        });
        if durable {
            Ok(())
        } else {
            Err(format!("lease {} is acknowledged before it is durable", verdict.lease))
        }
    }
}
