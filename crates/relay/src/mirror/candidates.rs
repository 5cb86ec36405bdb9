//! Candidates of the relay that is followed, with their eval cards: what people promoted has to load and to prove also when the
//! relay is gone that evaluated it.

use super::runs::{Copier, CopyError, wrong};
use crate::evals::api::CandidateInfo;
use crate::evals::store::{CandidateRow, EvalState, EvalTerms};
use potluck_governance::entry;
use potluck_train::gpt::MAX_PARAMETERS;
use potluck_types::BlobHash;
use potluck_types::limits::MAX_BLOB_BYTES;

/// Longest answer about a candidate.
const MAX_INFO_BYTES: u64 = 1 << 20;
/// Of a candidate whose card is not in the log.
const NO_CARD: &str = "its eval is the mirrored relay's; if that is lost, ask for a new one";

impl Copier {
    /// Copies candidates that the log names, and cards that it has by now.
    pub(super) async fn candidates(&self) -> Result<(), CopyError> {
        let logged = self.log.state(|state| {
            let one = |one: &potluck_governance::state::CandidateState| {
                (one.entry.clone(), one.card.as_ref().map(|card| card.card))
            };
            state.candidates().values().map(one).collect::<Vec<_>>()
        });
        for (entry, card) in logged.await? {
            let known = self.db.candidate(&entry.parameters).await?;
            if known.is_none_or(|known| card.is_some() && known.card != card) {
                self.candidate(&entry, card).await?;
            }
        }
        Ok(())
    }

    async fn candidate(&self, entry: &entry::Candidate, card: Option<BlobHash>) -> Result<(), CopyError> {
        let hash = entry.parameters;
        let path = format!("/api/v1/candidates/{hash}");
        let info: CandidateInfo = self.json(&path, MAX_INFO_BYTES).await?;
        let parse = |text: &str| text.parse::<BlobHash>().map_err(|error| wrong(&path, error));
        if let Some(card) = &card {
            self.blob(card, MAX_BLOB_BYTES).await?;
        }
        let row = CandidateRow {
            parameters: self.blob(&hash, 4 * MAX_PARAMETERS).await?,
            model: entry.model.clone(),
            run: entry.run,
            round: entry.round,
            without: info.without,
            eval: info.eval.parse().map_err(|error| wrong(&path, error))?,
            incumbent: info.incumbent.as_deref().map(parse).transpose()?,
            // Told once the card is made; whoever evaluates again draws anew.
            terms: EvalTerms {
                secret: info.secret.as_deref().map(parse).transpose()?.unwrap_or(BlobHash([0; 32])).0,
                hasty: false,
                least_shards: 0,
            },
            state: if card.is_some() { EvalState::Done } else { EvalState::Failed },
            reason: card.is_none().then(|| NO_CARD.to_owned()),
            card,
        };
        self.db.copy_candidate(&row).await?;
        tracing::info!(candidate = %hash, card = card.is_some(), "candidate copied");
        Ok(())
    }
}
