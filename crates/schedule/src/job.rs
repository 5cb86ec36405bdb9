//! One job's map of units: which are free, which are out, which are accepted, and the shards made of them.

use crate::grid::{Block, Grid};
use crate::io::{AcceptedTile, JobProgress, JobSpec};
use crate::leasing::Near;
use crate::policy::MAX_SCAN;
use potluck_proto::{BlobRef, MatmulTask};
use potluck_types::limits::{MAX_BLOB_BYTES, MAX_TASK_PANELS};
use potluck_types::{LeaseId, VolunteerId};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Free,
    InFlight,
    Accepted,
}

/// A rectangle of units that somebody works on.
#[derive(Debug, Clone)]
pub(crate) struct Shard {
    pub(crate) block: Block,
    /// Leases of the shard: one, and at the tail a copy.
    pub(crate) leases: Vec<LeaseId>,
    /// A verified result is being stored.
    pub(crate) storing: bool,
}

/// What one lease may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) units: usize,
    pub(crate) memory_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) spec: JobSpec,
    units: Vec<Unit>,
    /// Who holds or computed each unit: an index into `names`.
    owners: Vec<u32>,
    names: Vec<VolunteerId>,
    pub(crate) shards: BTreeMap<u32, Shard>,
    next_shard: u32,
    /// No unit before this index is free.
    first_free: usize,
    pub(crate) free: usize,
    pub(crate) accepted: usize,
    /// Flops handed out, counted from the least served job's level when this one came: the fair queue.
    pub(crate) service: u64,
    pub(crate) shards_accepted: u32,
    pub(crate) shards_rejected: u32,
    pub(crate) leases_lost: u32,
    /// Sessions that hold a lease, with how many.
    pub(crate) holders: BTreeMap<potluck_types::SessionId, usize>,
}

const NOBODY: u32 = u32::MAX;

impl Job {
    pub(crate) fn new(spec: JobSpec, service: u64) -> Self {
        let count = spec.grid.unit_count() as usize;
        Self {
            spec,
            units: vec![Unit::Free; count],
            owners: vec![NOBODY; count],
            names: Vec::new(),
            shards: BTreeMap::new(),
            next_shard: 0,
            first_free: 0,
            free: count,
            accepted: 0,
            service,
            shards_accepted: 0,
            shards_rejected: 0,
            leases_lost: 0,
            holders: BTreeMap::new(),
        }
    }

    fn grid(&self) -> &Grid {
        &self.spec.grid
    }

    fn index(&self, row: u32, col: u32, slice: u32) -> usize {
        let grid = self.grid();
        ((slice * grid.row_units() + row) * grid.col_units() + col) as usize
    }

    fn position(&self, index: usize) -> (u32, u32, u32) {
        let (rows, cols) = (self.grid().row_units() as usize, self.grid().col_units() as usize);
        ((index / cols % rows) as u32, (index % cols) as u32, (index / cols / rows) as u32)
    }

    /// Units of a block.
    fn each_unit(&self, block: &Block) -> Vec<usize> {
        block
            .rows
            .clone()
            .flat_map(|row| block.cols.clone().map(move |col| (row, col)))
            .map(|(row, col)| self.index(row, col, block.slice))
            .collect()
    }

    fn set(&mut self, block: &Block, to: Unit) {
        for index in self.each_unit(block) {
            match std::mem::replace(&mut self.units[index], to) {
                Unit::Free => self.free -= 1,
                Unit::Accepted => self.accepted -= 1,
                Unit::InFlight => {}
            }
            match to {
                Unit::Free => {
                    self.free += 1;
                    self.first_free = self.first_free.min(index);
                    self.owners[index] = NOBODY;
                }
                Unit::Accepted => self.accepted += 1,
                Unit::InFlight => {}
            }
        }
    }

    fn own(&mut self, block: &Block, volunteer: VolunteerId) {
        let name = self.names.iter().position(|name| *name == volunteer).unwrap_or_else(|| {
            self.names.push(volunteer);
            self.names.len() - 1
        }) as u32;
        for index in self.each_unit(block) {
            self.owners[index] = name;
        }
    }

    /// Takes over a tile that was accepted before a restart. `false` if it does not fit this job's cut or
    /// overlaps another: then its units are computed again.
    pub(crate) fn restore(&mut self, tile: &AcceptedTile) -> bool {
        self.next_shard = self.next_shard.max(tile.shard.saturating_add(1));
        let Some(block) = self.grid().block_of(&tile.tile) else { return false };
        if self.each_unit(&block).iter().any(|&index| self.units[index] != Unit::Free) {
            return false;
        }
        self.set(&block, Unit::Accepted);
        self.own(&block, tile.volunteer);
        true
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.accepted == self.units.len()
    }

    /// Units in all.
    pub(crate) const fn unit_count(&self) -> usize {
        self.units.len()
    }

    /// Multiplications and additions of one full unit.
    pub(crate) fn unit_flops(&self) -> u64 {
        let grid = self.grid();
        2 * u64::from(grid.unit_rows) * u64::from(grid.unit_cols) * u64::from(grid.slice_depth)
    }

    fn a_panel(&self, row: u32, slice: u32) -> BlobRef {
        self.spec.a[(row * self.grid().slices() + slice) as usize]
    }

    fn bt_panel(&self, col: u32, slice: u32) -> BlobRef {
        self.spec.bt[(col * self.grid().slices() + slice) as usize]
    }

    /// The work of a block, with its input panels.
    pub(crate) fn task(&self, block: &Block) -> MatmulTask {
        let shape = self.grid().tile_of(block).shape();
        MatmulTask {
            dtype: self.spec.dtype,
            rows: shape.m,
            cols: shape.n,
            depth: shape.k,
            a: block.rows.clone().map(|row| self.a_panel(row, block.slice)).collect(),
            bt: block.cols.clone().map(|col| self.bt_panel(col, block.slice)).collect(),
        }
    }

    /// Bytes that inputs and result of a block take.
    fn memory(&self, block: &Block) -> u64 {
        let shape = self.grid().tile_of(block).shape();
        let (m, k, n) = (u64::from(shape.m), u64::from(shape.k), u64::from(shape.n));
        let dtype = self.spec.dtype;
        (m + n) * k * dtype.operand_bytes() as u64 + m * n * dtype.result_bytes() as u64
    }

    fn fits(&self, block: &Block, budget: Budget) -> bool {
        let shape = self.grid().tile_of(block).shape();
        let result = u64::from(shape.m) * u64::from(shape.n) * self.spec.dtype.result_bytes() as u64;
        block.rows.len() * block.cols.len() <= budget.units.max(1)
            && block.rows.len().max(block.cols.len()) <= MAX_TASK_PANELS
            && result <= MAX_BLOB_BYTES as u64
            && self.memory(block) <= budget.memory_bytes
    }

    fn all_free(&self, block: &Block) -> bool {
        self.each_unit(block).iter().all(|&index| self.units[index] == Unit::Free)
    }

    /// Makes a shard of free units within a budget: it starts where the volunteer lacks the fewest bytes, and
    /// grows into a rectangle that is as square as it gets. `None` if no unit fits.
    pub(crate) fn carve(&mut self, budget: Budget, near: &Near) -> Option<u32> {
        while self.units.get(self.first_free).is_some_and(|unit| *unit != Unit::Free) {
            self.first_free += 1;
        }
        let mut best: Option<(u64, Block)> = None;
        let free = (self.first_free..self.units.len()).filter(|&index| self.units[index] == Unit::Free);
        for index in free.take(MAX_SCAN) {
            let (row, col, slice) = self.position(index);
            let cost = near.cost(self.a_panel(row, slice)) + near.cost(self.bt_panel(col, slice));
            if best.as_ref().is_some_and(|(least, _)| *least <= cost) {
                continue;
            }
            let block = Block { rows: row..row + 1, cols: col..col + 1, slice };
            if self.fits(&block, budget) {
                best = Some((cost, block));
                if cost == 0 || near.held.is_empty() && near.peers.is_empty() {
                    break;
                }
            }
        }
        let (_, mut block) = best?;
        loop {
            let mut wider = block.clone();
            wider.cols.end += 1;
            let mut taller = block.clone();
            taller.rows.end += 1;
            let shape = self.grid().tile_of(&block).shape();
            let candidates = if shape.n <= shape.m { [wider, taller] } else { [taller, wider] };
            let inside =
                |b: &Block| b.rows.end <= self.grid().row_units() && b.cols.end <= self.grid().col_units();
            match candidates.into_iter().find(|b| inside(b) && self.fits(b, budget) && self.all_free(b)) {
                Some(grown) => block = grown,
                None => break,
            }
        }
        self.set(&block, Unit::InFlight);
        let shard = self.next_shard;
        self.next_shard += 1;
        self.shards.insert(shard, Shard { block, leases: Vec::new(), storing: false });
        Some(shard)
    }

    /// Adds a lease to a shard.
    pub(crate) fn lease(&mut self, shard: u32, lease: LeaseId, volunteer: VolunteerId) {
        if let Some(held) = self.shards.get_mut(&shard) {
            held.leases.push(lease);
            let block = held.block.clone();
            self.own(&block, volunteer);
        }
    }

    /// Takes a lease from its shard; a shard that nobody works on any more is dissolved into free units.
    pub(crate) fn unlease(&mut self, shard: u32, lease: LeaseId) {
        let Some(held) = self.shards.get_mut(&shard) else { return };
        held.leases.retain(|other| *other != lease);
        if held.leases.is_empty() && !held.storing {
            self.dissolve(shard);
        }
    }

    /// Gives a shard's units back.
    pub(crate) fn dissolve(&mut self, shard: u32) {
        if let Some(shard) = self.shards.remove(&shard) {
            self.set(&shard.block, Unit::Free);
        }
    }

    /// A shard's result is durable.
    pub(crate) fn accept(&mut self, shard: u32, volunteer: VolunteerId) -> Vec<LeaseId> {
        let Some(shard) = self.shards.remove(&shard) else { return Vec::new() };
        self.set(&shard.block, Unit::Accepted);
        self.own(&shard.block, volunteer);
        self.shards_accepted += 1;
        shard.leases
    }

    /// Progress in units.
    pub(crate) fn progress(&self) -> JobProgress {
        JobProgress {
            units: self.units.len() as u32,
            free: self.free as u32,
            in_flight: (self.units.len() - self.free - self.accepted) as u32,
            accepted: self.accepted as u32,
            shards_accepted: self.shards_accepted,
            shards_rejected: self.shards_rejected,
            leases_lost: self.leases_lost,
            volunteers: self.holders.len() as u32,
        }
    }

    /// State and owner of one unit, for pictures.
    pub(crate) fn unit(&self, row: u32, col: u32, slice: u32) -> (Unit, Option<VolunteerId>) {
        let index = self.index(row, col, slice);
        (self.units[index], self.names.get(self.owners[index] as usize).copied())
    }
}
