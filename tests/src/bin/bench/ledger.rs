//! The public log: a million entries audited on one core, a receipt checked, natively and in a tab, and what `ledger_rate`
//! says of a busy relay.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, find_chromium};
use potluck_governance::{Checker, Constitution, Entry, Key, Roles, SigningKey, entry};
use potluck_ledger::{
    Appender, Bundle, Checkpoint, KeyKind, LogFile, Policy, Receipt, SignerKey, TreeHead, audit,
};
use potluck_types::{BlobHash, JobId};
use serde_json::{Value, json};

use crate::row::{Goal, Report, Row};
use crate::server::{self, Folders};

const ENTRIES: u64 = 1_000_000;
/// Entries that are appended at once.
const BATCH: usize = 4096;
/// Volunteers whose results they are.
const VOLUNTEERS: u8 = 200;
const ORIGIN: &str = "bench.example/log";
/// Receipts that are checked, for one time.
const RECEIPTS: u32 = 200;

const AUDIT_SECONDS: f64 = 60.0;
const AUDIT_MEGABYTES: f64 = 200.0;
const RECEIPT_MS: f64 = 1.0;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let key = SignerKey::from_seed(ORIGIN, KeyKind::Ed25519, &[7; 32])?;
    let started = Instant::now();
    let (head, bytes) = write(folder.path())?;
    report.note(&format!(
        "{ENTRIES} entries, {:.0} bytes each, written in {:.1} s",
        bytes as f64 / ENTRIES as f64,
        started.elapsed().as_secs_f64()
    ));

    peak_begins()?;
    let started = Instant::now();
    let mut checker = Checker::new();
    let mut files = |file: LogFile| fs::read(folder.path().join(file.to_string()));
    audit(&head, &mut files, &mut |_, entry| checker.read(entry))?;
    let found = checker.report();
    let seconds = started.elapsed().as_secs_f64();
    ensure!(found.clean() && found.entries == ENTRIES, "the log is not clean: {:?}", found.errors.first());
    // All of this process: what the writing left free is used again.
    let megabytes = peak()? as f64 / 1e6;
    report.row(Row::new("ledger.audit.time", seconds, "s").goal(Goal::ValueAtMost(AUDIT_SECONDS)));
    report.row(Row::new("ledger.audit.memory", megabytes, "MB").goal(Goal::ValueAtMost(AUDIT_MEGABYTES)));

    let mut note = Checkpoint::new(ORIGIN, head)?.to_note();
    note.sign(&key)?;
    let index = ENTRIES / 3;
    let bundle = Bundle::containing(index, head.size).context("an entry of the log")?;
    let text = fs::read(folder.path().join(bundle.to_string()))?;
    let text = bundle.entries(&text)?[(index - bundle.first_entry()) as usize].to_vec();
    let receipt = Receipt::issue(text, index, note, &mut files)?.to_string();
    let policy = Policy::new(ORIGIN, key.verifier().clone(), Vec::new(), 0)?;
    let started = Instant::now();
    for _ in 0..RECEIPTS {
        Receipt::parse(receipt.as_bytes())?.verify(&policy)?;
    }
    let each = started.elapsed().as_secs_f64() * 1e3 / f64::from(RECEIPTS);
    report.row(Row::new("ledger.receipt.native", each, "ms").digits(3).goal(Goal::ValueAtMost(RECEIPT_MS)));
    crate::runtime()?.block_on(in_a_tab(report, &receipt, &key.verifier().to_string()))?;
    crate::ledger_rate::run(report)
}

/// The same receipt in a tab, with the module that tabs load: form, inclusion proof and the checkpoint's signature.
async fn in_a_tab(report: &mut Report, receipt: &str, key: &str) -> Result<()> {
    if find_chromium().is_none() {
        report.note("ledger.receipt.tab: no Chromium here");
        return Ok(());
    }
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist");
    ensure!(dist.join("trust/trust.js").is_file(), "dist/trust is missing. hint: cargo xtask site");
    let folders = Folders { npm: dist.clone(), engine: dist.clone(), burn: None, page: dist };
    let server = server::start(folders).await?;
    let browser = Browser::launch(&LaunchOptions { gpu: Gpu::Off, ..LaunchOptions::default() }).await?;
    let tab = browser.new_tab().await?;
    tab.goto(&format!("http://{}/models.html", server.address)).await?;
    let (receipt, trusted) = (Value::from(receipt), Value::from(json!({ "log": key }).to_string()));
    let script = format!(
        "(async () => {{
          const trust = await import('/trust/trust.js');
          await trust.default();
          const receipts = new trust.Receipts({trusted});
          const bytes = new TextEncoder().encode({receipt});
          const check = (count) => {{ for (let i = 0; i < count; i += 1) receipts.verify(bytes); }};
          check({RECEIPTS});
          const started = performance.now();
          check({RECEIPTS});
          return (performance.now() - started) / {RECEIPTS};
        }})()"
    );
    let each = tab.evaluate::<f64>(&script).await;
    browser.close().await;
    report.row(Row::new("ledger.receipt.tab", each?, "ms").digits(3).goal(Goal::ValueAtMost(RECEIPT_MS)));
    Ok(())
}

/// Writes a log as a busy relay would: a job, and its results.
fn write(folder: &Path) -> Result<(TreeHead, u64)> {
    let job = JobId([3; 16]);
    let volunteers: Vec<Key> = (0..VOLUNTEERS).map(|n| Key::of(&SigningKey::from_bytes(&[n; 32]))).collect();
    let mut appender = Appender::new();
    let mut files: BTreeMap<LogFile, Vec<u8>> = BTreeMap::new();
    let (mut waiting, mut bytes) = (Vec::with_capacity(BATCH), 0);
    for index in 0..ENTRIES {
        let entry = match index {
            0 => entry::Genesis {
                origin: ORIGIN.to_owned(),
                constitution: Constitution::default(),
                roles: Roles::nobody(),
            }
            .into(),
            1 => entry::Job { job, name: "product".to_owned(), spec: BlobHash([4; 32]), submitter: None }
                .into(),
            _ => potluck_governance::Body::from(entry::ResultAccepted {
                volunteer: volunteers[index as usize % volunteers.len()],
                job,
                shard: index.to_string(),
                result: BlobHash::of(&index.to_le_bytes()),
                bytes: 98_304,
                check: "freivalds".to_owned(),
            }),
        };
        let text = Entry::new(1_700_000_000_000 + index, entry).encode()?;
        bytes += text.len() as u64;
        waiting.push(text);
        if waiting.len() == BATCH || index + 1 == ENTRIES {
            files.extend(appender.append(&waiting)?.files);
            waiting.clear();
            for (file, bytes) in std::mem::take(&mut files) {
                let path = folder.join(file.to_string());
                fs::create_dir_all(path.parent().context("a folder")?)?;
                fs::write(path, bytes)?;
            }
        }
    }
    Ok((appender.head(), bytes))
}

/// Memory of this process, whose peak is counted from now on.
fn peak_begins() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("the peak of memory cannot be counted anew here")
}

fn peak() -> Result<u64> {
    match potluck_tests::memory("VmHWM") {
        Some(bytes) => Ok(bytes),
        None => bail!("this system does not tell the peak of memory"),
    }
}
