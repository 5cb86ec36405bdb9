//! A run's parameters after a round, rebuilt as volunteers do: from the last checkpoint and the steps since.

use super::store::RunRow;
use crate::api::ApiError;
use crate::blobs::Blobs;
use crate::db::Db;
use potluck_rounds::sizes;
use potluck_train::outer::{OuterError, OuterParams, Replica};

/// The parameters after so many rounds.
///
/// # Errors
/// A record or blob that is missing or damaged. The caller makes sure that the run has so many rounds.
pub(crate) async fn parameters_after(
    db: &Db,
    blobs: &Blobs,
    run: &RunRow,
    after: u64,
) -> Result<Vec<f32>, ApiError> {
    let every = OuterParams::default().checkpoint_every;
    let start = after - after % every;
    let rounds = db.rounds(&run.id, start.saturating_sub(1)).await?;
    let checkpoint = match start {
        0 => Some(run.checkpoint),
        _ => rounds.first().filter(|row| row.round + 1 == start).and_then(|row| row.checkpoint),
    };
    let checkpoint = checkpoint.ok_or_else(|| ApiError::internal("a checkpoint is missing"))?;
    let checkpoint = blobs.get(&checkpoint.hash).await.map_err(ApiError::internal)?;
    let mut steps = Vec::new();
    for row in rounds.iter().filter(|row| (start..after).contains(&row.round)) {
        steps.push((row.round + 1, blobs.get(&row.step.hash).await.map_err(ApiError::internal)?));
    }
    let count = sizes::model(&run.request.model.into()).parameters();
    let rebuilt = tokio::task::spawn_blocking(move || {
        let mut replica = Replica::from_checkpoint(start, &checkpoint, count, every)?;
        for (round, step) in steps {
            replica.follow(round, &step)?;
        }
        Ok::<_, OuterError>(replica.parameters().to_vec())
    });
    rebuilt.await.map_err(ApiError::internal)?.map_err(ApiError::internal)
}
