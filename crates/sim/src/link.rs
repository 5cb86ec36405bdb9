//! The wire between one client and the relay: a connection with two directions.
//!
//! A direction is a TCP stream: frames arrive in order, late, at a limited rate; none is lost alone. What can
//! go wrong with a stream goes wrong here: it stalls, it breaks (both sides learn of it, not at the same time),
//! or one side vanishes and the other never hears of it.

use crate::rng::Rng;
use std::collections::VecDeque;

/// Names a connection; never reused in one run.
pub type ConnId = usize;

/// What travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The connection stands.
    Start,
    /// One WebSocket message.
    Frame(Vec<u8>),
    /// The end of the stream.
    End,
}

/// Who receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The relay receives: volunteer to relay.
    Relay,
    /// The client receives: relay to volunteer.
    Client,
}

/// Properties of a link, drawn once per connection.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// One way, in milliseconds.
    pub delay_ms: u64,
    /// On top, up to this, in milliseconds.
    pub jitter_ms: u64,
    /// Bytes per millisecond.
    pub rate: u64,
}

#[derive(Debug)]
struct InFlight {
    /// The last byte leaves the sender, in milliseconds.
    sent: u64,
    /// The last byte arrives, in milliseconds.
    arrives: u64,
    item: Item,
}

/// One direction of a connection.
#[derive(Debug)]
pub struct Pipe {
    quality: Quality,
    rng: Rng,
    free_at: u64,
    last_arrival: u64,
    stalled_until: u64,
    vanished: bool,
    ended: bool,
    queue: VecDeque<InFlight>,
}

impl Pipe {
    /// An idle direction.
    pub fn new(quality: Quality, rng: Rng) -> Self {
        Self {
            quality,
            rng,
            free_at: 0,
            last_arrival: 0,
            stalled_until: 0,
            vanished: false,
            ended: false,
            queue: VecDeque::new(),
        }
    }

    /// Puts an item on its way. Returns when it is due, unless it goes nowhere.
    pub fn send(&mut self, now: u64, item: Item) -> Option<u64> {
        if self.vanished || self.ended {
            return None;
        }
        let bytes = match &item {
            Item::Frame(frame) => frame.len() as u64 + 6,
            Item::Start => 4,
            Item::End => {
                self.ended = true;
                4
            }
        };
        self.free_at = self.free_at.max(now).max(self.stalled_until) + bytes / self.quality.rate.max(1);
        let travel = self.quality.delay_ms + self.rng.within(0..=self.quality.jitter_ms);
        self.last_arrival = self.last_arrival.max(self.free_at + travel);
        self.queue.push_back(InFlight { sent: self.free_at, arrives: self.last_arrival, item });
        Some(self.last_arrival)
    }

    /// Nothing moves until then.
    pub fn stall(&mut self, until: u64) {
        self.stalled_until = self.stalled_until.max(until);
    }

    /// Everything on its way and everything sent later is lost, and nobody is told.
    pub fn vanish(&mut self) {
        self.vanished = true;
        self.queue.clear();
    }

    /// Breaks the stream: what is on its way is lost, the receiver learns of it at `at`.
    pub fn snap(&mut self, at: u64) -> u64 {
        self.queue.clear();
        self.ended = true;
        self.last_arrival = self.last_arrival.max(at);
        self.queue.push_back(InFlight { sent: at, arrives: self.last_arrival, item: Item::End });
        self.last_arrival
    }

    /// Takes the next item, if one is due. `Err` says when to look again.
    ///
    /// # Errors
    /// Nothing is due; `Err(None)` if nothing is on its way.
    pub fn receive(&mut self, now: u64) -> Result<Item, Option<u64>> {
        let Some(first) = self.queue.front() else { return Err(None) };
        let due = first.arrives.max(self.stalled_until);
        if due > now {
            return Err(Some(due));
        }
        self.queue.pop_front().map(|first| first.item).ok_or(None)
    }

    /// Frames that the sender could not yet put on the wire.
    pub fn waiting(&self, now: u64) -> usize {
        if self.stalled_until > now {
            return self.queue.len();
        }
        self.queue.iter().rev().take_while(|item| item.sent > now).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(quality: Quality) -> Pipe {
        Pipe::new(quality, Rng::new(3))
    }

    fn frame(bytes: usize) -> Item {
        Item::Frame(vec![7; bytes])
    }

    #[test]
    fn frames_keep_their_order_and_the_rate_is_respected() {
        let mut pipe = pipe(Quality { delay_ms: 50, jitter_ms: 40, rate: 10 });
        let due: Vec<_> = (1..20).map(|i| pipe.send(0, frame(i * 100)).unwrap()).collect();
        assert!(due.is_sorted(), "{due:?}");
        assert!(*due.last().unwrap() >= 19 * 20 * 100 / 2 / 10 + 50);
        assert_eq!(pipe.waiting(0), 19);
        assert_eq!(pipe.receive(0), Err(Some(due[0])));
        assert_eq!(pipe.receive(due[0]), Ok(frame(100)));
    }

    #[test]
    fn a_stall_delays_and_a_break_loses() {
        let mut pipe = pipe(Quality { delay_ms: 5, jitter_ms: 0, rate: 1000 });
        pipe.send(0, frame(10)).unwrap();
        pipe.stall(100);
        assert_eq!(pipe.receive(5), Err(Some(100)));
        assert_eq!(pipe.receive(100), Ok(frame(10)));
        pipe.send(100, frame(10)).unwrap();
        assert_eq!(pipe.snap(120), 120);
        assert_eq!(pipe.send(121, frame(1)), None);
        assert_eq!((pipe.receive(120), pipe.receive(120)), (Ok(Item::End), Err(None)));
    }

    #[test]
    fn a_vanished_peer_hears_nothing() {
        let mut pipe = pipe(Quality { delay_ms: 5, jitter_ms: 0, rate: 1000 });
        pipe.send(0, frame(10)).unwrap();
        pipe.vanish();
        assert_eq!((pipe.send(1, frame(10)), pipe.receive(1000)), (None, Err(None)));
    }
}
