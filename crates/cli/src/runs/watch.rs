//! `potluck watch`: a view that redraws on a terminal, a line for each round elsewhere.

use crate::args::WatchArgs;
use crate::canvas::Canvas;
use crate::client::Client;
use crate::client::runs::RunInfo;
use crate::error::CliError;
use crate::runs::draw::{View, draw, round_line};
use crate::runs::find;
use crate::runs::sample::Sampler;
use serde_json::json;
use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::time::Duration;

/// Time that the relay may hold back an answer until a round is done. The view moves at least this often.
const NEWS_WAIT_MS: u64 = 1000;
/// Shortest pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Shows a run until it ends.
///
/// # Errors
/// There is no such run, it was canceled, the relay stays away, Ctrl-C.
pub fn command(args: &WatchArgs, client: &Client) -> Result<(), CliError> {
    follow(client, &find(client, &args.run)?.id, args.json)
}

/// As [`command`], with the whole id.
///
/// # Errors
/// As [`command`].
pub fn follow(client: &Client, id: &str, json: bool) -> Result<(), CliError> {
    let shown = if json || !std::io::stdout().is_terminal() {
        Shown::Lines { json, told: 0 }
    } else {
        Shown::Screen(Box::new(Screen::new(client)?))
    };
    let shown = RefCell::new(shown);
    let mut seen = None;
    loop {
        // The first answer comes at once; later ones when a round is done.
        let path = match seen {
            None => format!("/api/v1/runs/{id}"),
            Some(round) => format!("/api/v1/runs/{id}?wait_ms={NEWS_WAIT_MS}&seen_round={round}"),
        };
        let run: RunInfo = client
            .get(&path, |trouble| shown.borrow_mut().trouble(&trouble.cause))
            .map_err(|error| left(error, id))?;
        let mut shown = shown.borrow_mut();
        shown.show(&run);
        match run.state.as_str() {
            "done" => return shown.end(&run, client),
            "canceled" => {
                shown.end(&run, client)?;
                return Err(CliError::RunCanceled { run: run.id, reason: run.reason });
            }
            _ => {}
        }
        seen = Some(run.round);
        if !client.stop().sleep(LOOK_PAUSE) {
            return Err(CliError::LeftRun(id.to_owned()));
        }
    }
}

fn left(error: CliError, id: &str) -> CliError {
    match error {
        CliError::Interrupted { .. } => CliError::LeftRun(id.to_owned()),
        other => other,
    }
}

enum Shown {
    Lines {
        json: bool,
        /// Rounds that were told already.
        told: u64,
    },
    Screen(Box<Screen>),
}

impl Shown {
    fn show(&mut self, run: &RunInfo) {
        match self {
            Self::Screen(screen) => screen.show(run),
            Self::Lines { json, told } => {
                for round in run.history.iter().filter(|round| round.round >= *told) {
                    let line = if *json { json!(round).to_string() } else { round_line(round, run.rounds) };
                    println!("{line}");
                }
                *told = run.history.last().map_or(*told, |round| round.round + 1);
            }
        }
    }

    fn trouble(&mut self, cause: &str) {
        match self {
            Self::Screen(screen) => screen.trouble(cause),
            Self::Lines { .. } => eprintln!("the relay does not answer, trying again ({cause})"),
        }
    }

    /// The last thing that is shown.
    fn end(&mut self, run: &RunInfo, client: &Client) -> Result<(), CliError> {
        match self {
            Self::Screen(screen) => screen.end(run, client)?,
            Self::Lines { json: true, .. } => {
                println!("{}", json!(RunInfo { history: Vec::new(), ..run.clone() }));
            }
            Self::Lines { json: false, .. } => {
                println!("run {} is {} after {} of {} rounds", run.id, run.state, run.round, run.rounds);
            }
        }
        Ok(())
    }
}

/// A terminal with the view on it.
struct Screen {
    canvas: Canvas,
    view: Option<View>,
    sampler: Sampler,
}

impl Screen {
    fn new(client: &Client) -> Result<Self, CliError> {
        Ok(Self { canvas: Canvas::new(), view: None, sampler: Sampler::start(client)? })
    }

    fn show(&mut self, run: &RunInfo) {
        self.sampler.offer(run);
        let new = self.sampler.take();
        let sample = new.or_else(|| self.view.take().and_then(|view| view.sample));
        self.view = Some(View { run: run.clone(), sample, trouble: None });
        self.redraw();
    }

    fn trouble(&mut self, cause: &str) {
        if let Some(view) = &mut self.view {
            view.trouble = Some(cause.to_owned());
        }
        self.redraw();
    }

    fn redraw(&mut self) {
        let Some(view) = &self.view else { return };
        self.canvas.redraw(|columns, rows| draw(view, columns, rows));
    }

    /// Waits for the text of the last round, and leaves the view where it is.
    fn end(&mut self, run: &RunInfo, client: &Client) -> Result<(), CliError> {
        loop {
            self.show(run);
            if !self.sampler.busy() {
                return Ok(());
            }
            if !client.stop().sleep(LOOK_PAUSE) {
                return Err(CliError::LeftRun(run.id.clone()));
            }
        }
    }
}
