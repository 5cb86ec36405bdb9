//! The relay's side: whether answers are those of the model.
//!
//! # Tolerance
//! Machines sum in different orders and with or without fused multiply-add, so their logits differ. [`OFF`] bounds by how
//! much, as a share of the greatest logit of the row (1 at the least). All else follows from it:
//! - A score may differ by [`SCORE_OFF`] of that for each token: less, since the errors of a window's tokens have either
//!   sign.
//! - A generated token is right if it could have been drawn from logits that are off by that much:
//!   [`Sampling::could_draw`](potluck_train::gpt::Sampling::could_draw). The claimed tokens are put through the model in
//!   one pass, each seeing the claimed ones before it, so that a draw that rounding decided otherwise does not condemn
//!   what follows.
//!
//! Measured: a trained model of 110,000 parameters, natively with fused multiply-add, in wasm with SIMD and without.
//! Windows of 64 tokens differ by up to 18 millionths of a nat, and all texts are the same. `tests/tolerance.rs` runs a
//! trained model and the same model with its channels, hidden units and heads permuted, which is the same function with
//! every sum in another order: logits differ by up to 1e-6 of the greatest, mean losses by up to 3e-7 of it; with weights
//! twice as large, norms among them, which no training gives, by 7e-5 and 1.1e-6. What a liar can add to a loss within
//! the tolerance is about 50 millionths of a nat a token; the standard error of 256 windows is hundreds of times that.

use crate::EvalError;
use crate::answers::{Answer, Answers};
use crate::items::{Item, Items};
use crate::run::{micro_nats, model, said};
use potluck_train::TrainError;
use potluck_train::gpt::{CpuGpt, GptConfig};

/// How far two machines' logits may lie apart, as a share of the greatest logit of the row.
pub const OFF: f64 = 3e-4;
/// How far two machines' losses of a token may lie apart on average over a window, as a share of the greatest logit.
pub const SCORE_OFF: f64 = 5e-6;
/// What [`compare`], which has no logits, takes for the greatest logit: more than trained models have. Where a pair of
/// honest results differs by more, [`check`] decides.
pub const COMPARED_LOGIT: f64 = 32.0;

/// Why a result does not pass.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// An answer is not the model's.
    #[error("the answer to item {item} is wrong: {why}")]
    Wrong {
        /// The item.
        item: usize,
        /// What is wrong.
        why: Wrong,
    },
    /// The result is none: its length, or an answer that no model gives.
    #[error(transparent)]
    Result(EvalError),
    /// The check itself cannot be made: parameters or items, not the result.
    #[error(transparent)]
    Check(EvalError),
}

impl CheckError {
    /// Whether it is the fault of who computed the result.
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::Check(_))
    }
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// Another score.
    #[error("a score of {found} instead of {expected} millionths of a nat, give or take {tolerance}")]
    Score {
        /// What was claimed.
        found: i64,
        /// What the model says.
        expected: i64,
        /// By how much honest machines may differ.
        tolerance: i64,
    },
    /// A token that would not have been drawn.
    #[error("token {token} at position {position}, which the model would not have drawn")]
    Token {
        /// Its place in the output.
        position: usize,
        /// What was claimed.
        token: u32,
    },
}

/// A model that answers are held against.
pub struct Checker {
    model: CpuGpt,
}

impl Checker {
    /// With these parameters.
    ///
    /// # Errors
    /// [`EvalError::NotFinite`], [`EvalError::Model`].
    pub fn new(config: &GptConfig, parameters: &[f32]) -> Result<Self, EvalError> {
        Ok(Self { model: model(config, parameters)? })
    }

    /// Computes the items of `which` again, in that order. The caller draws them from a secret that the volunteer does not
    /// know. Work: [`Item::check_flops`] of each.
    ///
    /// # Errors
    /// [`CheckError`] for the first that is wrong.
    pub fn check(&mut self, items: &Items, result: &[u8], which: &[usize]) -> Result<(), CheckError> {
        items.check(self.model.config()).map_err(CheckError::Check)?;
        let answers = Answers::decode(items, self.model.config(), result).map_err(CheckError::Result)?;
        for &index in which {
            let missing = EvalError::NoItem { item: index, items: items.items().len() };
            let pair = items.items().get(index).zip(answers.answers().get(index));
            let (item, answer) = pair.ok_or(CheckError::Check(missing))?;
            self.item(index, item, answer)?;
        }
        Ok(())
    }

    /// Computes one item again, which has the number `index`.
    fn item(&mut self, index: usize, item: &Item, answer: &Answer) -> Result<(), CheckError> {
        let wrong = match (item, answer) {
            (Item::Score { tokens, from }, Answer::Score(found)) => {
                self.score(index, tokens, *from, *found)?
            }
            (Item::Generate { prompt, .. }, Answer::Tokens(tokens)) => {
                self.tokens(index, item, prompt, tokens)?
            }
            _ => None,
        };
        match wrong {
            Some(why) => Err(CheckError::Wrong { item: index, why }),
            None => Ok(()),
        }
    }

    fn score(
        &mut self,
        index: usize,
        tokens: &[u32],
        from: usize,
        found: i64,
    ) -> Result<Option<Wrong>, CheckError> {
        let (mut nats, mut scale) = (0.0, 0.0);
        let inputs = &tokens[..tokens.len() - 1];
        let said = |error| CheckError::Check(said(index, error));
        self.model
            .each_logits(inputs, from - 1, |at, logits| {
                nats += loss(logits, tokens[at + 1]);
                scale += greatest(logits);
                Ok::<(), TrainError>(())
            })
            .map_err(said)?;
        let diverged = CheckError::Check(EvalError::Diverged { item: index });
        let expected = micro_nats(nats, tokens.len() - from).ok_or(diverged)?;
        let tolerance = tolerance(scale);
        Ok((found.abs_diff(expected) > tolerance.cast_unsigned()).then_some(Wrong::Score {
            found,
            expected,
            tolerance,
        }))
    }

    fn tokens(
        &mut self,
        index: usize,
        item: &Item,
        prompt: &[u32],
        claimed: &[u32],
    ) -> Result<Option<Wrong>, CheckError> {
        let Item::Generate { sampling, .. } = item else { return Ok(None) };
        let context = self.model.config().context;
        let whole = [prompt, claimed].concat();
        let mut wrong = None;
        let mut next = 0;
        // First as many as see the whole prompt, then one at a time: each sees other positions.
        while next < claimed.len() && wrong.is_none() {
            let end = if next == 0 { whole.len().min(context + 1) } else { prompt.len() + next + 1 };
            let start = end.saturating_sub(context + 1);
            let (first, visible) = (next, &whole[start..end - 1]);
            let from = prompt.len() + first - 1 - start;
            let visit = |at: usize, logits: &[f32]| {
                let position = first + at - from;
                let token = claimed[position];
                let off = OFF * greatest(logits);
                if wrong.is_none() && !sampling.could_draw(logits, position as u64, token, off)? {
                    wrong = Some(Wrong::Token { position, token });
                }
                Ok::<(), TrainError>(())
            };
            let each = self.model.each_logits(visible, from, visit);
            each.map_err(|error| CheckError::Check(said(index, error)))?;
            next = end - prompt.len();
        }
        Ok(wrong)
    }
}

/// What a row of logits says against a token, in nats.
fn loss(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let own = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(own - most)
}

/// The greatest absolute value of a row of logits, 1 at the least: what its rounding is proportional to.
fn greatest(logits: &[f32]) -> f64 {
    f64::from(logits.iter().fold(1.0, |most: f32, logit| most.max(logit.abs())))
}

/// Millionths of a nat by which scores may differ, from the sum of the greatest logits of all rows.
fn tolerance(scale: f64) -> i64 {
    // And one for the rounding to a whole number on either side.
    (SCORE_OFF * scale * 1e6).ceil() as i64 + 1
}

/// Checks answers once: see [`Checker::check`].
///
/// # Errors
/// [`CheckError`].
pub fn check(
    config: &GptConfig,
    parameters: &[f32],
    items: &Items,
    result: &[u8],
    which: &[usize],
) -> Result<(), CheckError> {
    Checker::new(config, parameters).map_err(CheckError::Check)?.check(items, result, which)
}

/// The items on which two results disagree: scores that lie further apart than honest machines' do, and texts that are
/// not the same. Honest texts may differ too where rounding decided a draw; [`check`] says who is right, perhaps both.
pub fn compare(items: &Items, one: &Answers, other: &Answers) -> Vec<usize> {
    let pairs = items.items().iter().zip(one.answers().iter().zip(other.answers())).enumerate();
    pairs.filter(|(_, (item, (one, other)))| differ(item, one, other)).map(|(index, _)| index).collect()
}

fn differ(item: &Item, one: &Answer, other: &Answer) -> bool {
    match (item, one, other) {
        (Item::Score { tokens, from }, Answer::Score(one), Answer::Score(other)) => {
            let scale = COMPARED_LOGIT * tokens.len().saturating_sub(*from) as f64;
            one.abs_diff(*other) > tolerance(scale).cast_unsigned()
        }
        _ => one != other,
    }
}
