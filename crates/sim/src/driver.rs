//! One client, whatever it is.

use crate::act::{Act, Failure, Library};
use crate::honest::Honest;
use crate::liar::Liar;
use crate::plan::{Nature, PlannedVolunteer};
use crate::rng::Rng;
use potluck_types::VolunteerId;

/// What a person does to a volunteer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersonEvent {
    /// Pauses.
    Pause,
    /// Goes on.
    Resume,
    /// Lets the current shard end, then stops.
    Finish,
    /// Stops at once.
    Stop,
    /// Lends more or less.
    Preset,
    /// Looks at another tab.
    Hide,
    /// Looks at this one again.
    Show,
    /// Shows the tab; goes on, or agrees again if that is needed.
    Return,
    /// Stops, and agrees anew for a day.
    Renew,
}

impl PersonEvent {
    /// Draws what a person does next.
    pub fn draw(rng: &mut Rng) -> Self {
        // Coming back is drawn more often, so that most volunteers compute most of the time.
        let all = [
            Self::Pause,
            Self::Resume,
            Self::Finish,
            Self::Stop,
            Self::Preset,
            Self::Hide,
            Self::Show,
            Self::Renew,
            Self::Return,
            Self::Return,
            Self::Return,
            Self::Return,
        ];
        rng.pick(&all).unwrap_or(Self::Return)
    }
}

/// A client of the relay.
#[derive(Debug)]
pub(crate) enum Driver {
    /// The real engine.
    Engine(Box<Honest>),
    /// Raw frames.
    Liar(Box<Liar>),
}

impl Driver {
    pub(crate) fn new(planned: &PlannedVolunteer, rng: Rng) -> Self {
        match planned.nature {
            Nature::Liar(trick) => Self::Liar(Box::new(Liar::new(trick, rng))),
            Nature::Honest | Nature::Broken(_) => Self::Engine(Box::new(Honest::new(planned, rng))),
        }
    }

    pub(crate) fn id(&self) -> VolunteerId {
        match self {
            Self::Engine(honest) => honest.id(),
            Self::Liar(liar) => liar.id(),
        }
    }

    pub(crate) fn start(&mut self, now: u64) -> Vec<Act> {
        match self {
            Self::Engine(honest) => honest.start(now),
            Self::Liar(liar) => liar.start(),
        }
    }

    pub(crate) fn killed(&mut self, new_name: bool) {
        match self {
            Self::Engine(honest) => honest.killed(new_name),
            Self::Liar(liar) => {
                liar.closed();
            }
        }
    }

    pub(crate) fn opened(&mut self, now: u64) -> Vec<Act> {
        match self {
            Self::Engine(honest) => honest.opened(now),
            Self::Liar(liar) => liar.opened(),
        }
    }

    pub(crate) fn closed(&mut self, now: u64) -> Vec<Act> {
        match self {
            Self::Engine(honest) => honest.closed(now),
            Self::Liar(liar) => liar.closed(),
        }
    }

    pub(crate) fn frame(&mut self, now: u64, frame: &[u8]) -> Vec<Act> {
        match self {
            Self::Engine(honest) => honest.frame(now, frame),
            Self::Liar(liar) => liar.frame(now, frame),
        }
    }

    pub(crate) fn woken(&mut self, now: u64, tag: u64, library: Library<'_>) -> Vec<Act> {
        match self {
            Self::Engine(honest) => honest.woken(now, tag),
            Self::Liar(liar) => liar.woken(now, tag, library),
        }
    }

    pub(crate) fn computed(&mut self, now: u64, run: u64, result: Result<Vec<u8>, Failure>) -> Vec<Act> {
        match self {
            Self::Engine(honest) => honest.computed(now, run, result),
            Self::Liar(_) => Vec::new(),
        }
    }

    pub(crate) fn person(&mut self, now: u64, does: PersonEvent) -> Vec<Act> {
        match self {
            Self::Engine(honest) => honest.person(now, does),
            Self::Liar(_) => Vec::new(),
        }
    }

    /// Whether it runs the engine.
    pub(crate) fn is_engine(&self) -> bool {
        matches!(self, Self::Engine(_))
    }

    /// Whether its person stopped it, so that nothing may be sent.
    pub(crate) fn has_stopped(&self) -> bool {
        match self {
            Self::Engine(honest) => honest.has_stopped(),
            Self::Liar(_) => false,
        }
    }

    /// What it did that it promised not to do.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        match self {
            Self::Engine(honest) => honest.look(),
            Self::Liar(_) => Ok(()),
        }
    }
}
