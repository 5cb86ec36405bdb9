//! `potluck-sim`: replays one seed, or runs many.

use potluck_sim::capacity::{MEASURED, NODE, WAITING, first, kept_a_day, most_tabs, product, training};
use potluck_sim::{Options, RunOutcome, run};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Runs the relay's and the volunteers' real state machines against simulated links, crashes and liars.

Usage: potluck-sim --seed N [--trace]            replays one seed, with every event if asked
       potluck-sim --seeds N [--from K] [--json] runs N seeds from K (default 0)
       potluck-sim --capacity                    what one relay holds, and which part gives first

Exits with 1 if an invariant is violated, with 2 if the arguments are not understood.";

/// Two thousand seeds take less than two minutes on one core.
const GOAL_MS_PER_SEED: f64 = 60.0;
/// How many failing seeds are printed.
const MAX_PRINTED: usize = 20;

struct Arguments {
    seed: Option<u64>,
    seeds: u64,
    from: u64,
    trace: bool,
    json: bool,
    capacity: bool,
}

fn main() -> ExitCode {
    match read(std::env::args().skip(1)) {
        Ok(None) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Some(arguments)) if arguments.capacity => plan_capacity(),
        Ok(Some(arguments)) => match arguments.seed {
            Some(seed) => replay(seed, arguments.trace),
            None => many(&arguments),
        },
        Err(what) => {
            eprintln!("error: {what}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn read(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments =
        Arguments { seed: None, seeds: 200, from: 0, trace: false, json: false, capacity: false };
    let number = |word: Option<String>, of: &str| {
        let word = word.ok_or(format!("{of} needs a number"))?;
        word.parse::<u64>().map_err(|_| format!("{of} needs a whole number, not {word:?}"))
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => arguments.seed = Some(number(words.next(), "--seed")?),
            "--seeds" => arguments.seeds = number(words.next(), "--seeds")?,
            "--from" => arguments.from = number(words.next(), "--from")?,
            "--trace" => arguments.trace = true,
            "--json" => arguments.json = true,
            "--capacity" => arguments.capacity = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(Some(arguments))
}

/// A table for `docs/scale.md`.
fn plan_capacity() -> ExitCode {
    let works = [
        ("waiting", WAITING),
        ("products, 10 GFLOP/s, K = 4096", product(10e9, 4096.0)),
        ("training, 0.5 MB in 5 min", training(300.0, 0.5e6)),
    ];
    println!("| work | fits on one node | at 10^4 tabs | at 10^5 | at 10^6 | kept a day at what fits |");
    println!("|---|---|---|---|---|---|");
    for (name, work) in works {
        let most = most_tabs(&work, &MEASURED, &NODE);
        let at = [1e4, 1e5, 1e6].map(|tabs| {
            let (part, over) = first(tabs, &work, &MEASURED, &NODE);
            format!("{}: {}x", part.name(), two_digits(over))
        });
        let kept = kept_a_day(most, &work, &MEASURED) / 1e9;
        println!("| {name} | {most:.0} tabs | {} | {:.2} GB |", at.join(" | "), kept);
    }
    ExitCode::SUCCESS
}

/// As figures of a plan are read.
fn two_digits(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn replay(seed: u64, trace: bool) -> ExitCode {
    let sink: fn(&str) = |line| println!("{line}");
    let options = Options { sink: trace.then_some(sink), ..Options::default() };
    match run(seed, options) {
        Ok(outcome) => {
            println!(
                "seed {seed}: every invariant held\n  {} events, {} leases, {} rounds closed, {} shards of evals settled, {} rejected, {} late commits, \
                 {} crashes of the relay\n  {:.1} simulated seconds, the last job complete {:.1} s after the \
                 faults stopped\n  trace {}",
                outcome.events,
                outcome.leases,
                outcome.rounds,
                outcome.settled,
                outcome.rejected,
                outcome.late_commits,
                outcome.crashes,
                outcome.simulated_ms as f64 / 1e3,
                outcome.liveness_ms as f64 / 1e3,
                outcome.trace
            );
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("error: {violation}");
            ExitCode::FAILURE
        }
    }
}

/// Sums over all seeds that passed.
#[derive(Default)]
struct Sums {
    passed: u64,
    events: u64,
    leases: u64,
    rounds: u64,
    updates: u64,
    deceived: u64,
    streaks: u64,
    waited: u64,
    settled: u64,
    refuted: u64,
    misled: u64,
    rejected: u64,
    late_commits: u64,
    honest_undelivered: u64,
    impostors: u64,
    crashes: u64,
    simulated_ms: u64,
    slowest_liveness_ms: u64,
}

impl Sums {
    fn add(&mut self, outcome: &RunOutcome) {
        self.passed += 1;
        self.events += outcome.events;
        self.leases += outcome.leases;
        self.rounds += outcome.rounds;
        self.updates += outcome.updates;
        self.deceived += outcome.deceived;
        self.streaks += outcome.streaks;
        self.waited += outcome.waited;
        self.settled += outcome.settled;
        self.refuted += outcome.refuted;
        self.misled += outcome.misled;
        self.rejected += outcome.rejected;
        self.late_commits += outcome.late_commits;
        self.honest_undelivered += outcome.honest_undelivered;
        self.impostors += outcome.impostors;
        self.crashes += outcome.crashes;
        self.simulated_ms += outcome.simulated_ms;
        self.slowest_liveness_ms = self.slowest_liveness_ms.max(outcome.liveness_ms);
    }
}

fn many(arguments: &Arguments) -> ExitCode {
    let (started, mut shown) = (Instant::now(), Instant::now());
    let (mut sums, mut failed) = (Sums::default(), 0);
    let live = std::io::stderr().is_terminal();
    for done in 0..arguments.seeds {
        match run(arguments.from + done, Options::default()) {
            Ok(outcome) => sums.add(&outcome),
            Err(violation) => {
                failed += 1;
                if failed <= MAX_PRINTED {
                    eprintln!("\r\x1b[Kerror: {violation}");
                }
            }
        }
        if live && shown.elapsed() > Duration::from_millis(200) {
            shown = Instant::now();
            let rate = (done + 1) as f64 / started.elapsed().as_secs_f64();
            let left = (arguments.seeds - done - 1) as f64 / rate;
            eprint!(
                "\r\x1b[K{} of {} seeds, {failed} failed, {rate:.0} a second, {left:.0} s left",
                done + 1,
                arguments.seeds
            );
            // A progress line that cannot be shown is no reason to stop.
            drop(std::io::stderr().flush());
        }
    }
    if live {
        eprint!("\r\x1b[K");
    }
    let elapsed_s = started.elapsed().as_secs_f64();
    if arguments.json {
        print_json(arguments.seeds, &sums, elapsed_s);
    } else {
        print_table(arguments.seeds, &sums, elapsed_s);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_json(seeds: u64, sums: &Sums, elapsed_s: f64) {
    let passed = sums.passed as f64;
    let row = |name: &str, value: f64, unit: &str, peer: &str, ratio: f64, goal: f64, met: bool| {
        println!(
            "{{\"name\":\"{name}\",\"value\":{value},\"unit\":\"{unit}\",\"peer\":\"{peer}\",\"ratio\":{ratio:.4},\
             \"goal\":{goal},\"met\":{met}}}"
        );
    };
    let all = sums.passed == seeds;
    row("sim seeds passed", passed, "seeds", "seeds run", passed / seeds.max(1) as f64, 1.0, all);
    let ms = elapsed_s * 1e3 / seeds.max(1) as f64;
    let rounded = (ms * 1e3).round() / 1e3;
    row(
        "sim time per seed",
        rounded,
        "ms",
        "two minutes for 2,000",
        ms / GOAL_MS_PER_SEED,
        1.0,
        ms <= GOAL_MS_PER_SEED,
    );
}

fn print_table(seeds: u64, sums: &Sums, elapsed_s: f64) {
    println!(
        "{} of {seeds} seeds passed in {elapsed_s:.1} s ({:.1} ms each)",
        sums.passed,
        elapsed_s * 1e3 / seeds.max(1) as f64
    );
    let simulated_h = sums.simulated_ms as f64 / 3.6e6;
    println!("  simulated time            {simulated_h:>12.1} h");
    for (name, value) in [
        ("events", sums.events),
        ("leases", sums.leases),
        ("training rounds closed", sums.rounds),
        ("updates that counted", sums.updates),
        ("wrong ones among them", sums.deceived),
        ("that went on with a streak", sums.streaks),
        ("with an update that waited", sums.waited),
        ("shards of evals settled", sums.settled),
        ("wrongly, by liars alone", sums.misled),
        ("wrong answers found", sums.refuted),
        ("results rejected", sums.rejected),
        ("late or fenced commits", sums.late_commits),
        ("honest, not delivered", sums.honest_undelivered),
        ("impostors refused", sums.impostors),
        ("relay killed or stopped", sums.crashes),
    ] {
        println!("  {name:<26}{value:>11}");
    }
    println!(
        "  slowest completion        {:>10.1} s after the faults stopped",
        sums.slowest_liveness_ms as f64 / 1e3
    );
}
