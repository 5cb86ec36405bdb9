//! The demo: a relay on loopback, tabs that lend themselves through the real page, the sample job, and a training run.

mod train;

use crate::digits;
use crate::run::{Step, cargo, must, root};
use crate::setup::{self, Ready};
use crate::site;
use anyhow::{Context, Result, bail};
use clap::Args;
use potluck_kernels::{MatmulShape, Operands};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Tabs of `--once` where nothing else is said.
const DEFAULT_TABS: u32 = 2;

#[derive(Args)]
pub(crate) struct Options {
    /// Open this many headless tabs, each through the real page with a real click on consent
    #[arg(long)]
    tabs: Option<u32>,
    /// Submit the sample job and a short training run, print what came of them, stop everything
    #[arg(long)]
    once: bool,
    /// Train for ten times as many rounds; implies --once
    #[arg(long)]
    train: bool,
    /// Train on this text, or folder of texts, instead of the one that `cargo xtask data` brings
    #[arg(long, value_name = "PATH")]
    corpus: Option<PathBuf>,
    /// Port of the relay on loopback; any free one for 0
    #[arg(long, default_value_t = 8787)]
    port: u16,
    /// What the tabs compute with
    #[arg(long, default_value = "auto")]
    backend: String,
}

/// A child that ends with us: politely, then at once.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        #[cfg(unix)]
        {
            // SIGTERM lets tabs close their browser and the relay store what is verified.
            let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
            for _ in 0..100 {
                if matches!(self.0.try_wait(), Ok(Some(_))) {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that has to be there: the set-up, the page, the command.
fn prepare() -> Result<(Ready, PathBuf)> {
    let step = Step::start("set up");
    let ready = setup::everything()?;
    step.done();
    let step = Step::start("build the page and its engine");
    site::page()?;
    step.done();
    let step = Step::start("build the potluck command");
    // Without burn, which neither job needs: it takes longer to build than all the rest.
    let mut build = cargo();
    build.args(["build", "--quiet", "-p", "potluck-cli", "--no-default-features"]);
    must(&mut build, "look at what the compiler says above")?;
    step.done();
    let target = crate::run::target();
    Ok((ready, target.join("debug").join(format!("potluck{}", std::env::consts::EXE_SUFFIX))))
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let (ready, potluck) = prepare()?;
    let folder = tempfile::Builder::new().prefix("potluck-demo-").tempdir()?;
    let (relay, url, token_path) = start_relay(&potluck, options.port, folder.path())?;
    println!("\n  The relay listens at {url}");
    println!("  Open that page in a browser, press “Lend this tab”, and agree.\n");

    let once = options.once || options.train;
    let count = options.tabs.or(once.then_some(DEFAULT_TABS)).unwrap_or(0);
    let tabs = if count > 0 {
        let mut command = Command::new(&potluck);
        command.args([
            "tabs",
            "--count",
            &count.to_string(),
            "--backend",
            &options.backend,
            "--preset",
            "full",
        ]);
        command.args(["--relay", &url]).env("CHROME", &ready.chromium).stdout(Stdio::null());
        Some(Guard(command.spawn().context("cannot open tabs")?))
    } else {
        None
    };
    let client = Client { potluck: &potluck, url: &url, token_path: &token_path };
    let outcome = if once {
        let corpus = options.corpus.as_deref();
        sample_job(&client, folder.path()).and_then(|good| {
            Ok(train::run(&client, folder.path(), corpus, count.max(1), options.train)? && good)
        })
    } else {
        println!("  To submit a job:  POTLUCK_RELAY={url} potluck submit matmul A.npy B.npy --out C.npy \\");
        println!("                      --token-file {}", token_path.display());
        println!("  Ctrl-C stops everything.\n");
        wait_for(relay)?;
        return Ok(true);
    };
    drop(tabs);
    drop(relay);
    Ok(outcome? && audit(&potluck, folder.path())?)
}

/// Checks the log of all that, with the relay gone: its files are enough.
fn audit(potluck: &Path, folder: &Path) -> Result<bool> {
    println!(
        "\n  What was accepted, refused and trained stands in a public log. Its audit, without the relay:\n"
    );
    let mut command = Command::new(potluck);
    command.arg("audit").arg(folder.join("relay/log")).arg("--remember").arg(folder.join("known-logs"));
    Ok(command.status().context("cannot audit the log")?.success())
}

/// Serves until the relay ends: Ctrl-C reaches it as well.
fn wait_for(mut relay: Guard) -> Result<()> {
    let status = relay.0.wait()?;
    if !status.success() && status.code().is_some() {
        bail!("the relay ended with {status}");
    }
    Ok(())
}

fn start_relay(potluck: &Path, port: u16, folder: &Path) -> Result<(Guard, String, PathBuf)> {
    let mut command = Command::new(potluck);
    command
        .args(["relay", "--json", "--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(folder.join("relay"));
    let mut child = Guard(command.stdout(Stdio::piped()).spawn().context("cannot start the relay")?);
    let output = child.0.stdout.take().context("the relay has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let said: Value = serde_json::from_str(&line).with_context(|| {
        format!("the relay did not start\nhint: is port {port} in use? --port 0 takes a free one")
    })?;
    let text = |key: &str| {
        said[key].as_str().map(str::to_owned).with_context(|| format!("the relay did not say its {key}"))
    };
    let address = text("address")?;
    let url = if address.starts_with("http") { address } else { format!("http://{address}") };
    Ok((child, url, PathBuf::from(text("token_path")?)))
}

struct Client<'a> {
    potluck: &'a Path,
    url: &'a str,
    token_path: &'a Path,
}

impl Client<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.potluck);
        command.env("POTLUCK_RELAY", self.url);
        command.env("POTLUCK_TOKEN", std::fs::read_to_string(self.token_path).unwrap_or_default().trim());
        command
    }
}

/// X·Xᵀ of the handwritten digits, computed by the tabs, and what it is good for.
fn sample_job(client: &Client<'_>, folder: &Path) -> Result<bool> {
    let data = root().join("examples/data");
    let (images, gram) = (data.join("digits.npy"), folder.join("gram.npy"));
    println!("  The job: all dot products among 1797 handwritten digits, X·Xᵀ.\n");
    let mut submit = client.command();
    submit.args(["submit", "matmul"]).arg(&images).arg(&images).args(["--transpose-b", "--json", "--name"]);
    submit.arg("handwritten digits, X·Xᵀ").arg("--out").arg(&gram);
    // Progress bars go to standard error; the job's end to standard output.
    let output = submit.stderr(Stdio::inherit()).output().context("cannot run potluck submit")?;
    if !output.status.success() {
        bail!("the job failed; potluck says why above");
    }
    let status: Value = serde_json::from_slice(&output.stdout).context("potluck submit printed no JSON")?;
    let accuracy = digits::nearest_neighbor_accuracy(
        &digits::read_matrix(&gram)?,
        &digits::read_labels(&data.join("digits-labels.npy"))?,
    )?;

    println!("\n  Outcome");
    println!(
        "    nearest-neighbor accuracy, each digit left out in turn: {accuracy:.4} (goal {})",
        digits::GOAL
    );
    for contributor in status["contributors"].as_array().into_iter().flatten() {
        let name: String = contributor["volunteer"].as_str().unwrap_or("?").chars().take(8).collect();
        println!(
            "    tab {name}: {} shards on {}, {:.2} s in the kernel",
            contributor["shards"],
            contributor["backend"].as_str().unwrap_or("?"),
            contributor["compute_s"].as_f64().unwrap_or(0.0),
        );
    }
    let rejected: u64 =
        status["rejections"].as_array().into_iter().flatten().filter_map(|r| r["count"].as_u64()).sum();
    println!("    rejected results: {rejected}");
    let check_s = status["check_s"].as_f64().context("the relay did not say what checking cost")?;
    let recompute_s = recompute(&images)?;
    println!(
        "    verification took {:.1} ms of one core; recomputing everything with our CPU kernel takes {:.1} ms, {:.1} times as much",
        check_s * 1e3,
        recompute_s * 1e3,
        recompute_s / check_s.max(1e-9)
    );
    let good = accuracy >= digits::GOAL;
    println!(
        "\n  {}\n",
        if good { "All good." } else { "The accuracy is below the goal: something is wrong." }
    );
    Ok(good)
}

/// Seconds that the product takes here, the best of three.
fn recompute(images: &Path) -> Result<f64> {
    let x = digits::read_matrix(images)?;
    let (m, k) = (x.rows as u32, x.cols as u32);
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        potluck_kernels::cpu::matmul(MatmulShape { m, k, n: m }, Operands::F32 { a: &x.data, bt: &x.data })?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
