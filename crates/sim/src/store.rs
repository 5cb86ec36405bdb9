//! The durable store, by its contract: a group of results becomes durable whole or not at all, and what was
//! reported as stored survives any crash. What was not yet reported may or may not be there afterwards.

use crate::product::Product;
use potluck_proto::BlobRef;
use potluck_schedule::{AcceptedTile, AcceptedUpdate, EvalAnswer, Record, Ticket};
use potluck_types::{BlobHash, JobId, Tile, VolunteerId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the store was asked to make durable.
#[derive(Debug)]
pub struct Pending {
    /// Comes back to the relay.
    pub ticket: Ticket,
    /// The record.
    pub tile: AcceptedTile,
    /// The blob.
    pub result: Arc<Vec<u8>>,
}

/// One job's rows.
#[derive(Debug, Default)]
pub struct JobRows {
    /// The submitter canceled it.
    pub canceled: bool,
    /// The relay said so and it was written down.
    pub completed: bool,
    /// Accepted tiles.
    pub tiles: Vec<(AcceptedTile, Arc<Vec<u8>>)>,
    covered: Vec<bool>,
    covered_units: u64,
}

impl JobRows {
    /// Units that are durable.
    pub fn durable_units(&self) -> u64 {
        self.covered_units
    }
}

/// Blobs of runs and evals by their hash.
pub type Blobs = BTreeMap<BlobHash, Arc<Vec<u8>>>;

/// The record of a closed round.
#[derive(Debug)]
pub struct RoundRow {
    /// The round.
    pub round: u64,
    /// Hash of the parameters where it started.
    pub before: BlobHash,
    /// Hash of those that it led to.
    pub after: BlobHash,
    /// The outer step.
    pub step: BlobRef,
    /// The checkpoint that it ended with, if it ended with one.
    pub checkpoint: Option<BlobRef>,
    /// The updates that counted. Their bytes are in the blobs.
    pub updates: Vec<AcceptedUpdate>,
}

/// One run's rows.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "columns, as they are stored")]
pub struct RunRows {
    /// The submitter canceled it.
    pub canceled: bool,
    /// The relay said so and it was written down.
    pub completed: bool,
    /// It pauses.
    pub paused: bool,
    /// The submitter's last word was to pause it.
    pub asked_to_pause: bool,
    /// The first checkpoint.
    pub checkpoint: BlobRef,
    /// The state before a round.
    pub states: BTreeMap<u64, Vec<u8>>,
    /// Closed rounds, in order.
    pub rounds: Vec<RoundRow>,
}

impl RunRows {
    /// Whether it still has to be completed.
    pub fn is_open(&self) -> bool {
        !self.canceled && !self.completed
    }

    /// The last checkpoint, and the steps since.
    pub fn replica(&self) -> (BlobRef, Vec<BlobRef>) {
        let last = self.rounds.iter().rposition(|round| round.checkpoint.is_some());
        let checkpoint = last.and_then(|at| self.rounds[at].checkpoint).unwrap_or(self.checkpoint);
        let steps = self.rounds[last.map_or(0, |at| at + 1)..].iter().map(|round| round.step);
        (checkpoint, steps.collect())
    }
}

/// One eval's rows.
#[derive(Debug)]
pub struct EvalRows {
    /// The submitter canceled it.
    pub canceled: bool,
    /// The relay said that it is complete and it was written down.
    pub completed: bool,
    /// The answers that count, shard by shard.
    shards: Vec<Option<Vec<EvalAnswer>>>,
}

impl EvalRows {
    /// An eval of so many shards.
    pub fn new(shards: usize) -> Self {
        Self { canceled: false, completed: false, shards: vec![None; shards] }
    }

    /// Whether it still has to be completed.
    pub fn is_open(&self) -> bool {
        !self.canceled && !self.completed
    }

    /// The answers to a shard, if they are durable.
    pub fn answers(&self, shard: u32) -> Option<&[EvalAnswer]> {
        self.shards.get(shard as usize)?.as_deref()
    }

    /// Shards whose answers are durable.
    pub fn done(&self) -> Vec<u32> {
        let done = self.shards.iter().enumerate().filter(|(_, answers)| answers.is_some());
        done.map(|(shard, _)| shard as u32).collect()
    }
}

/// What survives a crash, and what waits for the next group commit.
#[derive(Debug, Default)]
pub struct Store {
    /// Jobs by their id.
    pub jobs: BTreeMap<JobId, JobRows>,
    /// Submitted runs by their id.
    pub runs: BTreeMap<JobId, RunRows>,
    /// Submitted evals by their id.
    pub evals: BTreeMap<JobId, EvalRows>,
    /// What runs and evals stored.
    pub blobs: Blobs,
    /// What is known of volunteers.
    pub records: BTreeMap<VolunteerId, Record>,
    /// Not durable yet.
    pub pending: Vec<Pending>,
}

impl Store {
    /// Makes one result durable.
    ///
    /// # Errors
    /// What is wrong with it: an overlap with what is durable, or bytes that are not the product.
    pub fn write(
        &mut self,
        product: &Product,
        tile: AcceptedTile,
        result: Arc<Vec<u8>>,
    ) -> Result<(), String> {
        let rows = self.jobs.entry(tile.job).or_default();
        let grid = &product.spec.grid;
        if rows.covered.is_empty() {
            rows.covered = vec![false; grid.unit_count() as usize];
        }
        for unit in units(product, &tile.tile)? {
            let covered = rows.covered.get_mut(unit).ok_or("a tile lies outside its job")?;
            if std::mem::replace(covered, true) {
                return Err(format!(
                    "accepted twice: unit {unit} of job {:?} is durable already (shard {}, {:?})",
                    tile.job, tile.shard, tile.tile
                ));
            }
            rows.covered_units += 1;
        }
        if BlobHash::of(&result) != tile.result.hash || result.len() as u64 != tile.result.bytes {
            return Err(format!(
                "shard {} of job {:?}: the stored blob is not the one named",
                tile.shard, tile.job
            ));
        }
        product.check(&tile.tile, &result).map_err(|wrong| {
            format!("a wrong result was accepted: shard {} of job {:?}: {wrong}", tile.shard, tile.job)
        })?;
        self.records.entry(tile.volunteer).or_default().accepted += 1;
        rows.tiles.push((tile, result));
        Ok(())
    }

    /// Makes the answers to a shard of an eval durable.
    ///
    /// # Errors
    /// A shard that is none, or that has answers.
    pub fn keep_answers(&mut self, eval: &JobId, shard: u32, answers: Vec<EvalAnswer>) -> Result<(), String> {
        let rows = self.evals.get_mut(eval).ok_or("answers to an eval that nobody knows")?;
        let row = rows.shards.get_mut(shard as usize).ok_or("answers to a shard that there is not")?;
        if row.is_some() {
            return Err(format!("accepted twice: shard {shard} of eval {eval:?} is durable already"));
        }
        for answer in &answers {
            self.records.entry(answer.volunteer).or_default().accepted += 1;
        }
        *row = Some(answers);
        Ok(())
    }

    /// Whether every unit of a job is durable.
    pub fn is_whole(&self, product: &Product) -> bool {
        let durable = self.jobs.get(&product.spec.id).map_or(0, JobRows::durable_units);
        durable == product.spec.grid.unit_count()
    }
}

/// The units that a tile covers, each an index into the job's units.
///
/// # Errors
/// A tile that is not made of whole units of one slice.
pub fn units(product: &Product, tile: &Tile) -> Result<Vec<usize>, String> {
    let grid = &product.spec.grid;
    let span = |range: &std::ops::Range<u32>, unit: u32, end: u32| {
        let whole = range.start.is_multiple_of(unit) && (range.end.is_multiple_of(unit) || range.end == end);
        let fits = whole && range.start < range.end && range.end <= end;
        fits.then(|| range.start / unit..range.end.div_ceil(unit))
    };
    let rows = span(&tile.rows, grid.unit_rows, grid.shape.m);
    let cols = span(&tile.cols, grid.unit_cols, grid.shape.n);
    let slices = span(&tile.depth, grid.slice_depth, grid.shape.k);
    let (Some(rows), Some(cols), Some(slices)) = (rows, cols, slices) else {
        return Err(format!("{tile:?} is not made of whole units"));
    };
    if slices.len() != 1 {
        return Err(format!("{tile:?} spans several slices of K"));
    }
    let (width, height) = (grid.col_units(), grid.row_units());
    let index = |row: u32, col: u32| ((slices.start * height + row) * width + col) as usize;
    Ok(rows
        .flat_map(|row| cols.clone().map(move |col| (row, col)))
        .map(|(row, col)| index(row, col))
        .collect())
}
