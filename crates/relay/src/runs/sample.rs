//! What a run's model writes after the rounds so far. Everybody who looks on may ask for it, so it is made for one and kept for
//! the others, and not for every round of a run whose rounds are short.

use super::api::RunSample;
use super::intake::le_bytes;
use super::parameters::parameters_after;
use super::store::RunRow;
use crate::api::ApiError;
use crate::evals::api::NewSample;
use crate::evals::intake;
use crate::http::App;
use axum::http::StatusCode;
use potluck_types::JobId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is continued: the first of them that the run's tokenizer knows.
const PROMPTS: [&str; 2] = ["The ", "\n"];
/// Tokens of a sample: some lines on a page.
const TOKENS: u32 = 96;
/// Likely words before rare ones: who looks on wants to see what was learned.
const TEMPERATURE: f32 = 0.8;
/// A newer round is not shown before this time is over, and what failed is not tried again.
const INTERVAL: Duration = Duration::from_secs(20);
/// Samples that are kept; the oldest goes.
const MAX_KEPT: usize = 16;

/// What was made of a run's model, or why nothing could be.
#[derive(Debug, Clone)]
struct Kept {
    made: Instant,
    round: u64,
    written: Result<RunSample, ApiError>,
}

/// The newest sample of each run that somebody looked at.
#[derive(Debug, Default)]
pub(crate) struct Samples(Mutex<BTreeMap<JobId, Kept>>);

impl Samples {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is kept, while it is new enough for a run that has so many rounds.
    fn fresh(&self, run: JobId, round: u64, now: Instant) -> Option<Result<RunSample, ApiError>> {
        let samples = self.lock();
        let kept = samples.get(&run)?;
        let newest = kept.round == round && kept.written.is_ok();
        (newest || now.saturating_duration_since(kept.made) < INTERVAL).then(|| kept.written.clone())
    }

    /// The one that is kept, however old.
    fn any(&self, run: JobId) -> Option<Result<RunSample, ApiError>> {
        Some(self.lock().get(&run)?.written.clone())
    }

    fn keep(&self, run: JobId, kept: Kept) {
        let mut samples = self.lock();
        samples.insert(run, kept);
        while samples.len() > MAX_KEPT {
            let oldest = samples.iter().min_by_key(|(_, kept)| kept.made).map(|(run, _)| *run);
            oldest.and_then(|run| samples.remove(&run));
        }
    }
}

/// What the run's model writes.
///
/// # Errors
/// The model writes no text, or knows none of the prompts; blobs that are missing; others are asked for at the moment.
pub(crate) async fn sample(app: &Arc<App>, run: RunRow) -> Result<RunSample, ApiError> {
    if let Some(written) = app.samples.fresh(run.id, run.round, Instant::now()) {
        return written;
    }
    // A task of its own: who hangs up must not leave work behind that holds no slot, nor waste it.
    let app = Arc::clone(app);
    let made = tokio::spawn(async move {
        // Anybody may ask for this: it must not keep submitters waiting, and nobody waits in line for it.
        let Ok(_slot) = app.rebuilds.try_acquire() else {
            return app.samples.any(run.id).unwrap_or_else(|| Err(busy()));
        };
        if let Some(written) = app.samples.fresh(run.id, run.round, Instant::now()) {
            return written;
        }
        let written = make(&app, &run).await;
        let kept = Kept { made: Instant::now(), round: run.round, written: written.clone() };
        app.samples.keep(run.id, kept);
        written
    });
    made.await.map_err(ApiError::internal)?
}

async fn make(app: &App, run: &RunRow) -> Result<RunSample, ApiError> {
    // Before the model is rebuilt, which takes longest.
    intake::config_of(run)?;
    let tokenizer = intake::tokenizer_of(app, run).await?;
    let prompt = PROMPTS.into_iter().find(|prompt| tokenizer.encode(prompt).is_ok()).unwrap_or(PROMPTS[0]);
    let bytes = le_bytes(&parameters_after(&app.db, &app.blobs, run, run.round).await?);
    let new = NewSample { prompt: prompt.to_owned(), tokens: TOKENS, seed: 0, temperature: TEMPERATURE };
    let text = intake::write(app, run, bytes.into(), new).await?;
    Ok(RunSample { round: run.round, prompt: prompt.to_owned(), text })
}

fn busy() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "models are being rebuilt for others",
        "ask again in some seconds",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(made: Instant, round: u64) -> Kept {
        let written = RunSample { round, prompt: "The ".to_owned(), text: "end.".to_owned() };
        Kept { made, round, written: Ok(written) }
    }

    #[test]
    fn the_newest_samples_are_kept_and_no_more() {
        let samples = Samples::default();
        let start = Instant::now();
        for i in 0..20 {
            samples.keep(JobId([i; 16]), kept(start + Duration::from_millis(u64::from(i)), 3));
        }
        assert_eq!(samples.lock().len(), MAX_KEPT);
        assert!(samples.any(JobId([3; 16])).is_none() && samples.any(JobId([4; 16])).is_some());
    }

    #[test]
    fn a_sample_serves_its_round_and_for_a_while_the_next_ones() {
        let (samples, run, start) = (Samples::default(), JobId([1; 16]), Instant::now());
        samples.keep(run, kept(start, 3));
        let fresh = |round, after| samples.fresh(run, round, start + after).is_some();
        assert!(fresh(3, 10 * INTERVAL) && fresh(4, INTERVAL / 2) && !fresh(4, INTERVAL));
        samples.keep(run, Kept { written: Err(busy()), ..kept(start, 3) });
        assert!(fresh(3, INTERVAL / 2) && !fresh(3, INTERVAL), "what failed is tried again");
    }
}
