//! `step`: one training step of the GPT, ours against burn, TF.js and PyTorch.
//!
//! In one browser session all contenders train the preset `tiny` from the same parameters on the same batches, 8 rows of
//! 64 tokens; the losses of their first steps must agree. Natively our engine takes turns with PyTorch, one thread each.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use potluck_tests::train::now;
use potluck_train::gpt::{CpuGpt, GptConfig, init};
use potluck_train::{Batch, Engine};
use serde_json::Value;

use crate::clock::Stopwatch;
use crate::contest::{Contender, Samples, Session, pages, pair};
use crate::row::{Goal, Report, Row, median};
use crate::server::Folders;
use crate::{artifacts, peers};

const UNITS: [&str; 2] = ["tokens/s", "tokens/CPU-s"];
/// First steps, whose losses are compared.
const COMPARED: usize = 4;
/// Greatest difference of a loss from our CPU's, in nats: burn decays norms, too, and TF.js adds Adam's
/// epsilon elsewhere, so that later steps differ by more than rounding.
const MAX_DIFFERENCE: f64 = 2e-3;
/// The page's rows of a batch.
const SEQUENCES: usize = 8;
const VOCABULARY: usize = 65;

const BURN_GOAL: f64 = 3.0;
const TFJS_GOAL: f64 = 1.0;
const PYTORCH_GOAL: f64 = 0.8;
/// Wasm in the tab against the native engine.
const WASM_GOAL: f64 = 0.4;

/// Turns of the native contenders.
const TURNS: usize = 9;
/// Steps of a turn.
const STEPS: u32 = 20;

/// Runs the browser's contenders, then the native ones.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    let page = pages();
    let folders = Folders {
        npm: peers::install(&page)?,
        engine: artifacts::engine()?,
        burn: Some(artifacts::burn()?),
        page,
    };
    let session = Session::open(folders, "step.html").await?;
    let outcome = browser(report, &session).await;
    session.close(&outcome).await;
    outcome?;
    native(report)
}

async fn browser(report: &mut Report, session: &Session) -> Result<()> {
    report.note(&session.describe().await?);
    let contenders = session.contenders()?;
    let all = prepare(report, session, &contenders).await?;
    let tokens = session.machine["tokens"].as_f64().context("the page does not say its tokens")?;
    let mut all = all;
    session.rounds(&contenders, &mut all, tokens, false).await?;
    let mine = all.get("potluck-webgpu").context("our WebGPU engine did not run")?;
    for (name, goal) in [("burn-webgpu", BURN_GOAL), ("tfjs-webgpu", TFJS_GOAL)] {
        let (Some(theirs), Some(peer)) = (all.get(name), contenders.iter().find(|c| c.name == name)) else {
            continue;
        };
        let label = peer.peer.as_deref().unwrap_or_default();
        pair(
            report,
            &format!("step.tiny.webgpu-{name}"),
            [mine, theirs],
            label,
            session.software(),
            goal,
            UNITS,
        );
    }
    let wasm = all.get("potluck-wasm").context("our wasm engine did not run")?.rate(true);
    let native = rate(GptConfig::tiny(VOCABULARY), SEQUENCES, TURNS)?;
    report.row(
        Row::new("step.tiny.wasm", wasm, UNITS[1])
            .against(format!("our native engine {native:.0}"), wasm / native)
            .goal(Goal::RatioAtLeast(WASM_GOAL)),
    );
    Ok(())
}

/// Makes the models and compares the losses of their first steps.
async fn prepare(
    report: &Report,
    session: &Session,
    contenders: &[Contender],
) -> Result<BTreeMap<String, Samples>> {
    // What the others are compared with comes first.
    let mut order: Vec<&Contender> = contenders.iter().collect();
    order.sort_by_key(|c| (c.peer.is_some(), c.backend != "wasm"));
    let mut expected: Option<Vec<f64>> = None;
    let mut all = BTreeMap::new();
    for contender in order {
        let name = Value::from(contender.name.as_str());
        let answer = match session.patiently(&format!("bench.prepare({name}, {COMPARED})")).await {
            Ok(answer) => answer,
            // A peer that does not run here is no peer; ours must run.
            Err(cause) if contender.peer.is_some() => {
                report.note(&format!("{} does not run here: {cause}", contender.name));
                continue;
            }
            Err(cause) => bail!("{}: {cause}", contender.name),
        };
        let losses: Vec<f64> =
            answer["losses"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        ensure!(losses.len() == COMPARED, "{} gave losses {}", contender.name, answer["losses"]);
        let expected = expected.get_or_insert_with(|| losses.clone());
        let difference = losses
            .iter()
            .zip(expected.iter())
            .map(|(found, right)| (found - right).abs())
            .fold(0.0, f64::max);
        report.note(&format!(
            "{}: first losses {losses:.4?}, made in {:.0} ms",
            contender.name,
            answer["prepareMs"].as_f64().unwrap_or(f64::NAN),
        ));
        ensure!(
            difference <= MAX_DIFFERENCE,
            "{} trains another model: its losses differ by {difference:.1e}",
            contender.name
        );
        all.insert(contender.name.clone(), Samples::new(session.run(&contender.name, 1).await?));
    }
    Ok(all)
}

/// Our engine and a stream of batches.
struct Native {
    engine: CpuGpt,
    batches: Vec<Batch>,
    taken: usize,
}

impl Native {
    fn new(config: GptConfig, sequences: usize) -> Result<Self> {
        let mut engine = CpuGpt::new(config)?;
        now(engine.load(&init(&config, &[1; 32])))?;
        let length = config.context;
        let token = |at: usize| (at.wrapping_mul(2_654_435_761) >> 7) as u32 % config.vocabulary as u32;
        let batches = (0..16)
            .map(|batch| {
                let tokens: Vec<u32> =
                    (0..=sequences * length).map(|at| token(at + batch * 10_007)).collect();
                let (inputs, targets) = (tokens[..tokens.len() - 1].to_vec(), tokens[1..].to_vec());
                Batch { sequences, length, inputs, targets }
            })
            .collect();
        let mut native = Self { engine, batches, taken: 0 };
        native.turn(2)?;
        Ok(native)
    }

    /// Tokens per second of processor time of some steps.
    fn turn(&mut self, steps: u32) -> Result<f64> {
        let watch = Stopwatch::start();
        let mut tokens = 0;
        for _ in 0..steps {
            let batch = &self.batches[self.taken % self.batches.len()];
            self.taken += 1;
            tokens += batch.inputs.len();
            now(self.engine.step(batch, 1e-3))?;
        }
        Ok(tokens as f64 / watch.used().as_secs_f64())
    }
}

fn rate(config: GptConfig, sequences: usize, turns: usize) -> Result<f64> {
    let mut native = Native::new(config, sequences)?;
    let turns = (0..turns).map(|_| native.turn(STEPS)).collect::<Result<Vec<_>>>()?;
    Ok(median(&turns))
}

/// PyTorch in a process of its own, which takes steps when it is told to.
struct PyTorch {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    version: String,
}

impl PyTorch {
    fn start() -> Result<Self> {
        let mut child = Command::new(python()?)
            .arg(pages().join("peers").join("pytorch.py"))
            .env("OMP_NUM_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("PyTorch could not be started")?;
        let input = child.stdin.take().context("no pipe to PyTorch")?;
        let output = BufReader::new(child.stdout.take().context("no pipe from PyTorch")?);
        let mut torch = Self { child, input, output, version: String::new() };
        torch.version = torch.line()?;
        Ok(torch)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).context("PyTorch")?;
        ensure!(read > 0, "PyTorch ended");
        Ok(line.trim().to_owned())
    }

    /// Tokens per second of processor time of some steps.
    fn turn(&mut self, preset: &str, steps: u32, tokens: usize) -> Result<f64> {
        writeln!(self.input, "{preset} {steps}").context("PyTorch")?;
        let seconds: f64 = self.line()?.parse().context("PyTorch answered something else than seconds")?;
        Ok(tokens as f64 * f64::from(steps) / seconds)
    }
}

impl Drop for PyTorch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn native(report: &mut Report) -> Result<()> {
    let mut torch = PyTorch::start()?;
    let label = format!("PyTorch {}", torch.version);
    let presets =
        [("tiny", GptConfig::tiny(VOCABULARY), SEQUENCES), ("mini", GptConfig::mini(VOCABULARY), 4)];
    for (name, config, sequences) in presets {
        let tokens = sequences * config.context;
        let mut ours = Native::new(config, sequences)?;
        torch.turn(name, 2, tokens)?;
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            mine.push(ours.turn(STEPS)?);
            theirs.push(torch.turn(name, STEPS, tokens)?);
        }
        let ratios: Vec<f64> = mine.iter().zip(&theirs).map(|(m, t)| m / t).collect();
        let row = Row::new(format!("step.{name}.native"), median(&mine), UNITS[1])
            .against(format!("{label} {:.0}", median(&theirs)), median(&ratios));
        report.row(if name == "mini" { row.goal(Goal::RatioAtLeast(PYTORCH_GOAL)) } else { row });
    }
    Ok(())
}

/// A Python that has PyTorch: `$POTLUCK_PYTHON`, else one in the cache folder, installed by pip.
fn python() -> Result<PathBuf> {
    if let Some(python) = env::var_os("POTLUCK_PYTHON") {
        return Ok(python.into());
    }
    let folder = peers::cache()?.join("pytorch");
    let python = folder.join("bin").join("python");
    // The mark is written last: an interrupted installation is done again.
    let mark = folder.join("installed");
    if mark.is_file() {
        return Ok(python);
    }
    eprintln!("installing PyTorch from PyPI into {} (once, about 5 GB)", folder.display());
    let hint = "install Python 3 with venv, or name a Python that has torch in POTLUCK_PYTHON";
    let steps: [(&Path, &[&str]); 2] = [
        (Path::new("python3"), &["-m", "venv", "--clear"]),
        (&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "torch>=2.6"]),
    ];
    for (program, args) in steps {
        let mut command = Command::new(program);
        command.args(args).stdout(std::io::stderr());
        if args.contains(&"venv") {
            command.arg(&folder);
        }
        let status = command
            .status()
            .with_context(|| format!("{} could not be started. hint: {hint}", program.display()))?;
        ensure!(status.success(), "{} failed ({status}). hint: {hint}", program.display());
    }
    std::fs::write(&mark, "")?;
    Ok(python)
}
