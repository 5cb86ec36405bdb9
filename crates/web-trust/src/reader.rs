//! Reads a whole log, bundle by bundle, and derives what follows from it.
//!
//! Whoever fetches is told the next file's path. Entries are read as they come; what follows from them is shown only once
//! all of them together have the root that the log signed. A reader that was given other entries is broken for good.

use crate::Problem;
use potluck_governance::{Checker, State};
use potluck_ledger::{
    AppendError, Appender, Bundle, Checkpoint, SignedCheckpoint, TILE_WIDTH, TreeHash, TreeHead, VerifierKey,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Sizes that a reader keeps roots of: what was seen last, and where a successor began.
const MAX_MARKS: usize = 4;

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Path below the log's address.
    pub path: String,
    /// The full file that may have taken its place.
    pub full: String,
}

/// How far a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Entries read.
    pub read: u64,
    /// Entries of the checkpoint.
    pub size: u64,
}

/// A log as it is read.
#[derive(Debug)]
pub struct Reader {
    key: VerifierKey,
    checkpoint: Option<SignedCheckpoint>,
    /// The tree of what was read.
    tree: Appender,
    checker: Checker,
    /// Sizes at which the tree's root is kept, and the roots that are known.
    marks: BTreeMap<u64, Option<TreeHash>>,
    broken: bool,
}

impl Reader {
    /// A reader of the log of this key.
    ///
    /// # Errors
    /// A key that cannot be read.
    pub fn new(key: &str) -> Result<Self, Problem> {
        let key = key.trim().parse().map_err(|error| format!("the log's key cannot be used: {error}"))?;
        let (tree, checker) = (Appender::new(), Checker::new());
        Ok(Self { key, checkpoint: None, tree, checker, marks: BTreeMap::new(), broken: false })
    }

    /// Has the root of the first `size` entries kept, for [`Verified::root_at`]. Before they are read.
    pub fn mark(&mut self, size: u64) {
        if size >= self.tree.head().size && self.marks.len() < MAX_MARKS {
            self.marks.insert(size, None);
        }
    }

    /// Takes the checkpoint up to which to read. A later one lets it go on.
    ///
    /// # Errors
    /// The log's key did not sign it, it is of another log, or shorter than what was read.
    pub fn begin(&mut self, note: &str) -> Result<Progress, Problem> {
        let checkpoint = SignedCheckpoint::open(note.as_bytes(), self.key.name(), &self.key)
            .map_err(|error| format!("the checkpoint cannot be used: {error}"))?;
        let (size, read) = (checkpoint.head().size, self.tree.head().size);
        if size < read {
            return Err(format!(
                "the checkpoint has {size} entries, and {read} were read: the log was rolled back"
            ));
        }
        self.checkpoint = Some(checkpoint);
        self.settle()?;
        Ok(Progress { read, size })
    }

    fn size(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.head().size)
    }

    fn next_bundle(&self) -> Option<Bundle> {
        Bundle::containing(self.tree.head().size, self.size())
    }

    /// The file to fetch next; none when all is read.
    pub fn wanted(&self) -> Option<Wanted> {
        let next = self.next_bundle().filter(|_| !self.broken)?;
        let full = Bundle::new(next.index(), TILE_WIDTH).unwrap_or(next);
        Some(Wanted { path: next.to_string(), full: full.to_string() })
    }

    /// Takes the bytes of the file that is wanted, or of the full one in its place.
    ///
    /// # Errors
    /// It is no such file. When it is the last one and all entries together are not those that the log signed.
    pub fn take(&mut self, bytes: &[u8], full: bool) -> Result<Progress, Problem> {
        let bundle = self.next_bundle().filter(|_| !self.broken).ok_or("no file is wanted")?;
        let file = if full { Bundle::new(bundle.index(), TILE_WIDTH).unwrap_or(bundle) } else { bundle };
        let entries = file.entries(bytes).map_err(|error| format!("{file} is broken: {error}"))?;
        let known = (self.tree.head().size - bundle.first_entry()) as usize;
        let new = entries.get(known..usize::from(bundle.width())).unwrap_or_default();
        self.append(new).map_err(|error| format!("{file} is broken: {error}"))?;
        for entry in new {
            self.checker.read(entry);
        }
        self.settle()?;
        Ok(Progress { read: self.tree.head().size, size: self.size() })
    }

    /// Lets the tree grow, and looks at it at each size that is marked.
    fn append(&mut self, mut new: &[&[u8]]) -> Result<(), AppendError> {
        loop {
            let size = self.tree.head().size;
            if let Some(root) = self.marks.get_mut(&size) {
                *root = Some(self.tree.head().root);
            }
            if new.is_empty() {
                return Ok(());
            }
            let next = self.marks.range(size + 1..).next().map_or(new.len() as u64, |(mark, _)| mark - size);
            let (now, later) = new.split_at((next as usize).min(new.len()));
            self.tree.append(now)?;
            new = later;
        }
    }

    /// Compares what was read with what the log signed, once all is read.
    fn settle(&mut self) -> Result<(), Problem> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(()) };
        let (found, stated) = (self.tree.head(), checkpoint.head());
        if found.size == stated.size && found.root != stated.root {
            self.broken = true;
            return Err(format!(
                "the entries have the root {}, and the log signed {}: these are not its entries",
                found.root, stated.root
            ));
        }
        Ok(())
    }

    /// What follows from the log, with the checkpoint that vouches for it.
    ///
    /// # Errors
    /// Not all is read.
    pub fn read(&self) -> Result<Verified<'_>, Problem> {
        let checkpoint = self.checkpoint.as_ref().ok_or("no checkpoint was given")?;
        if self.broken || self.tree.head() != checkpoint.head() {
            return Err("the log is not read to its end".to_owned());
        }
        Ok(Verified {
            key: &self.key,
            checkpoint: checkpoint.checkpoint(),
            checker: &self.checker,
            marks: &self.marks,
        })
    }
}

/// A log that was read to its end.
#[derive(Debug, Clone, Copy)]
pub struct Verified<'a> {
    key: &'a VerifierKey,
    checkpoint: &'a Checkpoint,
    checker: &'a Checker,
    marks: &'a BTreeMap<u64, Option<TreeHash>>,
}

impl<'a> Verified<'a> {
    /// The key that signed it.
    pub fn key(self) -> &'a VerifierKey {
        self.key
    }

    /// The root of its first `size` entries, if that was marked before they were read.
    pub fn root_at(self, size: u64) -> Option<TreeHash> {
        self.marks.get(&size).copied().flatten()
    }

    /// The checkpoint.
    pub fn head(self) -> TreeHead {
        self.checkpoint.head()
    }

    /// The log's name.
    pub fn origin(self) -> &'a str {
        self.checkpoint.origin()
    }

    /// What follows from all entries.
    pub fn state(self) -> &'a State {
        self.checker.state()
    }

    /// What reading found.
    pub fn checker(self) -> &'a Checker {
        self.checker
    }
}
