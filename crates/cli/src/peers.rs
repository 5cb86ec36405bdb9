//! `potluck peers`: the mesh, drawn as tables of its members and links.

use crate::args::PeersArgs;
use crate::canvas::{Canvas, fit};
use crate::client::{Client, LinkInfo, PeerInfo, Peers};
use crate::error::CliError;
use crate::{job, runs};
use serde_json::json;
use std::io::IsTerminal as _;
use std::time::Duration;

/// Digits of a volunteer's name in a table: enough to tell the members of a mesh apart.
const SHORT_NAME: usize = 8;
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// The end of a link whose volunteer did not come back yet.
const AWAY: &str = "(away)";
/// Columns of a member, with the gap to the next one: `3f2a19bc seed 12 links`.
const MEMBER_COLUMNS: usize = 26;
/// Units of bytes, each 1024 times the one before.
const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// Shows the mesh once, or until Ctrl-C.
///
/// # Errors
/// There is no such run or job; the relay does not answer or refuses.
pub fn command(args: &PeersArgs, client: &Client) -> Result<(), CliError> {
    let path = match &args.of {
        Some(prefix) => format!("/api/v1/peers?job={}", find(client, prefix)?),
        None => "/api/v1/peers".to_owned(),
    };
    if !args.watch {
        show(&client.get(&path, |_| {})?, args);
        return Ok(());
    }
    match watch(args, client, &path) {
        // There is no other end.
        Err(CliError::Interrupted { .. }) => Ok(()),
        other => other,
    }
}

/// The id of a run or of a job.
fn find(client: &Client, prefix: &str) -> Result<String, CliError> {
    match runs::find(client, prefix) {
        Ok(run) => Ok(run.id),
        Err(CliError::NoSuchRun(_)) => match job::find(client, prefix) {
            Ok(detail) => Ok(detail.job.id),
            Err(CliError::NoSuchJob(prefix)) => Err(CliError::NoSuchRun(prefix)),
            Err(other) => Err(other),
        },
        Err(other) => Err(other),
    }
}

fn watch(args: &PeersArgs, client: &Client, path: &str) -> Result<(), CliError> {
    let mut canvas = (!args.json && std::io::stdout().is_terminal()).then(Canvas::new);
    loop {
        let trouble = |cause: &str| tracing::warn!(%cause, "the relay does not answer, trying again");
        let peers: Peers = client.get(path, |now| trouble(&now.cause))?;
        match &mut canvas {
            Some(canvas) => canvas.redraw(|width, height| draw(&peers, width, height)),
            None => show(&peers, args),
        }
        if !client.stop().sleep(LOOK_PAUSE) {
            return Ok(());
        }
    }
}

fn show(peers: &Peers, args: &PeersArgs) {
    if args.json {
        println!("{}", json!(peers));
        return;
    }
    let width = console::Term::stdout().size_checked().map_or(usize::MAX, |(_, columns)| columns.into());
    for line in draw(peers, width, usize::MAX) {
        println!("{line}");
    }
}

/// The mesh in at most `width` columns and `height` rows.
pub fn draw(peers: &Peers, width: usize, height: usize) -> Vec<String> {
    let mut lines = vec![summary(peers)];
    if !peers.members.is_empty() {
        lines.push(String::new());
        lines.extend(members(&peers.members, width));
    }
    if !peers.links.is_empty() {
        lines.push(String::new());
        lines.push(row(["", "A", "B", "A TO B", "B TO A", "A TO B", "B TO A"].map(str::to_owned)));
        lines.extend(peers.links.iter().map(link));
    }
    if lines.len() > height {
        lines.truncate(height.saturating_sub(1));
        lines.push("…".to_owned());
        lines.truncate(height);
    }
    lines.into_iter().map(|line| fit(&line, width)).collect()
}

fn summary(peers: &Peers) -> String {
    if peers.members.is_empty() && peers.links.is_empty() {
        return "nobody is in the mesh; volunteers join it unless they choose \"relay only\"".to_owned();
    }
    let of = |wanted: Option<&str>| peers.links.iter().filter(|link| link.path.as_deref() == wanted).count();
    let (direct, turn, unconnected) = (of(Some("direct")), of(Some("turn")), of(None));
    let rates = peers.links.iter().flat_map(|link| &link.bytes_per_s);
    let rate = rates.fold(0, |sum: u64, rate| sum.saturating_add(*rate));
    format!(
        "{} member(s), {} link(s): {direct} direct, {turn} TURN, {unconnected} not connected; {}/s",
        peers.members.len(),
        peers.links.len(),
        amount(rate)
    )
}

/// As many members in a row as fit.
fn members(members: &[PeerInfo], width: usize) -> Vec<String> {
    let cells: Vec<String> = members
        .iter()
        .map(|member| {
            let seed = if member.seed { " seed" } else { "" };
            let links = if member.links == 1 { "link" } else { "links" };
            format!("{}{seed} {} {links}", short(&member.volunteer), member.links)
        })
        .collect();
    // A log's lines may be of any length, but nobody wants to read them.
    let columns = (width.min(80) / MEMBER_COLUMNS).max(1);
    let in_a_row = |cells: &[String]| {
        let padded: Vec<_> = cells.iter().map(|cell| format!("{cell:<MEMBER_COLUMNS$}")).collect();
        padded.concat().trim_end().to_owned()
    };
    cells.chunks(columns).map(in_a_row).collect()
}

fn link(link: &LinkInfo) -> String {
    let end = |at: usize| link.ends.get(at).and_then(Option::as_deref).map_or_else(|| AWAY.into(), short);
    // What one end got is what the other one sent.
    let got = |of: &[u64], at: usize| amount(of.get(at).copied().unwrap_or_default());
    let path = match link.path.as_deref() {
        None => "not connected",
        Some("turn") => "TURN",
        Some(_) => "direct",
    };
    row([
        path.to_owned(),
        end(0),
        end(1),
        got(&link.received, 1),
        got(&link.received, 0),
        format!("{}/s", got(&link.bytes_per_s, 1)),
        format!("{}/s", got(&link.bytes_per_s, 0)),
    ])
}

/// A row of the table of links: 79 columns.
fn row([path, a, b, there, back, there_rate, back_rate]: [String; 7]) -> String {
    format!(
        "{a:<SHORT_NAME$}  {b:<SHORT_NAME$}  {path:<13}  {there:>8}  {back:>8}  {there_rate:>10}  {back_rate:>10}"
    )
}

/// The beginning of a volunteer's name.
fn short(volunteer: &str) -> String {
    volunteer.chars().filter(|c| !c.is_control()).take(SHORT_NAME).collect()
}

/// Bytes to three digits or more, in at most eight characters below 10,000 TiB.
fn amount(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // What would be rounded to 1024 is one of the next unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> Peers {
        let [a, b, c] = ["3f2a19bc", "9bc10f22", "00d1e5aa"].map(|name| format!("{name}{}", "0".repeat(24)));
        serde_json::from_value(json!({
            "members": [
                { "volunteer": a, "seed": true, "links": 3 },
                { "volunteer": b, "seed": false, "links": 1 },
                { "volunteer": c, "seed": false, "links": 1 },
                { "volunteer": "\u{1b}[31mx", "seed": false, "links": 0 },
            ],
            "links": [
                { "ends": [a, b], "path": "direct", "received": [3 << 20, 1_363_148_800_u64],
                  "bytes_per_s": [0, 5_242_880] },
                { "ends": [c, a], "path": "turn", "received": [1000, 0], "bytes_per_s": [100, 0] },
                { "ends": [a, null], "path": null, "received": [0, 0], "bytes_per_s": [0, 0] },
            ],
        }))
        .unwrap()
    }

    const EXPECTED: &str = "\
4 member(s), 3 link(s): 1 direct, 1 TURN, 1 not connected; 5.00 MiB/s

3f2a19bc seed 3 links     9bc10f22 1 link           00d1e5aa 1 link
[31mx 0 links

A         B                          A TO B    B TO A      A TO B      B TO A
3f2a19bc  9bc10f22  direct         1.27 GiB  3.00 MiB  5.00 MiB/s       0 B/s
00d1e5aa  3f2a19bc  TURN                0 B    1000 B       0 B/s     100 B/s
3f2a19bc  (away)    not connected       0 B       0 B       0 B/s       0 B/s";

    #[test]
    fn the_mesh_to_the_character() {
        let lines = draw(&mesh(), 80, 24);
        assert_eq!(lines.join("\n"), EXPECTED);
        assert!(lines.iter().all(|line| console::measure_text_width(line) < 80));
    }

    #[test]
    fn little_room_is_kept_to() {
        for (width, height) in [(80, 4), (30, 24), (1, 1), (0, 0)] {
            let lines = draw(&mesh(), width, height);
            assert!(lines.len() <= height, "{width} x {height}: {lines:?}");
            assert!(lines.iter().all(|line| console::measure_text_width(line) <= width.max(1)), "{lines:?}");
        }
        assert_eq!(draw(&mesh(), 80, 4)[3], "…");
    }

    #[test]
    fn where_nobody_is_that_is_said() {
        let nobody = Peers { members: Vec::new(), links: Vec::new() };
        let lines = draw(&nobody, 80, 24);
        assert!(lines.len() == 1 && lines[0].starts_with("nobody is in the mesh"), "{lines:?}");
        // What does not fit together is shown as far as it goes.
        let odd = LinkInfo { ends: Vec::new(), path: None, received: vec![1], bytes_per_s: Vec::new() };
        let lines = draw(&Peers { members: Vec::new(), links: vec![odd] }, 80, 24);
        assert!(lines.last().unwrap().starts_with("(away)    (away)    not connected       0 B       1 B"));
    }

    #[test]
    fn amounts_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_236, "10.0 KiB"),
            (102_348, "99.9 KiB"),
            (102_349, "100 KiB"),
            (1_048_063, "1023 KiB"),
            (1_048_064, "1.00 MiB"),
            (5 << 40, "5.00 TiB"),
        ] {
            assert_eq!(amount(bytes), text, "{bytes}");
        }
    }
}
