//! What a seed means: its jobs, its volunteers, its faults. Everything is drawn before the first event.
//!
//! Each kind of fault is left out of many seeds altogether, so that faults do not always hide each other.

use crate::liar::{TRICKS, Trick};
use crate::link::Quality;
use crate::product::Order;
use crate::rng::Rng;
use potluck_proto::UpdateCodec;
use potluck_schedule::AuditPolicy;
use potluck_types::{DType, MatmulShape};

/// A job and when it comes.
#[derive(Debug, Clone)]
pub struct PlannedJob {
    /// Its shape.
    pub shape: MatmulShape,
    /// Its element type.
    pub dtype: DType,
    /// When it is submitted, in milliseconds.
    pub submit_at: u64,
    /// When it is canceled, in milliseconds.
    pub cancel_at: Option<u64>,
}

/// A training run and when it comes.
#[derive(Debug, Clone, Copy)]
pub struct PlannedRun {
    /// Rounds in all.
    pub rounds: u64,
    /// Workers of a round at most.
    pub max_workers: u32,
    /// How often updates are replayed.
    pub audit: AuditPolicy,
    /// How updates are encoded.
    pub codec: UpdateCodec,
    /// Whether credible volunteers send codec S.
    pub sparse: bool,
    /// Whether the model has biases.
    pub bias: bool,
    /// When it is submitted, in milliseconds.
    pub submit_at: u64,
    /// When it is canceled, in milliseconds.
    pub cancel_at: Option<u64>,
    /// When it is paused, and for how long, in milliseconds.
    pub pauses: [Option<(u64, u64)>; 2],
}

/// An eval and when it comes.
#[derive(Debug, Clone, Copy)]
pub struct PlannedEval {
    /// Its shards.
    pub shards: u32,
    /// Volunteers that answer each.
    pub copies: u32,
    /// When it is submitted, in milliseconds.
    pub submit_at: u64,
    /// When it is canceled, in milliseconds.
    pub cancel_at: Option<u64>,
}

/// Every update is replayed.
pub const AUDIT_ALL: AuditPolicy =
    AuditPolicy { first: u32::MAX, rate: 500_000, decay: 800_000, least: 50_000 };
/// No update is replayed because its number was drawn.
pub const AUDIT_NONE: AuditPolicy = AuditPolicy { first: 0, rate: 0, decay: 800_000, least: 0 };

/// What a device that runs the honest engine does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Its results are all zero, and no error is raised.
    Zeros,
    /// It is lost now and then.
    Lost,
    /// It runs out of memory now and then.
    OutOfMemory,
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// The real engine and a kernel that is right.
    Honest,
    /// The real engine on a broken device.
    Broken(Defect),
    /// No engine at all.
    Liar(Trick),
}

/// A simulated kernel.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    /// In which order it sums.
    pub order: Order,
    /// Floating-point operations per millisecond.
    pub flops_per_ms: u64,
    /// How many times faster the calibration finds it than it then is (a device that throttles).
    pub claims_times: u64,
    /// On top of one kernel in four, up to this, in milliseconds.
    pub hiccup_ms: u64,
    /// Its training rounds otherwise than the relay's CPU, within the tolerance.
    pub drifts: bool,
}

/// A volunteer.
#[derive(Debug, Clone, Copy)]
pub struct PlannedVolunteer {
    /// Who.
    pub nature: Nature,
    /// Once the faults stop its person agrees for a day: it and others that stay must be able to complete everything.
    pub stays: bool,
    /// When it appears, in milliseconds.
    pub start_at: u64,
    /// Its links.
    pub quality: Quality,
    /// Its device.
    pub device: Device,
    /// Its person does things about this often, in milliseconds; 0 means never.
    pub person_every_ms: u64,
    /// It is killed about this often, in milliseconds; 0 means never.
    pub killed_every_ms: u64,
    /// For how long its person agrees, in milliseconds.
    pub consent_ms: u64,
}

/// Faults of relay, store and links.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Times of a kill -9 and spans without a relay, in milliseconds.
    pub crashes: Vec<(u64, u64)>,
    /// The relay says goodbye before it stops, in a thousand.
    pub polite: u64,
    /// A group commit fails, in a thousand.
    pub store_fails: u64,
    /// A check cannot be made, in a thousand.
    pub undecided: u64,
    /// A panel cannot be read, in a thousand.
    pub unreadable: u64,
    /// A link is in trouble about this often, in milliseconds; 0 means never.
    pub trouble_every_ms: u64,
    /// Longest check, in milliseconds.
    pub slow_check_ms: u64,
    /// Longest wait for a group commit, in milliseconds.
    pub slow_store_ms: u64,
}

/// Everything that a seed says.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Jobs.
    pub jobs: Vec<PlannedJob>,
    /// Training runs.
    pub runs: Vec<PlannedRun>,
    /// Evals.
    pub evals: Vec<PlannedEval>,
    /// Volunteers; the first is honest and stays.
    pub volunteers: Vec<PlannedVolunteer>,
    /// Faults, until the safety phase ends.
    pub faults: Faults,
    /// Length of the safety phase, in milliseconds.
    pub safety_ms: u64,
}

/// Multiplications and additions of all jobs of one seed: what keeps a seed near 20 ms.
const FLOPS_PER_SEED: u64 = 8_000_000;

/// Bytes per millisecond that the scheduler's deadlines allow for: 2 Mbit/s.
pub const DEADLINE_RATE: u64 = 250;

impl Plan {
    /// Reads a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let safety_ms = rng.within(15_000..=60_000);
        let jobs = draw_jobs(rng, safety_ms);
        let faults = draw_faults(rng, safety_ms);
        let (churn, persons) = (rng.permille(600), rng.permille(600));
        let liars = if rng.permille(750) { rng.within(1..=4) } else { 0 };
        let mut volunteers = Vec::new();
        for i in 0..rng.within(1..=7) {
            let nature = match rng.within(0..=9) {
                0 if i > 0 => Nature::Broken(Defect::Zeros),
                1 if i > 0 => Nature::Broken(Defect::Lost),
                2 if i > 0 => Nature::Broken(Defect::OutOfMemory),
                _ => Nature::Honest,
            };
            volunteers.push(draw_volunteer(rng, nature, safety_ms, churn, persons));
        }
        for _ in 0..liars {
            let nature = Nature::Liar(rng.pick(&TRICKS).unwrap_or(Trick::Zeros));
            volunteers.push(draw_volunteer(rng, nature, safety_ms, churn, false));
        }
        // A stream of its own: the rest of the seed is the same with and without runs and evals.
        let mut aside = rng.clone().fork();
        let runs = draw_runs(&mut aside, safety_ms);
        for volunteer in &mut volunteers {
            volunteer.device.drifts = aside.permille(500);
        }
        let honest = volunteers.iter_mut().filter(|volunteer| volunteer.nature == Nature::Honest);
        let mut honest: Vec<_> = honest.collect();
        let evals = draw_evals(&mut aside, safety_ms, honest.len() as u32);
        // Each answer to a shard comes from somebody else.
        let needed = evals.iter().map(|eval| eval.copies).max().unwrap_or(1);
        for volunteer in honest.iter_mut().take(needed as usize) {
            volunteer.stays = true;
            // Who must be able to complete everything has the link that deadlines allow for.
            volunteer.quality.rate = volunteer.quality.rate.max(DEADLINE_RATE);
        }
        Self { jobs, runs, evals, volunteers, faults, safety_ms }
    }
}

fn draw_jobs(rng: &mut Rng, safety_ms: u64) -> Vec<PlannedJob> {
    let mut budget = FLOPS_PER_SEED;
    let mut jobs = Vec::new();
    // One seed in sixty has a product so deep that K is split and panels take several chunks.
    let deep = rng.permille(16);
    for i in 0..rng.within(1..=6) {
        let dtype = if rng.permille(500) { DType::F32 } else { DType::Int8 };
        let side = |rng: &mut Rng| {
            let longest = rng.pick(&[8, 40, 100, 200]).unwrap_or(100);
            rng.within(1..=longest) as u32
        };
        let mut shape = MatmulShape { m: side(rng), k: rng.within(1..=90) as u32, n: side(rng) };
        if deep && i == 0 {
            shape = MatmulShape { m: rng.within(1..=34) as u32, k: 8193 + rng.within(0..=900) as u32, n: 5 };
        }
        if shape.flops() > budget && i > 0 {
            continue;
        }
        budget = budget.saturating_sub(shape.flops());
        let submit_at = if i == 0 { rng.within(0..=2_000) } else { rng.within(0..=safety_ms - 1_000) };
        let cancel_at = rng.permille(150).then(|| submit_at + rng.within(0..=10_000));
        jobs.push(PlannedJob { shape, dtype, submit_at, cancel_at: cancel_at.filter(|at| *at < safety_ms) });
    }
    jobs
}

/// Three seeds in ten have a run, one in twenty has two.
fn draw_runs(rng: &mut Rng, safety_ms: u64) -> Vec<PlannedRun> {
    let count = match rng.within(0..=99) {
        0..5 => 2,
        5..30 => 1,
        _ => 0,
    };
    let draw = |_| {
        let submit_at = rng.within(0..=safety_ms / 3);
        let until = rng.within(0..=20_000);
        let mut pause = || {
            let at = submit_at + rng.within(0..=15_000);
            rng.permille(250).then(|| (at, rng.within(1..=10_000)))
        };
        let pauses = [pause(), pause()];
        PlannedRun {
            // Now and then long enough for streaks to end.
            rounds: if rng.permille(200) { rng.within(6..=12) } else { rng.within(2..=5) },
            max_workers: rng.within(2..=4) as u32,
            audit: rng.pick(&[AUDIT_ALL, AuditPolicy::default(), AUDIT_NONE]).unwrap_or(AUDIT_ALL),
            codec: rng
                .pick(&[
                    UpdateCodec::F32,
                    UpdateCodec::F16,
                    UpdateCodec::Int8,
                    UpdateCodec::Int4,
                    UpdateCodec::TopK,
                    UpdateCodec::TopK,
                ])
                .unwrap_or(UpdateCodec::F32),
            sparse: false,
            bias: rng.permille(300),
            submit_at,
            cancel_at: rng.permille(100).then_some(submit_at + until).filter(|at| *at < safety_ms),
            pauses: pauses.map(|pause| pause.filter(|(at, _)| *at < safety_ms)),
        }
    };
    let mut runs: Vec<_> = (0..count).map(draw).collect();
    for run in &mut runs {
        // In a run of codec S everybody sends it already.
        run.sparse = run.codec != UpdateCodec::TopK && rng.permille(500);
    }
    runs
}

/// A quarter of the seeds has an eval, one in twenty has two.
fn draw_evals(rng: &mut Rng, safety_ms: u64, honest: u32) -> Vec<PlannedEval> {
    let count = match rng.within(0..=99) {
        0..5 => 2,
        5..30 => 1,
        _ => 0,
    };
    let draw = |_| {
        let submit_at = rng.within(0..=safety_ms - 1_000);
        let until = rng.within(0..=10_000);
        PlannedEval {
            shards: rng.within(1..=4) as u32,
            copies: rng.pick(&[1, 2, 2, 3]).unwrap_or(2).min(honest),
            submit_at,
            cancel_at: rng.permille(100).then_some(submit_at + until).filter(|at| *at < safety_ms),
        }
    };
    (0..count).map(draw).collect()
}

fn draw_faults(rng: &mut Rng, safety_ms: u64) -> Faults {
    let mut faults = Faults { slow_check_ms: 20, slow_store_ms: 10, ..Faults::default() };
    if rng.permille(600) {
        let mut at = 0;
        for _ in 0..rng.within(1..=5) {
            at += rng.within(200..=safety_ms / 2);
            let down = rng.within(1..=4_000);
            if at + down + 100 < safety_ms {
                faults.crashes.push((at, down));
            }
            at += down;
        }
        faults.polite = rng.pick(&[0, 300]).unwrap_or(0);
    }
    if rng.permille(400) {
        faults.store_fails = rng.within(10..=300);
    }
    if rng.permille(300) {
        faults.undecided = rng.within(10..=200);
    }
    if rng.permille(300) {
        faults.unreadable = rng.within(5..=100);
    }
    if rng.permille(600) {
        faults.trouble_every_ms = rng.within(300..=8_000);
    }
    if rng.permille(250) {
        faults.slow_check_ms = rng.within(100..=4_000);
    }
    if rng.permille(250) {
        faults.slow_store_ms = rng.within(50..=2_000);
    }
    faults
}

fn draw_volunteer(
    rng: &mut Rng,
    nature: Nature,
    safety_ms: u64,
    churn: bool,
    persons: bool,
) -> PlannedVolunteer {
    let quality = Quality {
        delay_ms: rng.pick(&[0, 5, 40, 150, 400]).unwrap_or(40),
        jitter_ms: rng.pick(&[0, 3, 60, 300]).unwrap_or(3),
        rate: rng.pick(&[30, 250, 2_500, 100_000]).unwrap_or(2_500),
    };
    let orders = [Order::Forward, Order::Backward, Order::Blocks, Order::Lanes];
    let device = Device {
        order: rng.pick(&orders).unwrap_or(Order::Forward),
        flops_per_ms: rng.pick(&[4_000, 20_000, 100_000, 1_000_000]).unwrap_or(4_000),
        claims_times: rng.pick(&[1, 1, 1, 50]).unwrap_or(1),
        hiccup_ms: rng.pick(&[0, 20, 500, 15_000]).unwrap_or(0),
        drifts: false,
    };
    PlannedVolunteer {
        nature,
        stays: false,
        start_at: rng.pick(&[1_000, safety_ms / 2]).map_or(0, |latest| rng.within(0..=latest)),
        quality,
        device,
        person_every_ms: if persons && rng.permille(600) { rng.within(500..=15_000) } else { 0 },
        killed_every_ms: if churn && rng.permille(600) { rng.within(2_000..=30_000) } else { 0 },
        consent_ms: if rng.permille(250) { rng.within(500..=20_000) } else { 3_600_000 },
    }
}
