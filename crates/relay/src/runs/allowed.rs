//! Whether the log takes a run: what it trains has to be proposed and decided on first, and so have its data.

use super::api::NewRun;
use super::intake::refused as wrong;
use super::store::{RunRow, RunState};
use crate::api::ApiError;
use crate::http::App;
use crate::log::{LogError, now_ms, records};
use potluck_governance::{Entry, Refused, State, entry};
use potluck_proto::BlobRef;
use potluck_types::limits::MAX_JOB_NAME_CHARS;
use potluck_types::{BlobHash, JobId};

/// Checks the names of model and proposal.
///
/// # Errors
/// What is wrong, and what to do.
pub(super) fn check_names(new: &NewRun) -> Result<(), ApiError> {
    if let Some(name) = &new.model_name {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !(1..=MAX_JOB_NAME_CHARS).contains(&name.len()) || !name.bytes().all(fits) {
            let what = "the model's name is not 1 to 80 letters, digits, dots, dashes and underscores";
            return Err(wrong("bad_model_name", what, "choose a shorter, plainer name"));
        }
    }
    let proposal = new.proposal.as_ref().map(|proposal| proposal.parse::<BlobHash>());
    if proposal.is_some_and(|proposal| proposal.is_err()) {
        let hint = "64 lower-case hexadecimal digits: `potluck governance show` lists proposals";
        return Err(wrong("bad_id", "the proposal is no hash", hint));
    }
    Ok(())
}

/// Asks the log whether it would take a run, before anything is computed for it.
///
/// # Errors
/// Why not, with every step that is missing.
pub(super) async fn may_begin(app: &App, new: &NewRun) -> Result<(), ApiError> {
    let nothing = BlobHash([0; 32]);
    let row = RunRow {
        id: JobId([0; 16]),
        state: RunState::Running,
        reason: None,
        request: NewRun { tokenizer: None, ..new.clone() },
        checkpoint: BlobRef { hash: nothing, bytes: 0 },
        tokenizer: new.tokenizer_hash(),
        round: 0,
    };
    let run = records::run(&row, nothing, app.db.sources(&row.request).await?);
    let look = |state: &State| {
        let check = |run: entry::Run| state.check(&Entry::new(now_ms(state), run));
        check(run.clone()).err().map(|refused| (refused, missing(state, &run, check)))
    };
    match app.log.state(look).await? {
        None => Ok(()),
        Some((refused, missing)) => Err(self::refused(refused.into(), &row).missing(missing)),
    }
}

/// Every step that a run lacks: the log names the first.
fn missing(
    state: &State,
    run: &entry::Run,
    check: impl Fn(entry::Run) -> Result<(), Refused>,
) -> Vec<String> {
    let mut missing = Vec::new();
    if run.model.is_some() && state.constitution().data_sets_need_proposal {
        let open = |id: &&String| state.data_sets().get(*id).is_some_and(|set| set.proposal.is_none());
        missing.extend(run.data_sets.iter().filter(open).map(|id| {
            format!(
                "data set {id} is not approved: propose it (`potluck propose data-set {id}`), then enact that"
            )
        }));
    }
    // By itself: data sets come first where the log looks.
    if let Err(Refused::Unjustified(step)) = check(entry::Run { data_sets: Vec::new(), ..run.clone() }) {
        missing.push(step.to_string());
    }
    missing
}

/// Why the log takes no such run, with the hash that a proposal has to name.
pub(super) fn refused(error: LogError, row: &RunRow) -> ApiError {
    let unjustified = matches!(error, LogError::Refused(Refused::Unjustified(_)));
    let mut refusal = ApiError::from(error);
    if let (true, Some(model)) = (unjustified, &row.request.model_name) {
        let hash = BlobHash::of(row.request.request_text(row.tokenizer).as_bytes());
        refusal.message = format!("a run that trains {model}, with the request {hash}: {}", refusal.message);
        let hint = "propose the request's hash (`potluck propose run --run FILE`), its data sets too; when people have \
                    decided, name the proposal";
        hint.clone_into(&mut refusal.hint);
    }
    refusal
}
