//! Sessions: the order of messages, consent, limits, and how a session ends.

use crate::embeds::embedder;
use crate::eval::Eval;
use crate::io::Output;
use crate::job::Job;
use crate::leasing::Work;
use crate::picture;
use crate::policy::{
    MAX_FETCHES, MIN_CHUNK_CHARGE, PICTURE_INTERVAL, PICTURES_PER_INTERVAL, REFETCHES, REFUSED_RETRY,
    RESTART_RETRY,
};
use crate::relay::{PlantedBug, Relay, Timer};
use crate::round::Run;
use crate::teams::Said;
use potluck_proto::{
    BlobMissing, BlobRef, BlobRequest, Challenge, Consent, ConsentGranted, DecodeError, Fetch, Hello,
    Message, OLDEST_VERSION, PROTOCOL_VERSION, Picture, Pong, Preset, Refusal, RefusalCode, Release,
    ReleaseReason, TreeRequest, Welcome,
};
use potluck_types::limits::{
    GROUP_BYTES, HANDSHAKE_TIMEOUT, MAX_CHUNK_BYTES, MAX_CHUNKS_IN_FLIGHT, MAX_CONSENT, MESSAGE_BURST,
    MESSAGES_PER_SECOND, SESSION_TIMEOUT,
};
use potluck_types::{
    BlobHash, Bucket, ConsentToken, Duration, Instant, JobId, LeaseId, SessionId, VolunteerId,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Consent as the relay recorded it.
#[derive(Debug, Clone)]
struct Granted {
    token: ConsentToken,
    until: Instant,
    /// Kept for the operator's statistics; the throttle itself runs at the volunteer.
    #[expect(dead_code, reason = "shown in debug output; the throttle itself runs at the volunteer")]
    preset: Preset,
    /// The site that shows the frame in which it was given.
    site: Option<Arc<str>>,
}

/// What came of a blob that a session asked for beside inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// The store is being asked.
    Asked,
    /// It is not public, not as long, or was not to be found out about.
    Denied,
    /// The session may have it while it consents.
    Granted(BlobRef),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    /// `None` until hello.
    pub(crate) volunteer: Option<VolunteerId>,
    /// What a Hello has to answer. Taken by the first one: it is good for no second.
    challenge: Option<Challenge>,
    consent: Option<Granted>,
    /// Where it comes from.
    pub(crate) address: Option<IpAddr>,
    pub(crate) leases: Vec<LeaseId>,
    bucket: Bucket,
    last_heard: Instant,
    /// Bytes of inputs that the session may still ask for.
    pub(crate) input_credit: u64,
    /// Public blobs beside inputs that it asked for.
    pub(crate) fetches: BTreeMap<BlobHash, Fetched>,
    /// Whether it asked for work.
    pub(crate) asked: bool,
    /// Until when it is among [`Relay::lenders`].
    lends_until: Option<Instant>,
    /// Measured flops per second, throttle and transfer included; `None` until the first commit.
    pub(crate) speed: Option<f64>,
    /// The same, in training rounds.
    pub(crate) training_speed: Option<f64>,
    /// Measured bytes per second of results that arrived; `None` until the first that is large enough.
    pub(crate) uplink: Option<f64>,
    /// When the session's device began with its oldest lease.
    pub(crate) busy_since: Instant,
    /// The job whose picture the session sees.
    pub(crate) viewing: Option<JobId>,
    last_picture: Option<Picture>,
    picture_at: Instant,
    pub(crate) said: Said,
}

impl Session {
    /// Whether a consent is valid now.
    pub(crate) fn consents(&self, now: Instant) -> bool {
        self.consent.as_ref().is_some_and(|granted| now < granted.until)
    }

    /// Whether it consents, and not only to fetch and pass on what is public: nothing waits for such a session, or is
    /// divided by it.
    pub(crate) fn lends(&self, now: Instant) -> bool {
        self.consents(now) && (self.fetches.is_empty() || self.asked)
    }

    /// The site on which the person agreed, if it was not the relay's own.
    pub(crate) fn site(&self) -> Option<Arc<str>> {
        self.consent.as_ref()?.site.clone()
    }

    /// The speed at matrix products or at training.
    pub(crate) const fn speed_at(&mut self, training: bool) -> &mut Option<f64> {
        if training { &mut self.training_speed } else { &mut self.speed }
    }

    /// Pays for one message; `false` if the session sends too many.
    pub(crate) fn take_message(&mut self, now: Instant) -> bool {
        self.bucket.take(now, 1)
    }
}

impl Relay {
    pub(crate) fn opened(&mut self, session: SessionId, address: Option<IpAddr>) {
        self.sessions.insert(
            session,
            Session {
                volunteer: None,
                challenge: None,
                consent: None,
                address,
                leases: Vec::new(),
                bucket: Bucket::new(self.now, MESSAGE_BURST.into(), MESSAGES_PER_SECOND.into()),
                last_heard: self.now,
                input_credit: 0,
                fetches: BTreeMap::new(),
                asked: false,
                lends_until: None,
                speed: None,
                training_speed: None,
                uplink: None,
                busy_since: self.now,
                viewing: None,
                last_picture: None,
                picture_at: Instant(0),
                said: Said::default(),
            },
        );
        let admitted = self.admit(address);
        if self.shutting_down {
            self.refuse(session, RefusalCode::ShuttingDown, "the relay is restarting", RESTART_RETRY);
        } else if let Err(crowded) = admitted {
            self.refuse(session, RefusalCode::Full, crowded.message(), REFUSED_RETRY);
        } else {
            let challenge = self.new_challenge();
            if let Some(opened) = self.sessions.get_mut(&session) {
                opened.challenge = Some(challenge);
            }
            self.send(session, challenge);
            self.arm(self.now + HANDSHAKE_TIMEOUT, Timer::Session(session));
        }
    }

    pub(crate) fn message(&mut self, id: SessionId, message: Message) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.last_heard = now;
        // Chunks, requests for them and signals are paid for in bytes; everything else by number.
        let by_bytes =
            matches!(message, Message::BlobChunk(_) | Message::BlobRequest(_) | Message::Signal(_));
        if !by_bytes && !session.bucket.take(now, 1) {
            return self.refuse(id, RefusalCode::Limit, "too many messages: slow down", REFUSED_RETRY);
        }
        if session.volunteer.is_none() && !matches!(message, Message::Hello(_)) {
            return self.out_of_order(id, message.name(), "say Hello first");
        }
        match message {
            Message::Hello(hello) => self.hello(id, &hello),
            Message::Consent(consent) => self.consent(id, &consent),
            Message::Withdraw(_) => self.withdraw(id),
            Message::LeaseRequest(request) => self.lease_request(id, &request),
            Message::Commit(commit) => self.commit(id, &commit),
            Message::Release(release) => self.release(id, &release),
            Message::Ping(ping) => self.send(id, Pong { nonce: ping.nonce }),
            Message::BlobRequest(request) => self.input_request(id, request),
            Message::TreeRequest(request) => self.tree_request(id, request),
            Message::Fetch(fetch) => self.fetch(id, &fetch),
            Message::JoinMesh(join) => self.join_mesh(id, &join),
            Message::LeaveMesh(_) => self.leave_mesh(id),
            Message::Signal(signal) => self.signal(id, signal),
            Message::Unlink(unlink) => self.unlink(id, &unlink),
            Message::LinkReport(report) => self.link_report(id, &report),
            Message::Membership(membership) => self.membership(id, membership),
            Message::BlobChunk(chunk) => self.chunk(id, &chunk),
            Message::BlobMissing(missing) => self.result_missing(id, missing.hash),
            other => self.out_of_order(id, other.name(), "it is a relay's message"),
        }
    }

    pub(crate) fn undecodable(&mut self, session: SessionId, error: &DecodeError) {
        let code = match error {
            DecodeError::UnsupportedVersion { .. } => RefusalCode::Version,
            DecodeError::UnknownKind { .. } => RefusalCode::UnknownMessage,
            DecodeError::TooLarge { .. } => RefusalCode::Limit,
            _ => RefusalCode::Garbage,
        };
        self.refuse(session, code, &error.to_string(), REFUSED_RETRY);
    }

    fn hello(&mut self, id: SessionId, hello: &Hello) {
        let volunteer = hello.volunteer;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.volunteer.is_some() {
            return self.out_of_order(id, "Hello", "it was said before");
        }
        if hello.oldest_version > PROTOCOL_VERSION || hello.newest_version < OLDEST_VERSION {
            let message = format!(
                "this relay speaks protocol versions {OLDEST_VERSION} to {PROTOCOL_VERSION}, you speak {} to {}: \
                 reload the page or update the program",
                hello.oldest_version, hello.newest_version
            );
            return self.refuse(id, RefusalCode::Version, &message, Duration(0));
        }
        let challenge = session.challenge.take();
        let proven = challenge.is_some_and(|challenge| hello.verify(&challenge).is_ok());
        if !proven && !self.planted(PlantedBug::BelieveNames) {
            let message = "the signature does not fit the key: sign the nonce and the relay's key of this session's \
                           Challenge, with the key that Hello names";
            return self.refuse(id, RefusalCode::Identity, message, REFUSED_RETRY);
        }
        // After the proof: a volunteer's standing is nobody else's to ask for.
        if self.standings.is_refused(&volunteer, self.now) {
            return self.refuse_untrusted(id, volunteer);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.volunteer = Some(volunteer);
        }
        if !self.admit_volunteer(volunteer) {
            let message = "this volunteer has too many sessions: close some, or use another key";
            return self.refuse(id, RefusalCode::Limit, message, REFUSED_RETRY);
        }
        // The timer of the handshake goes on as the timer of silence.
        self.send(
            id,
            Welcome {
                version: PROTOCOL_VERSION.min(hello.newest_version),
                session: id,
                session_timeout: SESSION_TIMEOUT,
                max_chunk_bytes: MAX_CHUNK_BYTES as u32,
                max_chunks_in_flight: MAX_CHUNKS_IN_FLIGHT as u8,
            },
        );
    }

    /// Refuses a volunteer whose results were rejected too often, until it has cooled down.
    pub(crate) fn refuse_untrusted(&mut self, id: SessionId, volunteer: VolunteerId) {
        let wait = self.standings.cooling(&volunteer, self.now);
        let message =
            "too many results of this volunteer were rejected: check the device, then come back later";
        self.refuse(id, RefusalCode::NotTrusted, message, wait);
    }

    fn consent(&mut self, id: SessionId, consent: &Consent) {
        let site = embedder(&consent.origin);
        let refusal = |site| {
            let forbidden = self.config.embeds.refusal(site, consent.preset);
            forbidden.or_else(|| self.switches.refusal(site))
        };
        if let Some(why) = site.and_then(refusal) {
            return self.refuse_site(id, &why);
        }
        let valid_for = consent.valid_for.min(MAX_CONSENT);
        let token = self.new_token();
        let until = self.now + valid_for;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.consent =
                Some(Granted { token, until, preset: consent.preset, site: site.map(Arc::from) });
            session.busy_since = self.now;
            self.recount(id);
            self.send(id, ConsentGranted { token, valid_for });
            self.show_some_job(id);
        }
    }

    /// Refuses a session whose consent was given on a site that may not lend.
    pub(crate) fn refuse_site(&mut self, id: SessionId, why: &str) {
        self.refuse(id, RefusalCode::NotTrusted, why, Duration(0));
    }

    /// Consent ends at once, and every lease that rests on it.
    fn withdraw(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.consent = None;
        session.viewing = None;
        self.recount(id);
        self.leave_mesh(id);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        for lease in session.leases.clone() {
            self.lose(lease);
        }
    }

    fn release(&mut self, id: SessionId, release: &Release) {
        // A lease that just ended is released in good faith: nothing to do then.
        let Some(held) = self.leases.get(&release.lease).filter(|held| held.session == id) else { return };
        let (job, shard, volunteer) = (held.job, held.shard, held.volunteer);
        match (&held.work, release.reason) {
            (Work::Round { .. }, ReleaseReason::Unsupported) => self.doubt(&job, shard, volunteer),
            (Work::Round { .. }, ReleaseReason::Unproven) => self.excuse(&job, volunteer),
            (Work::Eval { .. }, ReleaseReason::Unsupported | ReleaseReason::Unproven) => {
                self.pass_over(&job, shard, volunteer);
            }
            _ => {}
        }
        self.lose(release.lease);
    }

    /// Whether the session may be leased work now, by this token.
    pub(crate) fn consents(&self, id: SessionId, token: &ConsentToken) -> bool {
        let Some(session) = self.sessions.get(&id) else { return false };
        if self.planted(PlantedBug::IgnoreConsentExpiry) {
            return session.volunteer.is_some();
        }
        session.consent.as_ref().is_some_and(|granted| granted.token == *token && self.now < granted.until)
    }

    /// Sessions that lend. Asked with each lease, so they are counted when one changes, not each time.
    pub(crate) fn consenting(&self) -> usize {
        debug_assert_eq!(
            self.lenders.len(),
            self.sessions.values().filter(|session| session.lends(self.now)).count()
        );
        self.lenders.len()
    }

    /// A session may have begun or ceased to lend.
    pub(crate) fn recount(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let until = session.consent.as_ref().map(|granted| granted.until);
        let until = until.filter(|_| session.lends(self.now));
        let before = std::mem::replace(&mut session.lends_until, until);
        if let Some(before) = before {
            self.lenders.remove(&(before, id));
        }
        if let Some(until) = until {
            self.lenders.insert((until, id));
        }
    }

    /// Consents that have run out lend no more.
    pub(crate) fn expire_consents(&mut self) {
        while let Some(&(until, id)) = self.lenders.first()
            && until <= self.now
        {
            self.lenders.pop_first();
            if let Some(session) = self.sessions.get_mut(&id) {
                session.lends_until = None;
            }
        }
    }

    /// A blob that a session may have: an input of one of its leases, or a public one that it asked for.
    pub(crate) fn may_have(&self, id: SessionId, hash: &BlobHash) -> Option<BlobRef> {
        let session = self.sessions.get(&id)?;
        let leases = session.leases.iter().filter_map(|lease| self.leases.get(lease));
        let input = leases.flat_map(|lease| lease.work.inputs()).find(|blob| blob.hash == *hash);
        let fetched = || match session.fetches.get(hash) {
            Some(Fetched::Granted(blob)) if session.consents(self.now) => Some(*blob),
            _ => None,
        };
        input.or_else(fetched)
    }

    /// A session wants a blob that is no input of a lease. What the store says comes back as [`Self::public`].
    fn fetch(&mut self, id: SessionId, fetch: &Fetch) {
        let blob = fetch.blob;
        if !self.consents(id, &fetch.consent) {
            return self.send(id, BlobMissing { hash: blob.hash });
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match session.fetches.get(&blob.hash) {
            // Consent was given anew.
            Some(Fetched::Granted(_)) => return self.tree_request(id, TreeRequest { hash: blob.hash }),
            Some(Fetched::Denied) => return self.send(id, BlobMissing { hash: blob.hash }),
            Some(Fetched::Asked) => return,
            None if session.fetches.len() >= MAX_FETCHES => {
                let message = "too many blobs were fetched in one session: connect again";
                return self.refuse(id, RefusalCode::Limit, message, REFUSED_RETRY);
            }
            None => {}
        }
        session.fetches.insert(blob.hash, Fetched::Asked);
        self.recount(id);
        self.out.push(Output::AskPublic { session: id, blob });
    }

    /// The store says whether everybody may have a blob that a session wants.
    pub(crate) fn public(&mut self, id: SessionId, blob: BlobRef, public: bool) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let asked = session.fetches.get_mut(&blob.hash).filter(|fetch| **fetch == Fetched::Asked);
        let Some(fetch) = asked else { return };
        if !public {
            *fetch = Fetched::Denied;
            return self.send(id, BlobMissing { hash: blob.hash });
        }
        *fetch = Fetched::Granted(blob);
        // Its tree counts as a group.
        let all = blob.bytes.max(MIN_CHUNK_CHARGE).saturating_add(GROUP_BYTES as u64);
        session.input_credit = session.input_credit.saturating_add(all.saturating_mul(REFETCHES));
        self.member_blobs(id, std::iter::once(blob.hash));
        // Who withdrew meanwhile says Fetch again with the next consent, and is answered then.
        if self.sessions.get(&id).is_some_and(|session| session.consents(self.now)) {
            self.tree_request(id, TreeRequest { hash: blob.hash });
        }
    }

    /// Serves a part of a blob that the session may have.
    fn input_request(&mut self, id: SessionId, request: BlobRequest) {
        let blob = self.may_have(id, &request.hash);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(blob) = blob else {
            // A lease that was taken back meanwhile looks the same as somebody fishing for blobs: neither gets it.
            if !session.bucket.take(self.now, 1) {
                return self.refuse(id, RefusalCode::Limit, "too many requests for blobs", REFUSED_RETRY);
            }
            return self.send(id, BlobMissing { hash: request.hash });
        };
        let end = request.offset.checked_add(u64::from(request.bytes));
        if request.bytes == 0
            || request.bytes as usize > MAX_CHUNK_BYTES
            || end.is_none_or(|end| end > blob.bytes)
        {
            return self.out_of_order(
                id,
                "BlobRequest",
                "the range lies outside the blob or exceeds a chunk",
            );
        }
        let charge = u64::from(request.bytes).max(MIN_CHUNK_CHARGE);
        let Some(credit) = session.input_credit.checked_sub(charge) else {
            return self.refuse(id, RefusalCode::Limit, "inputs were fetched too many times", REFUSED_RETRY);
        };
        session.input_credit = credit;
        self.totals.inputs_served += u64::from(request.bytes);
        self.out.push(Output::SendChunk { session: id, request });
    }

    /// Hello is due, or the session was silent.
    pub(crate) fn session_quiet(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.volunteer.is_none() {
            return self.refuse(id, RefusalCode::TimedOut, "no Hello came in time", REFUSED_RETRY);
        }
        let due = session.last_heard + SESSION_TIMEOUT;
        if due <= self.now {
            self.refuse(id, RefusalCode::TimedOut, "the session was silent for too long", Duration(1000));
        } else {
            self.arm(due, Timer::Session(id));
        }
    }

    pub(crate) fn closed(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.dismiss(session.address, session.volunteer);
        if let Some(until) = session.lends_until {
            self.lenders.remove(&(until, id));
        }
        self.member_lost(id);
        if self.planted(PlantedBug::ForgetRelease) {
            for lease in session.leases {
                let deadline = self.leases.get(&lease).map(|held| held.deadline);
                self.disarm(deadline.unwrap_or_default(), Timer::Lease(lease));
            }
            return;
        }
        for lease in session.leases {
            self.lose(lease);
        }
    }

    pub(crate) fn out_of_order(&mut self, session: SessionId, name: &str, why: &str) {
        let message = format!("{name} may not come now: {why}");
        self.refuse(session, RefusalCode::OutOfOrder, &message, REFUSED_RETRY);
    }

    /// Says why, closes the session and gives its leases to others.
    pub(crate) fn refuse(
        &mut self,
        session: SessionId,
        code: RefusalCode,
        message: &str,
        retry_after: Duration,
    ) {
        if self.sessions.contains_key(&session) {
            self.totals.refused += 1;
            self.send(session, Refusal { code, message: message.to_owned(), retry_after });
            self.out.push(Output::Close { session });
            self.closed(session);
        }
    }

    pub(crate) fn shut_down(&mut self) {
        self.shutting_down = true;
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.refuse(session, RefusalCode::ShuttingDown, "the relay is restarting", RESTART_RETRY);
        }
    }

    pub(crate) fn send(&mut self, session: SessionId, message: impl Into<Message>) {
        self.out.push(Output::Send { session, message: message.into() });
    }

    /// New work: idle volunteers see its picture, and ask.
    pub(crate) fn announce_work(&mut self, job: &JobId) {
        if !self.is_taken(job) {
            return;
        }
        for session in self.sessions.values_mut() {
            if session.lends(self.now) && session.leases.is_empty() {
                session.viewing = Some(*job);
                session.picture_at = Instant(0);
            }
        }
        self.send_pictures();
    }

    /// Somebody who just agreed sees a job before the first lease.
    fn show_some_job(&mut self, id: SessionId) {
        let job = self.jobs.keys().chain(self.runs.keys()).chain(self.evals.keys()).next().copied();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.viewing = session.viewing.or(job);
        }
        self.arm_pictures();
    }

    pub(crate) fn arm_pictures(&mut self) {
        let something = !(self.jobs.is_empty() && self.runs.is_empty() && self.evals.is_empty());
        if something && !self.pictures_armed {
            self.pictures_armed = true;
            self.arm(self.now + PICTURE_INTERVAL, Timer::Pictures);
        }
    }

    /// Sends each viewer the picture of its job where it changed; with many viewers they take turns.
    pub(crate) fn send_pictures(&mut self) {
        let mut due: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.consent.is_some() && (session.fetches.is_empty() || session.asked))
            .filter_map(|(id, session)| session.viewing.map(|job| (session.picture_at, *id, job)))
            .collect();
        due.sort_unstable();
        for (_, id, job) in due.into_iter().take(PICTURES_PER_INTERVAL) {
            if let Some(job) = self.jobs.get(&job) {
                show(&mut self.sessions, &mut self.out, self.now, id, |viewer| picture::draw(job, viewer));
            } else if let Some(run) = self.runs.get(&job) {
                show(&mut self.sessions, &mut self.out, self.now, id, |viewer| {
                    picture::draw_run(run, viewer)
                });
            } else if let Some(eval) = self.evals.get(&job) {
                show(&mut self.sessions, &mut self.out, self.now, id, |viewer| {
                    picture::draw_eval(eval, viewer)
                });
            }
        }
        self.arm_pictures();
    }

    /// Everybody who watched a job sees it finished.
    pub(crate) fn last_picture(&mut self, job: &Job) {
        let viewers = self.sessions.iter().filter(|(_, session)| session.viewing == Some(job.spec.id));
        for id in viewers.map(|(id, _)| *id).take(PICTURES_PER_INTERVAL).collect::<Vec<_>>() {
            show(&mut self.sessions, &mut self.out, self.now, id, |viewer| picture::draw(job, viewer));
        }
    }

    /// Everybody who watched a run sees its last round.
    pub(crate) fn last_run_picture(&mut self, run: &Run) {
        let viewers = self.sessions.iter().filter(|(_, session)| session.viewing == Some(run.id()));
        for id in viewers.map(|(id, _)| *id).take(PICTURES_PER_INTERVAL).collect::<Vec<_>>() {
            show(&mut self.sessions, &mut self.out, self.now, id, |viewer| picture::draw_run(run, viewer));
        }
    }

    /// Everybody who watched an eval sees it finished.
    pub(crate) fn last_eval_picture(&mut self, eval: &Eval) {
        let viewers = self.sessions.iter().filter(|(_, session)| session.viewing == Some(eval.spec.id));
        for id in viewers.map(|(id, _)| *id).take(PICTURES_PER_INTERVAL).collect::<Vec<_>>() {
            show(&mut self.sessions, &mut self.out, self.now, id, |viewer| picture::draw_eval(eval, viewer));
        }
    }
}

fn show(
    sessions: &mut std::collections::BTreeMap<SessionId, Session>,
    out: &mut Vec<Output>,
    now: Instant,
    id: SessionId,
    draw: impl FnOnce(&VolunteerId) -> Picture,
) {
    let Some(session) = sessions.get_mut(&id) else { return };
    let Some(volunteer) = session.volunteer else { return };
    session.picture_at = now;
    let drawn = draw(&volunteer);
    if session.last_picture.as_ref() != Some(&drawn) {
        session.last_picture = Some(drawn.clone());
        out.push(Output::Send { session: id, message: drawn.into() });
    }
}
