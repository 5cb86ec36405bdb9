//! Lines on a terminal that are drawn over each time.

use console::Term;
use std::io::Write as _;

/// Lines that replace each other at the bottom of a terminal.
pub struct Canvas {
    terminal: Term,
    /// Lines that are on the terminal.
    lines: usize,
}

impl Canvas {
    /// An empty one on stdout.
    pub fn new() -> Self {
        Self { terminal: Term::buffered_stdout(), lines: 0 }
    }

    /// Draws over what was drawn before; `draw` is told the columns and rows there are. A terminal that is gone shows
    /// nothing, and the next signal ends the command.
    pub fn redraw(&mut self, draw: impl FnOnce(usize, usize) -> Vec<String>) {
        let (rows, columns) = self.terminal.size();
        // A row is left for the cursor.
        let rows = usize::from(rows).saturating_sub(1);
        let lines = draw(usize::from(columns), rows);
        let write = || -> std::io::Result<()> {
            // A terminal that has become smaller has scrolled the rest away.
            self.terminal.clear_last_lines(self.lines.min(rows))?;
            let mut terminal = &self.terminal;
            for line in &lines {
                writeln!(terminal, "{line}")?;
            }
            self.terminal.flush()
        };
        if let Err(cause) = write() {
            tracing::debug!(%cause, "the terminal cannot be drawn on");
        }
        self.lines = lines.len();
    }
}

impl Default for Canvas {
    fn default() -> Self {
        Self::new()
    }
}

/// The beginning of a line that fits into so many columns.
pub(crate) fn fit(line: &str, width: usize) -> String {
    if console::measure_text_width(line) <= width {
        return line.to_owned();
    }
    let mut used = 0;
    let fits = |c: &char| {
        used += console::measure_text_width(c.encode_utf8(&mut [0; 4]));
        used < width
    };
    let mut cut: String = line.chars().take_while(fits).collect();
    cut.push('…');
    cut
}
