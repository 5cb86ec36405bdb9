//! What a model is made again without, as people write it.

use crate::client::Client;
use crate::error::CliError;
use potluck_rounds::Without;
use potluck_types::{BlobHash, VolunteerId};
use serde::Deserialize;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// A volunteer's updates, or those that touched tokens of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOut {
    /// All updates of a volunteer.
    Volunteer(VolunteerId),
    /// All updates whose batches touched these tokens.
    Tokens {
        /// The data set.
        data_set: BlobHash,
        /// Which of its tokens.
        part: TokenPart,
    },
}

/// Tokens of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPart {
    /// All of them.
    All,
    /// Those of a part that its manifest names.
    Named(String),
    /// From the first to before the last.
    Range(Range<u64>),
}

impl FromStr for LeftOut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "{text:?} is nothing that can be left out: write volunteer:KEY, dataset:ID, dataset:ID/PART or dataset:ID#FROM..TO"
            )
        };
        let (kind, name) = text.split_once(':').ok_or_else(expected)?;
        match kind {
            "volunteer" => {
                let key: BlobHash = name.parse().map_err(|_| expected())?;
                Ok(Self::Volunteer(VolunteerId(key.0)))
            }
            // The second is how the log writes it.
            "dataset" | "data_set" => {
                let end = name.find(['/', '#']).unwrap_or(name.len());
                let (id, rest) = name.split_at(end);
                let data_set = id.parse().map_err(|_| expected())?;
                let part = match (rest.strip_prefix('/'), rest.strip_prefix('#')) {
                    (Some(part), _) if !part.is_empty() => TokenPart::Named(part.to_owned()),
                    (_, Some(range)) => {
                        let (from, to) = range.split_once("..").ok_or_else(expected)?;
                        let [from, to] = [from, to].map(|token| token.parse::<u64>().map_err(|_| expected()));
                        TokenPart::Range(from?..to?)
                    }
                    (None, None) => TokenPart::All,
                    _ => return Err(expected()),
                };
                Ok(Self::Tokens { data_set, part })
            }
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for LeftOut {
    /// As the log writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volunteer(key) => write!(f, "volunteer:{key}"),
            Self::Tokens { data_set, part: TokenPart::All } => write!(f, "data_set:{data_set}"),
            Self::Tokens { data_set, part: TokenPart::Named(name) } => {
                write!(f, "data_set:{data_set}/{name}")
            }
            Self::Tokens { data_set, part: TokenPart::Range(range) } => {
                write!(f, "data_set:{data_set}#{}..{}", range.start, range.end)
            }
        }
    }
}

/// What the relay says of a data set.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    parts: Vec<ManifestPart>,
}

/// A part of a data set.
#[derive(Debug, Deserialize)]
struct ManifestPart {
    name: String,
    first: u64,
    end: u64,
}

/// What of a run that trains on so many tokens of a data set is left out.
///
/// # Errors
/// Another data set, or a part that nobody describes.
pub(crate) fn resolve(
    left_out: &[LeftOut],
    train: &BlobHash,
    tokens: u64,
    relay: Option<&Client>,
) -> Result<Without, CliError> {
    let mut without = Without::default();
    for one in left_out {
        match one {
            LeftOut::Volunteer(key) => {
                without.volunteers.insert(*key);
            }
            LeftOut::Tokens { data_set, .. } if data_set != train => {
                return Err(CliError::Usage {
                    message: format!("the run does not train on data set {data_set}"),
                    hint: format!("its updates come from data set {train}"),
                });
            }
            LeftOut::Tokens { data_set, part } => without.tokens.push(match part {
                TokenPart::All => 0..tokens,
                TokenPart::Range(range) => range.clone(),
                TokenPart::Named(name) => part_of(data_set, name, relay)?,
            }),
        }
    }
    Ok(without)
}

fn part_of(data_set: &BlobHash, name: &str, relay: Option<&Client>) -> Result<Range<u64>, CliError> {
    let unknown = |message: String| CliError::Usage {
        message,
        hint: format!("name its tokens instead: dataset:{data_set}#FROM..TO"),
    };
    let Some(relay) = relay else {
        return Err(unknown(format!("only a relay knows where part {name:?} of data set {data_set} lies")));
    };
    let manifest = relay.get::<Manifest>(&format!("/api/v1/datasets/{data_set}"), |_| {});
    let manifest = match manifest {
        Err(CliError::Api(error)) if matches!(error.status, 404 | 405) => Manifest { parts: Vec::new() },
        other => other?,
    };
    let found = manifest.parts.into_iter().find(|part| part.name == name);
    let found = found.ok_or_else(|| unknown(format!("data set {data_set} has no part {name:?}")))?;
    Ok(found.first..found.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_read_and_written() {
        let (key, id) = ("ab".repeat(32), BlobHash([7; 32]));
        let tokens = |part| LeftOut::Tokens { data_set: id, part };
        for (text, expected) in [
            (format!("volunteer:{key}"), LeftOut::Volunteer(VolunteerId([0xab; 32]))),
            (format!("dataset:{id}"), tokens(TokenPart::All)),
            (format!("dataset:{id}/poems/1.txt"), tokens(TokenPart::Named("poems/1.txt".into()))),
            (format!("dataset:{id}#5..70"), tokens(TokenPart::Range(5..70))),
        ] {
            assert_eq!(text.parse::<LeftOut>().as_ref(), Ok(&expected), "{text}");
            assert_eq!(expected.to_string().parse::<LeftOut>(), Ok(expected));
        }
        for bad in ["", "volunteer:", "volunteer:abc", "dataset:x", "model:y", &format!("dataset:{id}/")] {
            assert!(bad.parse::<LeftOut>().unwrap_err().contains("write volunteer:KEY"), "{bad}");
        }
        for bad in ["#", "#5", "#5..", "#..7", "#a..b", "#-1..4"] {
            assert!(format!("dataset:{id}{bad}").parse::<LeftOut>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_the_run_trains_on_is_left_out() {
        let (id, other) = (BlobHash([7; 32]), BlobHash([8; 32]));
        let of = |data_set, part| LeftOut::Tokens { data_set, part };
        let found =
            resolve(&[of(id, TokenPart::All), of(id, TokenPart::Range(3..9))], &id, 50, None).unwrap();
        assert_eq!(found.tokens, [0..50, 3..9]);
        assert!(resolve(&[of(other, TokenPart::All)], &id, 50, None).is_err());
        let error = resolve(&[of(id, TokenPart::Named("a".into()))], &id, 50, None).unwrap_err();
        assert!(error.hint().unwrap().contains("#FROM..TO"));
    }
}
