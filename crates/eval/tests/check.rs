//! Honest answers pass whatever the machine, and a changed answer is found when its item is checked.
#![expect(clippy::unwrap_used, reason = "a test fails where an unwrap does")]

mod support;

use potluck_eval::{
    Answer, Answers, CheckError, Checker, EvalError, Evaluation, Item, Items, check, compare,
};
use potluck_train::gpt::{CpuGpt, GptConfig, Sampling};
use proptest::prelude::*;
use std::sync::LazyLock;
use support::{acts, config, permuted, tokenizer, train};

struct Fixture {
    config: GptConfig,
    tokens: Vec<u32>,
    parameters: Vec<f32>,
    /// The model as three other machines compute it.
    others: Vec<Vec<f32>>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let tokenizer = tokenizer();
    let config = config(&tokenizer);
    let tokens = tokenizer.encode(&acts(1, 20_000).concat()).unwrap();
    let parameters = train(&config, &tokens, 150, 3);
    let others = (1..4).map(|seed| permuted(&config, &parameters, seed)).collect();
    Fixture { config, tokens, parameters, others }
});

/// A few windows and prompts, some of which go on beyond the context.
fn items(places: &[(usize, u8)]) -> Items {
    let Fixture { config, tokens, .. } = &*FIXTURE;
    let item = |&(place, kind): &(usize, u8)| {
        let start = place % (tokens.len() - 65);
        let sampling = |temperature, top_k| Sampling { temperature, top_k, seed: [kind; 32] };
        let prompt = |length: usize| tokens[start..start + length].to_vec();
        match kind % 6 {
            0 => Item::Score { tokens: prompt(65), from: 1 },
            1 => Item::Score { tokens: prompt(9), from: 1 + place % 8 },
            2 => Item::greedy(prompt(1 + place % 64), 20),
            3 => Item::Generate { prompt: prompt(40), count: 40, sampling: sampling(1.0, 0) },
            4 => Item::Generate { prompt: prompt(64), count: 8, sampling: sampling(0.7, 5) },
            _ => Item::Generate { prompt: prompt(7), count: 30, sampling: sampling(3.0, 20) },
        }
    };
    Items::new(places.iter().map(item).collect(), config).unwrap()
}

fn run(parameters: &[f32], items: &Items) -> Vec<u8> {
    Evaluation::new(&FIXTURE.config, parameters, items.clone()).unwrap().run().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn honest_results_pass_always(places in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
        let Fixture { config, parameters, others, .. } = &*FIXTURE;
        let items = items(&places);
        let all: Vec<usize> = (0..items.items().len()).collect();
        let own = run(parameters, &items);
        for other in others {
            let result = run(other, &items);
            prop_assert_eq!(check(config, parameters, &items, &result, &all), Ok(()));
            let [one, other] = [&own, &result].map(|bytes| Answers::decode(&items, config, bytes).unwrap());
            for index in compare(&items, &one, &other) {
                // Rounding may decide a draw, and nothing else.
                let drawn = matches!(items.items()[index], Item::Generate { .. });
                prop_assert!(drawn);
            }
        }
    }

    #[test]
    fn a_changed_answer_is_found(
        places in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        by in 1..95_u32,
        up in any::<bool>(),
    ) {
        let Fixture { config, parameters, others, .. } = &*FIXTURE;
        let items = items(&places);
        let mut result = run(&others[0], &items);
        let index = which.index(items.items().len());
        let at: usize = items.items()[..index].iter().map(Item::answer_bytes).sum();
        match &items.items()[index] {
            Item::Score { tokens, from } => {
                // A third of a thousandth of a nat for each token; what is allowed is about a sixth of that.
                let score = i64::from_le_bytes(result[at..at + 8].try_into().unwrap());
                let step = i64::try_from(300 * (tokens.len() - from)).unwrap();
                let score = if up || score < step { score + step } else { score - step };
                result[at..at + 8].copy_from_slice(&score.to_le_bytes());
            }
            Item::Generate { count, prompt, sampling } => {
                let position = place.index(*count);
                let Answer::Tokens(claimed) = Answers::decode(&items, config, &result).unwrap().answers()[index].clone()
                else { unreachable!() };
                let token = (claimed[position] + by) % config.vocabulary as u32;
                result[at + 4 * position..][..4].copy_from_slice(&token.to_le_bytes());
                // Where two tokens are as likely, either is right.
                let seen = [&prompt[..], &claimed[..position]].concat();
                let mut model = CpuGpt::new(*config).unwrap();
                model.take(parameters).unwrap();
                let logits = model.logits(&seen[seen.len().saturating_sub(config.context)..]).unwrap();
                prop_assume!(!sampling.could_draw(&logits, position as u64, token, 0.01).unwrap());
            }
        }
        let error = check(config, parameters, &items, &result, &[index]).unwrap_err();
        let found = matches!(error, CheckError::Wrong { item, .. } if item == index);
        prop_assert!(found, "{}", error);
        prop_assert!(error.is_fault());
        let others: Vec<usize> = (0..items.items().len()).filter(|other| *other != index).collect();
        prop_assert_eq!(check(config, parameters, &items, &result, &others), Ok(()));
        let honest = run(&FIXTURE.others[1], &items);
        let [one, other] = [&honest, &result].map(|bytes| Answers::decode(&items, config, bytes).unwrap());
        prop_assert!(compare(&items, &one, &other).contains(&index));
    }
}

#[test]
fn a_result_is_what_the_model_says() {
    let Fixture { config, tokens, parameters, .. } = &*FIXTURE;
    let draw = Sampling { temperature: 0.8, top_k: 0, seed: [2; 32] };
    let items = vec![
        Item::Score { tokens: tokens[..65].to_vec(), from: 30 },
        Item::Generate { prompt: tokens[5..60].to_vec(), count: 30, sampling: draw },
        Item::greedy(tokens[..3].to_vec(), 5),
    ];
    let items = Items::new(items, config).unwrap();
    let mut evaluation = Evaluation::new(config, parameters, items.clone()).unwrap();
    let mut passes = 0;
    while !evaluation.done() {
        passes += 1;
        assert_eq!(evaluation.step().unwrap().passes, passes);
    }
    assert_eq!((passes, evaluation.progress().of), (36, 36));
    assert_eq!(evaluation.step().unwrap().passes, 36, "nothing is left to do");
    let result = evaluation.finish().unwrap();
    assert_eq!(result, run(parameters, &items), "the same bytes each time");
    let answers = Answers::decode(&items, config, &result).unwrap();
    let mut model = CpuGpt::new(*config).unwrap();
    model.take(parameters).unwrap();
    // One forward pass a token, over the last tokens that the context holds.
    let mut text = tokens[5..60].to_vec();
    for position in 0..30 {
        let seen = &text[text.len().saturating_sub(config.context)..];
        text.push(draw.draw(&model.logits(seen).unwrap(), position).unwrap());
    }
    assert_eq!(answers.answers()[1], Answer::Tokens(text.split_off(55)));
    // A trained model knows its text: far less than the ln 96 nats a token that one knows who knows nothing.
    let Answer::Score(score) = answers.answers()[0] else { unreachable!() };
    assert!((1..35 * 2_500_000).contains(&score), "{score}");
}

#[test]
fn only_what_is_asked_for_is_checked_and_faults_have_an_owner() {
    let Fixture { config, tokens, parameters, .. } = &*FIXTURE;
    let items = items(&[(0, 0), (100, 2)]);
    let mut result = run(parameters, &items);
    result[..8].copy_from_slice(&1_i64.to_le_bytes());
    let mut checker = Checker::new(config, parameters).unwrap();
    assert_eq!(checker.check(&items, &result, &[1]), Ok(()));
    assert_eq!(checker.check(&items, &result, &[]), Ok(()));
    let error = checker.check(&items, &result, &[1, 0]).unwrap_err();
    assert!(matches!(error, CheckError::Wrong { item: 0, .. }), "{error}");
    let missing = checker.check(&items, &result, &[2]).unwrap_err();
    assert_eq!(missing, CheckError::Check(EvalError::NoItem { item: 2, items: 2 }));
    assert!(!missing.is_fault());
    let cut = checker.check(&items, &result[1..], &[0]).unwrap_err();
    assert!(cut.is_fault() && matches!(cut, CheckError::Result(EvalError::Answers { .. })), "{cut}");

    // A candidate that is broken is nobody's fault.
    let mut broken = parameters.clone();
    broken[17] = f32::NAN;
    let error = check(config, &broken, &items, &result, &[0]).unwrap_err();
    assert_eq!(error, CheckError::Check(EvalError::NotFinite { index: 17 }));
    let huge: Vec<f32> = parameters.iter().map(|value| value * 1e30).collect();
    let error = check(config, &huge, &items, &result, &[0]).unwrap_err();
    assert_eq!(error, CheckError::Check(EvalError::Diverged { item: 0 }));
    let mut evaluation = Evaluation::new(config, &huge, items.clone()).unwrap();
    assert_eq!(evaluation.step(), Err(EvalError::Diverged { item: 0 }));
    assert_eq!(evaluation.step(), Err(EvalError::Diverged { item: 0 }));
    assert_eq!(evaluation.finish(), Err(EvalError::Unfinished { left: 21 }));
    assert!(matches!(Evaluation::new(config, &parameters[1..], items.clone()), Err(EvalError::Model(_))));

    let bytes: Vec<u8> = parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(potluck_eval::parameters(&bytes, config).as_deref(), Ok(&parameters[..]));
    let short = potluck_eval::parameters(&bytes[1..], config);
    assert!(matches!(short, Err(EvalError::Parameters { .. })));
    let other = Items::new(vec![Item::Score { tokens: tokens[..65].to_vec(), from: 1 }], config).unwrap();
    let smaller = GptConfig { context: 32, ..*config };
    assert!(matches!(other.check(&smaller), Err(EvalError::Item { item: 0, .. })));
}
