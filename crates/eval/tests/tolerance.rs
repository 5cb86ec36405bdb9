//! By how much machines that sum in another order differ, which the tolerances of the check rest on.
#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

mod support;

use potluck_eval::check::{OFF, SCORE_OFF};
use potluck_train::TrainError;
use potluck_train::gpt::{CpuGpt, GptConfig, init};
use support::{Draws, acts, config, permuted, tokenizer, train};

/// Greatest difference of logits, and of losses averaged over a window, as shares of the greatest logit.
struct Differences {
    logits: f64,
    scores: f64,
    greatest: f32,
}

fn measure(config: &GptConfig, parameters: &[f32], tokens: &[u32], windows: usize) -> Differences {
    let mut found = Differences { logits: 0.0, scores: 0.0, greatest: 0.0 };
    let mut models: Vec<CpuGpt> = Vec::new();
    for seed in 0..4 {
        let mut model = CpuGpt::new(*config).unwrap();
        let other = if seed == 0 { parameters.to_vec() } else { permuted(config, parameters, seed) };
        model.take(&other).unwrap();
        models.push(model);
    }
    let mut draws = Draws::new(1);
    for window in 0..windows {
        // Short windows too: they average over less.
        let length = if window % 4 == 0 { 2 + draws.below(4) } else { config.context + 1 };
        let start = draws.below(tokens.len() - length);
        let window = &tokens[start..start + length];
        let rows = models.iter_mut().map(|model| {
            let mut rows: Vec<Vec<f32>> = Vec::new();
            let visit = |_, logits: &[f32]| {
                rows.push(logits.to_vec());
                Ok::<(), TrainError>(())
            };
            model.each_logits(&window[..length - 1], 0, visit).unwrap();
            (rows, model.losses(window, 1).unwrap().iter().sum::<f64>())
        });
        let rows: Vec<_> = rows.collect();
        let most = |row: &[f32]| row.iter().fold(1.0_f32, |most, logit| most.max(logit.abs()));
        let scale: f64 = rows[0].0.iter().map(|row| f64::from(most(row))).sum();
        for (other, sum) in &rows[1..] {
            for (a, b) in rows[0].0.iter().zip(other) {
                let greatest = most(a);
                found.greatest = found.greatest.max(greatest);
                let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                found.logits = found.logits.max(f64::from(off / greatest));
            }
            found.scores = found.scores.max((sum - rows[0].1).abs() / scale);
        }
    }
    found
}

#[test]
fn the_order_of_sums_stays_far_within_the_tolerances() {
    let tokenizer = tokenizer();
    let config = config(&tokenizer);
    let tokens = tokenizer.encode(&acts(1, 20_000).concat()).unwrap();
    let trained = train(&config, &tokens, 150, 3);
    // As training goes on, weights grow; and what nothing was learned from.
    let large: Vec<f32> = trained.iter().map(|value| value * 2.0).collect();
    let fresh = init(&config, &[1; 32]);
    let models = [("trained", &trained, 20.0), ("large", &large, 2.0), ("fresh", &fresh, 20.0)];
    for (name, parameters, times) in models {
        let found = measure(&config, parameters, &tokens, 60);
        let (logits, scores) = (found.logits, found.scores);
        println!("{name}: logits {logits:.1e}, scores {scores:.1e}, greatest logit {:.1}", found.greatest);
        assert!(logits > 0.0 && logits * times < OFF, "{name}: {logits:e}");
        assert!(scores * times < SCORE_OFF, "{name}: {scores:e}");
    }
}
