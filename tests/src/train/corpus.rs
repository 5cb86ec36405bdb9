//! What the experiments train on: a text as tokens, the last tenth of it for validation.

use anyhow::{Context, Result, bail};
use potluck_train::Batch;
use potluck_train::data::{Characters, DataSet, Tokenizer, VALIDATION_SHARE, evenly, split, text};
use std::fs;
use std::path::{Path, PathBuf};

/// Tokens that the models see at once.
pub const CONTEXT: usize = 64;
/// Windows of the validation part that a loss is the mean of: 65,536 tokens.
const WINDOWS: usize = 1024;
/// Windows of a batch: few enough for their activations to stay in a cache.
const WINDOWS_A_BATCH: usize = 16;
/// Where Tiny Shakespeare lies if somebody put it there, from the repository's root.
const SHAKESPEARE: &str = "../shared/data/tinyshakespeare.txt";
/// What `cargo xtask data` brings, in the cache.
const FETCHED: &str = "data/corpus.txt";

/// A text as tokens.
#[derive(Debug)]
pub struct Corpus {
    /// What it is called.
    pub name: String,
    /// A token for each of its characters.
    pub tokenizer: Tokenizer,
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// Tokens of the training part.
    pub tokens: Vec<u32>,
    /// The training part as blocks.
    pub train: DataSet,
    /// Windows of the validation part, evenly spread.
    pub validation: Vec<Batch>,
}

impl Corpus {
    /// The text at `path`, else Tiny Shakespeare beside the repository, else what `cargo xtask data` brought.
    ///
    /// # Errors
    /// There is none of them, or it is no text that can be trained on.
    pub fn find(path: Option<&Path>) -> Result<Self> {
        if let Some(path) = path {
            return Self::read(path);
        }
        match Self::known().into_iter().find(|path| path.is_file()) {
            Some(path) => Self::read(&path),
            None => bail!(
                "there is no corpus to train on\nhint: `cargo xtask data` brings one, or name any text with --corpus FILE"
            ),
        }
    }

    /// What `cargo xtask data` brought, and nothing else: what holds of it holds everywhere.
    ///
    /// # Errors
    /// It is not there; `cargo xtask test` brings it.
    pub fn fetched() -> Result<Self> {
        let Some(path) = cache().map(|folder| folder.join(FETCHED)).filter(|path| path.is_file()) else {
            bail!("there is no corpus to train on\nhint: `cargo xtask data` brings it");
        };
        Self::read(&path)
    }

    fn known() -> Vec<PathBuf> {
        let fetched = cache().map(|folder| folder.join(FETCHED));
        std::iter::once(root().join(SHAKESPEARE)).chain(fetched).collect()
    }

    fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let corpus = text(bytes).with_context(|| format!("{} is no corpus", path.display()))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Self::of_text(&name, corpus)
    }

    /// A text, with a token for each of its characters.
    ///
    /// # Errors
    /// Too few characters, or too many different ones.
    pub fn of_text(name: &str, corpus: String) -> Result<Self> {
        let tokenizer = Tokenizer::Characters(Characters::of(&corpus)?);
        let all = tokenizer.encode(&corpus)?;
        drop(corpus);
        let vocabulary = tokenizer.vocabulary();
        let (train, validation) = split(&all, VALIDATION_SHARE, CONTEXT)?;
        let held_out = DataSet::new(validation, vocabulary)?;
        let starts = evenly(held_out.spec(), CONTEXT, WINDOWS, 1)?;
        let windows = starts.chunks(WINDOWS_A_BATCH).map(|starts| held_out.batch(starts, CONTEXT));
        Ok(Self {
            name: name.to_owned(),
            tokenizer,
            vocabulary,
            tokens: train.to_vec(),
            train: DataSet::new(train, vocabulary)?,
            validation: windows.collect::<Result<_, _>>()?,
        })
    }

    /// Tokens of the validation windows.
    pub fn validation_tokens(&self) -> usize {
        self.validation.iter().map(|batch| batch.inputs.len()).sum()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Where tools and data are kept between runs.
pub(crate) fn cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").or_else(|| set("USERPROFILE")).map(|home| home.join(".cache"));
    set("POTLUCK_CACHE").or_else(|| set("XDG_CACHE_HOME").or_else(home).map(|folder| folder.join("potluck")))
}
