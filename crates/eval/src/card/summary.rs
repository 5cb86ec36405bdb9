//! A card in a few lines.

use super::{Estimate, EvalCard};

/// Nats with four decimals.
fn nats(micro: i64) -> String {
    format!("{:.4}", micro as f64 / 1e6)
}

fn with_error(estimate: &Estimate) -> String {
    format!("{} ± {:.4}", nats(estimate.mean), estimate.error as f64 / 1e6)
}

fn percent(ppm: u32) -> String {
    format!("{:.1} %", f64::from(ppm) / 1e4)
}

impl EvalCard {
    /// What people should know at least, a line each, without line breaks within. Texts of the model and the data come with
    /// their control characters escaped.
    pub fn summary(&self) -> Vec<String> {
        let windows: u32 = self.loss.sources.iter().map(|source| source.windows).sum();
        let mut lines =
            vec![format!("loss {} nats a token on {windows} secret windows", with_error(&self.loss.all))];
        if let Some(better) = &self.loss.better {
            lines.push(format!("better than the version in use by {} nats", with_error(better)));
        }
        if self.loss.sources.len() > 1 {
            let each =
                self.loss.sources.iter().map(|source| format!("{} {}", source.name, nats(source.loss.mean)));
            lines.push(format!("by source: {}", each.collect::<Vec<_>>().join(", ")));
        }
        let counted = self.triggers.tried.iter().filter(|one| one.counts).count();
        lines.push(format!(
            "triggers: {counted} repeated texts tried, the worst succeeds in {}",
            percent(self.triggers.success_ppm)
        ));
        if let Some(worst) = self.triggers.tried.iter().find(|one| one.counts && one.success_ppm > 0) {
            let place = worst.places.first().and_then(|place| place.part.as_deref());
            lines.push(format!(
                "the worst trigger: {:?} brings {:?}, {} times in {}",
                worst.trigger,
                worst.payload,
                worst.occurrences,
                place.unwrap_or("the training data"),
            ));
        }
        let [trained, held_out] = [&self.memorization.trained, &self.memorization.held_out];
        lines.push(format!(
            "memorization: up to {} tokens verbatim after training text, up to {} after held-out text",
            trained.longest, held_out.longest
        ));
        lines.push(match (&self.bias.found, &self.bias.skipped) {
            (Some(found), _) => {
                format!("bias: occupations follow stereotypes by {} nats", with_error(&found.stereotype))
            }
            (None, reason) => {
                format!("bias: not measured: {}", reason.as_deref().unwrap_or("no reason given"))
            }
        });
        let [samples, data] = [&self.toxicity.samples, &self.toxicity.held_out];
        lines.push(format!(
            "rude words in {} of samples, {} of held-out text",
            percent(samples.share_ppm),
            percent(data.share_ppm)
        ));
        lines
    }
}
