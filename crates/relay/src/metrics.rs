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
    if let Some(bytes) = resident_bytes() {
        put("resident_memory_bytes", "gauge", "Memory that the process occupies.", bytes);
    }
    out
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
