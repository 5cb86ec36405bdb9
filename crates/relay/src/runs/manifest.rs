//! What is said about a data set: where its tokens are from, part by part. Each part stands in the log by itself, so that
//! people can approve, quarantine and evaluate one source and not another.

use super::store::DataSetRow;
use crate::api::ApiError;
use axum::http::StatusCode;
use potluck_governance::limits::MAX_RUN_DATA_SETS;
use potluck_governance::{Entry, Key, entry};
use potluck_types::BlobHash;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest line of JSON about a data set, in bytes: each of its parts says up to 1 KiB of source and as much of license.
pub(crate) const MAX_MANIFEST_BYTES: usize = 64 << 10;
/// Parts of a data set: a run has two data sets, and its entry in the log names all of their parts.
const MAX_PARTS: usize = MAX_RUN_DATA_SETS / 2;
/// Longest name of a part, in bytes: it is the end of an id.
const MAX_PART_NAME_BYTES: usize = 64;
/// What stands where nobody said anything.
const UNSTATED: &str = "not stated";
/// The one part of a data set that was logged before anybody said what it is.
const WHOLE: &str = "all";

/// What whoever uploads a data set says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewManifest {
    /// What people call it.
    pub name: String,
    /// Where it is from.
    pub source: String,
    /// Under which license.
    pub license: String,
    /// Key of who proposed it, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed_by: Option<String>,
    /// Its parts, in order: together they are all of its tokens. None if it is one source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<NewPart>,
}

/// A part of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPart {
    /// Its name: 1 to 64 lower-case letters, digits, dots, dashes and underscores.
    pub name: String,
    /// Where it is from.
    pub source: String,
    /// Under which license.
    pub license: String,
    /// Its first token.
    pub first: u64,
    /// The token after its last.
    pub end: u64,
}

/// What is said about a data set, as it is kept. Its hash is the manifest that the log names: it binds the tokens too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    data_set: String,
    vocabulary: u32,
    tokens: u64,
    #[serde(flatten)]
    stated: NewManifest,
}

/// A part with the data set that it is one of: what its own manifest is the hash of.
#[derive(Serialize)]
struct PartManifest<'a> {
    data_set: &'a str,
    vocabulary: u32,
    #[serde(flatten)]
    stated: &'a NewPart,
}

/// What is said about a data set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ManifestInfo {
    /// Id of the data set.
    pub id: String,
    /// Size of the vocabulary.
    pub vocabulary: u32,
    /// Tokens in it.
    pub tokens: u64,
    /// What people call it.
    pub name: String,
    /// Where it is from.
    pub source: String,
    /// Under which license.
    pub license: String,
    /// Key of who proposed it.
    pub proposed_by: Option<String>,
    /// Hash of its manifest: what a proposal for it names.
    pub manifest: String,
    /// Its parts.
    pub parts: Vec<PartInfo>,
}

/// What is said about a part of a data set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PartInfo {
    /// Its id in the log: that of the data set, a slash, and its name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it is from.
    pub source: String,
    /// Under which license.
    pub license: String,
    /// Its first token.
    pub first: u64,
    /// The token after its last.
    pub end: u64,
    /// Hash of its manifest: what a proposal for it names.
    pub manifest: String,
}

fn refused(message: String, hint: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_manifest", message, hint)
}

fn hash_of(value: &impl Serialize) -> BlobHash {
    BlobHash::of(&serde_json::to_vec(value).unwrap_or_default())
}

fn is_part_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    (1..=MAX_PART_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits)
}

impl Manifest {
    /// Checks what is said about a data set of this row.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub(crate) fn new(row: &DataSetRow, stated: NewManifest) -> Result<Self, ApiError> {
        if stated.parts.len() > MAX_PARTS {
            let what = format!("{} parts; a data set may have {MAX_PARTS}", stated.parts.len());
            return Err(refused(what, "upload it as several data sets, or name several sources as one part"));
        }
        let mut from = 0;
        for (i, part) in stated.parts.iter().enumerate() {
            let NewPart { name, first, end, .. } = part;
            let short: String = name.chars().take(MAX_PART_NAME_BYTES).collect();
            if !is_part_name(name) {
                let hint = "1 to 64 lower-case letters, digits, dots, dashes and underscores";
                return Err(refused(format!("{short:?} is no name of a part"), hint));
            }
            if stated.parts[..i].iter().any(|other| other.name == *name) {
                return Err(refused(format!("two parts are called {name}"), "give each its own name"));
            }
            if *first != from || end <= first || *end > row.tokens {
                let what = format!(
                    "part {name} has the tokens {first} to {end}; {from} comes next, and there are {}",
                    row.tokens
                );
                return Err(refused(what, "parts are in order, and each token is in one of them"));
            }
            from = *end;
        }
        if !stated.parts.is_empty() && from != row.tokens {
            let what = format!("the parts end at token {from}, and there are {}", row.tokens);
            return Err(refused(what, "parts are in order, and each token is in one of them"));
        }
        if stated.proposed_by.as_ref().is_some_and(|key| key.parse::<Key>().is_err()) {
            return Err(refused("proposed_by is no key".into(), "64 lower-case hexadecimal digits"));
        }
        let manifest =
            Self { data_set: row.id.to_string(), vocabulary: row.vocabulary, tokens: row.tokens, stated };
        for set in manifest.entries() {
            Entry::new(0, set).encode().map_err(|error| {
                refused(error.to_string(), "names, sources and licenses are one visible line")
            })?;
        }
        Ok(manifest)
    }

    /// The same as one part: for a data set that is in the log already, with nothing said about it.
    pub(crate) fn into_parts(mut self) -> Self {
        if self.stated.parts.is_empty() {
            let NewManifest { source, license, .. } = &self.stated;
            let (name, source, license) = (WHOLE.to_owned(), source.clone(), license.clone());
            self.stated.parts = vec![NewPart { name, source, license, first: 0, end: self.tokens }];
        }
        self
    }

    /// As it is kept.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what is kept.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The hash that the log names.
    fn hash(&self) -> BlobHash {
        hash_of(self)
    }

    fn part_id(&self, part: &NewPart) -> String {
        format!("{}/{}", self.data_set, part.name)
    }

    fn part_hash(&self, part: &NewPart) -> BlobHash {
        let Self { data_set, vocabulary, .. } = self;
        hash_of(&PartManifest { data_set, vocabulary: *vocabulary, stated: part })
    }

    /// Under which ids a run lists it.
    pub(crate) fn sources(&self) -> Vec<String> {
        if self.stated.parts.is_empty() {
            return vec![self.data_set.clone()];
        }
        self.stated.parts.iter().map(|part| self.part_id(part)).collect()
    }

    /// Ids of its parts in the log, with their tokens; none if it is one source.
    pub(crate) fn ranges(&self) -> Vec<(String, std::ops::Range<u64>)> {
        self.stated.parts.iter().map(|part| (self.part_id(part), part.first..part.end)).collect()
    }

    /// The entries of the data set and its parts, in this order.
    pub(crate) fn entries(&self) -> Vec<entry::DataSet> {
        let proposed_by = self.stated.proposed_by.as_ref().and_then(|key| key.parse().ok());
        let mut entries = vec![entry::DataSet {
            id: self.data_set.clone(),
            name: self.stated.name.clone(),
            manifest: self.hash(),
            tokens: self.tokens,
            source: self.stated.source.clone(),
            license: self.stated.license.clone(),
            proposed_by,
            proposal: None,
        }];
        entries.extend(self.stated.parts.iter().map(|part| entry::DataSet {
            id: self.part_id(part),
            name: part.name.clone(),
            manifest: self.part_hash(part),
            tokens: part.end - part.first,
            source: part.source.clone(),
            license: part.license.clone(),
            proposed_by,
            proposal: None,
        }));
        entries
    }

    /// For the API.
    pub(crate) fn info(&self) -> ManifestInfo {
        let part = |part: &NewPart| PartInfo {
            id: self.part_id(part),
            name: part.name.clone(),
            source: part.source.clone(),
            license: part.license.clone(),
            first: part.first,
            end: part.end,
            manifest: self.part_hash(part).to_string(),
        };
        ManifestInfo {
            id: self.data_set.clone(),
            vocabulary: self.vocabulary,
            tokens: self.tokens,
            name: self.stated.name.clone(),
            source: self.stated.source.clone(),
            license: self.stated.license.clone(),
            proposed_by: self.stated.proposed_by.clone(),
            manifest: self.hash().to_string(),
            parts: self.stated.parts.iter().map(part).collect(),
        }
    }
}

impl ManifestInfo {
    /// Of a data set about which nobody said anything.
    pub(crate) fn unstated(row: &DataSetRow) -> Self {
        let set = unstated(row);
        Self {
            id: set.id,
            vocabulary: row.vocabulary,
            tokens: row.tokens,
            name: set.name,
            source: set.source,
            license: set.license,
            proposed_by: None,
            manifest: set.manifest.to_string(),
            parts: Vec::new(),
        }
    }
}

/// The entry of a data set about which nobody said anything: its manifest is its root.
pub(crate) fn unstated(row: &DataSetRow) -> entry::DataSet {
    entry::DataSet {
        id: row.id.to_string(),
        name: format!("tokens of {} kinds", row.vocabulary),
        manifest: row.id,
        tokens: row.tokens,
        source: UNSTATED.to_owned(),
        license: UNSTATED.to_owned(),
        proposed_by: None,
        proposal: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> DataSetRow {
        DataSetRow { id: BlobHash([7; 32]), vocabulary: 65, tokens: 100 }
    }

    fn stated(parts: &[(&str, u64, u64)]) -> NewManifest {
        let part = |&(name, first, end): &(&str, u64, u64)| NewPart {
            name: name.to_owned(),
            source: "https://example.org/books".to_owned(),
            license: "CC0-1.0".to_owned(),
            first,
            end,
        };
        NewManifest {
            name: "books".to_owned(),
            source: "several".to_owned(),
            license: "several".to_owned(),
            proposed_by: None,
            parts: parts.iter().map(part).collect(),
        }
    }

    #[test]
    fn each_part_stands_by_itself() {
        let manifest = Manifest::new(&row(), stated(&[("whale", 0, 60), ("poems", 60, 100)])).unwrap();
        assert_eq!(Manifest::parse(&manifest.text()).unwrap(), manifest);
        let entries = manifest.entries();
        let ids: Vec<&str> = entries.iter().map(|set| set.id.as_str()).collect();
        let root = row().id.to_string();
        assert_eq!(ids, [root.clone(), format!("{root}/whale"), format!("{root}/poems")]);
        assert_eq!(manifest.sources(), &ids[1..]);
        assert_eq!(entries.iter().map(|set| set.tokens).collect::<Vec<_>>(), [100, 60, 40]);
        let hashes: std::collections::BTreeSet<_> = entries.iter().map(|set| set.manifest).collect();
        assert_eq!(hashes.len(), 3, "each manifest is another one");
        // Other tokens, another manifest, though the same is said of them.
        let other = DataSetRow { id: BlobHash([8; 32]), ..row() };
        assert_ne!(
            Manifest::new(&other, stated(&[])).unwrap().hash(),
            Manifest::new(&row(), stated(&[])).unwrap().hash()
        );
        let whole = Manifest::new(&row(), stated(&[])).unwrap();
        assert_eq!(whole.sources(), [row().id.to_string()]);
        assert_eq!(whole.into_parts().sources(), [format!("{root}/all")]);
    }

    #[test]
    fn parts_that_leave_tokens_out_or_cannot_be_named_are_refused() {
        for (parts, problem) in [
            (vec![("a", 0, 50)], "end at token 50"),
            (vec![("a", 0, 50), ("b", 40, 100)], "50 comes next"),
            (vec![("a", 0, 50), ("b", 60, 100)], "50 comes next"),
            (vec![("a", 0, 101)], "there are 100"),
            (vec![("a", 0, 0), ("b", 0, 100)], "0 comes next"),
            (vec![("a", 0, 50), ("a", 50, 100)], "two parts"),
            (vec![("A b", 0, 100)], "no name of a part"),
            (vec![("", 0, 100)], "no name of a part"),
        ] {
            let error = Manifest::new(&row(), stated(&parts)).unwrap_err();
            assert!(error.message.contains(problem), "{parts:?}: {}", error.message);
        }
        let many: Vec<String> = (0..=MAX_PARTS).map(|i| format!("p{i}")).collect();
        let many: Vec<_> = many.iter().zip(0..).map(|(name, at)| (name.as_str(), at, at + 1)).collect();
        assert!(Manifest::new(&row(), stated(&many)).unwrap_err().message.contains("17 parts"));
        let hidden = NewManifest { source: "a\u{202e}b".to_owned(), ..stated(&[]) };
        assert!(Manifest::new(&row(), hidden).unwrap_err().message.contains("invisible"));
        let key = NewManifest { proposed_by: Some("me".to_owned()), ..stated(&[]) };
        assert!(Manifest::new(&row(), key).is_err());
    }
}
