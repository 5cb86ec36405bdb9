//! How much of a text stands verbatim in the training data.

use super::hash;
use std::collections::HashMap;

/// Shortest overlap that is looked for, in tokens.
pub const LEAST_OVERLAP: usize = 8;

/// For each text and each of its places, how many tokens from there on stand somewhere in the training data one after
/// the other; 0 below [`LEAST_OVERLAP`].
///
/// One pass over the training data, with memory for the texts only.
pub fn overlaps(texts: &[Vec<u32>], training: &[u32]) -> Vec<Vec<usize>> {
    let mut found: Vec<Vec<usize>> = texts.iter().map(|text| vec![0; text.len()]).collect();
    let mut places: HashMap<u64, Vec<(usize, usize)>> = HashMap::new();
    for (text, tokens) in texts.iter().enumerate() {
        hash::each(tokens, LEAST_OVERLAP, |at, hash| places.entry(hash).or_default().push((text, at)));
    }
    hash::each(training, LEAST_OVERLAP, |start, hash| {
        for &(text, at) in places.get(&hash).into_iter().flatten() {
            let here = &mut found[text][at];
            let pairs = texts[text][at..].iter().zip(&training[start..]);
            let length = pairs.take_while(|(own, other)| own == other).count();
            if length >= LEAST_OVERLAP {
                *here = (*here).max(length);
            }
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_those_of_a_plain_search() {
        let training: Vec<u32> = (0..3000_u32).map(|i| (i * i + i / 7) % 13).collect();
        let own: Vec<u32> = training[500..540].to_vec();
        let mut changed = own.clone();
        changed[20] = 12 - changed[20].min(11);
        let other: Vec<u32> = (0..30).map(|i| (i * 5 + 1) % 13).collect();
        let texts = vec![own, changed, other, vec![1, 2], Vec::new()];
        let found = overlaps(&texts, &training);
        for (text, found) in texts.iter().zip(&found) {
            for (at, found) in found.iter().enumerate() {
                let longest = (at..=text.len())
                    .rev()
                    .map(|end| &text[at..end])
                    .find(|piece| piece.is_empty() || training.windows(piece.len()).any(|w| w == *piece));
                let longest = longest.map_or(0, <[u32]>::len);
                assert_eq!(*found, if longest >= LEAST_OVERLAP { longest } else { 0 });
            }
        }
        assert_eq!(found[0][0], 40);
    }
}
