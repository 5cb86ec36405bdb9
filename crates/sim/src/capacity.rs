//! What one relay needs for a crowd, in aggregate: so many tabs that work all the time, each by the averages of its kind of work.
//! A simulation by event of a million tabs would give the same sums and hide how they come about.
//!
//! What things cost was measured (`cargo xtask bench relay`, on two cores); what people do is assumed, and stands in [`Work`].

use potluck_types::limits::MAX_SESSIONS;

/// What a relay pays for what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// Memory without any session, in bytes.
    pub empty_bytes: f64,
    /// Memory of a session, in bytes.
    pub session_bytes: f64,
    /// Processor time of a session that has nothing to do, in seconds a second.
    pub idle: f64,
    /// Processor time of a result, from its lease until it is durable, in seconds.
    pub result: f64,
    /// Bytes of records and of the log that a result leaves for good.
    pub kept_bytes: f64,
}

/// What each tab of a crowd does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Results a second.
    pub results: f64,
    /// Bytes of results a second, towards the relay.
    pub in_bytes: f64,
    /// Bytes of inputs a second that come from the relay and from no other tab.
    pub out_bytes: f64,
    /// Share of its work that the relay repeats.
    pub repeated: f64,
}

/// What a relay may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Bytes of memory.
    pub memory: f64,
    /// Processors, each as fast as a tab.
    pub processors: f64,
    /// Bits a second, each way.
    pub line: f64,
}

/// A part of a relay that can be exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Sessions of one leader.
    Sessions,
    /// Memory.
    Memory,
    /// Processors, for messages, checks and commits.
    Processors,
    /// Processors, for work that is repeated.
    Audits,
    /// The line, towards the relay.
    LineIn,
    /// The line, from the relay.
    LineOut,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Sessions, Self::Memory, Self::Processors, Self::Audits, Self::LineIn, Self::LineOut];

    /// For tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Memory => "memory",
            Self::Processors => "processors",
            Self::Audits => "audits",
            Self::LineIn => "line in",
            Self::LineOut => "line out",
        }
    }
}

/// What `cargo xtask bench relay` found on two cores of an Intel Xeon server (docs/benchmarks.md). What a result
/// leaves for good is assumed: an entry of 350 bytes, its hashes, and a row of records.
pub const MEASURED: Costs =
    Costs { empty_bytes: 25e6, session_bytes: 13.1e3, idle: 4.2e-6, result: 259e-6, kept_bytes: 600.0 };
/// A small rented server: two processors, 4 GB, 1 Gbit/s.
pub const NODE: Machine = Machine { memory: 4e9, processors: 2.0, line: 1e9 };
/// Tabs that are there and have nothing to do.
pub const WAITING: Work = Work { results: 0.0, in_bytes: 0.0, out_bytes: 0.0, repeated: 0.0 };

/// What a crowd needs of a part, as a multiple of what a machine has. Above 1 it does not fit.
pub fn load(part: Part, tabs: f64, work: &Work, costs: &Costs, machine: &Machine) -> f64 {
    match part {
        Part::Sessions => tabs / MAX_SESSIONS as f64,
        Part::Memory => (costs.empty_bytes + tabs * costs.session_bytes) / machine.memory,
        Part::Processors => tabs * (costs.idle + work.results * costs.result) / machine.processors,
        Part::Audits => tabs * work.repeated / machine.processors,
        Part::LineIn => 8.0 * tabs * work.in_bytes / machine.line,
        Part::LineOut => 8.0 * tabs * work.out_bytes / machine.line,
    }
}

/// The part that such a crowd exhausts first, and how often over it needs it.
pub fn first(tabs: f64, work: &Work, costs: &Costs, machine: &Machine) -> (Part, f64) {
    let loads = Part::ALL.map(|part| (part, load(part, tabs, work, costs, machine)));
    loads.into_iter().fold((Part::Sessions, 0.0), |most, next| if next.1 > most.1 { next } else { most })
}

/// How many tabs fit: each part's load grows with them, so the first that is exhausted decides.
pub fn most_tabs(work: &Work, costs: &Costs, machine: &Machine) -> f64 {
    let (mut fits, mut too_many) = (0.0, MAX_SESSIONS as f64 + 1.0);
    while too_many - fits > 1.0 {
        let middle = f64::midpoint(fits, too_many);
        if first(middle, work, costs, machine).1 <= 1.0 { fits = middle } else { too_many = middle }
    }
    fits
}

/// Bytes that a crowd leaves with the relay for good, a day.
pub fn kept_a_day(tabs: f64, work: &Work, costs: &Costs) -> f64 {
    86_400.0 * tabs * work.results * costs.kept_bytes
}

/// A matrix product that is cut into shards of two seconds, by tabs of so many operations a second: of a shared side `k`
/// each element of a result takes `2 k` operations and four bytes. Inputs are passed on by tabs.
pub fn product(flops: f64, k: f64) -> Work {
    let in_bytes = 4.0 * flops / (2.0 * k);
    Work { results: 0.5, in_bytes, out_bytes: 0.05 * in_bytes, repeated: 0.0 }
}

/// A training run with rounds of so many seconds, updates of so many bytes, and replays of a twentieth: keys that passed many.
pub fn training(round_s: f64, update_bytes: f64) -> Work {
    // The step of a round goes out once, and tabs pass it on.
    Work { results: 1.0 / round_s, in_bytes: update_bytes / round_s, out_bytes: 0.0, repeated: 0.05 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs =
        Costs { empty_bytes: 20e6, session_bytes: 13e3, idle: 2e-6, result: 250e-6, kept_bytes: 600.0 };

    #[test]
    fn products_exhaust_the_line_and_training_the_processors_that_repeat_it() {
        let (part, over) = first(1e4, &product(1e10, 4096.0), &COSTS, &NODE);
        assert_eq!(part, Part::LineIn);
        // 4.9 MB a second from each of 10,000 tabs, on a line of 125 MB a second.
        assert!((over - 390.6).abs() < 0.1, "{over}");
        let (part, over) = first(1e3, &training(300.0, 500e3), &COSTS, &NODE);
        assert_eq!((part, over), (Part::Audits, 25.0));
    }

    #[test]
    fn what_fits_is_what_the_first_part_holds() {
        assert!((most_tabs(&WAITING, &COSTS, &NODE) - MAX_SESSIONS as f64).abs() < 1.0);
        let small = Work { results: 0.5, ..WAITING };
        let most = most_tabs(&small, &COSTS, &NODE);
        assert!((most - 2.0 / 127e-6).abs() < 1.0, "{most}");
        assert!(first(most + 1.0, &small, &COSTS, &NODE).1 > 1.0);
        assert!((kept_a_day(1e4, &small, &COSTS) - 259.2e9).abs() < 1e6);
    }
}
