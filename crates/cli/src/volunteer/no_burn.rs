//! What stands in for `burn.rs` in a build without burn: its models are refused, in words.

use potluck_train::{Model, TrainError};
use potluck_volunteer::Choice;
use potluck_volunteer::train::Reference;

/// Nothing is known of GPUs.
#[derive(Debug, Default)]
pub(super) struct Burn(());

impl Burn {
    /// # Errors
    /// Always.
    #[expect(clippy::unused_async, reason = "as with burn")]
    pub(super) async fn engine(&self, _: Choice) -> Result<(Reference, bool), TrainError> {
        Ok((on_cpu()?, false))
    }
}

/// # Errors
/// Always.
pub(super) fn on_cpu() -> Result<Reference, TrainError> {
    Reference::new(Model::Digits)
}
