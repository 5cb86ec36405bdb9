//! What deriving a run's parameters again takes: its beginning and the bytes of its updates, each checked by its hash.

use crate::client::Client;
use crate::error::CliError;
use crate::progress::{Progress, time_left};
use crate::runs::{floats, read_bytes};
use indicatif::HumanDuration;
use potluck_relay::runs::{RunStart, run_start};
use potluck_rounds::{Counted, DeriveError, sizes};
use potluck_train::data::{Held, Spec, Tree, leaf};
use potluck_types::{BlobHash, JobId};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Longest request of a run, in bytes: a tokenizer is no part of it.
const MAX_REQUEST_BYTES: u64 = 1 << 20;

impl From<DeriveError> for CliError {
    fn from(error: DeriveError) -> Self {
        Self::Record {
            what: "the parameters do not follow from the updates".into(),
            cause: error.to_string(),
        }
    }
}

/// Where blobs of a run are: in a folder, in files that are named by their hashes or as a relay keeps them, or at a relay.
/// With both, what the folder lacks is fetched and kept there.
pub(crate) struct Blobs<'a> {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) relay: Option<&'a Client>,
}

impl Blobs<'_> {
    /// The bytes of a hash, at most `most` of them, which the relay has under `path`. What a folder held before is not
    /// checked.
    fn read(&self, hash: &BlobHash, path: &str, most: u64) -> Result<Vec<u8>, CliError> {
        let held = self.folder.as_ref().map(|folder| read_file(folder, hash, most));
        match (held, self.relay) {
            (Some(Err(CliError::File { cause, .. })), Some(relay))
                if cause.kind() == std::io::ErrorKind::NotFound =>
            {
                let bytes = read_bytes(relay, path, most)?;
                // Only what is right is worth keeping.
                if BlobHash::of(&bytes) == *hash
                    && let Some(folder) = &self.folder
                {
                    write_file(&folder.join(hash.to_string()), &bytes)?;
                }
                Ok(bytes)
            }
            (Some(held), _) => held,
            (None, Some(relay)) => read_bytes(relay, path, most),
            (None, None) => Err(CliError::Usage {
                message: "the log names updates by their hashes, and has not their bytes".into(),
                hint: "add --relay URL, or --blobs FOLDER with a copy of the relay's blobs".into(),
            }),
        }
    }

    /// What a worker sent; checked by whoever asks.
    pub(crate) fn update(&self, counted: &Counted, most: u64) -> Result<Vec<u8>, CliError> {
        let hash = &counted.update;
        self.read(hash, &format!("/api/v1/blobs/{hash}"), most)
    }

    /// How a run begins: what it asks for, by the hash that the log has of it, and the parameters before they are rounded.
    ///
    /// # Errors
    /// Something cannot be read, is not what its hash says, or makes no run.
    pub(crate) fn start(
        &self,
        run: JobId,
        request: Option<&BlobHash>,
    ) -> Result<(RunStart, Vec<f32>), CliError> {
        let what = |cause: String| CliError::Record { what: format!("run {run}"), cause };
        let path = format!("/api/v1/runs/{run}/request");
        let bytes = match (request, self.relay) {
            (Some(hash), _) => self.read(hash, &path, MAX_REQUEST_BYTES)?,
            (None, Some(relay)) => read_bytes(relay, &path, MAX_REQUEST_BYTES)?,
            (None, None) => return Err(what("nothing says what it asks for".into())),
        };
        let found = BlobHash::of(&bytes);
        if let Some(named) = request.filter(|named| **named != found) {
            return Err(what(format!("what it asks for hashes to {found}, the log names {named}")));
        }
        let start =
            run_start(&bytes).map_err(|cause| what(format!("what it asks for is no run: {cause}")))?;
        let model = sizes::model(&start.terms.model);
        let Some(init) = start.init else {
            let parameters = model.init(&start.terms.seed);
            return Ok((start, parameters));
        };
        let most = 4 * model.parameters() as u64;
        let bytes = self.read(&init, &format!("/api/v1/runs/{run}/start"), most)?;
        let found = BlobHash::of(&bytes);
        if found != init {
            return Err(what(format!("what it starts from hashes to {found}, its request names {init}")));
        }
        Ok((start, floats(&bytes)))
    }
}

/// All tokens of a data set, block by block, each checked.
///
/// # Errors
/// The relay does not have it, or gives out something else.
pub(crate) fn data_set(client: &Client, spec: Spec) -> Result<Held, CliError> {
    let id = BlobHash(spec.root());
    let wrong = |cause: String| CliError::Record { what: format!("data set {id}"), cause };
    let path = format!("/api/v1/datasets/{id}/blocks");
    let names: Vec<String> = client.get(&path, |_| {})?;
    let names: Vec<BlobHash> = names
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("a block has no hash".into()))?;
    let tree = Tree::new(names.iter().map(leaf).collect()).filter(|tree| tree.root() == spec.tree);
    let tree = tree.ok_or_else(|| wrong("the names of its blocks are others".into()))?;
    let mut held = Held::new(spec).map_err(|error| wrong(error.to_string()))?;
    let progress = Progress::parts("data", names.len() as u64);
    for (index, name) in (0..).zip(&names) {
        if client.stop().count() > 0 {
            return Err(CliError::Interrupted { job: None });
        }
        let bytes = spec.block_bytes(index).map_err(|error| wrong(error.to_string()))? as u64;
        let proof = tree.proof(index).ok_or_else(|| wrong("it has fewer blocks".into()))?;
        let block = read_bytes(client, &format!("/api/v1/blobs/{name}"), bytes)?;
        held.insert(index, block, &proof).map_err(|error| wrong(error.to_string()))?;
        progress.set(u64::from(index) + 1, &format!("block {} of {}", index + 1, names.len()));
    }
    progress.finish(&format!("{} blocks", names.len()));
    Ok(held)
}

/// A file of a folder, named by its hash; a relay's own folder has a folder for each first two digits.
fn read_file(folder: &Path, hash: &BlobHash, most: u64) -> Result<Vec<u8>, CliError> {
    let name = hash.to_string();
    let (plain, nested) = (folder.join(&name), folder.join(&name[..2]).join(&name[2..]));
    let path = if !plain.exists() && nested.exists() { nested } else { plain };
    let failed = |cause| CliError::file(&path, "read", cause);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&path).map_err(failed)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Writes a file that is whole or not there.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(bytes)?;
        file.persist(path).map_err(Into::into)
    });
    written.map(drop).map_err(|cause| CliError::file(path, "written", cause))
}

/// Rounds that are derived, with their rate and the time left.
pub(crate) struct Rounds {
    progress: Progress,
    total: u64,
    done: u64,
    started: Instant,
}

impl Rounds {
    pub(crate) fn new(label: &str, total: u64) -> Self {
        Self { progress: Progress::parts(label, total), total, done: 0, started: Instant::now() }
    }

    pub(crate) fn next(&mut self) {
        self.done += 1;
        let elapsed = self.started.elapsed();
        let rate = self.done as f64 / elapsed.as_secs_f64().max(1e-3);
        let left = time_left(self.done, self.total, elapsed);
        let left = left.map(|left| format!(", {} left", HumanDuration(left))).unwrap_or_default();
        self.progress
            .set(self.done, &format!("round {} of {}, {rate:.1} rounds/s{left}", self.done, self.total));
    }

    pub(crate) fn finish(self, text: &str) {
        self.progress.finish(text);
    }
}
