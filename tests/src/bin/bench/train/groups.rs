//! The groups of runs: what is compared with what, and what it must reach.

use super::{Method, nats};
use crate::row::{Goal, Row};
use clap::ValueEnum;
use potluck_tests::train::{Corpus, Outcome, Plan};
use potluck_train::gpt::GptConfig;

/// Runs that are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// 600 steps, codec R, 4 workers x batch 8, 10 inner steps.
    R600,
    /// 2000 steps, codec R, 4 workers x batch 8, 20 inner steps.
    R2000,
    /// 600 steps, codec R, 8 workers x batch 4: uploads lost, contiguous shards.
    Disturbed,
    /// 2000 steps, codec S, 8 workers x batch 4, 10 inner steps, also with uploads lost.
    S2000,
    /// The preset `mini` on one engine, against a published figure.
    Mini,
}

/// Share of the uploads that is lost.
const LOST: f64 = 0.25;
/// Share of its own update by which a worker starts ahead where updates wait for a round.
const EAGER: f32 = 1.0;
/// Validation loss of nanoGPT's CPU configuration: `nanoGPT/README.md`, "I only have a macbook".
const NANO_GPT: f64 = 1.88;

impl Group {
    pub(super) const ALL: [Self; 5] = [Self::R600, Self::R2000, Self::Disturbed, Self::S2000, Self::Mini];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::R600 => "r600",
            Self::R2000 => "r2000",
            Self::Disturbed => "disturbed",
            Self::S2000 => "s2000",
            Self::Mini => "mini",
        }
    }

    /// The runs; where there is a synchronous one it comes first, then ours.
    pub(super) fn plans(self, corpus: &Corpus, seed: u64) -> Vec<Plan> {
        let tiny = Plan::tiny(corpus, seed);
        let method = |plan: Plan, name, method| Plan { name, method, ..plan };
        let synchronous = |plan| method(plan, "synchronous", Method::Synchronous);
        let alone = |plan| method(plan, "alone", Method::Alone);
        match self {
            Self::R600 => vec![
                synchronous(tiny),
                tiny,
                alone(tiny),
                Plan { name: "alone-batch-4", sequences: 4, ..alone(tiny) },
                method(tiny, "fedavg", Method::Average),
                Plan { name: "delayed", eager: Some(0.0), ..tiny },
                Plan { name: "eager", eager: Some(EAGER), ..tiny },
            ],
            Self::R2000 => {
                let ours = Plan { inner: 20, steps: 2000, ..tiny };
                vec![synchronous(ours), ours, alone(ours)]
            }
            Self::Disturbed => {
                let ours = Plan { workers: 8, sequences: 4, ..tiny };
                let lost = Plan { name: "lost", lost: LOST, ..ours };
                vec![synchronous(ours), ours, lost, Plan { name: "shards", shards: true, ..ours }]
            }
            Self::S2000 => {
                let method = Method::Sparse;
                let ours = Plan { method, workers: 8, sequences: 4, steps: 2000, ..tiny };
                let lost = Plan { name: "lost", lost: LOST, ..ours };
                let mixed = Plan { name: "mixed", dense: 4, ..ours };
                let robust = Plan { name: "codec-r", method: Method::Robust, ..ours };
                vec![synchronous(ours), ours, lost, mixed, robust]
            }
            Self::Mini => {
                let config = GptConfig::mini(corpus.vocabulary);
                // nanoGPT's sizes and batch, our own learning rate: twice its 1e-3.
                vec![Plan { config, sequences: 12, steps: 2000, ..alone(tiny) }]
            }
        }
    }

    /// The rows, of the outcomes of each seed.
    pub(super) fn rows(self, corpus: &Corpus, results: &[Vec<Outcome>]) -> Vec<Row> {
        let name = |what: &str| format!("train.{}.{what}", self.name());
        let plans = self.plans(corpus, 1);
        let mean = |figure: &dyn Fn(&[Outcome]) -> f64| {
            results.iter().map(|outcomes| figure(outcomes)).sum::<f64>() / results.len() as f64
        };
        let mut rows: Vec<Row> = plans
            .iter()
            .enumerate()
            .map(|(at, plan)| nats(name(plan.name), mean(&|outcomes| outcomes[at].loss)))
            .collect();
        if self == Self::Mini {
            let row = rows.remove(0).with_peer(format!("nanoGPT's README: {NANO_GPT}"));
            return vec![row.goal(Goal::ValueAtMost(NANO_GPT))];
        }
        let above = |one: usize, other: usize| mean(&|outcomes| outcomes[one].loss - outcomes[other].loss);
        let gap = nats(name("above-synchronous"), above(1, 0));
        match self {
            Self::R600 => {
                rows.push(gap.goal(Goal::ValueAtMost(0.06)));
                rows.push(nats(name("below-alone"), above(2, 1)).goal(Goal::ValueAtLeast(0.12)));
                rows.push(nats(name("below-alone-batch-4"), above(3, 1)));
                rows.push(nats(name("delayed-above-ours"), above(5, 1)));
                rows.push(nats(name("eager-above-ours"), above(6, 1)));
                rows.extend(bytes(&name, results, None));
            }
            Self::R2000 => {
                rows.push(gap.goal(Goal::ValueAtMost(0.03)));
                rows.push(nats(name("below-alone"), above(2, 1)));
                rows.extend(bytes(&name, results, Some(150.0)));
            }
            Self::Disturbed => {
                rows.push(gap);
                for (at, what) in [(2, "lost-above-undisturbed"), (3, "shards-above-undisturbed")] {
                    rows.push(nats(name(what), above(at, 1)).goal(Goal::ValueAtMost(0.03)));
                }
            }
            Self::S2000 => {
                rows.push(gap.goal(Goal::ValueAtMost(0.01)));
                rows.push(nats(name("lost-above-synchronous"), above(2, 0)).goal(Goal::ValueAtMost(0.05)));
                rows.extend(bytes(&name, results, Some(1300.0)));
            }
            Self::Mini => {}
        }
        rows
    }
}

/// Bytes of one of our workers, and how many times as many a synchronous one moves.
fn bytes(name: &dyn Fn(&str) -> String, results: &[Vec<Outcome>], goal: Option<f64>) -> Vec<Row> {
    // Encoded lengths depend on sizes and rounds only: the same for each seed.
    let Some([synchronous, ours, ..]) = results.first().map(Vec::as_slice) else { return Vec::new() };
    let row = |what: &str, ours: u64, theirs: u64| {
        let peer = format!("synchronous f32, {:.1} MB", theirs as f64 / 1e6);
        Row::new(name(what), ours as f64 / 1e6, "MB").digits(3).against(peer, theirs as f64 / ours as f64)
    };
    let up = row("up-per-worker", ours.up, synchronous.up);
    vec![
        goal.map_or(up.clone(), |goal| up.goal(Goal::RatioAtLeast(goal))),
        row("down-per-worker", ours.down, synchronous.down),
        Row::new(name("rounds"), ours.rounds as f64, "rounds"),
        Row::new(name("tokens"), ours.tokens as f64, "tokens"),
    ]
}
