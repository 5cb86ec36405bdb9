//! What becomes of the answers that several volunteers gave to one shard: pure, for the relay and the simulator.
//!
//! Where they differ everything is computed again; of what they agree on a part, drawn from a secret after all of them had
//! committed. So nobody alone gets a wrong answer through, and several who agreed on one beforehand are found out in one of
//! [`SPOT_SHARE`] items: with each item that they falsify their chance of staying hidden falls by that much.

use crate::answers::Answers;
use crate::check::{CheckError, Checker, compare};
use crate::error::EvalError;
use crate::items::Items;
use potluck_types::BlobHash;
use std::collections::BTreeSet;

/// Volunteers that answer each shard: each sees only its own answers, and what they agree on is spot-checked.
pub const COPIES: u32 = 2;

/// One in so many items that volunteers agree on is computed again. Of an honest shard that costs the relay an eighth of what
/// it costs a volunteer, or less: texts are checked in one pass.
pub const SPOT_SHARE: u64 = 8;

/// The items that are computed again whatever volunteers answered: at least one.
///
/// Determinism: bitwise, from secret and claims.
pub fn draw(secret: &[u8; 32], claims: &[BlobHash], items: usize) -> Vec<usize> {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(b"potluck spot checks of an eval v1");
    for claim in claims {
        hasher.update(&claim.0);
    }
    let mut stream = hasher.finalize_xof();
    let mut next = |below: u64| {
        let mut eight = [0; 8];
        stream.fill(&mut eight);
        u64::from_le_bytes(eight) % below.max(1)
    };
    let drawn: Vec<usize> = (0..items).filter(|_| next(SPOT_SHARE) == 0).collect();
    if drawn.is_empty() && items > 0 { vec![next(items as u64) as usize] } else { drawn }
}

/// Whose answers are wrong, by their places in `results`. If nobody's are, all of them are right, each within its tolerance.
///
/// Work: of [`Items::flops`] the part that is drawn and the part on which results differ, once for each result.
///
/// # Errors
/// Parameters or items with which nothing can be checked: nobody's fault.
pub fn settle(
    checker: &mut Checker,
    items: &Items,
    results: &[&[u8]],
    drawn: &[usize],
) -> Result<Vec<usize>, EvalError> {
    let config = *checker.config();
    let read: Vec<Option<Answers>> =
        results.iter().map(|result| Answers::decode(items, &config, result).ok()).collect();
    let mut again: BTreeSet<usize> = drawn.iter().copied().collect();
    let mut readable = read.iter().flatten();
    if let Some(first) = readable.next() {
        // Whoever agrees with the first on an item agrees on it with all that do.
        readable.for_each(|other| again.extend(compare(items, first, other)));
    }
    let again: Vec<usize> = again.into_iter().collect();
    let mut refuted = Vec::new();
    for (at, result) in results.iter().enumerate() {
        match checker.check(items, result, &again) {
            Ok(()) => {}
            Err(error) if error.is_fault() => refuted.push(at),
            Err(CheckError::Check(error)) => return Err(error),
            Err(_) => refuted.push(at),
        }
    }
    Ok(refuted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::Item;
    use crate::run::Evaluation;
    use potluck_train::gpt::{GptConfig, init};

    const CONFIG: GptConfig =
        GptConfig { vocabulary: 17, context: 8, layers: 1, heads: 2, width: 8, bias: false };

    fn shard() -> (Vec<f32>, Items, Vec<u8>) {
        let parameters = init(&CONFIG, &[3; 32]);
        let score = |at: u32| Item::Score { tokens: (0..8).map(|i| (i * at + 1) % 17).collect(), from: 1 };
        let list = (1..20).map(score).chain([Item::greedy(vec![1, 2], 12)]).collect();
        let items = Items::new(list, &CONFIG).unwrap();
        let result = Evaluation::new(&CONFIG, &parameters, items.clone()).unwrap().run().unwrap();
        (parameters, items, result)
    }

    #[test]
    fn whoever_differs_is_found_out_and_a_pair_that_agrees_by_chance_of_the_draw() {
        let (parameters, items, right) = shard();
        let mut checker = Checker::new(&CONFIG, &parameters).unwrap();
        let mut wrong = right.clone();
        wrong[17] ^= 0x10;
        let mut settled = |results: &[&[u8]], drawn: &[usize]| settle(&mut checker, &items, results, drawn);
        assert_eq!(settled(&[&right, &right], &[0, 19]), Ok(Vec::new()));
        assert_eq!(settled(&[&right, &wrong], &[0]), Ok(vec![1]));
        assert_eq!(settled(&[&wrong, &right, &right], &[]), Ok(vec![0]));
        assert_eq!(settled(&[&wrong, &wrong], &[2]), Ok(vec![0, 1]), "item 2 was drawn");
        assert_eq!(settled(&[&wrong, &wrong], &[3]), Ok(Vec::new()), "and here it was not");
        assert_eq!(settled(&[&right[..5], &right], &[0]), Ok(vec![0]));
        assert!(settled(&[&right], &[20]).is_err(), "there is no such item");
        let mut text = right.clone();
        let last = text.len() - 4;
        text[last] = (text[last] + 1) % 17;
        assert_eq!(settled(&[&right, &text], &[]), Ok(vec![1]));
    }

    #[test]
    fn draws_are_a_share_of_the_items_and_follow_from_secret_and_claims() {
        let claims = [BlobHash([1; 32]), BlobHash([2; 32])];
        let drawn = draw(&[7; 32], &claims, 4000);
        assert!((400..600).contains(&drawn.len()), "{}", drawn.len());
        assert_eq!(drawn, draw(&[7; 32], &claims, 4000));
        assert_ne!(drawn, draw(&[8; 32], &claims, 4000));
        assert_ne!(drawn, draw(&[7; 32], &claims[..1], 4000));
        for seed in 0..50 {
            let one = draw(&[seed; 32], &claims, 3);
            assert!(!one.is_empty() && one.iter().all(|item| *item < 3));
        }
        assert!(draw(&[7; 32], &claims, 0).is_empty());
    }
}
