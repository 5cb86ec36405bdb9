//! The engine: what the person wants, what the conditions allow, and the routing of events.

use crate::fetch::Fetching;
use crate::io::{Action, Choice, Conditions, Event, Failure, Options, RunId};
use crate::keep::Keep;
use crate::limits::{DEVICE_RETRY, MAX_FAILURES};
use crate::link::Link;
use crate::proof::{Proof, Subject};
use crate::status::Counters;
use crate::work::{Device, Stage, Work};
use potluck_mesh::{Mesh, MeshOptions, Output};
use potluck_proto::{Backend, Membership, NoWorkReason, Preset, Release, ReleaseReason};
use potluck_types::{Duration, Instant};
use std::collections::BTreeMap;

/// What the person wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Person {
    /// Has not agreed yet.
    Idle,
    /// Lends the device.
    Lending,
    /// Lends it again later.
    Paused,
    /// Stops after the shard at hand.
    Finishing,
    /// Stopped.
    Stopped,
    /// Agreed for a time that is over.
    Expired,
}

/// The volunteer's state machine.
#[derive(Debug)]
pub struct Engine {
    pub(crate) options: Options,
    pub(crate) now: Instant,
    pub(crate) person: Person,
    pub(crate) preset: Preset,
    choice: Choice,
    pub(crate) agreed_until: Instant,
    pub(crate) conditions: Conditions,
    pub(crate) ignored: Conditions,
    pub(crate) device: Device,
    failures: u32,
    pub(crate) link: Link,
    pub(crate) work: Vec<Work>,
    /// Inputs, from wherever they come.
    pub(crate) mesh: Mesh,
    /// What is fetched instead of work.
    pub(crate) fetch: Option<Fetching>,
    /// Where rounds of codec S can go on.
    pub(crate) keep: Keep,
    /// What was asked to stand in the log.
    pub(crate) proofs: BTreeMap<Subject, Proof>,
    pub(crate) no_work: Option<NoWorkReason>,
    pub(crate) ask_at: Instant,
    pub(crate) next_run: u64,
    pub(crate) counters: Counters,
    /// What others may see, if the person said so.
    pub(crate) membership: Option<Membership>,
    pub(crate) out: Vec<Action>,
}

impl Engine {
    /// An engine that nobody has started.
    pub fn new(options: Options) -> Self {
        let mesh = Mesh::new(MeshOptions {
            dice: options.jitter,
            store_bytes: options.cache_bytes,
            upload_bytes_per_s: options.upload_bytes_per_s,
            seed: options.seed,
            relay_host: options.relay_host.clone(),
        });
        Self {
            options,
            now: Instant(0),
            person: Person::Idle,
            preset: Preset::default(),
            choice: Choice::Auto,
            agreed_until: Instant(0),
            conditions: Conditions::default(),
            ignored: Conditions::default(),
            device: Device::Unknown,
            failures: 0,
            link: Link::Down { failures: 0, retry_at: Instant(0) },
            work: Vec::new(),
            mesh,
            fetch: None,
            keep: Keep::default(),
            proofs: BTreeMap::new(),
            no_work: None,
            ask_at: Instant(0),
            next_run: 1,
            counters: Counters::default(),
            membership: None,
            out: Vec::new(),
        }
    }

    /// Takes in what happened and says what is to be done, in order. Time that runs backwards stands still.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        if matches!(self.person, Person::Lending | Person::Finishing) {
            self.counters.lending_ms += now.since(self.now).0;
        }
        self.now = self.now.max(now);
        self.mesh.set_now(self.now);
        let could_work = self.may_work();
        match event {
            Event::Start { preset, choice, valid_for } => self.start(preset, choice, valid_for),
            Event::Fetch { blob, valid_for } => self.start_fetch(blob, valid_for),
            Event::Pause if self.person == Person::Lending => self.person = Person::Paused,
            Event::Resume if self.person == Person::Paused => self.person = Person::Lending,
            Event::Finish => self.finish(),
            Event::Stop => self.stop(Person::Stopped),
            Event::SetPreset(preset) => self.preset = preset,
            Event::Conditions(conditions) => self.conditions = conditions,
            Event::Ignore(ignored) => self.ignored = ignored,
            Event::Calibrated { backend, mflops } => {
                if let Device::Measuring(choice) = self.device {
                    // Another choice meanwhile: what was measured is not what the person wants.
                    let wanted = choice == self.choice;
                    self.device = if wanted { Device::Ready { backend, mflops } } else { Device::Unknown };
                }
            }
            Event::CalibrationFailed => match self.device {
                Device::Measuring(choice) if choice != self.choice => self.device = Device::Unknown,
                Device::Measuring(_) => self.device_failed(false),
                _ => {}
            },
            Event::Connected => self.connected(),
            Event::Frame(frame) => self.frame(&frame),
            Event::Disconnected => self.disconnected(),
            Event::Moved { relay_host } => self.moved(relay_host),
            Event::KernelProgress { run, steps } => self.progressed(run, steps),
            Event::RunsOn { run, backend } => self.runs_on(run, backend),
            Event::KernelDone { run, result, busy, kept } => self.kernel_done(run, result, busy, kept),
            Event::Spent(busy) => self.counters.busy_ms += busy.0,
            Event::KernelFailed { run, failure } => self.kernel_failed(run, failure),
            Event::Peers(wanted) => self.mesh.want_peers(wanted),
            Event::Membership(membership) => self.membership(membership),
            Event::Link(event) => self.mesh.event(event),
            Event::Stored(bytes) => self.mesh.stored(bytes),
            Event::Proven { subject, outcome } => self.proven(subject, outcome),
            Event::Pause | Event::Resume | Event::Tick => {}
        }
        if self.now >= self.agreed_until
            && matches!(self.person, Person::Lending | Person::Finishing | Person::Paused)
        {
            self.stop(Person::Expired);
        }
        if could_work && !self.may_work() {
            self.withdraw();
        }
        self.advance();
        self.advance_mesh();
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is due, if nothing else happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let mut wake = [self.link_wake(), self.mesh.next_wake()].into_iter().flatten().min();
        let mut consider = |at: Instant| wake = Some(wake.map_or(at, |wake: Instant| wake.min(at)));
        if matches!(self.person, Person::Lending | Person::Finishing | Person::Paused) {
            consider(self.agreed_until);
        }
        if let Device::Failed { retry_at } = self.device
            && self.may_work()
        {
            consider(retry_at);
        }
        self.work.iter().for_each(|work| consider(work.until));
        // A time that has passed is due at the next millisecond: the step that let it pass could not act on it.
        wake.map(|at| at.max(self.now + Duration(1)))
    }

    fn start(&mut self, preset: Preset, choice: Choice, valid_for: Duration) {
        if self.fetch.is_some() {
            // Consent to lend is another one.
            self.withdraw();
            self.end_fetch();
        }
        self.agreed_until = self.now + valid_for;
        self.preset = preset;
        if choice != self.choice || matches!(self.device, Device::None) {
            self.choice = choice;
            self.failures = 0;
            // Devices are measured one after the other: an answer says not whose it is.
            if !matches!(self.device, Device::Measuring(_)) {
                self.device = Device::Unknown;
            }
        }
        if let Link::Refused(_) = self.link {
            self.link = Link::Down { failures: 0, retry_at: self.now };
        }
        self.person = Person::Lending;
    }

    /// Completes the shard at hand, gives the others back.
    fn finish(&mut self) {
        match self.person {
            Person::Lending => self.person = Person::Finishing,
            Person::Paused => return self.stop(Person::Stopped),
            _ => return,
        }
        let first = self.work.iter().position(|work| matches!(work.stage, Stage::Running { .. }));
        let first = first
            .or_else(|| self.work.iter().position(|work| !matches!(work.stage, Stage::Committed { .. })));
        let kept = first.map(|first| self.work[first].lease);
        let others: Vec<_> = self
            .work
            .iter()
            .filter(|work| Some(work.lease) != kept && !matches!(work.stage, Stage::Committed { .. }))
            .map(|work| work.lease)
            .collect();
        for lease in others {
            self.drop_work(lease);
            self.send(Release { lease, reason: ReleaseReason::Withdrawn });
        }
    }

    /// Ends everything at once. The consent rests on the session, which ends with the connection.
    pub(crate) fn stop(&mut self, person: Person) {
        self.person = person;
        self.drop_all_work();
        self.end_fetch();
        self.mesh.withdrawn();
        self.keep = Keep::default();
        self.hang_up();
        self.mesh.relay_down();
        self.link = Link::Down { failures: 0, retry_at: self.now };
    }

    /// Whether the person and the conditions allow work or a fetch, and there may be something to work with.
    pub(crate) fn may_work(&self) -> bool {
        matches!(self.person, Person::Lending | Person::Finishing)
            && (self.fetch.is_some() || !matches!(self.device, Device::None))
            && self.conditions.except(self.ignored) == Conditions::default()
    }

    /// Does whatever is due: measure, connect, agree, ask, fetch, run.
    fn advance(&mut self) {
        self.expire_work();
        if self.person == Person::Finishing && self.work.is_empty() {
            self.stop(Person::Stopped);
        }
        if self.may_work() {
            if let Device::Failed { retry_at } = self.device
                && retry_at <= self.now
            {
                self.device = Device::Unknown;
            }
            if matches!(self.device, Device::Unknown) && self.fetch.is_none() {
                self.device = Device::Measuring(self.choice);
                self.out.push(Action::Calibrate(self.choice));
            }
        }
        self.advance_link();
        if self.may_work() {
            self.run_next();
        }
    }

    /// Does what is due for inputs and peers; with the last input a kernel can start.
    fn advance_mesh(&mut self) {
        loop {
            let outputs = self.mesh.advance();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Relay(message) => self.send(message),
                    Output::Link(action) => self.out.push(Action::Link(action)),
                    Output::Done(hash, bytes) => {
                        self.fetch_ended(&hash, Some(&bytes));
                        self.input_arrived(&hash, &bytes);
                    }
                    Output::Failed(hash) => {
                        self.fetch_ended(&hash, None);
                        self.input_missing(&hash);
                    }
                    Output::Stored(hash, bytes) => self.out.push(Action::Store(hash, bytes)),
                    Output::Left(hash) => self.out.push(Action::Unstore(hash)),
                }
            }
            if self.may_work() {
                self.run_next();
            }
        }
    }

    fn kernel_failed(&mut self, run: RunId, failure: Failure) {
        let Some((lease, _)) = self.running(run) else { return };
        self.drop_work_quietly(lease);
        let reason = match failure {
            Failure::Unsupported | Failure::BadTask => ReleaseReason::Unsupported,
            Failure::DeviceLost | Failure::OutOfMemory => ReleaseReason::DeviceFailed,
        };
        self.send(Release { lease, reason });
        // A relay's bad tasks must not cost a person the device.
        if failure != Failure::BadTask {
            self.run_failed(failure == Failure::Unsupported);
        }
    }

    /// A kernel failed: that of the device at hand, unless another one was chosen meanwhile.
    pub(crate) fn run_failed(&mut self, still_there: bool) {
        if matches!(self.device, Device::Ready { .. }) {
            self.device_failed(still_there);
        }
    }

    /// Backs off, then falls back to the CPU, then gives up: never loops on a broken device.
    fn device_failed(&mut self, still_there: bool) {
        self.failures += 1;
        let on_gpu = match self.device {
            Device::Ready { backend, .. } => matches!(backend, Backend::WebGpu | Backend::NativeGpu),
            _ => self.choice != Choice::Cpu,
        };
        if self.failures >= MAX_FAILURES {
            self.failures = 0;
            if on_gpu {
                self.choice = Choice::Cpu;
                self.device = Device::Unknown;
            } else {
                self.device = Device::None;
            }
        } else if !still_there {
            let wait = Duration(DEVICE_RETRY.0 << self.failures);
            self.device = Device::Failed { retry_at: self.now + wait };
        }
    }

    pub(crate) const fn device_works(&mut self) {
        self.failures = 0;
    }
}
