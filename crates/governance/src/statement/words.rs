//! The words with which statements name kinds, votes and things.

use crate::canonical;
use crate::key::Key;
use potluck_types::JobId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProposalKind {
    /// A parameter's value within its bounds.
    Parameter,
    /// A new run.
    Run,
    /// A new data set.
    DataSet,
    /// A kernel's or engine's hash.
    Kernel,
    /// A candidate becomes a model's version.
    Promote,
    /// A model goes back to the version before.
    RollBack,
    /// A new roles document.
    Roles,
    /// A new constitution: thresholds and clocks.
    Constitution,
    /// That a decision was wrong. Opened by an appeal, never proposed. Upheld against the promotion of the version in
    /// use, it justifies the rollback; against anything else it is a public verdict on which others may act.
    Appeal,
    /// A new list of mirrors.
    Mirrors,
    /// A listed mirror takes over from the relay that signs the log.
    Succession,
}

impl ProposalKind {
    /// Its name, as it stands in the text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parameter => "parameter",
            Self::Run => "run",
            Self::DataSet => "data_set",
            Self::Kernel => "kernel",
            Self::Promote => "promote",
            Self::RollBack => "roll_back",
            Self::Roles => "roles",
            Self::Constitution => "constitution",
            Self::Appeal => "appeal",
            Self::Mirrors => "mirrors",
            Self::Succession => "succession",
        }
    }
}

impl fmt::Display for ProposalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A vote or a piece of advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ballot {
    /// For it.
    Yes,
    /// Against it.
    No,
    /// Neither; counts for the quorum.
    Abstain,
}

/// Why a text names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names nothing: write {expected}")]
pub struct ParseWordError {
    /// The text.
    pub text: String,
    /// What it could be.
    pub expected: &'static str,
}

/// What a pause stops. Text: `all`, `run:` and the run in hexadecimal digits, or `model:` and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Every run and promotion.
    All,
    /// One run.
    Run(JobId),
    /// All runs that train a model, and its promotions.
    Model(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Run(run) => write!(f, "run:{run}"),
            Self::Model(model) => write!(f, "model:{model}"),
        }
    }
}

impl FromStr for Scope {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        let error = || ParseWordError { text: text.to_owned(), expected: "all, run:ID or model:NAME" };
        if text == "all" {
            return Ok(Self::All);
        }
        match text.split_once(':') {
            Some(("run", run)) => run.parse().map(Self::Run).map_err(|_| error()),
            Some(("model", model)) if canonical::name("scope", model).is_ok() => {
                Ok(Self::Model(model.to_owned()))
            }
            _ => Err(error()),
        }
    }
}

/// What a model can be made without. Text: `volunteer:` and the key, or `data_set:` and its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// All updates of a volunteer.
    Volunteer(Key),
    /// A data set.
    DataSet(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volunteer(key) => write!(f, "volunteer:{key}"),
            Self::DataSet(id) => write!(f, "data_set:{id}"),
        }
    }
}

impl FromStr for Target {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        let error = || ParseWordError { text: text.to_owned(), expected: "volunteer:KEY or data_set:ID" };
        match text.split_once(':') {
            Some(("volunteer", key)) => key.parse().map(Self::Volunteer).map_err(|_| error()),
            Some(("data_set", id)) if canonical::name("target", id).is_ok() => {
                Ok(Self::DataSet(id.to_owned()))
            }
            _ => Err(error()),
        }
    }
}
