//! One bit for each group of a blob.

/// Bits of a known number, the first in the lowest bit of the first byte.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bits {
    bytes: Vec<u8>,
    len: u32,
    ones: u32,
}

impl Bits {
    pub(crate) fn none(len: u32) -> Self {
        Self { bytes: vec![0; len.div_ceil(8) as usize], len, ones: 0 }
    }

    pub(crate) fn all(len: u32) -> Self {
        let mut bits = Self::none(len);
        (0..len).for_each(|index| {
            bits.set(index);
        });
        bits
    }

    /// Bits as a peer sent them: an empty list is none at all. `None` for a wrong length, or bits after the last.
    pub(crate) fn read(bytes: &[u8], len: u32) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::none(len));
        }
        let spare = len.div_ceil(8) * 8 - len;
        let last = bytes.last().copied().unwrap_or(0);
        if bytes.len() != len.div_ceil(8) as usize || (spare > 0 && last >> (8 - spare) != 0) {
            return None;
        }
        let ones = bytes.iter().map(|byte| byte.count_ones()).sum();
        Some(Self { bytes: bytes.to_vec(), len, ones })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn has(&self, index: u32) -> bool {
        index < self.len && self.bytes[(index / 8) as usize] >> (index % 8) & 1 == 1
    }

    /// Sets a bit; whether it was not set. One beyond the last is none.
    pub(crate) fn set(&mut self, index: u32) -> bool {
        let fresh = index < self.len && !self.has(index);
        if fresh {
            self.bytes[(index / 8) as usize] |= 1 << (index % 8);
            self.ones += 1;
        }
        fresh
    }

    pub(crate) fn clear(&mut self, index: u32) {
        if self.has(index) {
            self.bytes[(index / 8) as usize] &= !(1 << (index % 8));
            self.ones -= 1;
        }
    }

    pub(crate) const fn count(&self) -> u32 {
        self.ones
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.ones == self.len
    }
}

/// Numbers, in order, as runs of neighbors: the first and how many.
pub(crate) fn runs(sorted: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &index in sorted {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == index => *count += 1,
            _ => runs.push((index, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_cleared_counted_and_read() {
        let mut bits = Bits::none(11);
        assert!(bits.set(10) && !bits.set(10) && bits.set(0) && !bits.set(11));
        assert!(bits.has(10) && !bits.has(9) && !bits.has(11));
        assert_eq!((bits.count(), bits.bytes()), (2, &[1, 4][..]));
        assert_eq!(Bits::read(bits.bytes(), 11), Some(bits.clone()));
        assert_eq!(Bits::read(&[], 11), Some(Bits::none(11)));
        for wrong in [&[1][..], &[1, 8], &[1, 4, 0]] {
            assert_eq!(Bits::read(wrong, 11), None);
        }
        bits.clear(10);
        bits.clear(10);
        assert_eq!(bits.count(), 1);
        assert!(Bits::all(11).is_full() && Bits::read(Bits::all(11).bytes(), 11).is_some());
        assert!(Bits::read(&[0xff], 8).is_some());
    }

    #[test]
    fn neighbors_form_runs() {
        assert_eq!(runs(&[0, 1, 2, 5, 7, 8]), [(0, 3), (5, 1), (7, 2)]);
        assert!(runs(&[]).is_empty());
    }
}
