//! `/metrics`, in Prometheus' text format.

use crate::turn::TurnTotals;
use potluck_schedule::Totals;
use std::fmt::Write as _;

/// The counters as text.
pub(crate) fn text(totals: &Totals, turn: TurnTotals) -> String {
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
    if let Some(bytes) = resident_bytes() {
        put("resident_memory_bytes", "gauge", "Memory that the process occupies.", bytes);
    }
    out
}

/// Resident memory of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_help_type_and_value() {
        let turn = TurnTotals { allocations: 1, bytes: 2, refused: 4 };
        let text = text(&Totals { sessions: 3, ..Totals::default() }, turn);
        assert!(text.contains("\npotluck_sessions 3\n"));
        assert!(
            text.contains("\npotluck_turn_allocations 1\n")
                && text.contains("\npotluck_turn_bytes_total 2\n")
        );
        let values = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(text.lines().count(), 3 * values);
    }
}
