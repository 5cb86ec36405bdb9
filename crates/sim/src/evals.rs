//! The relay's part of evals: carries out what the machine says of them, as the real adapter does, with delays, failures,
//! and deaths between any two writes.

use crate::store::EvalRows;
use crate::world::{Event, World};
use potluck_schedule::{EvalAnswer, EvalInput, EvalOutput, EvalSpec, Input};
use potluck_types::JobId;
use std::sync::Arc;

/// What happens to an eval.
#[derive(Debug)]
pub(crate) enum EvalEvent {
    /// It is submitted.
    Submit,
    /// Its submitter gives it up.
    Cancel,
    /// Its record is on disk: the machine is told.
    Add,
    /// Answers to a shard are compared.
    Settle {
        /// Which.
        shard: u32,
        /// All of them.
        answers: Vec<EvalAnswer>,
    },
    /// The answers to a shard are written.
    Write {
        /// Which.
        shard: u32,
    },
    /// The relay hears what became of a shard.
    Told(EvalInput),
    /// Its end is written down.
    Record,
}

/// Answers on their way to the disk.
#[derive(Debug)]
pub(crate) struct Writing {
    eval: JobId,
    shard: u32,
    answers: Vec<EvalAnswer>,
}

impl World {
    /// An event of this start of the relay.
    fn soon(&mut self, after_ms: u64, eval: JobId, what: EvalEvent) {
        let start = Some(self.start);
        self.queue.after(after_ms, Event::Eval { start, eval, what });
    }

    /// An event from outside.
    fn later(&mut self, after_ms: u64, eval: JobId, what: EvalEvent) {
        self.queue.after(after_ms, Event::Eval { start: None, eval, what });
    }

    pub(crate) fn eval_happens(&mut self, eval: JobId, what: EvalEvent) -> Result<(), String> {
        match what {
            // Nobody answers; the submitter tries again.
            EvalEvent::Submit if self.host.is_none() => self.later(700, eval, what),
            EvalEvent::Cancel if self.host.is_none() => self.later(400, eval, what),
            EvalEvent::Submit => self.submit_eval(eval),
            EvalEvent::Cancel => self.cancel_eval(eval)?,
            EvalEvent::Add => self.add_eval(eval)?,
            EvalEvent::Settle { shard, answers } => self.settle(eval, shard, answers)?,
            EvalEvent::Write { shard } => self.write_answers(eval, shard)?,
            EvalEvent::Told(input) => self.step(Input::Eval(input))?,
            EvalEvent::Record => {
                if let Some(rows) = self.store.evals.get_mut(&eval) {
                    rows.completed = !rows.canceled;
                }
                self.trace.note(self.queue.now(), b'D', 2, &eval.0, || {
                    format!("store: eval {eval:?} is recorded as complete")
                });
                self.look_whether_done();
            }
        }
        Ok(())
    }

    pub(crate) fn carry_out_eval(&mut self, output: EvalOutput) -> Result<(), String> {
        let now = self.queue.now();
        match output {
            EvalOutput::Settle { eval, shard, answers, .. } => {
                self.trace.note(now, b'a', u64::from(shard), &eval.0, || {
                    format!("relay: compares {} answers to shard {shard} of {eval:?}", answers.len())
                });
                let (slow_check, _) = self.slowest();
                let after = self.rng.within(1..=slow_check);
                self.soon(after, eval, EvalEvent::Settle { shard, answers });
                Ok(())
            }
            EvalOutput::Completed { eval } => {
                self.trace.note(now, b'J', 2, &eval.0, || format!("relay: eval {eval:?} is complete"));
                let after = self.rng.within(0..=200);
                self.soon(after, eval, EvalEvent::Record);
                Ok(())
            }
            EvalOutput::Refused { eval, error } => Err(format!("eval {eval:?} is refused: {error}")),
        }
    }

    fn tell_eval(&mut self, eval: JobId, input: EvalInput) {
        let after = self.rng.within(0..=3);
        self.soon(after, eval, EvalEvent::Told(input));
    }

    /// Finds out who is wrong. If nobody is, the answers are to be written.
    fn settle(&mut self, eval: JobId, shard: u32, answers: Vec<EvalAnswer>) -> Result<(), String> {
        let undecided = !self.calm && self.rng.permille(self.plan.faults.undecided);
        let judged = if undecided { None } else { Some(self.evals[&eval].judge(shard, &answers)?) };
        self.trace.note(self.queue.now(), b'A', u64::from(shard), &eval.0, || {
            format!("relay: wrong about shard {shard} of {eval:?} are {judged:?}")
        });
        match judged {
            None => self.tell_eval(eval, EvalInput::Failed { eval, shard }),
            Some(refuted) if refuted.is_empty() => {
                if let Some(host) = &mut self.host {
                    host.writing.push(Writing { eval, shard, answers });
                }
                let (_, slow_store) = self.slowest();
                let after = self.rng.within(0..=slow_store);
                self.soon(after, eval, EvalEvent::Write { shard });
            }
            Some(refuted) => self.tell_eval(eval, EvalInput::Settled { eval, shard, refuted }),
        }
        Ok(())
    }

    fn write_answers(&mut self, eval: JobId, shard: u32) -> Result<(), String> {
        let fails = !self.calm && self.rng.permille(self.plan.faults.store_fails);
        let Some(host) = &mut self.host else { return Ok(()) };
        let of_shard = |writing: &Writing| (writing.eval, writing.shard) == (eval, shard);
        let Some(at) = host.writing.iter().position(of_shard) else { return Ok(()) };
        let writing = host.writing.remove(at);
        self.trace.note(self.queue.now(), b'q', u64::from(shard), &[u8::from(fails)], || {
            format!("store: answers to shard {shard} of {eval:?}, durable: {}", !fails)
        });
        if fails {
            self.tell_eval(eval, EvalInput::Failed { eval, shard });
        } else {
            self.keep_answers(writing)?;
            self.tell_eval(eval, EvalInput::Settled { eval, shard, refuted: Vec::new() });
        }
        Ok(())
    }

    fn keep_answers(&mut self, writing: Writing) -> Result<(), String> {
        let Writing { eval, shard, answers } = writing;
        self.watch.answers_kept(&eval, shard, &answers)?;
        self.store.keep_answers(&eval, shard, answers)
    }

    /// Kill -9: writes that were under way happened or not.
    pub(crate) fn lose_evals(&mut self) -> Result<(), String> {
        let writing = self.host.as_mut().map(|host| std::mem::take(&mut host.writing));
        for writing in writing.unwrap_or_default() {
            if self.rng.permille(500) {
                self.keep_answers(writing)?;
            }
        }
        Ok(())
    }

    /// Goes on with the evals that were under way.
    pub(crate) fn find_evals(&mut self) -> Result<(), String> {
        let open = self.store.evals.iter().filter(|(_, rows)| rows.is_open());
        for eval in open.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.add_eval(eval)?;
            let done = self.store.evals[&eval].done().len();
            let host = self.host.as_ref();
            let progress = host.and_then(|host| host.relay.eval_progress(&eval));
            let found = progress.map_or(self.evals[&eval].spec.shards.len(), |it| it.done as usize);
            if found != done {
                return Err(format!(
                    "after a restart eval {eval:?} has {progress:?}, durable are {done} shards"
                ));
            }
        }
        Ok(())
    }

    fn add_eval(&mut self, eval: JobId) -> Result<(), String> {
        let Some(rows) = self.store.evals.get(&eval).filter(|rows| rows.is_open()) else { return Ok(()) };
        let done = rows.done();
        let spec = Box::new(self.evals[&eval].spec.clone());
        self.step(Input::Eval(EvalInput::Added { spec, done }))
    }

    fn submit_eval(&mut self, eval: JobId) {
        let exam = Arc::clone(&self.evals[&eval]);
        self.store.blobs.extend(exam.blobs());
        self.store.evals.insert(eval, EvalRows::new(exam.spec.shards.len()));
        self.watch.examiner.submitted(&exam);
        self.trace.note(self.queue.now(), b'+', 2000, &eval.0, || {
            let EvalSpec { name, copies, .. } = &exam.spec;
            format!("submitter: eval {eval:?} of {name}, {copies} answers each")
        });
        let (_, slow_store) = self.slowest();
        let after = self.rng.within(0..=slow_store);
        self.soon(after, eval, EvalEvent::Add);
    }

    fn cancel_eval(&mut self, eval: JobId) -> Result<(), String> {
        let Some(rows) = self.store.evals.get_mut(&eval) else {
            // It is not submitted yet, as the relay was down.
            self.later(700, eval, EvalEvent::Cancel);
            return Ok(());
        };
        if !rows.completed {
            rows.canceled = true;
            self.trace.note(self.queue.now(), b'-', 2000, &eval.0, || format!("submitter: cancels {eval:?}"));
            self.step(Input::Eval(EvalInput::Canceled { eval }))?;
        }
        self.look_whether_done();
        Ok(())
    }
}
