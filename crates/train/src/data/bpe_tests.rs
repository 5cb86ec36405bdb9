//! Tests of the byte-level BPE.

use super::*;
use proptest::prelude::*;

type Vocabulary = Vec<(String, u32)>;

/// All bytes in order, then the results of the merges.
fn tables(merges: &[(&str, &str)]) -> (Vocabulary, Vec<(String, String)>) {
    let bytes = byte_characters().map(String::from);
    let wholes = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let vocabulary = bytes.into_iter().chain(wholes).zip(0..).collect();
    (vocabulary, merges.iter().map(|(left, right)| ((*left).to_owned(), (*right).to_owned())).collect())
}

const MERGES: &[(&str, &str)] =
    &[("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "he"), ("a", "a")];

fn bpe(added: &[(&str, u32)]) -> Bpe {
    let (vocabulary, merges) = tables(MERGES);
    let added = added.iter().map(|(content, id)| Added { content: (*content).to_owned(), id: *id }).collect();
    Bpe::new(vocabulary, merges, added).unwrap()
}

fn words(mut text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    while !text.is_empty() {
        let (word, rest) = text.split_at(word_length(text));
        words.push(word);
        text = rest;
    }
    words
}

#[test]
fn text_is_split_as_gpt2_does() {
    // Each as the `tokenizers` library's ByteLevel splits it.
    let cases: &[(&str, &[&str])] = &[
        ("Hello world", &["Hello", " world"]),
        ("I've can't 'em", &["I", "'ve", " can", "'t", " '", "em"]),
        ("a  b   c ", &["a", " ", " b", "  ", " c", " "]),
        ("a\n\nb\n c", &["a", "\n", "\n", "b", "\n", " c"]),
        ("x = 3.14;;\t!", &["x", " =", " 3", ".", "14", ";;", "\t", "!"]),
        ("  \u{a0}\u{a0}x", &["  \u{a0}", "\u{a0}", "x"]),
        ("naïve Ⅷ٣ नमस्ते 🙂🙂", &["naïve", " Ⅷ٣", " नमस", "्", "त", "े", " 🙂🙂"]),
        ("   ", &["   "]),
    ];
    for (text, expected) in cases {
        assert_eq!(words(text), *expected, "{text:?}");
    }
}

#[test]
fn merges_are_taken_in_order() {
    let bpe = bpe(&[]);
    let id = |name: &str| bpe.names().find(|(known, _)| *known == name).unwrap().1;
    assert_eq!(bpe.encode("hello hello he"), [id("hello"), id("Ġ"), id("hello"), id("Ġhe")]);
    // "aaaaa": the leftmost pairs first.
    assert_eq!(bpe.encode("aaaaa"), [id("aa"), id("aa"), id("a")]);
    assert_eq!(bpe.vocabulary(), 262);
    assert_eq!(bpe.merges().collect::<Vec<_>>(), MERGES);
    assert_eq!(bpe.encode(""), []);
    assert!(!bpe.is_bytes());
    let (vocabulary, _) = tables(&[]);
    assert!(Bpe::new(vocabulary, Vec::new(), Vec::new()).unwrap().is_bytes());
}

#[test]
fn added_tokens_are_found_first_and_the_longest_wins() {
    let bpe = bpe(&[("<e>", 262), ("<e>>", 263), ("never", 264)]);
    assert_eq!(bpe.vocabulary(), 265);
    assert_eq!(bpe.encode("<e><e>>hello<e>"), [262, 263, 259, 262]);
    assert_eq!(bpe.bytes_of(263), Some(&b"<e>>"[..]));
    assert_eq!(bpe.bytes_of(265), None);
    assert_eq!(bpe.names().count(), 262);
    // As GPT-2's file has it: in the vocabulary and among the added ones.
    let (mut vocabulary, merges) = tables(MERGES);
    vocabulary.push(("<|end of text|>".into(), 262));
    let added = vec![Added { content: "<|end of text|>".into(), id: 262 }];
    let both = Bpe::new(vocabulary, merges, added).unwrap();
    assert_eq!((both.vocabulary(), both.names().count()), (263, 263));
    assert_eq!(both.encode("o<|end of text|>o"), [111, 262, 111]);
}

#[test]
fn tables_that_do_not_fit_are_refused() {
    let (vocabulary, merges) = tables(MERGES);
    let refused = |vocabulary: Vocabulary, merges: &[(&str, &str)], added: &[(&str, u32)]| {
        let merges = merges.iter().map(|(left, right)| ((*left).into(), (*right).into())).collect();
        let added = added.iter().map(|(content, id)| Added { content: (*content).into(), id: *id }).collect();
        Bpe::new(vocabulary, merges, added).unwrap_err()
    };
    let with = |change: &dyn Fn(&mut Vocabulary)| {
        let mut changed = vocabulary.clone();
        change(&mut changed);
        changed
    };
    let size = refused(with(&|v| v.truncate(255)), &[], &[]);
    assert_eq!(size, BpeError::Size { found: 255 });
    assert!(matches!(refused(with(&|v| v[9].1 = 8), &[], &[]), BpeError::Id { id: 8, .. }));
    assert!(matches!(refused(with(&|v| v[9].1 = 999), &[], &[]), BpeError::Id { id: 999, .. }));
    let no_byte = refused(with(&|v| v[0x41].0 = "AB".into()), &[], &[]);
    assert_eq!(no_byte, BpeError::Byte { byte: 0x41 });
    assert!(matches!(refused(with(&|v| v[260].0 = "日".into()), &[], &[]), BpeError::Alphabet { .. }));
    assert!(matches!(refused(with(&|v| v[260].0 = String::new()), &[], &[]), BpeError::Length { .. }));
    assert!(matches!(refused(with(&|v| v[260].0 = "a".repeat(1025)), &[], &[]), BpeError::Length { .. }));
    assert!(matches!(refused(with(&|v| v[260].0 = "he".into()), &[], &[]), BpeError::Twice { .. }));
    assert!(matches!(
        refused(vocabulary.clone(), &[("h", "e"), ("x", "y")], &[]),
        BpeError::Merge { number: 1, .. }
    ));
    assert!(matches!(
        refused(vocabulary.clone(), &[("h", "e"), ("h", "e")], &[]),
        BpeError::Merge { number: 1, .. }
    ));
    assert!(matches!(refused(vocabulary.clone(), &[], &[("x", 264)]), BpeError::Id { id: 264, .. }));
    assert!(matches!(refused(vocabulary.clone(), &[], &[("x", 261)]), BpeError::Id { id: 261, .. }));
    assert!(matches!(refused(vocabulary.clone(), &[], &[("", 262)]), BpeError::Length { .. }));
    assert!(matches!(refused(vocabulary.clone(), &[], &[("x", 262), ("x", 263)]), BpeError::Twice { .. }));
    let many: Vec<_> = (262..519).map(|id| ("x", id)).collect();
    assert_eq!(refused(vocabulary.clone(), &[], &many), BpeError::Added { found: 257 });
    assert!(Bpe::new(vocabulary, merges, Vec::new()).is_ok());
}

#[test]
fn one_endless_word_takes_no_endless_time() {
    // Quadratic time would be minutes.
    let text = "a".repeat(1 << 20);
    assert_eq!(bpe(&[]).encode(&text).len(), 1 << 19);
}

/// The definition: over and over, merge the pair whose merge comes first, leftmost first.
fn by_the_book(bpe: &Bpe, word: &str) -> Vec<u32> {
    let mut tokens: Vec<u32> = word.bytes().map(|byte| bpe.bytes[usize::from(byte)]).collect();
    loop {
        let pairs = tokens.windows(2).enumerate().filter_map(|(at, pair)| {
            bpe.pairs.get(&(pair[0], pair[1])).map(|(rank, whole)| (*rank, at, *whole))
        });
        let Some((_, at, whole)) = pairs.min() else { return tokens };
        tokens.splice(at..at + 2, [whole]);
    }
}

proptest! {
    #[test]
    fn words_are_merged_as_defined(word in "[abc]{1,40}", merges in prop::collection::vec(("[abc]{1,3}", "[abc]{1,3}"), 0..30)) {
        // Keep the merges whose parts exist by then, each result once.
        let mut known: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let mut kept = Vec::new();
        for (left, right) in &merges {
            let whole = format!("{left}{right}");
            if known.contains(left) && known.contains(right) && !known.contains(&whole) {
                known.push(whole);
                kept.push((left.as_str(), right.as_str()));
            }
        }
        let (vocabulary, merges) = tables(&kept);
        let bpe = Bpe::new(vocabulary, merges, Vec::new()).unwrap();
        prop_assert_eq!(bpe.encode(&word), by_the_book(&bpe, &word));
    }

    #[test]
    fn every_text_comes_back(text in "(?s).{0,60}") {
        let bpe = bpe(&[("<e>", 262)]);
        let bytes: Vec<u8> =
            bpe.encode(&text).iter().flat_map(|token| bpe.bytes_of(*token).unwrap().to_vec()).collect();
        prop_assert_eq!(bytes, text.as_bytes());
    }
}
