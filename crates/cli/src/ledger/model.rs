//! `potluck audit --model`: a model's parameters, derived again bit by bit from the updates that stand in the log.

use super::audit::{Report, unreadable};
use super::source::{Reader, Source};
use crate::error::CliError;
use crate::runs::derive::{Blobs, Rounds};
use crate::runs::without::{LeftOut, resolve};
use potluck_governance::{Body, Entry, Key, State, entry};
use potluck_ledger::TreeHead;
use potluck_rounds::derive::Closing;
use potluck_rounds::{ClosedRound, Counted, Derivation, Rebuild};
use potluck_types::{BlobHash, JobId, VolunteerId};
use std::collections::BTreeMap;

/// Most updates of one run that are listed before they are fetched: with 256 workers, sixteen thousand rounds, 0.5 GB.
const MAX_LISTED_UPDATES: usize = 1 << 22;

/// Which parameters a hash means.
struct Wanted {
    run: JobId,
    /// Rounds that lead to them.
    rounds: u64,
    /// What they were made again without.
    without: Vec<LeftOut>,
    /// For people.
    name: String,
}

/// Derives parameters again.
///
/// # Errors
/// The log has none of this hash; something cannot be read; the first round that does not follow.
pub(super) fn check(
    hash: &BlobHash,
    (source, head): (&Source<'_>, &TreeHead),
    state: &State,
    blobs: &Blobs<'_>,
    stopped: &dyn Fn() -> bool,
    report: &mut Report,
) -> Result<(), CliError> {
    let wanted = find(hash, state)?;
    let entry = &state.runs().get(&wanted.run).ok_or_else(|| unknown(hash))?.entry;
    let wrong = |cause: String| CliError::Record { what: format!("run {}", wanted.run), cause };
    let rounds = collect(&wanted, (source, head))?;
    if let Some(first) = rounds.first().filter(|first| first.round != 0) {
        return Err(wrong(format!(
            "the log has it from round {} on only: what was before cannot be derived",
            first.round
        )));
    }
    let (start, parameters) = blobs.start(wanted.run, Some(&entry.request))?;
    if !entry.data_sets.contains(&start.train.to_string()) {
        return Err(wrong(format!(
            "it trains on data set {}, which the log does not name for it",
            start.train
        )));
    }
    let begun = Derivation::start(start.terms, parameters.clone())?;
    if begun.hash() != entry.parameters {
        let (found, named) = (begun.hash(), entry.parameters);
        return Err(wrong(format!("it starts from parameters {found}, the log names {named}")));
    }
    let most = begun.most_bytes();
    let tokens = state.data_sets().get(&start.train.to_string()).map_or(0, |set| set.tokens);
    let mut without = resolve(&wanted.without, &start.train, tokens, blobs.relay)?;
    // A volunteer is all keys that it ever had.
    let named: Vec<Key> = without.volunteers.iter().map(|key| state.first_key(Key(key.0))).collect();
    let volunteers = rounds.iter().flat_map(|round| &round.updates).map(|counted| counted.volunteer);
    without.volunteers.extend(volunteers.filter(|key| named.contains(&state.first_key(Key(key.0)))));

    let mut rebuild = Rebuild::start(start.terms, parameters, tokens, without)?;
    let mut progress = Rounds::new("model", rounds.len() as u64);
    let mut counts = Counts::default();
    for round in &rounds {
        rebuild.original().fits(round)?;
        let mut results = Vec::with_capacity(round.updates.len());
        for counted in &round.updates {
            if stopped() {
                return Err(CliError::Interrupted { job: None });
            }
            results.push(blobs.update(counted, most)?);
        }
        let done = rebuild.follow(round, &results)?;
        counts.add(round, done.closing, done.left_out);
        progress.next();
    }
    let found = rebuild.rebuilt().hash();
    progress.finish(&format!("{} rounds derived again", rounds.len()));
    if found != *hash {
        return Err(wrong(format!("{} is {found} by the updates, the log names {hash}", wanted.name)));
    }
    counts.say(&wanted, hash, report);
    Ok(())
}

fn unknown(hash: &BlobHash) -> CliError {
    CliError::Usage {
        message: format!("the log has no parameters {hash}"),
        hint: "give the hash of a candidate, a version, or the parameters after a round of a run".into(),
    }
}

/// A candidate with these parameters, or the round of a run that leads to them.
fn find(hash: &BlobHash, state: &State) -> Result<Wanted, CliError> {
    if let Some(candidate) = state.candidates().get(hash) {
        let entry = &candidate.entry;
        let without = entry.rebuilt_without.iter().map(|source| source.0.to_string().parse::<LeftOut>());
        let without = without.collect::<Result<_, _>>().map_err(|cause| CliError::Record {
            what: format!("candidate {hash}"),
            cause: format!("what it was made again without is not understood: {cause}"),
        })?;
        let name = format!("candidate of model {}", entry.model);
        return Ok(Wanted { run: entry.run, rounds: entry.round.saturating_add(1), without, name });
    }
    for (run, state) in state.runs() {
        let after = state.rounds.iter().find(|round| round.next_parameters == *hash);
        let rounds = match after {
            Some(round) => u64::from(round.round) + 1,
            None if state.entry.parameters == *hash => 0,
            None => continue,
        };
        let name = format!("run {run} after {rounds} rounds");
        return Ok(Wanted { run: *run, rounds, without: Vec::new(), name });
    }
    Err(unknown(hash))
}

/// Reads the log once more, for what counted in each round of the run.
fn collect(wanted: &Wanted, (source, head): (&Source<'_>, &TreeHead)) -> Result<Vec<ClosedRound>, CliError> {
    let mut listed = Listed::new(wanted);
    let mut reader = Reader { source, failed: None };
    let read = potluck_ledger::audit(head, &mut reader, &mut |_, bytes| {
        if let Ok(entry) = Entry::decode(bytes) {
            listed.read(entry.body);
        }
    });
    read.map_err(|error| unreadable(reader.failed.take(), "files", &error))?;
    let Listed { rounds, updates, .. } = listed;
    let wrong = |cause: String| CliError::Record { what: format!("run {}", wanted.run), cause };
    if updates > MAX_LISTED_UPDATES {
        return Err(wrong(format!(
            "it has more than {MAX_LISTED_UPDATES} updates, the most that are derived at once"
        )));
    }
    if rounds.len() as u64 != wanted.rounds {
        return Err(wrong(format!("{} of the {} rounds stand in the log", rounds.len(), wanted.rounds)));
    }
    Ok(rounds)
}

/// Rounds of a run, from entries of the log.
struct Listed<'a> {
    wanted: &'a Wanted,
    rounds: Vec<ClosedRound>,
    updates: usize,
    /// The relay started since the last round.
    restarted: bool,
    /// Accepted updates of open rounds, by round and worker, with their attempts.
    open: BTreeMap<(u64, u32), entry::UpdateAccepted>,
}

impl<'a> Listed<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        Self { wanted, rounds: Vec::new(), updates: 0, restarted: true, open: BTreeMap::new() }
    }

    fn read(&mut self, body: Body) {
        let within = |run: JobId, round: u64| run == self.wanted.run && round < self.wanted.rounds;
        match body {
            Body::EpochCommitted(_) => self.restarted = true,
            Body::UpdateAccepted(update) if within(update.run, update.round) => {
                let place = (update.round, update.worker);
                let older = self.open.get(&place).is_none_or(|known| known.attempt <= update.attempt);
                if older && self.updates + self.open.len() <= MAX_LISTED_UPDATES {
                    self.open.insert(place, update);
                }
            }
            Body::Aggregate(aggregate) if within(aggregate.run, aggregate.round) => self.close(&aggregate),
            _ => {}
        }
    }

    /// The checker has let the entry through: each update in it was accepted before.
    fn close(&mut self, aggregate: &entry::Aggregate) {
        let round = aggregate.round;
        let weights: BTreeMap<(Key, BlobHash), u32> = aggregate
            .updates
            .iter()
            .map(|update| ((update.volunteer, update.update), update.weight_ppm))
            .collect();
        let later = self.open.split_off(&(round + 1, 0));
        let accepted = std::mem::replace(&mut self.open, later);
        let counted = accepted.into_values().filter_map(|update| {
            let weight_ppm = *weights.get(&(update.volunteer, update.update))?;
            Some(Counted {
                worker: update.worker,
                volunteer: VolunteerId(update.volunteer.0),
                update: update.update,
                weight_ppm,
                audited: update.audited,
                streak: None,
            })
        });
        let updates: Vec<Counted> = counted.collect();
        self.updates += updates.len();
        self.rounds.push(ClosedRound {
            round,
            before: aggregate.parameters,
            after: aggregate.next_parameters,
            step: aggregate.step,
            checkpoint: aggregate.checkpoint,
            restarted: std::mem::take(&mut self.restarted),
            updates,
        });
    }
}

/// What was derived, for people.
#[derive(Debug, Default)]
struct Counts {
    rounds: u64,
    updates: u64,
    audited: u64,
    left_out: u64,
    audited_only: u64,
    stood_still: u64,
}

impl Counts {
    fn add(&mut self, round: &ClosedRound, closing: Closing, left_out: usize) {
        self.rounds += 1;
        self.updates += round.updates.len() as u64;
        self.audited += round.updates.iter().filter(|update| update.audited).count() as u64;
        self.left_out += left_out as u64;
        self.audited_only += u64::from(closing == Closing::AuditedOnly);
        self.stood_still += u64::from(closing == Closing::StoodStill);
    }

    fn say(&self, wanted: &Wanted, hash: &BlobHash, report: &mut Report) {
        let Self { rounds, updates, audited, left_out, audited_only, stood_still } = self;
        let without = if wanted.without.is_empty() {
            String::new()
        } else {
            let names: Vec<String> = wanted.without.iter().map(ToString::to_string).collect();
            format!(", {left_out} of them left out, for it is without {}", names.join(", "))
        };
        report.checked(
            "model",
            &format!(
                "{} has the parameters {hash}: bit by bit what {rounds} rounds make of {updates} updates{without}",
                wanted.name
            ),
        );
        report.open(
            "model, not checked",
            &format!(
                "whether each update is what its worker's data give: the relay replayed {audited} of {updates}; `potluck \
                 replay` repeats any of them"
            ),
        );
        report.open(
            "model, not checked",
            &format!(
                "whether the gate judged right, for its windows are secret: it kept {} steps, took {audited_only} from \
                 audited updates only, and took {stood_still} back",
                rounds - audited_only - stood_still
            ),
        );
        report.open(
            "model, not checked",
            "whether each vote weighs what its volunteer's record is worth: the log has the weights",
        );
    }
}
