//! One figure: what was read, what it is compared with, and whether the goal is met.

use std::io::{Write, stdout};

use serde_json::json;

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// The ratio to the peer is at least this.
    RatioAtLeast(f64),
    /// The ratio to the peer is at most this.
    RatioAtMost(f64),
    /// The value itself stays below this.
    ValueBelow(f64),
    /// The value itself is at most this.
    ValueAtMost(f64),
    /// The value itself is at least this.
    ValueAtLeast(f64),
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::RatioAtLeast(x) => format!("ratio >= {x}"),
            Self::RatioAtMost(x) => format!("ratio <= {x}"),
            Self::ValueBelow(x) => format!("value < {x}"),
            Self::ValueAtMost(x) => format!("value <= {x}"),
            Self::ValueAtLeast(x) => format!("value >= {x}"),
        }
    }
}

/// One figure.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    peer: Option<String>,
    ratio: Option<f64>,
    goal: Option<Goal>,
    /// Digits after the point in the table; by size if none.
    digits: Option<usize>,
}

impl Row {
    /// A figure that is compared with nothing.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, peer: None, ratio: None, goal: None, digits: None }
    }

    /// Adds what it is compared with, and `value / peer` in the sense that the name says.
    pub(crate) fn against(mut self, peer: impl Into<String>, ratio: f64) -> Self {
        self.peer = Some(peer.into());
        self.ratio = Some(ratio);
        self
    }

    /// Adds what stands beside it, where a ratio to that says nothing.
    pub(crate) fn with_peer(mut self, peer: impl Into<String>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// Adds the goal.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// Shows the value with this many digits after the point.
    pub(crate) fn digits(mut self, digits: usize) -> Self {
        self.digits = Some(digits);
        self
    }

    /// Whether the goal is met; none without a goal, not met without the figure it speaks of.
    pub(crate) fn met(&self) -> Option<bool> {
        Some(match self.goal? {
            Goal::RatioAtLeast(x) => self.ratio.is_some_and(|r| r >= x),
            Goal::RatioAtMost(x) => self.ratio.is_some_and(|r| r <= x),
            Goal::ValueBelow(x) => self.value < x,
            Goal::ValueAtMost(x) => self.value <= x,
            Goal::ValueAtLeast(x) => self.value >= x,
        })
    }

    fn cells(&self) -> [String; 7] {
        [
            self.name.clone(),
            self.digits.map_or_else(|| number(self.value), |digits| format!("{:.digits$}", self.value)),
            self.unit.to_owned(),
            self.peer.clone().unwrap_or_default(),
            self.ratio.map(number).unwrap_or_default(),
            self.goal.map(Goal::text).unwrap_or_default(),
            self.met().map(|met| if met { "yes" } else { "NO" }.to_owned()).unwrap_or_default(),
        ]
    }
}

/// Three significant digits, and never fewer than the whole part has.
fn number(x: f64) -> String {
    let digits = match x.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{x:.digits$}")
}

/// Writes rows to standard output as they become known.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    rows: Vec<Row>,
}

impl Report {
    /// A report for people, or one object a line.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, rows: Vec::new() }
    }

    /// A line about the circumstances; beside the figures, so that `--json` stays one object a line.
    pub(crate) fn note(&self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            line(text);
        }
    }

    /// Adds a figure.
    pub(crate) fn row(&mut self, row: Row) {
        if self.json {
            line(
                &json!({
                    "name": row.name,
                    "value": row.value,
                    "unit": row.unit,
                    "peer": row.peer,
                    "ratio": row.ratio,
                    "goal": row.goal.map(Goal::text),
                    "met": row.met(),
                })
                .to_string(),
            );
        } else {
            self.rows.push(row);
        }
    }

    /// Prints the table of the rows since the last call.
    pub(crate) fn table(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let head = ["name", "value", "unit", "peer", "ratio", "goal", "met"].map(str::to_owned);
        let lines: Vec<[String; 7]> =
            std::iter::once(head).chain(self.rows.drain(..).map(|r| r.cells())).collect();
        let widths: [usize; 7] =
            std::array::from_fn(|i| lines.iter().map(|cells| cells[i].chars().count()).max().unwrap_or(0));
        for cells in &lines {
            let mut text = String::new();
            for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
                // Numbers to the right, words to the left.
                let cell =
                    if i == 1 || i == 4 { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
                text.push_str(&cell);
            }
            line(text.trim_end());
        }
        line("");
    }
}

/// A reader that closes the pipe early (`| head`) is no failure of the measurement.
fn line(text: &str) {
    drop(writeln!(stdout(), "{text}"));
}

/// The middle of the values; the mean of the middle two of an even number.
///
/// Not a number where there is no value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.len() % 2) {
        (None, _) => f64::NAN,
        (Some(x), 1) => *x,
        (Some(x), _) => f64::midpoint(*x, sorted[sorted.len() / 2 - 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!(median(&[]).is_nan());
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
    }

    #[test]
    fn goals_speak_of_what_they_name() {
        let row = Row::new("x", 10.0, "ms");
        assert_eq!(row.met(), None);
        assert_eq!(row.clone().goal(Goal::ValueBelow(11.0)).met(), Some(true));
        assert_eq!(row.clone().goal(Goal::ValueBelow(10.0)).met(), Some(false));
        assert_eq!(row.clone().goal(Goal::RatioAtLeast(1.0)).met(), Some(false));
        assert_eq!(row.clone().goal(Goal::ValueAtMost(10.0)).met(), Some(true));
        assert_eq!(row.clone().goal(Goal::ValueAtLeast(10.0)).met(), Some(true));
        assert_eq!(Row::new("x", f64::NAN, "ms").goal(Goal::ValueAtLeast(0.0)).met(), Some(false));
        let row = row.against("peer", 1.2);
        assert_eq!(row.clone().goal(Goal::RatioAtLeast(1.2)).met(), Some(true));
        assert_eq!(row.clone().goal(Goal::RatioAtMost(1.1)).met(), Some(false));
    }

    #[test]
    fn numbers_keep_their_whole_part() {
        assert_eq!([12345.6, 12.34, 1.234, 0.1234].map(number), ["12346", "12.3", "1.23", "0.123"]);
    }
}
