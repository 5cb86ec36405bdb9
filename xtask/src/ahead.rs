//! Work of later stages that is done while the tests run: browsers and relays leave processors idle for much of their time.
//! It has the lowest priority, so that no test waits for it, and what it prints is shown when its turn comes.

use crate::run::Step;
use anyhow::{Context, Result};
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// Priority of what nobody waits for.
const LEAST_NICE: &str = "19";

/// A stage's commands, done ahead of it.
pub(crate) struct Ahead(Receiver<Result<Vec<Output>>>);

impl Ahead {
    /// Starts to do commands, a stage after the other. Of each stage what will tell how it went.
    pub(crate) fn start<const STAGES: usize>(stages: [Vec<Command>; STAGES]) -> [Self; STAGES] {
        let (senders, waiting): (Vec<_>, Vec<_>) = stages
            .map(|commands| {
                let (sender, receiver) = channel();
                ((sender, commands), Self(receiver))
            })
            .into_iter()
            .unzip();
        thread::spawn(move || {
            for (sender, commands) in senders {
                let done = commands.iter().map(output).collect();
                // Nobody waits any more: then nobody wants the rest either.
                if sender.send(done).is_err() {
                    return;
                }
            }
        });
        waiting.try_into().unwrap_or_else(|_| unreachable!("one for each stage"))
    }

    /// Waits until it is done, and shows what was printed; `false` if one of the commands failed.
    ///
    /// # Errors
    /// One of them could not be started.
    pub(crate) fn end(self) -> Result<bool> {
        let step = Step::start("what was begun while the tests ran");
        let outputs = self.0.recv().context("it ended early")??;
        step.done();
        for output in &outputs {
            std::io::stdout().write_all(&output.stdout)?;
            std::io::stderr().write_all(&output.stderr)?;
        }
        Ok(outputs.iter().all(|output| output.status.success()))
    }
}

/// Runs a command with the least priority.
fn output(command: &Command) -> Result<Output> {
    let mut least = if cfg!(unix) {
        let mut nice = Command::new("nice");
        nice.args(["-n", LEAST_NICE]).arg(command.get_program());
        nice
    } else {
        Command::new(command.get_program())
    };
    least.args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => least.env(name, value),
            None => least.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        least.current_dir(folder);
    }
    least.output().with_context(|| format!("cannot run {}", command.get_program().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_tell_how_they_went_and_a_failure_is_that_stages_own() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env("POTLUCK_AHEAD", "7");
            command
        };
        let [good, bad, none] = Ahead::start([
            vec![shell("test $POTLUCK_AHEAD = 7"), shell("test $(nice) = 19")],
            vec![shell("exit 3"), shell("exit 0")],
            vec![Command::new("a-program-that-is-not-there")],
        ]);
        assert!(good.end().unwrap());
        assert!(!bad.end().unwrap());
        assert!(!none.end().unwrap_or(false));
    }
}
