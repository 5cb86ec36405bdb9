//! A volunteer as people have it: the real engine, a simulated device, a person, a tab.
//!
//! The driver carries out the engine's actions and holds it to its own promises: nothing connects before the
//! person agreed, nothing is sent after Stop, one kernel runs at a time, the cache stays within its bound.

use crate::act::{Act, Failure as Broken};
use crate::driver::PersonEvent;
use crate::eval::drift;
use crate::plan::{Defect, Device, Nature, PlannedVolunteer};
use crate::product::multiply;
use crate::rng::Rng;
use crate::run::work;
use potluck_proto::{Backend, EvalTask, MatmulTask, Membership, Preset, TrainTask};
use potluck_train::streak::Streak;
use potluck_types::{Duration, Instant, VolunteerId, VolunteerKey};
use potluck_volunteer::eval;
use potluck_volunteer::{
    Action, Choice, Conditions, DEFAULT_CACHE_BYTES, DEFAULT_MEMORY_BYTES, Engine, Event, Failure, Options,
    Run, RunId, State, TrainInputs, Workload, train,
};
use std::sync::Arc;

/// Tags of wakes.
const TICK: u64 = 1;
const CALIBRATED: u64 = 2;
/// Ticks of the engine's timer in one simulated second: one for each lease, ping and retry is plenty.
const MAX_TICKS_PER_SECOND: u32 = 100;

/// A volunteer with the real engine.
#[derive(Debug)]
pub(crate) struct Honest {
    engine: Engine,
    rng: Rng,
    key: VolunteerKey,
    device: Device,
    defect: Option<Defect>,
    consent_ms: u64,
    small: bool,
    cache_bytes: u64,
    choice: Choice,
    /// The kernel that runs, and one that was canceled but whose end is still on its way.
    running: Option<RunId>,
    /// What a kernel that is done keeps for its streak.
    keeps: Option<(RunId, Arc<Streak>)>,
    armed: Option<u64>,
    second: u64,
    ticks: u32,
    /// The person agreed and did not stop since.
    agreed: bool,
    open: bool,
    wrong: Option<String>,
}

impl Honest {
    pub(crate) fn new(planned: &PlannedVolunteer, mut rng: Rng) -> Self {
        let key = VolunteerKey(rng.bytes());
        let small = !planned.stays && rng.permille(250);
        let cache_bytes = if rng.permille(300) { rng.within(0..=40_000) } else { DEFAULT_CACHE_BYTES };
        Self {
            engine: Engine::new(options(key.clone(), small, cache_bytes, &mut rng)),
            key,
            device: planned.device,
            defect: match planned.nature {
                Nature::Broken(defect) => Some(defect),
                _ => None,
            },
            consent_ms: planned.consent_ms,
            small,
            cache_bytes,
            choice: rng.pick(&[Choice::Auto, Choice::Gpu, Choice::Cpu]).unwrap_or_default(),
            running: None,
            keeps: None,
            armed: None,
            second: 0,
            ticks: 0,
            agreed: false,
            open: false,
            wrong: None,
            rng,
        }
    }

    pub(crate) fn id(&self) -> VolunteerId {
        self.key.id()
    }

    /// The tab opens and its person agrees.
    pub(crate) fn start(&mut self, now: u64) -> Vec<Act> {
        self.agree(now, self.consent_ms)
    }

    /// The tab is gone; the next one has the same key, or a new one.
    pub(crate) fn killed(&mut self, new_name: bool) {
        if new_name {
            self.key = VolunteerKey(self.rng.bytes());
        }
        self.engine = Engine::new(options(self.key.clone(), self.small, self.cache_bytes, &mut self.rng));
        (self.running, self.armed, self.agreed, self.open) = (None, None, false, false);
    }

    pub(crate) fn opened(&mut self, now: u64) -> Vec<Act> {
        self.open = true;
        self.step(now, Event::Connected)
    }

    pub(crate) fn closed(&mut self, now: u64) -> Vec<Act> {
        self.open = false;
        self.step(now, Event::Disconnected)
    }

    pub(crate) fn frame(&mut self, now: u64, frame: &[u8]) -> Vec<Act> {
        self.step(now, Event::Frame(frame.to_vec()))
    }

    pub(crate) fn woken(&mut self, now: u64, tag: u64) -> Vec<Act> {
        if tag == CALIBRATED { self.calibrated(now) } else { self.tick(now) }
    }

    fn calibrated(&mut self, now: u64) -> Vec<Act> {
        let backend = match self.choice {
            Choice::Gpu => Backend::WebGpu,
            Choice::Cpu => Backend::WasmSimd,
            Choice::Auto => self.rng.pick(&[Backend::WebGpu, Backend::WasmSimd]).unwrap_or(Backend::WasmSimd),
        };
        let mflops = (self.device.flops_per_ms * self.device.claims_times / 1000).max(1) as u32;
        self.step(now, Event::Calibrated { backend, mflops })
    }

    fn tick(&mut self, now: u64) -> Vec<Act> {
        self.armed = self.armed.filter(|at| *at > now);
        if self.engine.next_wake().is_none_or(|wake| wake.0 > now) {
            return self.arm(now);
        }
        if self.second != now / 1000 {
            (self.second, self.ticks) = (now / 1000, 0);
        }
        self.ticks += 1;
        if self.ticks > MAX_TICKS_PER_SECOND {
            self.accuse(format!("event storm: the engine's timer fires {} times in a second", self.ticks));
        }
        let acts = self.step(now, Event::Tick);
        if let Some(wake) = self.engine.next_wake().filter(|wake| wake.0 <= now) {
            self.accuse(format!("the engine's timer does not advance: due at {} ms after a tick", wake.0));
        }
        acts
    }

    pub(crate) fn computed(&mut self, now: u64, run: u64, result: Result<Vec<u8>, Broken>) -> Vec<Act> {
        let run = RunId(run);
        if self.running == Some(run) {
            self.running = None;
        } else if self.rng.permille(500) {
            // Canceled: its end may still arrive, or not.
            return Vec::new();
        }
        match result {
            Ok(result) => {
                let busy = Duration(self.rng.within(1..=50));
                let kept = self.keeps.take_if(|(of, _)| *of == run).map(|(_, kept)| kept);
                self.step(now, Event::KernelDone { run, result, busy, kept })
            }
            Err(broken) => {
                let failure = match broken {
                    Broken::DeviceLost => Failure::DeviceLost,
                    Broken::OutOfMemory => Failure::OutOfMemory,
                    Broken::BadTask => Failure::BadTask,
                };
                self.step(now, Event::KernelFailed { run, failure })
            }
        }
    }

    pub(crate) fn person(&mut self, now: u64, does: PersonEvent) -> Vec<Act> {
        let hidden = |hidden| Event::Conditions(Conditions { hidden, ..Conditions::default() });
        match does {
            PersonEvent::Pause => self.step(now, Event::Pause),
            PersonEvent::Resume => self.step(now, Event::Resume),
            PersonEvent::Finish => self.step(now, Event::Finish),
            PersonEvent::Stop => self.stop(now),
            PersonEvent::Preset => {
                let preset = self.preset();
                let mut acts = self.step(now, Event::SetPreset(preset));
                // Who changes the one thing changes the other as well.
                let team = if preset == Preset::Full { String::new() } else { format!("{preset:?}") };
                let listed = preset == Preset::Quiet;
                acts.extend(self.step(now, Event::Membership(Membership { team, listed })));
                acts
            }
            PersonEvent::Hide => self.step(now, hidden(true)),
            PersonEvent::Show => self.step(now, hidden(false)),
            PersonEvent::Return => {
                let mut acts = self.step(now, hidden(false));
                match self.engine.state() {
                    State::Idle | State::Stopped | State::ConsentExpired => {
                        acts.extend(self.agree(now, self.consent_ms));
                    }
                    State::Paused => acts.extend(self.step(now, Event::Resume)),
                    _ => {}
                }
                acts
            }
            PersonEvent::Renew => {
                let mut acts = self.stop(now);
                acts.extend(self.step(now, hidden(false)));
                acts.extend(self.agree(now, 24 * 3_600_000));
                acts
            }
        }
    }

    /// Whether nothing may be sent.
    pub(crate) fn has_stopped(&self) -> bool {
        !self.agreed
    }

    /// What the engine did that it promised not to do.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        let cached = self.engine.status().cache_bytes;
        if cached > self.cache_bytes {
            return Err(format!(
                "the engine keeps {cached} bytes of inputs, allowed are {}",
                self.cache_bytes
            ));
        }
        self.wrong.take().map_or(Ok(()), Err)
    }

    fn preset(&mut self) -> Preset {
        self.rng.pick(&[Preset::Quiet, Preset::Balanced, Preset::Full]).unwrap_or_default()
    }

    fn agree(&mut self, now: u64, for_ms: u64) -> Vec<Act> {
        self.agreed = true;
        let (preset, choice) = (self.preset(), self.choice);
        self.step(now, Event::Start { preset, choice, valid_for: Duration(for_ms) })
    }

    fn stop(&mut self, now: u64) -> Vec<Act> {
        self.agreed = false;
        let acts = self.step(now, Event::Stop);
        if self.running.is_some() {
            self.accuse("a kernel runs on after Stop".into());
        }
        if self.open {
            self.accuse("the connection stays open after Stop".into());
        }
        acts
    }

    fn accuse(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    fn step(&mut self, now: u64, event: Event) -> Vec<Act> {
        let mut acts = Vec::new();
        for action in self.engine.step(Instant(now), event) {
            match action {
                Action::Connect => {
                    if !self.agreed {
                        self.accuse("the engine connects without the person's consent".into());
                    }
                    acts.push(Act::Connect);
                }
                Action::Disconnect => {
                    self.open = false;
                    acts.push(Act::Close);
                }
                Action::Send(frame) => {
                    if !self.open {
                        self.accuse("the engine sends without a connection".into());
                    }
                    acts.push(Act::Send(frame));
                }
                Action::Calibrate(_) => {
                    let after_ms = self.rng.within(50..=800);
                    acts.push(Act::Wake { after_ms, tag: CALIBRATED });
                }
                Action::Run(run) => acts.push(self.run(&run)),
                Action::Link(_) | Action::Store(..) | Action::Unstore(_) | Action::Fetched(..) => {}
                Action::Prove { subject, .. } => {
                    self.accuse(format!("it demands proof of {subject:?}, which it was not to"));
                }
                Action::Cancel(run) => self.running = self.running.filter(|running| *running != run),
            }
        }
        acts.extend(self.arm(now));
        acts
    }

    fn run(&mut self, run: &Run) -> Act {
        if let Some(running) = self.running.replace(run.id) {
            self.accuse(format!("run {:?} starts while {running:?} runs", run.id));
        }
        if !self.agreed {
            self.accuse("a kernel starts without the person's consent".into());
        }
        let flops = match &run.work {
            Workload::Matmul { task, .. } => {
                2 * u64::from(task.rows) * u64::from(task.cols) * u64::from(task.depth)
            }
            Workload::Train { task, .. } => train::Plan::of(task).map_or(0, |plan| plan.flops()),
            Workload::Eval { task, .. } => task.flops,
        };
        let busy_ms = flops as f64 / self.device.flops_per_ms as f64;
        let hiccup_ms = if self.rng.permille(250) { self.device.hiccup_ms } else { 0 };
        let after_ms = (busy_ms / run.share.max(0.01)) as u64 + self.rng.within(0..=hiccup_ms);
        let fails = self.rng.permille(300);
        let result = match self.defect {
            Some(Defect::Lost) if fails => Err(Broken::DeviceLost),
            Some(Defect::OutOfMemory) if fails => Err(Broken::OutOfMemory),
            defect => match &run.work {
                Workload::Matmul { task, a, bt } => Ok(self.tile(task, a, bt)),
                Workload::Train { task, inputs } => self.update(run.id, task, inputs.clone()),
                Workload::Eval { task, parameters, items } => self.answers(task, parameters, items),
            }
            .map(|right| if defect == Some(Defect::Zeros) { vec![0; right.len()] } else { right }),
        };
        Act::Compute { after_ms: after_ms.max(1), run: run.id.0, result }
    }

    fn tile(&self, task: &MatmulTask, a: &[Arc<Vec<u8>>], bt: &[Arc<Vec<u8>>]) -> Vec<u8> {
        let stack = |panels: &[Arc<Vec<u8>>]| -> Vec<u8> {
            panels.iter().flat_map(|panel| panel.iter().copied()).collect()
        };
        multiply(task, &stack(a), &stack(bt), self.device.order)
    }

    fn update(&mut self, run: RunId, task: &TrainTask, inputs: TrainInputs) -> Result<Vec<u8>, Broken> {
        let mut drift = self.device.drifts.then(|| self.rng.fork());
        let done = work(task, inputs, drift.as_mut()).map_err(|error| {
            self.accuse(format!("a part of round {} cannot be done: {error}", task.round));
            Broken::BadTask
        })?;
        self.keeps = done.kept.map(|kept| (run, kept));
        Ok(done.result)
    }

    fn answers(&mut self, task: &EvalTask, parameters: &[u8], items: &[u8]) -> Result<Vec<u8>, Broken> {
        let answers = eval::prepare(task, parameters, items).and_then(eval::Evaluation::run);
        let mut answers = answers.map_err(|error| {
            self.accuse(format!("a shard of an eval cannot be done: {error}"));
            Broken::BadTask
        })?;
        if self.device.drifts {
            drift(task, items, &mut answers, &mut self.rng);
        }
        Ok(answers)
    }

    fn arm(&mut self, now: u64) -> Vec<Act> {
        match self.engine.next_wake() {
            Some(Instant(at)) if self.armed.is_none_or(|armed| at < armed) => {
                self.armed = Some(at.max(now));
                vec![Act::Wake { after_ms: at.saturating_sub(now), tag: TICK }]
            }
            _ => Vec::new(),
        }
    }
}

fn options(key: VolunteerKey, small: bool, cache_bytes: u64, rng: &mut Rng) -> Options {
    Options {
        key,
        agent: "potluck-sim".into(),
        origin: "https://example.org".into(),
        text_version: 1,
        memory_bytes: if small { 20_000 } else { DEFAULT_MEMORY_BYTES },
        cache_bytes,
        jitter: rng.bits(),
        relay_host: String::new(),
        upload_bytes_per_s: None,
        demand_proof: false,
        seed: false,
    }
}
