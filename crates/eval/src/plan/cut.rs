//! From items to shards.

use crate::EvalError;
use crate::items::{Item, Items, MAX_GENERATED, MAX_ITEMS, MAX_TOKENS};
use potluck_train::gpt::GptConfig;

/// Shards of at most `flops` operations and `most` items each; one item may have more operations. In order.
pub(super) fn cut(
    items: Vec<Item>,
    config: &GptConfig,
    flops: u64,
    most: usize,
) -> Result<Vec<Items>, EvalError> {
    let most = most.clamp(1, MAX_ITEMS);
    let mut shards = Vec::new();
    let mut shard: Vec<Item> = Vec::new();
    let (mut work, mut tokens, mut generated) = (0_u64, 0, 0);
    for item in items {
        let [own_work, own_tokens, own_generated] =
            [item.flops(config), item.tokens().len() as u64, item.generated() as u64];
        let full = work.saturating_add(own_work) > flops
            || shard.len() == most
            || tokens + own_tokens > MAX_TOKENS as u64
            || generated + own_generated > MAX_GENERATED as u64;
        if full && !shard.is_empty() {
            shards.push(Items::new(std::mem::take(&mut shard), config)?);
            (work, tokens, generated) = (0, 0, 0);
        }
        work = work.saturating_add(own_work);
        tokens += own_tokens;
        generated += own_generated;
        shard.push(item);
    }
    if !shard.is_empty() {
        shards.push(Items::new(shard, config)?);
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_bounded_and_hold_all_items_in_order() {
        let config = GptConfig { vocabulary: 300, context: 16, layers: 1, heads: 2, width: 8, bias: false };
        let items: Vec<Item> =
            (0..100_u32).map(|i| Item::Score { tokens: vec![i; 2 + i as usize % 15], from: 1 }).collect();
        let work: Vec<u64> = items.iter().map(|item| item.flops(&config)).collect();
        let most = work.iter().max().copied().unwrap();
        for (flops, at_once) in
            [(1, 100), (most, 100), (5 * most, 100), (u64::MAX, 7), (u64::MAX, usize::MAX)]
        {
            let shards = cut(items.clone(), &config, flops, at_once).unwrap();
            let again: Vec<Item> = shards.iter().flat_map(|shard| shard.items().to_vec()).collect();
            assert_eq!(again, items);
            assert!(shards.iter().all(|s| s.items().len() == 1 || s.flops(&config) <= flops));
            assert!(shards.iter().all(|s| s.items().len() <= at_once));
        }
        let count = |flops, most| cut(items.clone(), &config, flops, most).unwrap().len();
        assert_eq!((count(1, 100), count(u64::MAX, 7), count(u64::MAX, usize::MAX)), (100, 15, 1));
        let long: Vec<Item> = (0..3).map(|_| Item::greedy(vec![1], MAX_GENERATED)).collect();
        assert_eq!(cut(long, &config, u64::MAX, 100).unwrap().len(), 3);
        assert!(cut(Vec::new(), &config, 1, 1).unwrap().is_empty());
    }
}
