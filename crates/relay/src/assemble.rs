//! From durable tiles to a `.npy` that streams out, a band of rows at a time.

use crate::accepted::MAX_SMALL_RESULT_BYTES;
use crate::blobs::Blobs;
use crate::db::Db;
use crate::npy;
use crate::upkeep::Damaged;
use potluck_schedule::AcceptedTile;
use potluck_types::{BlobHash, DType, MatmulShape};
use std::io;
use std::ops::Range;

/// Bytes of a band: what a download holds in memory, summed slices included.
const BAND_BYTES: u64 = 8 << 20;

/// The result of a job, ready to be streamed.
#[derive(Debug)]
pub(crate) struct Assembly {
    shape: MatmulShape,
    dtype: DType,
    /// By slice of K, then by row.
    tiles: Vec<AcceptedTile>,
    slices: usize,
    blobs: Blobs,
    db: Db,
    next_row: u32,
    header_sent: bool,
}

/// Whether a tile may be a row of the database.
const fn is_small(tile: &AcceptedTile) -> bool {
    tile.result.bytes <= MAX_SMALL_RESULT_BYTES as u64
}

impl Assembly {
    pub(crate) fn new(
        shape: MatmulShape,
        dtype: DType,
        mut tiles: Vec<AcceptedTile>,
        (blobs, db): (Blobs, Db),
    ) -> Self {
        tiles.sort_by_key(|tile| (tile.tile.depth.start, tile.tile.rows.start, tile.tile.cols.start));
        let mut starts: Vec<_> = tiles.iter().map(|tile| tile.tile.depth.start).collect();
        starts.dedup();
        Self { shape, dtype, tiles, slices: starts.len(), blobs, db, next_row: 0, header_sent: false }
    }

    /// Reads every tile, before a byte of the file has left.
    ///
    /// # Errors
    /// `InvalidData` or `NotFound` if one is damaged or gone; what the stores say.
    pub(crate) async fn check(&self) -> io::Result<()> {
        for tile in &self.tiles {
            if is_small(tile) {
                self.read(tile, 0..tile.result.bytes).await?;
            } else {
                self.blobs.check(&tile.result.hash).await?;
            }
        }
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let descr = match self.dtype {
            DType::F32 => "<f4",
            DType::Int8 => "<i4",
        };
        npy::header_of_result(descr, self.shape.m, self.shape.n)
    }

    /// Length of the whole file.
    pub(crate) fn bytes(&self) -> u64 {
        self.header().len() as u64 + u64::from(self.shape.m) * u64::from(self.shape.n) * 4
    }

    /// The next part of the file, or `None` at its end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<bytes::Bytes>> {
        if !self.header_sent {
            self.header_sent = true;
            return Ok(Some(self.header().into()));
        }
        if self.next_row == self.shape.m {
            return Ok(None);
        }
        let row_bytes = u64::from(self.shape.n) * if self.slices > 1 { 12 } else { 4 };
        let count = (BAND_BYTES / row_bytes).clamp(1, u64::from(self.shape.m - self.next_row)) as u32;
        let band = self.next_row..self.next_row + count;
        self.next_row = band.end;
        let bytes = if self.slices > 1 { self.summed(&band).await? } else { self.copied(&band).await? };
        Ok(Some(bytes.into()))
    }

    /// Rows of a tile within a band, and its bytes there.
    async fn part(
        &self,
        tile: &AcceptedTile,
        band: &Range<u32>,
    ) -> io::Result<Option<(Range<u32>, bytes::Bytes)>> {
        let area = &tile.tile;
        let rows = area.rows.start.max(band.start)..area.rows.end.min(band.end);
        if rows.is_empty() {
            return Ok(None);
        }
        let row_bytes = area.cols.len() as u64 * 4;
        let from = u64::from(rows.start - area.rows.start) * row_bytes;
        let range = from..from + rows.len() as u64 * row_bytes;
        let bytes = self.read(tile, range).await?;
        Ok(Some((rows, bytes)))
    }

    async fn read(&self, tile: &AcceptedTile, range: Range<u64>) -> io::Result<bytes::Bytes> {
        if is_small(tile) {
            let small = self.db.small_result(&tile.job, tile.shard).await.map_err(io::Error::other)?;
            // Results of relays that had no rows for them are files, however small.
            if let Some(small) = small {
                if BlobHash::of(&small) != tile.result.hash {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        Damaged { blob: tile.result.hash },
                    ));
                }
                let range = range.start as usize..range.end as usize;
                return small
                    .get(range.clone())
                    .map(|_| small.slice(range))
                    .ok_or(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.blobs.get_part(&tile.result.hash, range).await
    }

    /// One slice: bytes are copied as they are.
    async fn copied(&self, band: &Range<u32>) -> io::Result<Vec<u8>> {
        let width = self.shape.n as usize * 4;
        let mut out = vec![0; band.len() * width];
        for tile in &self.tiles {
            let Some((rows, bytes)) = self.part(tile, band).await? else { continue };
            let cols = &tile.tile.cols;
            let tile_width = cols.len() * 4;
            for (row, from) in rows.zip(bytes.chunks_exact(tile_width)) {
                let at = (row - band.start) as usize * width + cols.start as usize * 4;
                out[at..at + tile_width].copy_from_slice(from);
            }
        }
        Ok(out)
    }

    /// Several slices: summed in the order of K, in f64 for f32 (one rounding at the end), exactly for int8.
    async fn summed(&self, band: &Range<u32>) -> io::Result<Vec<u8>> {
        let width = self.shape.n as usize;
        let mut sums = vec![0.0_f64; band.len() * width];
        for tile in &self.tiles {
            let Some((rows, bytes)) = self.part(tile, band).await? else { continue };
            let cols = &tile.tile.cols;
            for (row, from) in rows.zip(bytes.chunks_exact(cols.len() * 4)) {
                let at = (row - band.start) as usize * width + cols.start as usize;
                for (sum, raw) in sums[at..].iter_mut().zip(from.chunks_exact(4)) {
                    let raw = [raw[0], raw[1], raw[2], raw[3]];
                    *sum += match self.dtype {
                        DType::F32 => f64::from(f32::from_le_bytes(raw)),
                        // Exact: below 2^53 for any depth within the limits.
                        DType::Int8 => f64::from(i32::from_le_bytes(raw)),
                    };
                }
            }
        }
        let bytes = |sum: f64| match self.dtype {
            DType::F32 => (sum as f32).to_le_bytes(),
            DType::Int8 => (sum as i64 as i32).to_le_bytes(),
        };
        Ok(sums.into_iter().flat_map(bytes).collect())
    }
}
