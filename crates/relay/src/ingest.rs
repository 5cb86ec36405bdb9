//! From uploaded `.npy` files to panels: convert, check every element, cut, with bounded memory.

use crate::blobs::{Blobs, Panel};
use crate::npy::{self, Element, Header, NpyError};
use bytes::Bytes;
use potluck_proto::BlobRef;
use potluck_schedule::{Grid, GridError};
use potluck_types::{BlobHash, DType, MatmulShape};
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Bytes of a matrix that are in memory at once while it is cut.
const BLOCK_BYTES: u64 = 32 << 20;
/// Bytes that are in memory at once while a matrix is searched for what is wrong with it.
const SCAN_BYTES: u64 = 1 << 20;
/// Side of the squares in which a block is transposed: two of them fit the first-level cache.
const TRANSPOSE_SIDE: usize = 32;

/// Which operand of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// A.
    A,
    /// B.
    B,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// Why matrices do not make a job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum IngestError {
    /// A file is no matrix.
    #[error("matrix {side}: {cause}")]
    Npy {
        /// Which matrix.
        side: Side,
        /// Why.
        cause: NpyError,
    },
    /// The inner dimensions differ.
    #[error("the shapes do not match: A is {a_rows} x {a_cols}, B is {b_rows} x {b_cols}")]
    Mismatch {
        /// Rows of A.
        a_rows: u32,
        /// Columns of A.
        a_cols: u32,
        /// Rows of B.
        b_rows: u32,
        /// Columns of B.
        b_cols: u32,
    },
    /// NaN or infinity.
    #[error("matrix {side} holds {value} at row {row}, column {col}")]
    NotFinite {
        /// Which matrix.
        side: Side,
        /// Row of the first one, from 0.
        row: u64,
        /// Column of the first one, from 0.
        col: u64,
        /// The value.
        value: f64,
    },
    /// A value that f32 cannot hold.
    #[error("matrix {side} holds {value} at row {row}, column {col}, beyond the range of f32")]
    Overflow {
        /// Which matrix.
        side: Side,
        /// Row of the first one, from 0.
        row: u64,
        /// Column of the first one, from 0.
        col: u64,
        /// The value.
        value: f64,
    },
    /// A value that int8 cannot hold.
    #[error(
        "matrix {side} holds {value} at row {row}, column {col}; int8 needs whole numbers from -128 to 127"
    )]
    NotInt8 {
        /// Which matrix.
        side: Side,
        /// Row of the first one, from 0.
        row: u64,
        /// Column of the first one, from 0.
        col: u64,
        /// The value.
        value: f64,
    },
    /// The product cannot be cut.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// The relay's disk.
    #[error("the relay could not read or write its files")]
    Io(#[from] io::Error),
}

impl IngestError {
    /// A stable code for programs.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Npy { .. } => "bad_matrix",
            Self::Mismatch { .. } => "shape_mismatch",
            Self::NotFinite { .. } => "not_finite",
            Self::Overflow { .. } => "out_of_range",
            Self::NotInt8 { .. } => "not_int8",
            Self::Grid(_) => "too_large",
            Self::Io(_) => "internal",
        }
    }

    /// What to do about it.
    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::Npy { cause, .. } => cause.hint(),
            Self::Mismatch { .. } => {
                "A needs as many columns as B has rows; a vector counts as one row for A and one column for B"
            }
            Self::NotFinite { .. } => "replace such values first, for example with numpy.nan_to_num",
            Self::Overflow { .. } => "scale the matrix down",
            Self::NotInt8 { .. } => "round and clip first, or use dtype f32",
            Self::Grid(_) => "split the product into several jobs",
            Self::Io(_) => "look into the relay's log; its disk may be full",
        }
    }
}

/// An uploaded matrix as an operand: `lines` rows of A, or rows of B transposed, each over all of K.
#[derive(Debug)]
struct Operand {
    file: File,
    header: Header,
    side: Side,
    lines: u32,
    depth: u32,
    /// Whether K is contiguous in the file; else the lines are.
    direct: bool,
}

/// Two matrices that make a product.
#[derive(Debug)]
pub(crate) struct Pair {
    a: Operand,
    bt: Operand,
    dtype: DType,
    /// The product's shape.
    pub(crate) shape: MatmulShape,
    /// Its cut.
    pub(crate) grid: Grid,
}

/// What a job's volunteers fetch.
#[derive(Debug)]
pub(crate) struct Panels {
    /// Of A, of B transposed.
    pub(crate) panels: [Vec<BlobRef>; 2],
    /// Those in memory: they stay for as long as this is held.
    pub(crate) held: Vec<Arc<Panel>>,
}

fn read_header(path: &Path, side: Side) -> Result<(File, Header), IngestError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let header = npy::read_header(&mut reader, bytes).map_err(|cause| IngestError::Npy { side, cause })?;
    Ok((reader.into_inner(), header))
}

impl Pair {
    /// Opens two files and checks that they make a product. `transpose_b`: the second file holds B
    /// transposed, N x K.
    ///
    /// # Errors
    /// Files that are no matrices, shapes that do not match or exceed a limit.
    pub(crate) fn open(a: &Path, b: &Path, transpose_b: bool, dtype: DType) -> Result<Self, IngestError> {
        let (a_file, a_header) = read_header(a, Side::A)?;
        let (b_file, b_header) = read_header(b, Side::B)?;
        let (a_rows, a_cols) = match *a_header.shape.as_slice() {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => (0, 0),
        };
        let (b_rows, b_cols) = match *b_header.shape.as_slice() {
            [length] if transpose_b => (1, length),
            [length] => (length, 1),
            [rows, cols] => (rows, cols),
            _ => (0, 0),
        };
        let (k, n) = if transpose_b { (b_cols, b_rows) } else { (b_rows, b_cols) };
        if a_cols != k {
            return Err(IngestError::Mismatch { a_rows, a_cols, b_rows, b_cols });
        }
        let shape = MatmulShape { m: a_rows, k, n };
        let grid = Grid::new(shape, dtype)?;
        let (a_direct, b_direct) = (!a_header.fortran, b_header.fortran != transpose_b);
        let operand = |file, header: Header, side, lines, direct| {
            // A vector is contiguous whichever way one looks at it.
            let direct = if header.shape.len() == 1 { true } else { direct };
            Operand { file, header, side, lines, depth: k, direct }
        };
        let a = operand(a_file, a_header, Side::A, a_rows, a_direct);
        let bt = operand(b_file, b_header, Side::B, n, b_direct);
        Ok(Self { a, bt, dtype, shape, grid })
    }

    /// Converts and checks every element, and keeps all panels. Blocks: call it off the async threads.
    ///
    /// # Errors
    /// The first element that the dtype cannot hold, A before B and by rows, or what the disk says.
    pub(crate) fn cut(
        mut self,
        blobs: &Blobs,
        handle: &Handle,
        transposed_b: bool,
    ) -> Result<Panels, IngestError> {
        let slices: Vec<_> = (0..self.grid.slices()).map(|slice| self.grid.depth(slice)).collect();
        let rows =
            (0..self.grid.row_units()).map(|unit| self.grid.rows(&(unit..unit + 1))).collect::<Vec<_>>();
        let cols =
            (0..self.grid.col_units()).map(|unit| self.grid.cols(&(unit..unit + 1))).collect::<Vec<_>>();
        let put = |hash: &BlobHash, bytes: Bytes| handle.block_on(blobs.put_panel(hash, bytes));
        let (a, bt) = std::thread::scope(|scope| {
            let a = scope.spawn(|| self.a.cut(&rows, &slices, self.dtype, true, put));
            let bt = self.bt.cut(&cols, &slices, self.dtype, transposed_b, put);
            (a.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), bt)
        });
        let ((a, mut held), (bt, held_too)) = (a?, bt?);
        held.extend(held_too);
        Ok(Panels { panels: [a, bt], held })
    }
}

impl Operand {
    /// Cuts the operand at the lines and slices of the grid. `line_is_row`: a line is a row of the uploaded
    /// matrix, for naming positions.
    fn cut(
        &mut self,
        units: &[Range<u32>],
        slices: &[Range<u32>],
        dtype: DType,
        line_is_row: bool,
        put: impl Fn(&BlobHash, Bytes) -> io::Result<Option<Arc<Panel>>>,
    ) -> Result<(Vec<BlobRef>, Vec<Arc<Panel>>), IngestError> {
        let mut held = Vec::new();
        let mut panels = vec![BlobRef { hash: BlobHash([0; 32]), bytes: 0 }; units.len() * slices.len()];
        for (s, slice) in slices.iter().enumerate() {
            let line_bytes = slice.len() as u64 * self.header.element.bytes() as u64;
            let mut first = 0;
            while first < units.len() {
                // As many units as fit into a block, at least one.
                let fits =
                    |last: usize| u64::from(units[last].end - units[first].start) * line_bytes <= BLOCK_BYTES;
                let last = (first + 1..units.len()).take_while(|&last| fits(last)).last().unwrap_or(first);
                let lines = units[first].start..units[last].end;
                let raw = Bytes::from(self.read(&lines, slice)?);
                for (unit, range) in units.iter().enumerate().take(last + 1).skip(first) {
                    let within = range.start - lines.start..range.end - lines.start;
                    let elements = self.panel(&raw, &within, lines.len(), slice.len());
                    let Some(bytes) = self.convert(elements, dtype) else {
                        return Err(self.refuse(dtype, line_is_row)?);
                    };
                    let blob = BlobRef { hash: BlobHash::of(&bytes), bytes: bytes.len() as u64 };
                    held.extend(put(&blob.hash, bytes)?);
                    panels[unit * slices.len() + s] = blob;
                }
                first = last + 1;
            }
        }
        Ok((panels, held))
    }

    /// Names the first element, in the order of rows, that the dtype cannot hold. Panels are read in another
    /// order, so the file is read again; that costs only who sends such elements.
    fn refuse(&mut self, dtype: DType, line_is_row: bool) -> io::Result<IngestError> {
        let (row, col, value) = self.first_bad(dtype, line_is_row)?;
        let side = self.side;
        Ok(if !value.is_finite() {
            IngestError::NotFinite { side, row, col, value }
        } else if dtype == DType::F32 {
            IngestError::Overflow { side, row, col, value }
        } else {
            IngestError::NotInt8 { side, row, col, value }
        })
    }

    /// Row and column, in the uploaded matrix, of the first element that the dtype cannot hold, and its value.
    fn first_bad(&mut self, dtype: DType, line_is_row: bool) -> io::Result<(u64, u64, f64)> {
        let Header { element, big_endian, data_offset, .. } = self.header;
        let (lines, depth) = (u64::from(self.lines), u64::from(self.depth));
        let cols = if line_is_row { depth } else { lines };
        let rows_first = self.direct == line_is_row;
        let inner = if self.direct { depth } else { lines };
        let mut left = lines * depth;
        let (mut at, mut first) = (0_u64, None);
        self.file.seek(SeekFrom::Start(data_offset))?;
        let mut raw = Vec::new();
        while left > 0 {
            let count = left.min(SCAN_BYTES / element.bytes() as u64);
            raw.resize(count as usize * element.bytes(), 0);
            self.file.read_exact(&mut raw)?;
            left -= count;
            npy::to_f64(&raw, element, big_endian, |value| {
                if !fits(value, dtype) {
                    let (outer, inner) = (at / inner, at % inner);
                    let (row, col) = if rows_first { (outer, inner) } else { (inner, outer) };
                    // Of equal positions there is one: the value does not decide.
                    if first.is_none_or(|(r, c, _)| row * cols + col < r * cols + c) {
                        first = Some((row, col, value));
                    }
                }
                at += 1;
            });
            if rows_first && first.is_some() {
                break;
            }
        }
        first.ok_or_else(|| io::Error::other("a matrix changed while it was read"))
    }

    /// Raw elements of some lines over a slice: lines x slice if K is contiguous in the file, else
    /// slice x lines.
    fn read(&mut self, lines: &Range<u32>, slice: &Range<u32>) -> io::Result<Vec<u8>> {
        let size = self.header.element.bytes() as u64;
        let (outer, inner, row_length) =
            if self.direct { (lines, slice, self.depth) } else { (slice, lines, self.lines) };
        let mut raw = vec![0; outer.len() * inner.len() * size as usize];
        let mut read_at = |offset: u64, into: &mut [u8]| {
            self.file.seek(SeekFrom::Start(self.header.data_offset + offset * size))?;
            self.file.read_exact(into)
        };
        let first = u64::from(outer.start) * u64::from(row_length) + u64::from(inner.start);
        if inner.len() == row_length as usize {
            read_at(first, &mut raw)?;
        } else {
            let bytes = inner.len() * size as usize;
            for (i, row) in raw.chunks_exact_mut(bytes.max(1)).enumerate() {
                read_at(first + i as u64 * u64::from(row_length), row)?;
            }
        }
        Ok(raw)
    }

    /// The raw elements of one panel, K contiguous: a part of `raw` where they lie so already.
    fn panel(&self, raw: &Bytes, lines: &Range<u32>, all_lines: usize, depth: usize) -> Bytes {
        let size = self.header.element.bytes();
        let (start, end) = (lines.start as usize, lines.end as usize);
        if self.direct {
            return raw.slice(start * depth * size..end * depth * size);
        }
        let count = end - start;
        let mut out = vec![0; count * depth * size];
        for k0 in (0..depth).step_by(TRANSPOSE_SIDE) {
            for l0 in (0..count).step_by(TRANSPOSE_SIDE) {
                for l in l0..(l0 + TRANSPOSE_SIDE).min(count) {
                    for k in k0..(k0 + TRANSPOSE_SIDE).min(depth) {
                        let from = (k * all_lines + start + l) * size;
                        let to = (l * depth + k) * size;
                        out[to..to + size].copy_from_slice(&raw[from..from + size]);
                    }
                }
            }
        }
        out.into()
    }

    /// Little-endian elements of the job's dtype; `None` if it cannot hold one of them.
    fn convert(&self, raw: Bytes, dtype: DType) -> Option<Bytes> {
        let Header { element, big_endian, .. } = self.header;
        if dtype == DType::F32 && element == Element::F32 && !big_endian {
            // The common case, in a form that vectorizes: exponent bits all set mean NaN or infinity.
            let bad = |chunk: &[u8]| chunk[3] & 0x7f == 0x7f && chunk[2] & 0x80 == 0x80;
            let any_bad = raw.chunks_exact(4).fold(false, |any, chunk| any | bad(chunk));
            return (!any_bad).then_some(raw);
        }
        let mut out = Vec::with_capacity(raw.len() / element.bytes() * dtype.operand_bytes());
        let mut all_fit = true;
        npy::to_f64(&raw, element, big_endian, |value| {
            match dtype {
                DType::F32 => out.extend((value as f32).to_le_bytes()),
                DType::Int8 => out.extend((value as i8).to_le_bytes()),
            }
            all_fit &= fits(value, dtype);
        });
        all_fit.then(|| out.into())
    }
}

/// Whether the dtype can hold a value: f32 rounded, int8 exactly.
fn fits(value: f64, dtype: DType) -> bool {
    match dtype {
        DType::F32 => (value as f32).is_finite(),
        // Adding zero turns -0 into 0.
        DType::Int8 => f64::from(value as i8).to_bits() == (value + 0.0).to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    struct Bench {
        folder: tempfile::TempDir,
        blobs: Blobs,
        runtime: tokio::runtime::Runtime,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::look(&crate::blobs::BlobPlace::Folder(folder.path().to_owned())).unwrap();
        Bench { folder, blobs, runtime: tokio::runtime::Builder::new_current_thread().build().unwrap() }
    }

    impl Bench {
        fn file(
            &self,
            name: &str,
            descr: &str,
            fortran: bool,
            shape: &str,
            data: &[u8],
        ) -> std::path::PathBuf {
            let order = if fortran { "True" } else { "False" };
            let text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
            let path = self.folder.path().join(name);
            let mut file = File::create(&path).unwrap();
            file.write_all(b"\x93NUMPY\x01\x00").unwrap();
            file.write_all(&(text.len() as u16).to_le_bytes()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.write_all(data).unwrap();
            path
        }

        fn matrix(
            &self,
            name: &str,
            rows: usize,
            cols: usize,
            fortran: bool,
            f: impl Fn(usize, usize) -> f32,
        ) -> std::path::PathBuf {
            let mut data = Vec::new();
            let (outer, inner) = if fortran { (cols, rows) } else { (rows, cols) };
            for o in 0..outer {
                for i in 0..inner {
                    let (r, c) = if fortran { (i, o) } else { (o, i) };
                    data.extend(f(r, c).to_le_bytes());
                }
            }
            self.file(name, "<f4", fortran, &format!("({rows}, {cols})"), &data)
        }

        fn cut(
            &self,
            a: &Path,
            b: &Path,
            transpose_b: bool,
            dtype: DType,
        ) -> Result<(Grid, [Vec<BlobRef>; 2]), IngestError> {
            let pair = Pair::open(a, b, transpose_b, dtype)?;
            let grid = pair.grid;
            let Panels { panels, held } = pair.cut(&self.blobs, self.runtime.handle(), transpose_b)?;
            let mut job = [0; 16];
            getrandom::fill(&mut job).unwrap();
            self.blobs.hold(potluck_types::JobId(job), held);
            Ok((grid, panels))
        }

        fn floats(&self, blob: &BlobRef) -> Vec<f32> {
            let bytes = self.runtime.block_on(self.blobs.get(&blob.hash)).unwrap();
            bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
        }
    }

    #[test]
    fn panels_hold_rows_of_a_and_of_b_transposed_whatever_the_order() {
        let bench = bench();
        let (m, k, n) = (300, 3000, 40);
        let a = |r: usize, c: usize| (r * 10_000 + c) as f32;
        let b = |r: usize, c: usize| (c * 10_000 + r) as f32 + 0.5;
        for fortran in [false, true] {
            for transpose in [false, true] {
                let a_path = bench.matrix("a", m, k, fortran, a);
                let b_path = if transpose {
                    bench.matrix("b", n, k, fortran, |r, c| b(c, r))
                } else {
                    bench.matrix("b", k, n, fortran, b)
                };
                let (grid, [ap, bp]) = bench.cut(&a_path, &b_path, transpose, DType::F32).unwrap();
                assert_eq!(grid.slices(), 2);
                for (panel, (rows, depth)) in ap.iter().zip(grid.a_panels()) {
                    let expected: Vec<_> =
                        rows.flat_map(|r| depth.clone().map(move |d| a(r as usize, d as usize))).collect();
                    assert!(bench.floats(panel) == expected);
                }
                for (panel, (cols, depth)) in bp.iter().zip(grid.bt_panels()) {
                    let expected: Vec<_> =
                        cols.flat_map(|c| depth.clone().map(move |d| b(d as usize, c as usize))).collect();
                    assert!(bench.floats(panel) == expected);
                }
            }
        }
    }

    #[test]
    fn vectors_are_a_row_for_a_and_a_column_for_b() {
        let bench = bench();
        let data: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let v = bench.file("v", "<f4", false, "(3,)", &data);
        let (grid, _) = bench.cut(&v, &v, false, DType::F32).unwrap();
        assert_eq!(grid.shape, MatmulShape { m: 1, k: 3, n: 1 });
    }

    #[test]
    fn the_first_bad_element_is_named() {
        let bench = bench();
        let good = bench.matrix("good", 70, 50, false, |_, _| 1.0);
        for fortran in [false, true] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let f = |r, c| if (r, c) == (41, 7) { bad } else { 0.0 };
                let a = bench.matrix("a", 70, 70, fortran, f);
                let error = bench.cut(&a, &good, false, DType::F32).unwrap_err();
                assert!(
                    matches!(error, IngestError::NotFinite { side: Side::A, row: 41, col: 7, .. }),
                    "{error}"
                );
                let error = bench.cut(&a, &a, true, DType::F32).unwrap_err();
                assert!(matches!(error, IngestError::NotFinite { row: 41, col: 7, .. }), "{error}");
                let c = bench.matrix("c", 50, 70, false, |_, _| 1.0);
                let error = bench.cut(&c, &a, false, DType::F32).unwrap_err();
                assert!(
                    matches!(error, IngestError::NotFinite { side: Side::B, row: 41, col: 7, .. }),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn values_that_the_dtype_cannot_hold_are_refused() {
        let bench = bench();
        let ints = |values: &[i16]| -> Vec<u8> { values.iter().flat_map(|x| x.to_be_bytes()).collect() };
        let one = bench.file("one", "|i1", false, "(1, 1)", &[1]);
        let a = bench.file("a", ">i2", false, "(2, 1)", &ints(&[-128, 127]));
        let (_, [panels, _]) = bench.cut(&a, &one, false, DType::Int8).unwrap();
        assert_eq!(bench.runtime.block_on(bench.blobs.get(&panels[0].hash)).unwrap()[..], [0x80, 0x7f]);
        let a = bench.file("a", ">i2", false, "(3, 1)", &ints(&[0, 127, 128]));
        let error = bench.cut(&a, &one, false, DType::Int8).unwrap_err();
        assert!(matches!(error, IngestError::NotInt8 { row: 2, col: 0, .. }), "{error}");
        let a = bench.file("a", "<f8", false, "(1, 1)", &0.5_f64.to_le_bytes());
        assert!(matches!(bench.cut(&a, &one, false, DType::Int8), Err(IngestError::NotInt8 { .. })));
        let a = bench.file("a", "<f8", false, "(1, 1)", &(-0.0_f64).to_le_bytes());
        assert!(bench.cut(&a, &one, false, DType::Int8).is_ok(), "minus zero is zero");
        let a = bench.file("a", "<f8", false, "(1, 1)", &1e39_f64.to_le_bytes());
        assert!(matches!(bench.cut(&a, &one, false, DType::F32), Err(IngestError::Overflow { .. })));
    }

    #[test]
    fn shapes_that_do_not_match_are_refused_before_anything_is_read() {
        let bench = bench();
        let a = bench.matrix("a", 3, 4, false, |_, _| 0.0);
        let b = bench.matrix("b", 3, 4, false, |_, _| 0.0);
        assert!(matches!(
            bench.cut(&a, &b, false, DType::F32),
            Err(IngestError::Mismatch { a_cols: 4, b_rows: 3, .. })
        ));
        assert!(bench.cut(&a, &b, true, DType::F32).is_ok());
    }
}
