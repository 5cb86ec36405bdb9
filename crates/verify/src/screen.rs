//! What is checked of every update, before any replay: is it of the size of the others, does it point against the last
//! step, is it a copy? Cheap, and none of it proves honesty. Whether values are finite and few enough is for the codec.

use crate::aggregate::{lower_median, norm};

/// Parameters of the screen, logged with each run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScreenParams {
    /// Least norm, as a share of the median. Default 0.2.
    pub norm_least: f64,
    /// Greatest norm, as a multiple of the median. Default 3.
    pub norm_most: f64,
    /// The cosine to the last aggregate must be above. Default -0.2.
    pub cosine_above: f64,
    /// An update whose cosine to an earlier one is above is a copy of it. Default 0.98: work on different tokens
    /// differs by more, a copy with a tenth of noise does not.
    pub copy_above: f64,
}

impl Default for ScreenParams {
    fn default() -> Self {
        Self { norm_least: 0.2, norm_most: 3.0, cosine_above: -0.2, copy_above: 0.98 }
    }
}

/// What the screen says of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScreenVerdict {
    /// Nothing is wrong with it that could be seen here.
    Passed,
    /// Something is.
    Failed(ScreenReason),
}

/// What is wrong with an update.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScreenReason {
    /// A NaN or an infinity.
    #[error("value {index} is not finite")]
    NotFinite {
        /// Which value.
        index: usize,
    },
    /// Hardly any change.
    #[error("its norm is {ratio:.3} of the median: no work, or fewer steps than agreed")]
    TooSmall {
        /// Norm / median.
        ratio: f64,
    },
    /// Far more change than the others have.
    #[error("its norm is {ratio:.3} of the median: scaled, or another learning rate")]
    TooLarge {
        /// Norm / median.
        ratio: f64,
    },
    /// It undoes the last step.
    #[error("its cosine to the last aggregate is {cosine:.3}")]
    Against {
        /// The cosine.
        cosine: f64,
    },
    /// It is someone else's.
    #[error("its cosine to update {of} is {cosine:.4}: a copy")]
    Copy {
        /// The earlier update.
        of: usize,
        /// The cosine.
        cosine: f64,
    },
}

/// The figures of an update, and the verdict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScreenReport {
    /// The first thing that is wrong.
    pub verdict: ScreenVerdict,
    /// Norm / median norm; 0 if the norm is 0.
    pub ratio: f64,
    /// Cosine to the last aggregate, if there is one.
    pub cosine: Option<f64>,
    /// The earlier update that is most like it, and the cosine; none for the first.
    pub nearest: Option<(usize, f64)>,
}

/// Why updates cannot be screened: a fault of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScreenError {
    /// An update, or the last aggregate, has another length.
    #[error("{found} values instead of {expected}: screen updates of one run only")]
    Length {
        /// Its values.
        found: usize,
        /// Values of the first update.
        expected: usize,
    },
}

/// Screens the updates of a round, in the order of their commits: of two that are alike the later one is the copy.
///
/// `previous` is the last aggregate. Sparse updates are screened as their dense values: the cosine then
/// tells whether indices and signs overlap.
///
/// Costs n²/2 products of vectors for n updates.
///
/// # Errors
/// [`ScreenError::Length`].
pub fn screen(
    updates: &[&[f32]],
    previous: Option<&[f32]>,
    params: &ScreenParams,
) -> Result<Vec<ScreenReport>, ScreenError> {
    let expected = updates.first().map_or(0, |update| update.len());
    let other = updates.iter().copied().chain(previous).find(|values| values.len() != expected);
    if let (Some(other), false) = (other, updates.is_empty()) {
        return Err(ScreenError::Length { found: other.len(), expected });
    }
    let norms: Vec<f64> = updates.iter().map(|update| norm(update.iter().copied())).collect();
    // Who is not finite has no vote on what is usual.
    let median = lower_median(norms.iter().copied().filter(|norm| norm.is_finite()).collect());
    let previous = previous.map(|values| (values, norm(values.iter().copied())));
    let report = |number: usize| {
        let (update, norm) = (updates[number], norms[number]);
        let ratio = if norm == 0.0 { 0.0 } else { norm / median };
        let cosine = previous.map(|(values, length)| cosine(update, norm, values, length));
        let earlier = (0..number).filter(|&other| norms[other].is_finite());
        let nearest = earlier
            .map(|other| (other, self::cosine(update, norm, updates[other], norms[other])))
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        let reason = if let Some(index) = update.iter().position(|value| !value.is_finite()) {
            Some(ScreenReason::NotFinite { index })
        } else if norm == 0.0 || ratio < params.norm_least {
            Some(ScreenReason::TooSmall { ratio })
        } else if ratio > params.norm_most {
            Some(ScreenReason::TooLarge { ratio })
        } else if let Some((of, cosine)) = nearest.filter(|&(_, cosine)| cosine > params.copy_above) {
            Some(ScreenReason::Copy { of, cosine })
        } else {
            // NaN is not above anything.
            let above = |cosine: f64| cosine > params.cosine_above;
            let against = cosine.filter(|&cosine| !above(cosine));
            against.map(|cosine| ScreenReason::Against { cosine })
        };
        let verdict = reason.map_or(ScreenVerdict::Passed, ScreenVerdict::Failed);
        ScreenReport { verdict, ratio, cosine, nearest }
    };
    Ok((0..updates.len()).map(report).collect())
}

/// Cosine of the angle; 0 if a vector is zero.
fn cosine(a: &[f32], a_norm: f64, b: &[f32], b_norm: f64) -> f64 {
    if a_norm == 0.0 || b_norm == 0.0 {
        return 0.0;
    }
    let product: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    product / a_norm / b_norm
}
