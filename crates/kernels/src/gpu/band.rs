//! Splits the result into rectangles of whole tiles, each about 10 ms of work.

use crate::wgsl::Tile;

/// A rectangle of the padded result, in elements; all four are multiples of the tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Band {
    pub(super) row: u32,
    pub(super) rows: u32,
    pub(super) col: u32,
    pub(super) cols: u32,
}

/// Walks over the padded result, row by row of tiles. Bands are whole rows of tiles, or a part of one.
#[derive(Debug)]
pub(super) struct Bands {
    tile: Tile,
    rows: u32,
    cols: u32,
    /// FLOP of one element.
    element_flops: f64,
    max_groups: u32,
    row: u32,
    col: u32,
}

impl Bands {
    /// `rows` and `cols` are padded to `tile`; `depth` is that of the padded operands, in elements.
    pub(super) fn new(tile: Tile, rows: u32, cols: u32, depth: u32, max_groups: u32) -> Self {
        Self { tile, rows, cols, element_flops: 2.0 * depth as f64, max_groups, row: 0, col: 0 }
    }

    /// The next band of about `flops`, one tile at the least.
    pub(super) fn next(&mut self, flops: f64) -> Option<Band> {
        if self.row >= self.rows {
            return None;
        }
        let elements = flops / self.element_flops;
        let row_elements = self.cols as f64 * self.tile.rows as f64;
        if self.col == 0 && elements >= row_elements && self.cols / self.tile.cols <= self.max_groups {
            let whole = ((elements / row_elements) as u32).clamp(1, self.max_groups);
            let rows = whole.saturating_mul(self.tile.rows).min(self.rows - self.row);
            let band = Band { row: self.row, rows, col: 0, cols: self.cols };
            self.row += rows;
            return Some(band);
        }
        let whole = ((elements / (self.tile.rows * self.tile.cols) as f64) as u32).clamp(1, self.max_groups);
        let cols = whole.saturating_mul(self.tile.cols).min(self.cols - self.col);
        let band = Band { row: self.row, rows: self.tile.rows, col: self.col, cols };
        self.col += cols;
        if self.col >= self.cols {
            self.col = 0;
            self.row += self.tile.rows;
        }
        Some(band)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wgsl::Variant;

    #[test]
    fn bands_cover_each_tile_once_whatever_the_budget() {
        for variant in Variant::ALL {
            let tile = variant.tile();
            for (tiles_y, tiles_x) in [(1, 1), (1, 9), (9, 1), (5, 7)] {
                for budget in [0.0, 1e5, 3e6, 1e7, 1e12] {
                    for max_groups in [2, 65_535] {
                        let (rows, cols) = (tiles_y * tile.rows, tiles_x * tile.cols);
                        let mut bands = Bands::new(tile, rows, cols, 96, max_groups);
                        let mut seen = vec![0; (tiles_y * tiles_x) as usize];
                        while let Some(b) = bands.next(budget) {
                            assert!(b.rows / tile.rows <= max_groups && b.cols / tile.cols <= max_groups);
                            for y in b.row / tile.rows..(b.row + b.rows) / tile.rows {
                                for x in b.col / tile.cols..(b.col + b.cols) / tile.cols {
                                    seen[(y * tiles_x + x) as usize] += 1;
                                }
                            }
                        }
                        assert!(
                            seen.iter().all(|n| *n == 1),
                            "{variant:?} {tiles_y}x{tiles_x} {budget}: {seen:?}"
                        );
                    }
                }
            }
        }
    }
}
