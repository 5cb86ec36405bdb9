//! How far an honest update may be from its replay, and how that is measured where a round is less stable than usual.
//!
//! Rounding differs from device to device, and training can make it large: AdamW's first steps divide a gradient by its
//! own size, so that one which is next to nothing may come out with either sign, and all that follows with it. How far
//! that leads depends on parameters and batches, not on who computes. So whoever is refuted by a replay gets four more,
//! each rounding differently: one of them may have gone the same way, and how far they are from each other says what
//! rounding alone does to these steps.

use crate::opening::nearest;
use crate::replay::{Judgement, apart, judge, report};
use crate::work::{Plan, Repeated};
use potluck_train::Batch;
use potluck_train::codec::Codec;
use potluck_train::data::DataError;
use potluck_train::round::{Batches, Part};
use potluck_verify::{ReplayError, Tolerances};
use std::borrow::Cow;

/// Tolerances for updates whose codec leaves something open.
///
/// What an honest volunteer's own rounding changes stays mostly within the step of a code, and
/// [`nearest`](crate::opening::nearest) takes it for right; so does it take most of what coarse arithmetic changes. What is
/// left of either is about thirty times less than in f32, so the tolerances are ten times tighter.
pub const LOSSY: Tolerances = Tolerances { whole: 1e-4, tensor: 1e-3, tensor_floor: 1e-3, loss: 1e-3 };

/// By how much a sketch may deviate: an update in f32 may as much.
const SKETCHED: f64 = 1e-3;

/// An update may deviate by so many times what rounding alone was seen to do: other devices round in other ways, and five
/// replays do not show the most that any can do.
const MARGIN: f64 = 4.0;

/// Nobody is judged by tolerances beyond these. In a model of some thousand weights a single sign moves the update by 1e-2;
/// one step of ten left out, the rest scaled up, by 3e-2 at least, of what int4 leaves open in the first rounds of a run.
const MOST: Allowed = Allowed {
    report: Tolerances { whole: 5e-2, tensor: 2e-1, tensor_floor: 1e-3, loss: 2e-2 },
    sketch: 5e-2,
};

/// How far an update may be from its replay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowed {
    /// Of what was sent, and of the losses.
    pub report: Tolerances,
    /// Of the sketch, with codec S.
    pub sketch: f64,
}

impl Allowed {
    /// What rounding usually explains.
    pub fn usual(codec: Codec) -> Self {
        let report = if codec == Codec::F32 { Tolerances::default() } else { LOSSY };
        Self { report, sketch: SKETCHED }
    }

    /// At least the usual, and [`MARGIN`] times what these replays of the same steps are apart.
    fn measured(plan: &Plan, part: Part, replays: &[Repeated]) -> Result<Self, ReplayError> {
        let codec = plan.codec();
        let mut allowed = Self::usual(codec);
        let widen = |tolerance: &mut f64, seen: f64| *tolerance = tolerance.max(MARGIN * seen);
        for (at, one) in replays.iter().enumerate() {
            // What an honest device would have sent, judged as what was sent is. A replay that the codec cannot carry says
            // nothing of the others.
            let Ok(sent) = codec.encode(one.encoded()) else { continue };
            for other in
                replays.iter().enumerate().filter_map(|(place, other)| (place != at).then_some(other))
            {
                let Ok(raw) = nearest(codec, &sent, other.encoded()) else { continue };
                let found = report(plan, raw, &one.update().losses, other, &allowed.report)?;
                let largest = |figures: &[f64]| figures.iter().copied().fold(0.0, f64::max);
                widen(&mut allowed.report.whole, found.whole);
                widen(&mut allowed.report.tensor, largest(&found.tensors));
                widen(&mut allowed.report.loss, largest(&found.losses));
                if let Repeated::Sparse(_) = one {
                    let [one, other] = [one, other].map(|way| plan.sketch(part, way.update()));
                    widen(&mut allowed.sketch, apart(&one, &other));
                }
            }
        }
        Ok(allowed)
    }

    /// Whether nobody can be judged by this.
    fn too_wide(&self) -> bool {
        let (ours, most) = (&self.report, &MOST.report);
        ours.whole > most.whole
            || ours.tensor > most.tensor
            || ours.loss > most.loss
            || self.sketch > MOST.sketch
    }
}

/// How a replay rounds. Whichever it is, the steps are the same function of the same data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As the task says.
    Plain,
    /// The rows of each batch in reverse: the same losses and gradients, added up in another order.
    Reversed,
    /// Each parameter a little off at the start, by another pattern for each number: every product of the forward pass
    /// rounds differently too, as on another device.
    Nudged(u8),
}

impl Way {
    /// In the order in which they are tried.
    pub const ALL: [Self; 5] =
        [Self::Plain, Self::Reversed, Self::Nudged(0), Self::Nudged(1), Self::Nudged(2)];

    /// By how much parameters are nudged at most, relative: 32 times the rounding of f32. Where a device could come out with
    /// the other sign, about half of the nudges do, and steps that are stable take no notice.
    const NUDGE: f32 = 1.0 / (1 << 19) as f32;

    /// The parameters to start from.
    pub fn start(self, parameters: &[f32]) -> Cow<'_, [f32]> {
        let Self::Nudged(number) = self else { return Cow::Borrowed(parameters) };
        // Any pattern would do: a multiplicative hash of the index, whose high bits become a factor within the nudge.
        let mixed = |at: usize| {
            (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(u32::from(number) * 7) >> 40
        };
        let factor = |at: usize| 1.0 + Self::NUDGE * (mixed(at) as f32 / (1 << 23) as f32 - 1.0);
        parameters.iter().enumerate().map(|(at, value)| value * factor(at)).collect()
    }

    /// The batches to take.
    pub const fn batches<B>(self, data: &B) -> Ordered<'_, B> {
        Ordered { data, reversed: matches!(self, Self::Reversed) }
    }
}

/// Batches with their rows in the order of a [`Way`].
#[derive(Debug, Clone, Copy)]
pub struct Ordered<'a, B> {
    data: &'a B,
    reversed: bool,
}

impl<B: Batches> Batches for Ordered<'_, B> {
    fn batch(&self, starts: &[u64], length: usize) -> Result<Batch, DataError> {
        if !self.reversed {
            return self.data.batch(starts, length);
        }
        let reversed: Vec<u64> = starts.iter().rev().copied().collect();
        self.data.batch(&reversed, length)
    }
}

/// Judges a result by replays, which `take` takes. The first mostly confirms. Who is refuted is replayed in all other ways;
/// if one of them confirms, or what all of them are apart explains the deviation, the claim stands. Comes with the replay
/// that decided.
///
/// # Errors
/// What `take` says; [`ReplayError::Unstable`] where no cheat could be told from rounding.
pub fn settle<E: From<ReplayError>>(
    plan: &Plan,
    part: Part,
    result: &[u8],
    mut take: impl FnMut(Way) -> Result<Repeated, E>,
) -> Result<(Judgement, Repeated), E> {
    let usual = Allowed::usual(plan.codec());
    let mut replays = Vec::with_capacity(Way::ALL.len());
    for way in Way::ALL {
        let repeated = take(way)?;
        let judgement = judge(plan, part, &repeated, result, &usual)?;
        if judgement.confirmed() {
            return Ok((judgement, repeated));
        }
        replays.push(repeated);
    }
    let allowed = Allowed::measured(plan, part, &replays)?;
    let mut first = None;
    for repeated in replays {
        let judgement = judge(plan, part, &repeated, result, &allowed)?;
        if judgement.confirmed() {
            if allowed.too_wide() {
                let [whole, tensor] = [allowed.report.whole, allowed.report.tensor].map(|most| most / MARGIN);
                return Err(ReplayError::Unstable { whole, tensor }.into());
            }
            return Ok((judgement, repeated));
        }
        first.get_or_insert((judgement, repeated));
    }
    match first {
        Some(refuted) => Ok(refuted),
        None => unreachable!("there is at least one way"),
    }
}
