//! `train`: training by rounds against training in step, on the same tokens: validation loss and bytes.

pub(crate) mod attacks;
pub(crate) mod drift;
mod groups;
pub(crate) mod poison;

use crate::row::{Report, Row};
use anyhow::{Result, ensure};
use clap::Args;
use groups::Group;
use indicatif::{ProgressBar, ProgressStyle};
use potluck_tests::train::{Corpus, Method, Plan, run_all};
use std::path::PathBuf;

/// Seeds of a full run.
const SEEDS: u64 = 3;

/// Options of the training benchmarks.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// 600 steps with one seed: under two minutes on two cores.
    #[arg(long)]
    quick: bool,
    /// One group of runs only.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Option<Group>,
    /// Seeds 1 to N; three by default, one with --quick.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: Option<u64>,
    /// Any text in UTF-8, instead of Tiny Shakespeare or what `cargo xtask data` brought.
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
}

impl Options {
    fn seeds(&self) -> u64 {
        self.seeds.unwrap_or(if self.quick { 1 } else { SEEDS })
    }

    fn corpus(&self, report: &Report) -> Result<Corpus> {
        let corpus = Corpus::find(self.corpus.as_deref())?;
        report.note(&format!(
            "corpus: {}, {} characters in the vocabulary, {} tokens to train on, {} of the last tenth to validate with",
            corpus.name,
            corpus.vocabulary,
            corpus.tokens.len(),
            corpus.validation_tokens()
        ));
        Ok(corpus)
    }
}

/// Runs the groups that were asked for.
pub(crate) fn run(report: &mut Report, options: &Options) -> Result<()> {
    ensure!(
        !options.quick || options.only.is_none_or(|group| group == Group::R600),
        "--quick is the group r600\nhint: leave one of --quick and --only out"
    );
    let corpus = options.corpus(report)?;
    let groups = match options.only {
        Some(only) => vec![only],
        None if options.quick => vec![Group::R600],
        None => Group::ALL.to_vec(),
    };
    for group in groups {
        let mut results = Vec::new();
        for seed in 1..=options.seeds() {
            let plans = group.plans(&corpus, seed);
            let tokens = plans.iter().map(Plan::tokens).sum();
            let bar = bar(&format!("{} seed {seed}", group.name()), tokens, "tokens");
            let outcomes = run_all(&plans, &corpus, &|tokens| bar.inc(tokens))?;
            bar.finish_and_clear();
            let losses: Vec<String> = plans
                .iter()
                .zip(&outcomes)
                .map(|(plan, it)| format!("{} {:.4}", plan.name, it.loss))
                .collect();
            report.note(&format!("{} seed {seed}: {}", group.name(), losses.join(", ")));
            results.push(outcomes);
        }
        group.rows(&corpus, &results).into_iter().for_each(|row| report.row(row));
        report.table();
    }
    Ok(())
}

/// A bar with rate and time left, on standard error.
fn bar(label: &str, total: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(total).with_prefix(label.to_owned());
    let template = format!("{{prefix}} {{bar:30}} {{percent:>3}} %  {{per_sec}} ({unit})  {{eta}} left");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

/// A loss, or a difference of two.
fn nats(name: String, value: f64) -> Row {
    Row::new(name, value, "nats").digits(4)
}
