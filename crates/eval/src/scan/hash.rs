//! Rolling hashes of windows of tokens.

/// An odd multiplier with bits everywhere. Windows with equal hashes are compared, so nothing rests on it.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A token's share of a hash.
const fn mixed(token: u32) -> u64 {
    let x = (token as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

/// Calls `visit` with the place and the hash of every window of `length` tokens, in order. None if there are fewer.
pub(crate) fn each(tokens: &[u32], length: usize, mut visit: impl FnMut(usize, u64)) {
    if length == 0 || tokens.len() < length {
        return;
    }
    let power = (0..length).fold(1_u64, |power, _| power.wrapping_mul(MULTIPLIER));
    let push = |hash: u64, token: u32| hash.wrapping_mul(MULTIPLIER).wrapping_add(mixed(token));
    let mut hash = tokens[..length].iter().fold(0, |hash, token| push(hash, *token));
    visit(0, hash);
    for (at, (gone, come)) in tokens.iter().zip(&tokens[length..]).enumerate() {
        hash = push(hash, *come).wrapping_sub(power.wrapping_mul(mixed(*gone)));
        visit(at + 1, hash);
    }
}

/// The hash of one window.
pub(crate) fn of(window: &[u32]) -> u64 {
    let mut found = 0;
    each(window, window.len(), |_, hash| found = hash);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rolling_hash_is_that_of_the_window() {
        let tokens: Vec<u32> = (0..200_u32).map(|i| i * i % 17).collect();
        for length in [1, 2, 7, 200] {
            let mut count = 0;
            each(&tokens, length, |at, hash| {
                assert_eq!((at, hash), (count, of(&tokens[at..at + length])));
                count += 1;
            });
            assert_eq!(count, 201 - length);
        }
        each(&tokens, 201, |_, _| unreachable!());
        each(&tokens, 0, |_, _| unreachable!());
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(of(&[0, 0]), of(&[0]));
    }
}
