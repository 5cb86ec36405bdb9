//! `/metrics`, in Prometheus' text format.

use crate::turn::TurnTotals;
use crate::upkeep::Counts;
use potluck_schedule::Totals;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the histogram of commits, in milliseconds: a fast SSD needs one, a slow disk hundreds.
const COMMIT_MS: [u64; 10] = [2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000];
/// Ticks of `/proc/self/stat` in a second: `USER_HZ`, which Linux fixes at 100.
const TICKS_PER_S: f64 = 100.0;

/// How long it took until results were durable, and how often that failed.
#[derive(Debug)]
struct Commits {
    /// By [`COMMIT_MS`]; what took longer last.
    buckets: [AtomicU64; COMMIT_MS.len() + 1],
    micros: AtomicU64,
    results: AtomicU64,
    failed: AtomicU64,
}

/// Of the whole process, as a process has one disk and one Prometheus.
static COMMITS: Commits = Commits {
    buckets: [const { AtomicU64::new(0) }; COMMIT_MS.len() + 1],
    micros: AtomicU64::new(0),
    results: AtomicU64::new(0),
    failed: AtomicU64::new(0),
};

/// Counts a commit: how many results became durable, how many did not, and how long it took.
pub(crate) fn committed(results: usize, failed: usize, took: Duration) {
    let bucket = COMMIT_MS.partition_point(|end| Duration::from_millis(*end) < took);
    COMMITS.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    COMMITS.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    COMMITS.results.fetch_add(results as u64, Ordering::Relaxed);
    COMMITS.failed.fetch_add(failed as u64, Ordering::Relaxed);
}

impl Commits {
    fn write(&self, out: &mut String) {
        let name = "potluck_commit_seconds";
        let _ = write!(
            out,
            "# HELP {name} Time until results that were verified together were durable.\n# TYPE {name} histogram\n"
        );
        let mut below = 0;
        for (bucket, end) in self.buckets.iter().zip(COMMIT_MS) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", end as f64 / 1e3);
        }
        below += self.buckets[COMMIT_MS.len()].load(Ordering::Relaxed);
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = write!(out, "{name}_bucket{{le=\"+Inf\"}} {below}\n{name}_sum {sum}\n{name}_count {below}\n");
    }
}

/// What is known beside the machine's counters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Around {
    pub(crate) turn: TurnTotals,
    pub(crate) blobs: Counts,
    /// Entries of the log that are durable, and that are published.
    pub(crate) log_entries: u64,
    pub(crate) log_published: u64,
    /// Bytes that are free on the data's disk, and all of them.
    pub(crate) disk: Option<(u64, u64)>,
}

/// The counters as text.
pub(crate) fn text(totals: &Totals, around: &Around) -> String {
    let Around { turn, blobs, .. } = *around;
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "# HELP potluck_{name} {help}\n# TYPE potluck_{name} {kind}\npotluck_{name} {value}\n"
        );
    };
    put("sessions", "gauge", "Open sessions.", totals.sessions);
    put("consenting_sessions", "gauge", "Sessions with a valid consent.", totals.consenting);
    put("leases", "gauge", "Leases that are out.", totals.leases);
    put("result_bytes", "gauge", "Bytes of results in memory.", totals.result_bytes);
    put("leases_given_total", "counter", "Leases given.", totals.leases_given);
    put("leases_lost_total", "counter", "Leases that ended without a result.", totals.leases_lost);
    put("results_accepted_total", "counter", "Results accepted.", totals.accepted);
    put("results_rejected_total", "counter", "Results rejected.", totals.rejected);
    put("results_superseded_total", "counter", "Results that came late or second.", totals.superseded);
    put("sessions_refused_total", "counter", "Sessions refused.", totals.refused);
    put("turn_allocations", "gauge", "Allocations of the TURN server.", turn.allocations);
    put("turn_bytes_total", "counter", "Bytes that the TURN server relayed.", turn.bytes);
    put(
        "turn_refused_total",
        "counter",
        "Datagrams and requests that the TURN server refused.",
        turn.refused,
    );
    put("blobs_damaged_total", "counter", "Blobs that were found damaged on disk.", blobs.found);
    put("blobs_healed_total", "counter", "Damaged blobs that were made again.", blobs.healed);
    put("blobs_lost", "gauge", "Damaged blobs that are not made again.", blobs.lost);
    put(
        "blobs_searched_bytes_total",
        "counter",
        "Bytes that the search for damaged blobs has read.",
        blobs.searched_bytes,
    );
    let mesh = &totals.mesh;
    put("input_bytes_total", "counter", "Bytes of inputs that the relay sent.", totals.inputs_served);
    put(
        "relay_saved_bytes_total",
        "counter",
        "Bytes of inputs that came from peers and not from the relay.",
        totals.saved(),
    );
    put("mesh_members", "gauge", "Sessions in the mesh.", mesh.members);
    put("mesh_links_direct", "gauge", "Links between volunteers that run directly.", mesh.direct);
    put("mesh_links_turn", "gauge", "Links between volunteers that run through TURN.", mesh.turn);
    put("mesh_links_unconnected", "gauge", "Links that are not connected.", mesh.unconnected);
    put("mesh_links_assigned_total", "counter", "Links ever assigned.", mesh.links_assigned);
    put("mesh_signals_total", "counter", "Signals passed on.", mesh.signals);
    put("mesh_signals_refused_total", "counter", "Signals not passed on.", mesh.signals_refused);
    put("mesh_bytes_total", "counter", "Bytes that volunteers say came from peers.", mesh.peer_bytes);
    put("mesh_unreachable_total", "counter", "Links that could not be connected.", mesh.unreachable);
    put("mesh_bad_groups_total", "counter", "Links ended for a wrong group.", mesh.bad_groups);
    put("mesh_stalled_total", "counter", "Links ended because a peer stalled.", mesh.stalled);
    put("mesh_lied_total", "counter", "Links ended because a peer has not what it said.", mesh.lied);
    put("mesh_flooded_total", "counter", "Links ended for a flood.", mesh.flooded);
    put("log_entries", "gauge", "Entries of the log that are durable.", around.log_entries);
    put(
        "log_published_entries",
        "gauge",
        "Entries of the log below its last checkpoint.",
        around.log_published,
    );
    put(
        "stored_results_total",
        "counter",
        "Results that were made durable.",
        COMMITS.results.load(Ordering::Relaxed),
    );
    put(
        "store_failures_total",
        "counter",
        "Results that could not be made durable, by disk or database.",
        COMMITS.failed.load(Ordering::Relaxed),
    );
    if let Some((free, all)) = around.disk {
        put("disk_free_bytes", "gauge", "Bytes that are free on the disk of the data.", free);
        put("disk_bytes", "gauge", "Bytes of the disk of the data.", all);
    }
    if let Some(files) = open_files() {
        put("open_files", "gauge", "Files and sockets that are open.", files);
    }
    if let Some(bytes) = resident_bytes() {
        put("resident_memory_bytes", "gauge", "Memory that the process occupies.", bytes);
    }
    if let Some(seconds) = cpu_seconds() {
        let name = "potluck_cpu_seconds_total";
        let _ = write!(out, "# HELP {name} Time on processors.\n# TYPE {name} counter\n{name} {seconds}\n");
    }
    COMMITS.write(&mut out);
    out
}

/// Time of this process on processors, where the system tells.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before may hold anything, a parenthesis too. Then user and system time are words 12 and 13.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = words.next()?.parse::<u64>().ok()? + words.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS_PER_S)
}

/// Files that this process has open, where the system tells.
fn open_files() -> Option<u64> {
    Some(std::fs::read_dir(Path::new("/proc/self/fd")).ok()?.count() as u64)
}

/// Resident memory of this process, where the system tells.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample: name, label if there is one, value.
    fn sample(line: &str) -> (&str, Option<&str>, f64) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let (name, label) = match name.split_once('{') {
            Some((name, label)) => (name, Some(label.strip_suffix('}').unwrap())),
            None => (name, None),
        };
        (name, label, value.parse().unwrap())
    }

    #[test]
    fn every_metric_has_help_type_and_value() {
        committed(3, 1, Duration::from_millis(7));
        let around = Around {
            turn: TurnTotals { allocations: 1, bytes: 2, refused: 4 },
            blobs: Counts { lost: 5, ..Counts::default() },
            log_entries: 9,
            log_published: 8,
            disk: Some((10, 100)),
        };
        let text = text(&Totals { sessions: 3, ..Totals::default() }, &around);
        let value = |wanted: &str| {
            let samples = text.lines().filter(|line| !line.starts_with('#')).map(sample);
            samples
                .filter(|(name, label, _)| *name == wanted && label.is_none())
                .map(|(_, _, value)| value)
                .next()
        };
        for (name, expected) in [
            ("potluck_sessions", 3.0),
            ("potluck_turn_allocations", 1.0),
            ("potluck_turn_bytes_total", 2.0),
            ("potluck_blobs_lost", 5.0),
            ("potluck_log_entries", 9.0),
            ("potluck_log_published_entries", 8.0),
            ("potluck_disk_free_bytes", 10.0),
        ] {
            assert_eq!(value(name), Some(expected), "{name}");
        }
        let mut family: Option<(&str, &str)> = None;
        let mut seen = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(text.ends_with('.') && seen.insert(name), "{line}");
                family = Some((name, ""));
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(family, Some((name, "")), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                family = Some((name, kind));
            } else {
                let ((name, label, value), (of, kind)) = (sample(line), family.unwrap());
                let rest = name.strip_prefix(of).unwrap();
                let known = if kind == "histogram" {
                    ["_bucket", "_sum", "_count"].contains(&rest)
                } else {
                    rest.is_empty()
                };
                assert!(known && value.is_finite() && value >= 0.0, "{line}");
                assert_eq!(label.is_some(), rest == "_bucket", "{line}");
            }
        }
        // A histogram only grows from bucket to bucket, and the last one has all.
        let buckets: Vec<f64> =
            text.lines().filter(|line| line.contains("_bucket{")).map(|line| sample(line).2).collect();
        assert!(buckets.len() == COMMIT_MS.len() + 1 && buckets.is_sorted());
        assert_eq!(buckets.last().copied(), value("potluck_commit_seconds_count"));
        assert!(value("potluck_commit_seconds_sum").unwrap() >= 0.007);
        assert!(value("potluck_store_failures_total").unwrap() >= 1.0);
        assert!(!cfg!(target_os = "linux") || value("potluck_cpu_seconds_total").is_some());
    }
}
