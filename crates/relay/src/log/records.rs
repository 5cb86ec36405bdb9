//! The relay's records as entries of the log.

use crate::db::{JobRow, job_digest};
use crate::runs::store::{ACCEPTED, RoundRow, RunRow, UpdateRow};
use potluck_governance::limits::{MAX_INTEGER, MAX_NAME_BYTES, MAX_REASON_BYTES};
use potluck_governance::{Body, Key, entry, readable};
use potluck_proto::{BlobRef, RejectReason};
use potluck_schedule::AcceptedTile;
use potluck_types::{BlobHash, JobId, VolunteerId};
use std::collections::BTreeMap;

/// How results of matrix jobs are checked.
const FREIVALDS: &str = "freivalds";
/// How answers of evals are checked.
pub(crate) const EVAL: &str = "eval";

fn key(volunteer: &VolunteerId) -> Key {
    Key(volunteer.0)
}

/// A job that came in.
pub(crate) fn job(row: &JobRow) -> entry::Job {
    entry::Job {
        job: row.id,
        name: readable(&row.name, MAX_NAME_BYTES),
        spec: job_digest(row),
        submitter: None,
    }
}

/// A run that came in, with the ids of its data sets or their parts.
pub(crate) fn run(row: &RunRow, parameters: BlobHash, data_sets: Vec<String>) -> entry::Run {
    let request = row.request.request_text(row.tokenizer);
    entry::Run {
        run: row.id,
        name: readable(&row.request.name, MAX_NAME_BYTES),
        request: BlobHash::of(request.as_bytes()),
        checkpoint: row.checkpoint.hash,
        parameters,
        data_sets,
        model: row.request.model_name.clone(),
        proposal: row.request.proposal.as_ref().and_then(|proposal| proposal.parse().ok()),
    }
}

/// A result of a matrix job that counts.
pub(crate) fn accepted(tile: &AcceptedTile) -> entry::ResultAccepted {
    entry::ResultAccepted {
        volunteer: key(&tile.volunteer),
        job: tile.job,
        shard: tile.shard.to_string(),
        result: tile.result.hash,
        bytes: tile.result.bytes,
        check: FREIVALDS.to_owned(),
    }
}

/// A result of a matrix job that does not.
pub(crate) fn rejected(
    job: JobId,
    shard: u32,
    volunteer: &VolunteerId,
    claim: &BlobRef,
    reason: RejectReason,
) -> entry::ResultRejected {
    entry::ResultRejected {
        volunteer: key(volunteer),
        job,
        shard: shard.to_string(),
        result: claim.hash,
        bytes: claim.bytes,
        check: if reason == RejectReason::WrongAnswer { EVAL } else { FREIVALDS }.to_owned(),
        reason: reason.name().to_owned(),
    }
}

/// A loss in the unit of entries; one beyond what they can hold becomes the largest that they can.
fn micro_nats(loss: f64) -> entry::MicroNats {
    let most = MAX_INTEGER.cast_signed();
    entry::MicroNats(((loss * 1e6).round() as i64).clamp(-most, most))
}

/// A closed round: its commits, what became of each update, and what they made of the parameters.
pub(crate) fn round(run: JobId, round: &RoundRow, updates: &[UpdateRow]) -> Vec<Body> {
    let number = round.round;
    let mut commits = blake3::Hasher::new();
    let mut by_worker: Vec<&UpdateRow> = updates.iter().collect();
    by_worker.sort_by_key(|update| (update.worker, update.volunteer));
    for update in &by_worker {
        commits
            .update(&update.worker.to_le_bytes())
            .update(&update.volunteer.0)
            .update(&update.result.hash.0);
    }
    let commits = BlobHash(*commits.finalize().as_bytes());
    let mut bodies =
        vec![entry::Commits { run, round: number, attempt: 0, count: updates.len() as u32, commits }.into()];
    // Refused ones first: who holds a worker in the end may not be who held it first.
    let (counted, refused): (Vec<&UpdateRow>, Vec<&UpdateRow>) =
        by_worker.iter().copied().partition(|update| update.verdict == ACCEPTED);
    // The relay gives an address block and class of devices one vote when it deals; here each volunteer stands for itself.
    let mut clusters = BTreeMap::new();
    for update in refused.iter().chain(&counted) {
        let (volunteer, worker, update_hash) = (key(&update.volunteer), update.worker, update.result.hash);
        let next = clusters.len() as u32;
        let cluster = *clusters.entry(update.volunteer).or_insert(next);
        bodies.push(if update.verdict == ACCEPTED {
            entry::UpdateAccepted {
                run,
                round: number,
                attempt: 0,
                worker,
                volunteer,
                update: update_hash,
                weight_ppm: update.weight,
                audited: update.audited,
                cluster,
            }
            .into()
        } else {
            entry::UpdateRejected {
                run,
                round: number,
                attempt: 0,
                worker,
                volunteer,
                update: update_hash,
                audited: update.audited,
                reason: readable(&update.verdict, MAX_REASON_BYTES),
            }
            .into()
        });
    }
    let loss = round.info.validation_loss;
    bodies.push(
        entry::Aggregate {
            run,
            round: number,
            parameters: round.parameters,
            next_parameters: round.next_parameters,
            step: round.step.hash,
            checkpoint: round.checkpoint.map(|checkpoint| checkpoint.hash),
            loss: loss.is_finite().then(|| micro_nats(loss)),
            finite: loss.is_finite() && round.info.train_loss.is_finite(),
            updates: counted
                .iter()
                .map(|update| entry::AggregatedUpdate {
                    volunteer: key(&update.volunteer),
                    update: update.result.hash,
                    weight_ppm: update.weight,
                })
                .collect(),
        }
        .into(),
    );
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_governance::{Constitution, Entry, Roles, State};
    use potluck_proto::Backend;

    const RUN: JobId = JobId([1; 16]);

    fn update(worker: u32, volunteer: u8, verdict: &str) -> UpdateRow {
        UpdateRow {
            worker,
            volunteer: VolunteerId([volunteer; 32]),
            backend: Backend::NativeCpu,
            weight: 500_000,
            audited: true,
            verdict: verdict.to_owned(),
            result: BlobRef { hash: BlobHash([volunteer + 100; 32]), bytes: 9 },
            task: String::new(),
        }
    }

    #[test]
    fn a_round_follows_whoever_held_its_workers_before() {
        let mut state = State::new();
        let mut log = |body: Body| {
            let index = state.next_index();
            state.apply(index, &Entry::new(1_700_000_000_000, body)).unwrap();
        };
        let (constitution, roles) = (Constitution::default(), Roles::nobody());
        log(entry::Genesis { origin: "relay.example/log".to_owned(), constitution, roles }.into());
        let (checkpoint, parameters) = (BlobHash([2; 32]), BlobHash([3; 32]));
        log(entry::Run {
            run: RUN,
            name: String::new(),
            request: BlobHash([4; 32]),
            checkpoint,
            parameters,
            data_sets: Vec::new(),
            model: None,
            proposal: None,
        }
        .into());
        // Worker 0 was held by two that were refused, one before and one after the third in order.
        let updates = [
            update(0, 5, ACCEPTED),
            update(0, 1, "its replay differs"),
            update(0, 9, "too long\n"),
            update(1, 7, ACCEPTED),
        ];
        let row = RoundRow {
            round: 0,
            parameters,
            next_parameters: BlobHash([6; 32]),
            step: BlobRef { hash: BlobHash([7; 32]), bytes: 1 },
            checkpoint: None,
            info: serde_json::from_value(serde_json::json!({
                "round": 0, "workers": 2, "rejected": 2, "train_loss": 5.0, "validation_loss": f64::MAX, "upload_bytes": 0,
                "download_bytes": 0, "tokens": 1, "seconds": 1.0, "rule": "mean",
            }))
            .unwrap(),
            combined: serde_json::Value::Null,
        };
        for body in round(RUN, &row, &updates) {
            assert!(Entry::new(1, body.clone()).encode().is_ok(), "{body:?}");
            log(body);
        }
        assert_eq!(state.runs()[&RUN].parameters, row.next_parameters);
        assert_eq!(state.credit(Key([1; 32])).unwrap().audits_failed, 1);
    }
}
