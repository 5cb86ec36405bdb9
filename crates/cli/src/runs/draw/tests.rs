//! The view of a run, to the character.

use super::*;
use serde_json::json;

fn round(round: u64, train: f64, validation: Option<f64>) -> RoundInfo {
    serde_json::from_value(json!({
        "round": round, "workers": 4, "rejected": 1, "train_loss": train, "validation_loss": validation,
        "upload_bytes": 317_440, "download_bytes": 1_572_864, "tokens": 20_480, "seconds": 2.0,
        "rule": "trimmed_mean",
    }))
    .unwrap()
}

fn view(rounds: u64) -> View {
    let history = (0..rounds).map(|at| {
        let train = 1.5 + 3.0 * (-(at as f64) / 8.0).exp();
        round(at, train, (at % 4 == 3).then_some(train + 0.125))
    });
    let run = serde_json::from_value(json!({
        "id": "3f2a9c01000000000000000000000000", "name": "whale.txt", "state": "running", "reason": null,
        "model": { "vocabulary": 65, "context": 64, "layers": 3, "heads": 4, "width": 64, "bias": false },
        "round": rounds, "rounds": 40, "phase": "training", "workers": 4, "parameters": 156_160,
        "history": history.collect::<Vec<_>>(),
    }));
    View { run: run.unwrap(), sample: None, trouble: None }
}

#[test]
fn a_round_is_a_line() {
    assert_eq!(
        round_line(&round(11, 2.5, Some(2.625)), 60),
        "round 12 of 60: train 2.5000, validation 2.6250, 4 volunteer(s) (1 rejected), 10240 tokens/s, 310.00 KiB up, \
         1.50 MiB down"
    );
    let bare: RoundInfo = serde_json::from_value(json!({ "round": 0 })).unwrap();
    assert_eq!(
        round_line(&bare, 1),
        "round 1 of 1: train -, validation -, 0 volunteer(s), 0 tokens/s, 0 B up, 0 B down"
    );
}

#[test]
fn figures_are_added_up() {
    let totals = totals(&view(30).run);
    assert!((totals.tokens_per_s - 10_240.0).abs() < 1e-9);
    assert_eq!((totals.upload_bytes, totals.tokens), (30 * 317_440, 30 * 20_480));
    assert_eq!(totals.left, Some(Duration::from_secs(20)));
    assert_eq!(super::totals(&view(0).run).left, None);
}

#[test]
fn the_view_to_the_character() {
    let mut view = view(20);
    view.sample = Some((16, Ok("Call me\tIsh\u{1b}mael.\nSome years".to_owned())));
    assert_eq!(draw(&view, 64, 17).join("\n"), EXPECTED);
}

#[test]
fn before_the_first_round_and_in_trouble() {
    let mut view = view(0);
    view.run.workers = 0;
    view.run.state = "paused".into();
    view.run.reason = Some("the loss is not finite".into());
    view.trouble = Some("connection refused".into());
    view.sample = Some((0, Err("no tokenizer".into())));
    assert_eq!(
        draw(&view, 80, 24),
        [
            "whale.txt  paused  run 3f2a9c01  156,160 parameters",
            "round 0 of 40  ░░░░░░░░░░░░░░░░░░░░",
            "0 volunteer(s)  0 tokens/s  0 tokens  0 B up  0 B down",
            "because the loss is not finite",
            "the relay does not answer: connection refused",
            "no round is done yet",
            "no text of round 0: no tokenizer",
        ]
    );
}

#[test]
fn nothing_is_wider_or_higher_than_the_space() {
    let mut view = view(40);
    view.run.name = "鯨".repeat(60);
    view.sample = Some((40, Ok("x".repeat(5000))));
    for width in [1, 5, 14, 15, 16, 40, 80, 300] {
        for height in [0, 1, 3, 7, 10, 24, 100] {
            let lines = draw(&view, width, height);
            assert!(lines.len() <= height, "{width} x {height}");
            for line in &lines {
                assert!(console::measure_text_width(line) <= width, "{width} x {height}: {line}");
            }
        }
    }
}

/// 20 of 40 rounds in 64 columns and 17 rows.
const EXPECTED: &str = "\
whale.txt  running, training  run 3f2a9c01  156,160 parameters
round 20 of 40  ██████████░░░░░░░░░░  40 seconds left
4 volunteer(s)  10,240 tokens/s  409,600 tokens  6.05 MiB up  3…
  4.500│⠑⠢⣀
       │   ⠑⠢⣀
       │      ⠑⠢⢄•
       │          ⠉⠒⠤⣀
       │              ⠉⠑⠒⠤⢄⣀•
       │                    ⠉⠑⠒⠤⠤⣀⣀⣀    •
       │                            ⠉⠉⠒⠢⠤⢄⣀⣀⣀⣀⣀⡀   •
  1.779│                                       ⠈⠉⠉⠑⠒⠒⠢⠤⠤⠤⠤⠤⣀⣀⣀⣀•
       └────────────────────────────────────────────────────────
        rounds 1 to 20  ⠶ train 1.7790  • validation 1.9040
after 16 rounds it writes:
  Call me Ishmael.
  Some years";
