//! The invariants of evals, and the second opinion on their answers: whatever becomes durable is held against the right
//! answers.

use crate::eval::Exam;
use crate::store::Store;
use potluck_proto::{BlobRef, EvalTask};
use potluck_schedule::{EvalAnswer, EvalInput, EvalOutput};
use potluck_types::{JobId, VolunteerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One shard, as messages show it since the relay started.
#[derive(Debug, Default)]
struct Sheet {
    /// Who answered what, in the order in which it came.
    answers: Vec<(VolunteerId, BlobRef)>,
    refuted: BTreeSet<VolunteerId>,
    settling: bool,
}

#[derive(Debug)]
struct Seen {
    exam: Arc<Exam>,
    // Of this start of the relay:
    sheets: BTreeMap<u32, Sheet>,
    completed: bool,
}

/// What was observed of evals.
#[derive(Debug, Default)]
pub struct Examiner {
    evals: BTreeMap<JobId, Seen>,
    /// Shards whose answers count.
    pub settled: u64,
    /// Answers that were found to be wrong.
    pub refuted: u64,
    /// Shards that count although answers are wrong: only liars answered, and their lie was not drawn.
    pub misled: u64,
}

/// A shard that is leased.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The eval.
    pub eval: &'a JobId,
    /// The shard.
    pub shard: u32,
    /// What is asked.
    pub task: &'a EvalTask,
    /// Who is asked.
    pub volunteer: Option<VolunteerId>,
}

impl Examiner {
    /// An eval was submitted.
    pub fn submitted(&mut self, exam: &Arc<Exam>) {
        let seen = Seen { exam: Arc::clone(exam), sheets: BTreeMap::new(), completed: false };
        self.evals.insert(exam.spec.id, seen);
    }

    /// The relay died: answers that were not durable are gone, and who was wrong is forgotten.
    pub fn relay_died(&mut self) {
        for seen in self.evals.values_mut() {
            seen.sheets.clear();
            seen.completed = false;
        }
    }

    fn sheet(&mut self, eval: &JobId, shard: u32) -> Option<&mut Sheet> {
        Some(self.evals.get_mut(eval)?.sheets.entry(shard).or_default())
    }

    /// What goes into the relay.
    pub fn input(&mut self, input: &EvalInput) {
        match input {
            EvalInput::Settled { eval, shard, refuted } => {
                let Some(sheet) = self.sheet(eval, *shard) else { return };
                sheet.settling = false;
                if refuted.is_empty() {
                    sheet.answers.clear();
                }
                sheet.answers.retain(|(volunteer, _)| !refuted.contains(volunteer));
                sheet.refuted.extend(refuted);
                self.refuted += refuted.len() as u64;
            }
            EvalInput::Failed { eval, shard } => {
                if let Some(sheet) = self.sheet(eval, *shard) {
                    sheet.settling = false;
                    sheet.answers.clear();
                }
            }
            EvalInput::Added { .. } | EvalInput::Canceled { .. } => {}
        }
    }

    /// A shard is leased; `holders` hold a lease of it.
    ///
    /// # Errors
    /// Another task than the shard's; somebody who is asked twice; more that are asked than the eval wants.
    pub fn leased(
        &mut self,
        asked: Asked<'_>,
        holders: &[Option<VolunteerId>],
        store: &Store,
    ) -> Result<(), String> {
        let Asked { eval, shard, task, volunteer } = asked;
        let seen = self.evals.get_mut(eval).ok_or("a lease of an unknown eval")?;
        let spec = &seen.exam.spec;
        if spec.shards.get(shard as usize) != Some(task) {
            return Err(format!("shard {shard} of {eval:?} is leased as {task:?}, which it is not"));
        }
        let sheet = seen.sheets.entry(shard).or_default();
        let is_volunteer = |other: &VolunteerId| Some(*other) == volunteer;
        let wrong = if store.evals.get(eval).is_some_and(|rows| rows.answers(shard).is_some()) {
            "which is durable"
        } else if sheet.settling {
            "whose answers are being compared"
        } else if holders.contains(&volunteer) {
            "of which the volunteer holds a lease: asked twice"
        } else if sheet.answers.iter().any(|(other, _)| is_volunteer(other)) {
            "which the volunteer has answered: asked twice"
        } else if volunteer.is_some_and(|volunteer| sheet.refuted.contains(&volunteer)) {
            "about which the volunteer was wrong: asked again"
        } else if holders.len() + sheet.answers.len() >= spec.copies as usize {
            "which as many are asked already as the eval wants"
        } else {
            return Ok(());
        };
        Err(format!("{volunteer:?} is leased shard {shard} of {eval:?}, {wrong}"))
    }

    /// All bytes of a volunteer's answers came, under a current lease and fence.
    pub fn answered(&mut self, eval: &JobId, shard: u32, volunteer: VolunteerId, claim: BlobRef) {
        if let Some(sheet) = self.sheet(eval, shard) {
            sheet.answers.push((volunteer, claim));
        }
    }

    /// What comes out of the relay.
    ///
    /// # Errors
    /// The invariant that is violated.
    pub fn output(&mut self, output: &EvalOutput, store: &Store) -> Result<(), String> {
        match output {
            EvalOutput::Settle { eval, shard, answers, .. } => self.settling(eval, *shard, answers),
            EvalOutput::Completed { eval } => {
                let seen = self.evals.get_mut(eval).ok_or("an unknown eval is complete")?;
                let rows = store.evals.get(eval).ok_or("an eval is complete that was not stored")?;
                let whole = rows.done().len() == seen.exam.spec.shards.len();
                if !whole || rows.canceled || std::mem::replace(&mut seen.completed, true) {
                    return Err(format!(
                        "eval {eval:?} is completed with {} durable shards of {}, a second time, or after it was \
                         canceled",
                        rows.done().len(),
                        seen.exam.spec.shards.len()
                    ));
                }
                Ok(())
            }
            EvalOutput::Refused { .. } => Ok(()),
        }
    }

    fn settling(&mut self, eval: &JobId, shard: u32, answers: &[EvalAnswer]) -> Result<(), String> {
        let seen = self.evals.get_mut(eval).ok_or("answers to an unknown eval are compared")?;
        let copies = seen.exam.spec.copies as usize;
        let sheet = seen.sheets.entry(shard).or_default();
        let volunteers: BTreeSet<_> = answers.iter().map(|answer| answer.volunteer).collect();
        if answers.len() != copies || volunteers.len() != copies {
            return Err(format!(
                "shard {shard} of {eval:?} is settled from {} answers of {} volunteers, it wants {copies} of as many",
                answers.len(),
                volunteers.len()
            ));
        }
        let found: Vec<_> = answers.iter().map(|answer| (answer.volunteer, answer.claim)).collect();
        if found != sheet.answers {
            return Err(format!(
                "late fence: shard {shard} of {eval:?} is settled from {found:?}, under current leases and fences came {:?}",
                sheet.answers
            ));
        }
        if std::mem::replace(&mut sheet.settling, true) {
            return Err(format!("shard {shard} of {eval:?} is settled while it is being settled"));
        }
        Ok(())
    }

    /// The answers to a shard become durable.
    ///
    /// # Errors
    /// A wrong answer beside that of an honest volunteer, or to what was computed again.
    pub fn kept(
        &mut self,
        eval: &JobId,
        shard: u32,
        answers: &[EvalAnswer],
        honest: &BTreeSet<VolunteerId>,
    ) -> Result<(), String> {
        let exam = &self.evals.get(eval).ok_or("answers to an unknown eval are stored")?.exam;
        let drawn = exam.spot_checks(shard, answers)?;
        let mut misled = false;
        for answer in answers {
            let wrong = exam.wrong_items(shard, answer)?;
            let beside_honest = answers.iter().any(|other| honest.contains(&other.volunteer));
            if !wrong.is_empty() && (beside_honest || wrong.iter().any(|item| drawn.contains(item))) {
                return Err(format!(
                    "a wrong answer counts: {:?} about items {wrong:?} of shard {shard} of {eval:?}, beside an honest \
                     one: {beside_honest}, computed again: {drawn:?}",
                    answer.volunteer
                ));
            }
            misled |= !wrong.is_empty();
        }
        self.settled += 1;
        self.misled += u64::from(misled);
        Ok(())
    }
}
