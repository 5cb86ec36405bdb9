//! The simulated clock: events in the order of time, and among equals in the order of their making.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// An event queue. Determinism: ties are broken by sequence numbers, never by the event.
#[derive(Debug)]
pub struct Queue<E> {
    now: u64,
    next: u64,
    heap: BinaryHeap<Reverse<Entry<E>>>,
}

#[derive(Debug)]
struct Entry<E> {
    at: u64,
    sequence: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { now: 0, next: 0, heap: BinaryHeap::new() }
    }
}

impl<E> Queue<E> {
    /// Simulated time, in milliseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Puts an event at a time; the past becomes now.
    pub fn at(&mut self, at: u64, event: E) {
        let entry = Entry { at: at.max(self.now), sequence: self.next, event };
        self.next += 1;
        self.heap.push(Reverse(entry));
    }

    /// Puts an event after a span.
    pub fn after(&mut self, ms: u64, event: E) {
        self.at(self.now.saturating_add(ms), event);
    }

    /// Moves the clock to the next event.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(entry) = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_first_then_order_of_making() {
        let mut queue = Queue::default();
        queue.at(5, 'c');
        queue.at(3, 'a');
        queue.at(3, 'b');
        queue.at(5, 'd');
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!((order, queue.now()), (vec!['a', 'b', 'c', 'd'], 5));
        queue.at(1, 'e');
        assert_eq!((queue.pop(), queue.now()), (Some('e'), 5));
    }
}
