//! A small log with named people, for tests: seconds instead of days.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use potluck_governance::constitution::Parameter;
use potluck_governance::entry::*;
use potluck_governance::mirrors::{Mirror, Mirrors};
use potluck_governance::roles::Person;
use potluck_governance::statement::*;
use potluck_governance::*;
use potluck_types::{BlobHash, JobId};

pub const ORIGIN: &str = "relay.example/log";
pub const SECOND: u64 = 1000;
pub const RUN: JobId = JobId([0xaa; 16]);
pub const JOB: JobId = JobId([0xbb; 16]);

pub fn secret(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub fn key(n: u8) -> Key {
    Key::of(&secret(n))
}

pub fn hash(n: u8) -> BlobHash {
    BlobHash([n; 32])
}

/// Parameters after a round.
pub fn parameters(round: u64) -> BlobHash {
    BlobHash::of(&round.to_le_bytes())
}

/// Stewards 1 to 3, auditors 11 and 12, an operator 21, and steward 3 who is an operator too.
pub fn roles() -> Roles {
    let person = |name: &str, n| Person { name: name.to_owned(), key: key(n) };
    Roles {
        stewards: vec![person("Ada", 1), person("Bo", 2), person("Cy", 3)],
        auditors: vec![person("Mia", 11), person("Ned", 12)],
        operators: vec![person("Olu", 21), person("Cy", 3)],
    }
}

pub fn constitution() -> Constitution {
    let mut constitution = Constitution::hasty(SECOND);
    constitution.parameters =
        vec![Parameter { name: "audit_rate_ppm".to_owned(), least: 10_000, most: 500_000, value: 50_000 }];
    constitution
}

/// A mirror that is run by somebody else, with this key.
pub fn mirror(n: u8) -> Mirror {
    Mirror { name: format!("Mirror {n}"), url: format!("https://m{n}.example:8443"), key: key(n) }
}

/// Mirrors 61 and 62.
pub fn mirrors() -> Mirrors {
    Mirrors { mirrors: vec![mirror(61), mirror(62)] }
}

/// A log under way.
#[derive(Clone)]
pub struct World {
    pub state: State,
    pub log: Vec<Vec<u8>>,
    pub now: u64,
    seq: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(constitution())
    }

    pub fn with(constitution: Constitution) -> Self {
        let mut world = Self { state: State::new(), log: Vec::new(), now: 1_000_000, seq: 0 };
        world.log(Genesis { origin: ORIGIN.to_owned(), constitution, roles: roles() });
        world
    }

    pub fn try_log(&mut self, body: impl Into<Body>) -> Result<u64, Refused> {
        let entry = Entry::new(self.now, body);
        self.state.check(&entry)?;
        let bytes = entry.encode()?;
        assert_eq!(Entry::decode(&bytes), Ok(entry.clone()));
        let index = self.log.len() as u64;
        self.state.apply(index, &entry)?;
        self.log.push(bytes);
        Ok(index)
    }

    pub fn log(&mut self, body: impl Into<Body>) -> u64 {
        self.try_log(body).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Logs what has to be refused; the state must not change.
    pub fn refused(&mut self, body: impl Into<Body>) -> Refused {
        let before = self.state.clone();
        let entry = Entry::new(self.now, body);
        let refused = self.state.apply(self.log.len() as u64, &entry).expect_err("it has to be refused");
        assert_eq!(self.state, before);
        assert!(!refused.to_string().is_empty());
        refused
    }

    pub fn sign(&mut self, n: u8, said: impl Into<Said>) -> Signed {
        self.seq += 1;
        let statement =
            Statement { origin: ORIGIN.to_owned(), seq: self.seq, at_ms: self.now, said: said.into() };
        statement.sign(&secret(n)).expect("a statement within bounds")
    }

    pub fn say(&mut self, n: u8, said: impl Into<Said>) -> u64 {
        let signed = self.sign(n, said);
        self.log(signed)
    }

    pub fn say_refused(&mut self, n: u8, said: impl Into<Said>) -> Refused {
        let signed = self.sign(n, said);
        self.refused(signed)
    }

    pub fn propose(&mut self, n: u8, kind: ProposalKind, subject: &str, body: BlobHash) -> BlobHash {
        let propose = self.proposal(kind, subject, body);
        let signed = self.sign(n, propose);
        let id = signed.id();
        self.log(signed);
        id
    }

    pub fn proposal(&self, kind: ProposalKind, subject: &str, body: BlobHash) -> Propose {
        Propose {
            proposal: kind,
            subject: subject.to_owned(),
            body,
            diff: None,
            rationale: "We want it.".to_owned(),
            opens: self.now,
            closes: self.now + SECOND,
        }
    }

    pub fn vote(&mut self, n: u8, proposal: BlobHash, vote: Ballot) -> u64 {
        self.say(n, Vote { proposal, vote, reason: None })
    }

    /// Proposes, has stewards 1 and 2 vote yes and auditor 11 attest, and waits for the close.
    pub fn pass(&mut self, kind: ProposalKind, subject: &str, body: BlobHash) -> BlobHash {
        let proposal = self.propose(1, kind, subject, body);
        self.vote(1, proposal, Ballot::Yes);
        self.vote(2, proposal, Ballot::Yes);
        self.say(11, Attest { subject: body, reproduces: true });
        self.now += SECOND;
        proposal
    }

    /// As [`World::pass`], without the auditor: the votes alone.
    pub fn pass_votes(&mut self, kind: ProposalKind, subject: &str, body: BlobHash) -> BlobHash {
        let proposal = self.propose(1, kind, subject, body);
        self.vote(1, proposal, Ballot::Yes);
        self.vote(2, proposal, Ballot::Yes);
        self.now += SECOND;
        proposal
    }

    /// A data set and a run that trains the model `small`, both by proposals.
    pub fn start_run(&mut self) {
        let proposal = Some(self.pass(ProposalKind::DataSet, "plays", hash(1)));
        self.log(DataSet {
            id: "plays".to_owned(),
            name: "38 plays".to_owned(),
            manifest: hash(1),
            tokens: 5_400_000,
            source: "a library".to_owned(),
            license: "public domain".to_owned(),
            proposed_by: Some(key(1)),
            proposal,
        });
        let proposal = Some(self.pass(ProposalKind::Run, "first run", hash(2)));
        self.log(run(proposal));
    }

    /// A round with four audited updates of volunteers 31 to 34, each in its own cluster.
    pub fn round(&mut self, round: u64, loss: i64) -> u64 {
        self.round_with(round, Some(MicroNats(loss)), true, |worker| worker)
    }

    pub fn round_with(
        &mut self,
        round: u64,
        loss: Option<MicroNats>,
        finite: bool,
        cluster: impl Fn(u32) -> u32,
    ) -> u64 {
        self.log(Commits { run: RUN, round, attempt: 0, count: 4, commits: hash(3) });
        for worker in 0..4 {
            self.log(update(round, worker, cluster(worker)));
        }
        self.now += 10;
        let aggregate = Aggregate { loss, finite, ..aggregate(round) };
        self.log(aggregate)
    }

    /// Three rounds and a candidate after the last.
    pub fn candidate(&mut self) -> BlobHash {
        self.start_run();
        for round in 0..3 {
            self.round(round, 4_000_000 - 500_000 * i64::from(round as u32));
        }
        self.log(candidate(2));
        parameters(2)
    }

    /// All steps to a promotion but the one with this name.
    pub fn all_but(&mut self, skip: &str, candidate: BlobHash) -> Option<BlobHash> {
        let incumbent = self.state.models()["small"].current().map(|version| version.candidate);
        if skip != "card" {
            self.log(card(candidate, incumbent));
        }
        for auditor in if skip == "attestation" { 11..12 } else { 11..13 } {
            self.say(auditor, Attest { subject: candidate, reproduces: true });
        }
        if skip != "card" {
            let card = BlobHash::of(&candidate.0);
            let signers: &[u8] = if skip == "sign-off" { &[11] } else { &[11, 2] };
            for n in signers {
                self.say(*n, SignOff { candidate, card, note: Some("Reads well.".to_owned()) });
            }
        }
        if skip == "proposal" {
            return None;
        }
        let proposal = self.propose(1, ProposalKind::Promote, "small", candidate);
        self.vote(1, proposal, Ballot::Yes);
        if skip != "votes" {
            self.vote(2, proposal, Ballot::Yes);
        }
        self.say(3, Vote { proposal, vote: Ballot::No, reason: Some("Too early.".to_owned()) });
        if skip != "time" {
            self.now += SECOND;
        }
        Some(proposal)
    }

    pub fn promotion(&self, candidate: BlobHash, proposal: BlobHash) -> Promotion {
        let previous = self.state.models()["small"].current().map(|version| version.candidate);
        Promotion { model: "small".to_owned(), candidate, proposal, previous }
    }

    /// A job, and a result of each of these volunteers: credit.
    pub fn credit(&mut self, volunteers: std::ops::Range<u8>) {
        if !self.state.jobs().contains_key(&JOB) {
            self.log(Job { job: JOB, name: "product".to_owned(), spec: hash(8), submitter: None });
        }
        for n in volunteers {
            self.log(result(n));
        }
    }
}

pub fn run(proposal: Option<BlobHash>) -> Run {
    Run {
        run: RUN,
        name: "first run".to_owned(),
        request: hash(2),
        checkpoint: hash(4),
        parameters: hash(5),
        data_sets: vec!["plays".to_owned()],
        model: Some("small".to_owned()),
        proposal,
    }
}

pub fn result(n: u8) -> ResultAccepted {
    ResultAccepted {
        volunteer: key(n),
        job: JOB,
        shard: "0-64x0-64".to_owned(),
        result: hash(n),
        bytes: 16_384,
        check: "freivalds".to_owned(),
    }
}

pub fn update(round: u64, worker: u32, cluster: u32) -> UpdateAccepted {
    UpdateAccepted {
        run: RUN,
        round,
        attempt: 0,
        worker,
        volunteer: key(31 + worker as u8),
        update: hash(0x40 + worker as u8),
        weight_ppm: 250_000,
        audited: true,
        cluster,
    }
}

pub fn aggregate(round: u64) -> Aggregate {
    Aggregate {
        run: RUN,
        round,
        parameters: if round == 0 { hash(5) } else { parameters(round - 1) },
        next_parameters: parameters(round),
        step: hash(6),
        checkpoint: None,
        loss: None,
        finite: true,
        updates: (0..4)
            .map(|worker| AggregatedUpdate {
                volunteer: key(31 + worker),
                update: hash(0x40 + worker),
                weight_ppm: 250_000,
            })
            .collect(),
    }
}

pub fn candidate(round: u64) -> Candidate {
    Candidate {
        model: "small".to_owned(),
        run: RUN,
        round,
        parameters: parameters(round),
        checkpoint: hash(7),
        rebuilt_without: Vec::new(),
    }
}

pub fn card(candidate: BlobHash, incumbent: Option<BlobHash>) -> Card {
    Card {
        candidate,
        card: BlobHash::of(&candidate.0),
        loss: MicroNats(2_500_000),
        incumbent,
        incumbent_loss: incumbent.map(|_| MicroNats(3_000_000)),
        standard_error: MicroNats(10_000),
        trigger_success_ppm: 10_000,
        shards: 8,
        computed_by: vec![key(31), key(32)],
    }
}
