//! What a run's model writes after the rounds so far. Everybody who looks on may ask for it, so it is made for one and kept for
//! the others, and not for every round of a run whose rounds are short.

use super::api::RunSample;
use super::intake::le_bytes;
use super::parameters::parameters_after;
use super::store::RunRow;
use crate::api::ApiError;
use crate::evals::api::NewSample;
use crate::evals::intake::write;
use crate::http::App;
use axum::body::Bytes;
use potluck_types::JobId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is continued: the first of them that the run's tokenizer knows.
const PROMPTS: [&str; 2] = ["The ", "\n"];
/// Tokens of a sample: some lines on a page.
const TOKENS: u32 = 96;
/// Likely words before rare ones: who looks on wants to see what was learned.
const TEMPERATURE: f32 = 0.8;
/// A newer round is not shown before this time is over.
const INTERVAL: Duration = Duration::from_secs(20);
/// Samples that are kept; the oldest goes.
const MAX_KEPT: usize = 16;

/// The newest sample of each run that somebody looked at.
#[derive(Debug, Default)]
pub(crate) struct Samples(Mutex<BTreeMap<JobId, (Instant, RunSample)>>);

impl Samples {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, (Instant, RunSample)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is kept, while it is new enough.
    fn fresh(&self, run: &RunRow, now: Instant) -> Option<RunSample> {
        let samples = self.lock();
        let (made, sample) = samples.get(&run.id)?;
        let new_enough = sample.round == run.round || now.duration_since(*made) < INTERVAL;
        new_enough.then(|| sample.clone())
    }

    fn keep(&self, run: JobId, now: Instant, sample: RunSample) {
        let mut samples = self.lock();
        samples.insert(run, (now, sample));
        while samples.len() > MAX_KEPT {
            let oldest = samples.iter().min_by_key(|(_, (made, _))| *made).map(|(run, _)| *run);
            oldest.and_then(|run| samples.remove(&run));
        }
    }
}

/// What the run's model writes.
///
/// # Errors
/// The model writes no text, or knows none of the prompts; blobs that are missing.
pub(crate) async fn sample(app: &App, run: &RunRow) -> Result<RunSample, ApiError> {
    if let Some(sample) = app.samples.fresh(run, Instant::now()) {
        return Ok(sample);
    }
    // Anybody may ask for this: it must not keep submitters waiting.
    let _slot = app.rebuilds.acquire().await.map_err(ApiError::internal)?;
    // Others waited for the same.
    if let Some(sample) = app.samples.fresh(run, Instant::now()) {
        return Ok(sample);
    }
    let bytes = Bytes::from(le_bytes(&parameters_after(&app.db, &app.blobs, run, run.round).await?));
    let mut last = ApiError::not_found("sample");
    for prompt in PROMPTS {
        let new = NewSample { prompt: prompt.to_owned(), tokens: TOKENS, seed: 0, temperature: TEMPERATURE };
        match write(app, run, bytes.clone(), new).await {
            Ok(text) => {
                let sample = RunSample { round: run.round, prompt: prompt.to_owned(), text };
                app.samples.keep(run.id, Instant::now(), sample.clone());
                return Ok(sample);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_samples_are_kept_and_no_more() {
        let samples = Samples::default();
        let start = Instant::now();
        let sample = RunSample { round: 3, prompt: "The ".to_owned(), text: "end.".to_owned() };
        for i in 0..20 {
            samples.keep(JobId([i; 16]), start + Duration::from_millis(u64::from(i)), sample.clone());
        }
        assert_eq!(samples.lock().len(), MAX_KEPT);
        assert!(!samples.lock().contains_key(&JobId([3; 16])));
        assert!(samples.lock().contains_key(&JobId([4; 16])));
    }
}
