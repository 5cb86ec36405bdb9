//! The view of a run as lines of text: a function of what is known and of the space there is.

use crate::canvas::fit;
use crate::client::runs::{RoundInfo, RunInfo};
use crate::generate::harmless;
use crate::progress::time_left;
use crate::runs::short;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use std::time::Duration;

/// Rounds over which speed is averaged.
const SPEED_ROUNDS: usize = 10;
/// Columns of the loss before the chart's axis.
const LABEL_COLUMNS: usize = 7;
/// Rows of a chart.
const CHART_ROWS: std::ops::RangeInclusive<usize> = 4..=16;
/// Rows that the text of the model may take.
const SAMPLE_ROWS: usize = 10;
/// Columns of the bar of rounds.
const BAR_COLUMNS: usize = 20;
/// Dots of a braille character by row and column.
const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
/// The braille character without dots.
const NO_DOTS: u32 = 0x2800;
/// Where the validation loss is.
const MARK: char = '•';

/// What is known of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// What the relay says.
    pub run: RunInfo,
    /// What the model wrote, after how many rounds, or why there is nothing.
    pub sample: Option<(u64, Result<String, String>)>,
    /// Why the relay is not heard.
    pub trouble: Option<String>,
}

/// Figures over all or the last rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Totals {
    /// Tokens each second, over the last rounds.
    pub tokens_per_s: f64,
    /// Bytes from volunteers.
    pub upload_bytes: u64,
    /// Bytes to volunteers.
    pub download_bytes: u64,
    /// Tokens.
    pub tokens: u64,
    /// Time for the rounds that are left, at the speed of the last ones.
    pub left: Option<Duration>,
}

/// Adds up what a run's rounds say.
pub fn totals(run: &RunInfo) -> Totals {
    let sum = |of: fn(&RoundInfo) -> u64| run.history.iter().map(of).fold(0, u64::saturating_add);
    let last = &run.history[run.history.len().saturating_sub(SPEED_ROUNDS)..];
    let seconds: f64 = last.iter().map(|round| round.seconds.max(0.0)).sum();
    let tokens: f64 = last.iter().map(|round| round.tokens as f64).sum();
    let rounds_left = run.rounds.saturating_sub(run.round);
    let elapsed = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let done = last.len() as u64;
    Totals {
        tokens_per_s: if seconds > 0.0 { tokens / seconds } else { 0.0 },
        upload_bytes: sum(|round| round.upload_bytes),
        download_bytes: sum(|round| round.download_bytes),
        tokens: sum(|round| round.tokens),
        left: time_left(done, done + rounds_left, elapsed),
    }
}

/// One line for a round, for logs.
pub fn round_line(round: &RoundInfo, rounds: u64) -> String {
    let rejected = if round.rejected > 0 { format!(" ({} rejected)", round.rejected) } else { String::new() };
    let speed = if round.seconds > 0.0 { round.tokens as f64 / round.seconds } else { 0.0 };
    format!(
        "round {} of {rounds}: train {}, validation {}, {} volunteer(s){rejected}, {speed:.0} tokens/s, {} up, {} down",
        round.round + 1,
        loss(round.train_loss),
        loss(round.validation_loss),
        round.workers,
        HumanBytes(round.upload_bytes),
        HumanBytes(round.download_bytes),
    )
}

fn loss(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

/// The view in at most `width` columns and `height` rows.
pub fn draw(view: &View, width: usize, height: usize) -> Vec<String> {
    let run = &view.run;
    let mut lines = head(view);
    let mut sample = sample_lines(view, width);
    // What does not fit: first the text gets shorter, then the chart is left out.
    let room = height.saturating_sub(lines.len() + 3);
    sample.truncate(room.saturating_sub(*CHART_ROWS.start()));
    let rows = room.saturating_sub(sample.len()).min(*CHART_ROWS.end()).min(width / 4);
    if CHART_ROWS.contains(&rows) && width > 2 * LABEL_COLUMNS {
        lines.extend(chart(&run.history, width, rows));
    }
    lines.extend(sample);
    lines.truncate(height);
    lines.into_iter().map(|line| fit(&line, width)).collect()
}

fn head(view: &View) -> Vec<String> {
    let run = &view.run;
    let totals = totals(run);
    let state = match (run.state.as_str(), run.phase.as_str()) {
        ("running", Some(phase)) if !phase.is_empty() => format!("running, {phase}"),
        (state, _) => state.to_owned(),
    };
    let name = harmless(&run.name).replace(['\n', '\t'], " ");
    let full = (run.round.min(run.rounds) as u128 * BAR_COLUMNS as u128)
        .checked_div(u128::from(run.rounds))
        .unwrap_or(0) as usize;
    let left = match totals.left {
        Some(left) if run.state == "running" => format!("  {} left", HumanDuration(left)),
        _ => String::new(),
    };
    let people = if run.workers == 0 && run.state == "running" {
        "waiting for volunteers: open the relay's page and lend the tab".to_owned()
    } else {
        format!("{} volunteer(s)", run.workers)
    };
    let mut lines = vec![
        format!("{name}  {state}  run {}  {} parameters", short(&run.id), HumanCount(run.parameters)),
        format!(
            "round {} of {}  {}{}{left}",
            run.round,
            run.rounds,
            "█".repeat(full),
            "░".repeat(BAR_COLUMNS - full)
        ),
        format!(
            "{people}  {} tokens/s  {} tokens  {} up  {} down",
            HumanCount(totals.tokens_per_s as u64),
            HumanCount(totals.tokens),
            HumanBytes(totals.upload_bytes),
            HumanBytes(totals.download_bytes)
        ),
    ];
    lines.extend(
        run.reason.as_deref().map(|reason| format!("because {}", harmless(reason).replace('\n', " "))),
    );
    lines.extend(view.trouble.as_ref().map(|trouble| format!("the relay does not answer: {trouble}")));
    lines
}

fn sample_lines(view: &View, width: usize) -> Vec<String> {
    let Some((round, outcome)) = &view.sample else { return Vec::new() };
    let text = match outcome {
        Ok(text) => text,
        Err(cause) => return vec![format!("no text of round {round}: {cause}")],
    };
    let mut lines = vec![format!("after {round} rounds it writes:")];
    for line in harmless(text).replace('\t', " ").lines() {
        let characters: Vec<char> = line.trim_end().chars().collect();
        for part in characters.chunks(width.saturating_sub(2).max(1)) {
            lines.push(format!("  {}", part.iter().collect::<String>()));
        }
    }
    lines.truncate(1 + SAMPLE_ROWS);
    lines
}

/// Two curves over the rounds: dots for the training loss, marks for the validation loss.
fn chart(history: &[RoundInfo], width: usize, rows: usize) -> Vec<String> {
    let points = |of: fn(&RoundInfo) -> Option<f64>| -> Vec<(u64, f64)> {
        let known = history.iter().filter_map(|round| Some((round.round, of(round)?)));
        known.filter(|(_, loss)| loss.is_finite()).collect()
    };
    let (train, validation) = (points(|round| round.train_loss), points(|round| round.validation_loss));
    let all = || train.iter().chain(&validation);
    let Some(last) = all().map(|(round, _)| *round).max() else {
        return vec!["no round is done yet".to_owned()];
    };
    let first = all().map(|(round, _)| *round).min().unwrap_or(last);
    let (low, high) = all()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, loss)| (low.min(*loss), high.max(*loss)));
    let (columns, span) = (width - LABEL_COLUMNS - 1, (high - low).max(1e-9));
    // Place of a point among so many across and down.
    let place = |(round, loss): &(u64, f64), across: usize, down: usize| {
        let x = (round - first) as f64 / (last - first).max(1) as f64 * (across - 1) as f64;
        let y = (high - loss) / span * (down - 1) as f64;
        ((x.round() as usize).min(across - 1), (y.round() as usize).min(down - 1))
    };
    let mut cells = vec![vec![' '; columns]; rows];
    let mut dot = |x: usize, y: usize| {
        let cell = &mut cells[y / 4][x / 2];
        let before = if *cell == ' ' { NO_DOTS } else { u32::from(*cell) };
        *cell = char::from_u32(before | DOTS[y % 4][x % 2]).unwrap_or(*cell);
    };
    let dots: Vec<_> = train.iter().map(|point| place(point, 2 * columns, 4 * rows)).collect();
    for (at, &(x, y)) in dots.iter().enumerate() {
        dot(x, y);
        // A line to the next point, a dot in each column.
        let Some(&(next_x, next_y)) = dots.get(at + 1) else { continue };
        for between in x + 1..next_x {
            let share = (between - x) as f64 / (next_x - x) as f64;
            dot(between, (y as f64 + share * (next_y as f64 - y as f64)).round() as usize);
        }
    }
    for point in &validation {
        let (x, y) = place(point, columns, rows);
        cells[y][x] = MARK;
    }
    let mut lines: Vec<String> = cells
        .iter()
        .enumerate()
        .map(|(row, cells)| {
            let label = match row {
                0 => format!("{high:.3}"),
                row if row + 1 == rows => format!("{low:.3}"),
                _ => String::new(),
            };
            format!("{label:>LABEL_COLUMNS$}│{}", cells.iter().collect::<String>().trim_end())
        })
        .collect();
    lines.push(format!("{}└{}", " ".repeat(LABEL_COLUMNS), "─".repeat(columns)));
    let newest = |points: &[(u64, f64)]| loss(points.last().map(|(_, loss)| *loss));
    lines.push(format!(
        "{} rounds {} to {}  ⠶ train {}  {MARK} validation {}",
        " ".repeat(LABEL_COLUMNS),
        first + 1,
        last + 1,
        newest(&train),
        newest(&validation)
    ));
    lines
}

#[cfg(test)]
mod tests;
