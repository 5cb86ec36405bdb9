//! Native volunteers in threads of this process whose status can be read.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use potluck_cli::error::CliError;
use potluck_cli::ledger::prove::Witnesses;
use potluck_cli::stop::Stop;
use potluck_cli::volunteer::{Exchange, Lending, lend};
use potluck_proto::Preset;
use potluck_types::VolunteerKey;
use potluck_volunteer::{Choice, Status};

use super::bare::Sample;
use super::tabs::LOOK;

/// What a volunteer said so far.
#[derive(Debug, Default)]
struct Told {
    status: Option<Status>,
    /// Bytes that had come from peers by then; a new one where they became more.
    from_peers: Vec<Sample>,
}

/// A native volunteer. Stops when it is dropped.
pub(crate) struct Native {
    stop: Stop,
    told: Arc<Mutex<Told>>,
    thread: Option<JoinHandle<Result<Status, CliError>>>,
}

impl Native {
    /// Lends a quarter of the processor's time: what it computes beside a transfer should disturb that little.
    pub(crate) fn start(relay: &str, name: u8) -> Self {
        let lending = Lending {
            relay: relay.to_owned(),
            choice: Choice::Cpu,
            preset: Preset::Quiet,
            key: VolunteerKey([name; 32]),
            count: None,
            exchange: Exchange::default(),
            witnesses: Witnesses::default(),
            remember: None,
            membership: None,
        };
        let stop = Stop::default();
        let told = Arc::<Mutex<Told>>::default();
        let (heeded, telling) = (stop.clone(), Arc::clone(&told));
        let started = Instant::now();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|cause| CliError::System { what: "the runtime could not be started", cause })?;
            runtime.block_on(lend(&lending, &heeded, |status| {
                let mut told = telling.lock().unwrap_or_else(PoisonError::into_inner);
                let bytes = status.from_peers as f64;
                if told.from_peers.last().is_none_or(|last| last.1 < bytes) {
                    told.from_peers.push((started.elapsed().as_secs_f64(), bytes));
                }
                told.status = Some(status.clone());
            }))
        });
        Self { stop, told, thread: Some(thread) }
    }

    /// Bytes that came from peers, with the times, in seconds, at which they became more.
    pub(crate) fn peers_samples(&self) -> Vec<Sample> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).from_peers.clone()
    }

    /// Looks until its status is as wanted.
    pub(crate) async fn wait(
        &self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let started = Instant::now();
        loop {
            let now = self.told.lock().unwrap_or_else(PoisonError::into_inner).status.clone();
            if let Some(now) = now.as_ref().filter(|now| holds(now)) {
                return Ok(now.clone());
            }
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                bail!("{what}: the native volunteer ended: {now:?}");
            }
            if started.elapsed() > limit {
                bail!("{what}: not within {} s: {now:?}", limit.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.stop.request();
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            // What it failed with shows in what waits for it.
            drop(thread.join());
        }
    }
}
