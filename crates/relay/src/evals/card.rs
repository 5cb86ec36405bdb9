//! The eval card: all answers of an eval, made into what people read before they vote, stored under its hash and logged.

use super::{Evals, Open};
use crate::evals::store::ShardRow;
use potluck_eval::card::{About, Results};
use potluck_governance::limits::MAX_EVALUATORS;
use potluck_governance::{Key, entry};
use potluck_types::{BlobHash, JobId};
use std::sync::Arc;

impl Open {
    /// The card and what the log says of it, from the results of all shards in the order in which they were asked.
    fn card(
        &self,
        model: &str,
        incumbent: Option<BlobHash>,
        shards: Vec<ShardRow>,
    ) -> Result<(Vec<u8>, entry::Card), String> {
        let mut results = Vec::with_capacity(shards.len());
        for (number, shard) in shards.into_iter().enumerate() {
            let (result, volunteers) =
                shard.answers.ok_or_else(|| format!("shard {number} has no answers"))?;
            let computed_by = volunteers.iter().map(ToString::to_string).collect();
            results.push(Results { result, computed_by });
        }
        let own = self.plan.shards.len();
        if results.len() < own {
            return Err(format!("{} of {own} shards have answers", results.len()));
        }
        let theirs = results.split_off(own);
        let about = About { candidate: self.candidate, incumbent, model: model.to_owned() };
        let theirs = incumbent.is_some().then_some(theirs.as_slice());
        let card = self
            .material
            .inputs(&self.terms, |inputs| self.plan.card(inputs, &about, &results, theirs))
            .map_err(|error| error.to_string())?;
        let bytes = card.encode().map_err(|error| error.to_string())?;
        let facts = card.facts();
        let computed_by: Result<Vec<Key>, _> =
            facts.computed_by.iter().take(MAX_EVALUATORS).map(|key| key.parse()).collect();
        let logged = entry::Card {
            candidate: self.candidate,
            card: BlobHash::of(&bytes),
            loss: entry::MicroNats(facts.loss),
            incumbent,
            incumbent_loss: facts.incumbent_loss.map(entry::MicroNats),
            standard_error: entry::MicroNats(facts.standard_error),
            trigger_success_ppm: facts.trigger_success_ppm,
            shards: facts.shards,
            computed_by: computed_by.map_err(|error| error.to_string())?,
        };
        Ok((bytes, logged))
    }
}

impl Evals {
    /// Makes an eval's card durable and logs it; its hash.
    pub(super) async fn make_card(&self, eval: &JobId) -> Result<BlobHash, String> {
        let open = self.open(eval).ok_or("the eval is not open")?;
        let row = self.0.db.candidate(&open.candidate).await.map_err(|error| error.to_string())?;
        let row = row.ok_or("its candidate is not recorded")?;
        let shards = self.0.db.eval_shards(eval).await.map_err(|error| error.to_string())?;
        let _core = self.0.cores.acquire().await.map_err(|error| error.to_string())?;
        let made = tokio::task::spawn_blocking({
            let open = Arc::clone(&open);
            move || open.card(&row.model, row.incumbent, shards)
        });
        let (bytes, card) = made.await.map_err(|error| error.to_string())??;
        let hash = card.card;
        self.put(&bytes).await.map_err(|error| error.to_string())?;
        self.0.db.add_card(&self.0.log, card).await.map_err(|error| error.to_string())?;
        Ok(hash)
    }
}
