//! What a node does, by what the store says. Nothing here asks or waits: whoever does hands over what was seen.

use crate::db::{Leader, Seen};
use std::time::Duration;

/// A leader that said nothing to the store for so long is taken for gone: it says something each second.
pub(super) const SILENT_LIMIT: Duration = Duration::from_secs(15);

/// What to do until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty<'a> {
    /// Nobody leads: try to.
    Lead,
    /// Hand what is asked to the node that leads.
    Follow(&'a str),
    /// Somebody is about to lead.
    Wait,
    /// The leader is taken for gone, and its lock may be taken from it. It still is handed what is asked, until another one leads.
    Depose(Option<&'a str>),
}

/// Why a node cannot be one of this relay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// It has another key.
    #[error("this node has another key than the relay in the store")]
    Key,
    /// It takes other tokens.
    #[error("this node takes other tokens than the one that leads")]
    Tokens,
}

/// What a node at the address `own` does.
pub(super) fn duty<'a>(own: &str, seen: &'a Seen) -> Duty<'a> {
    let other = seen.leader.as_ref().map(|leader| leader.url.as_str()).filter(|url| *url != own);
    match (seen.silent, other) {
        (None, _) => Duty::Lead,
        (Some(silent), other) if silent >= SILENT_LIMIT => Duty::Depose(other),
        (Some(_), Some(other)) => Duty::Follow(other),
        // Of a node that led here before, until it says that it leads.
        (Some(_), None) => Duty::Wait,
    }
}

/// Whether a node with this key and these tokens is one of the relay's.
///
/// # Errors
/// Why not. Tokens may change while nobody leads.
pub(super) fn belongs(own: &Leader, seen: &Seen) -> Result<(), Stranger> {
    match &seen.leader {
        Some(leader) if leader.key != own.key => Err(Stranger::Key),
        Some(leader) if leader.tokens != own.tokens && seen.silent.is_some() => Err(Stranger::Tokens),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(url: &str) -> Leader {
        Leader { url: url.to_owned(), key: [1; 32], tokens: [2; 32] }
    }

    fn seen(url: Option<&str>, silent_s: Option<u64>) -> Seen {
        Seen { leader: url.map(leader), silent: silent_s.map(Duration::from_secs) }
    }

    #[test]
    fn who_holds_the_lock_is_followed_until_it_says_nothing() {
        for (found, expected) in [
            (seen(None, None), Duty::Lead),
            (seen(Some("b"), None), Duty::Lead),
            (seen(Some("a"), None), Duty::Lead),
            (seen(None, Some(0)), Duty::Wait),
            (seen(Some("b"), Some(1)), Duty::Follow("b")),
            // It led before it was started again, and another one has the lock that said nothing yet.
            (seen(Some("a"), Some(1)), Duty::Wait),
            (seen(Some("b"), Some(15)), Duty::Depose(Some("b"))),
            (seen(Some("a"), Some(99)), Duty::Depose(None)),
        ] {
            assert_eq!(duty("a", &found), expected, "{found:?}");
        }
    }

    #[test]
    fn nodes_have_one_key_and_the_leaders_tokens() {
        let own = leader("a");
        assert_eq!(belongs(&own, &seen(None, None)), Ok(()));
        assert_eq!(belongs(&own, &seen(Some("b"), Some(0))), Ok(()));
        let other = Leader { key: [3; 32], ..leader("a") };
        assert_eq!(belongs(&other, &seen(Some("b"), None)), Err(Stranger::Key));
        let other = Leader { tokens: [3; 32], ..leader("a") };
        assert_eq!(belongs(&other, &seen(Some("b"), Some(0))), Err(Stranger::Tokens));
        assert_eq!(belongs(&other, &seen(Some("b"), None)), Ok(()), "they were changed while all were off");
    }
}
