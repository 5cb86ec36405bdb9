//! The machine, and time as this thread or a process used it.

use std::collections::BTreeMap;
use std::fs;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Processor, cores and what else the machine is doing.
pub(crate) fn machine() -> String {
    let cores = available_parallelism().map_or(1, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| field(&text, "model name").map(str::to_owned));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{}, {cores} cores, load {load}", cpu.as_deref().unwrap_or("unknown processor"))
}

/// The value of the first `name: value` line.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Time of one piece of work on this thread.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    wall: Instant,
    on_cpu: Option<Duration>,
}

impl Stopwatch {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self { wall: Instant::now(), on_cpu: thread_cpu() }
    }

    /// Time this thread spent on a processor, where the system tells (Linux); else wall time.
    ///
    /// On a shared machine wall time of the same work varies threefold, time on the processor by a tenth. The
    /// system counts in ticks of a few milliseconds: let a sample last 50 ms at least.
    pub(crate) fn used(&self) -> Duration {
        match (self.on_cpu, thread_cpu()) {
            (Some(start), Some(end)) => end.saturating_sub(start),
            _ => self.wall.elapsed(),
        }
    }
}

fn thread_cpu() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// Time on a processor of all threads of a process and its descendants that still run.
pub(crate) fn processes_cpu(root: u32) -> Duration {
    threads_cpu(root).into_iter().map(|(.., time)| time).sum()
}

/// The same by what a process of Chromium is for and what its threads are called.
pub(crate) fn chromium_cpu(root: u32) -> BTreeMap<String, Duration> {
    let mut by_part = BTreeMap::new();
    for (pid, thread, time) in threads_cpu(root) {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let kind = line.split(['\0', ' ']).find_map(|word| word.strip_prefix("--type=")).unwrap_or("browser");
        let name = fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).unwrap_or_default();
        *by_part.entry(format!("{kind} {}", name.trim())).or_default() += time;
    }
    by_part
}

/// Process, thread, and its time on a processor.
fn threads_cpu(root: u32) -> Vec<(u32, u32, Duration)> {
    let numbers = |folder: &str| -> Vec<u32> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    };
    let parents: Vec<(u32, u32)> = numbers("/proc")
        .into_iter()
        .filter_map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            Some((pid, field(&text, "PPid")?.parse().ok()?))
        })
        .collect();
    let mut family = vec![root];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family
            .extend(parents.iter().filter(|(pid, of)| *of == parent && *pid != parent).map(|(pid, _)| *pid));
        next += 1;
    }
    let of_thread = |pid: u32, thread: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    family
        .into_iter()
        .flat_map(|pid| numbers(&format!("/proc/{pid}/task")).into_iter().map(move |thread| (pid, thread)))
        .filter_map(|(pid, thread)| Some((pid, thread, of_thread(pid, thread)?)))
        .collect()
}

/// Time on a processor of this process so far, that of threads that ended included, counted in hundredths of a second.
pub(crate) fn process_cpu() -> Result<Duration> {
    cpu_of("self")
}

/// The same of any process: its number, or `self`.
pub(crate) fn cpu_of(process: &str) -> Result<Duration> {
    /// The kernel's unit for programs, the same on every machine.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = fs::read_to_string(format!("/proc/{process}/stat"))
        .context("this system does not tell a process's time")?;
    // The name in parentheses may hold spaces; user and system time are fields 14 and 15 of the line.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

/// A line of `/proc/PID/status` in bytes: `VmHWM` is the most that was ever resident.
pub(crate) fn memory_bytes(pid: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib: u64 = field(&text, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field("VmPeak:\t 12 kB\nVmHWM:\t 7 kB\n", "VmHWM"), Some("7 kB"));
        assert_eq!(field("VmPeak:\t 12 kB\n", "Vm"), None);
    }
}
