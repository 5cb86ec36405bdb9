//! A look at `.npy` files before they are sent: what is certain to be refused is said before gigabytes travel.
//!
//! It is the relay's own reader that looks, and the relay checks everything again, and the values too.

use crate::error::CliError;
use potluck_relay::npy;
use potluck_types::limits::{MAX_MATRIX_BYTES, MAX_NPY_HEADER_BYTES};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// A file that looks like a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// The shape that its header states.
    pub shape: Vec<u64>,
}

impl NpyFile {
    /// Reads a file's header.
    ///
    /// # Errors
    /// [`CliError::File`] if it cannot be read, [`CliError::Input`] if it is no `.npy` file or too large.
    pub fn open(path: &Path) -> Result<Self, CliError> {
        let read = |cause| CliError::file(path, "read", cause);
        let file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(refused(
                path,
                "is not a regular file",
                "save the matrix with numpy.save and name that file",
            ));
        }
        if metadata.len() > MAX_MATRIX_BYTES + MAX_NPY_HEADER_BYTES as u64 {
            let limit = MAX_MATRIX_BYTES >> 20;
            return Err(refused(
                path,
                &format!("has {} bytes; a relay takes matrices of up to {limit} MiB", metadata.len()),
                "split the product into several jobs",
            ));
        }
        let header = npy::read_header(&mut BufReader::new(file), metadata.len())
            .map_err(|cause| refused(path, &format!("cannot be used: {cause}"), cause.hint()))?;
        let shape = header.shape.into_iter().map(u64::from).collect();
        Ok(Self { path: path.to_owned(), bytes: metadata.len(), shape })
    }

    /// The file's name, for people.
    pub fn label(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }
}

fn refused(path: &Path, what: &str, hint: &str) -> CliError {
    CliError::Input { message: format!("{} {what}", path.display()), hint: hint.to_owned() }
}

/// Says whether two files can be multiplied, as far as their headers tell; with `transpose_b`, as A·Bᵀ.
///
/// # Errors
/// [`CliError::Input`] if the inner dimensions of two matrices differ.
pub fn check_product(a: &NpyFile, b: &NpyFile, transpose_b: bool) -> Result<(), CliError> {
    let (&[m, k], &[b_rows, b_cols]) = (a.shape.as_slice(), b.shape.as_slice()) else {
        // Vectors and anything else: the relay knows what it takes.
        return Ok(());
    };
    let (inner, other) = if transpose_b { (b_cols, b_rows) } else { (b_rows, b_cols) };
    if k == inner {
        return Ok(());
    }
    let (left, right) = (a.label(), b.label());
    let hint = match (other == k, transpose_b) {
        (true, false) => "--transpose-b multiplies by the transpose of B".to_owned(),
        (true, true) => "leave --transpose-b out".to_owned(),
        (false, _) => format!("the columns of {left} must be as many as the rows of {right}"),
    };
    let transposed = if transpose_b { " transposed" } else { "" };
    Err(CliError::Input {
        message: format!(
            "{left} ({m} x {k}) times {right}{transposed} ({b_rows} x {b_cols}): {k} columns do not meet {inner} rows"
        ),
        hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn npy(shape: &str, data: usize) -> Vec<u8> {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn message(bytes: &[u8]) -> String {
        let file = file(bytes);
        let error = NpyFile::open(file.path()).unwrap_err();
        assert_eq!(error.exit(), crate::error::Exit::RefusedInput);
        assert!(error.hint().is_some());
        error.to_string()
    }

    #[test]
    fn shapes_are_read() {
        let file = file(&npy("(3, 5)", 60));
        assert_eq!(NpyFile::open(file.path()).unwrap().shape, [3, 5]);
    }

    #[test]
    fn what_is_no_npy_file_is_said() {
        assert!(message(b"").ends_with("the file is empty"));
        assert!(message(b"PK\x03\x04 and more of it").ends_with("this is not a .npy file"));
        assert!(message(&npy("(3, 5)", 60)[..30]).ends_with("the file ends in it"));
        assert!(message(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{").ends_with("the limit is 65536"));
        assert!(message(&npy("(((", 60)).ends_with("shape is no tuple of numbers"));
        assert!(message(&npy("(3, 5)", 59)).ends_with("60 bytes of elements, the file has 59"));
        assert!(matches!(NpyFile::open(Path::new("/nowhere.npy")), Err(CliError::File { .. })));
        assert!(matches!(NpyFile::open(Path::new("/")), Err(CliError::Input { .. })));
    }

    #[test]
    fn mismatched_matrices_are_refused_before_they_travel() {
        let matrix = |shape: [u64; 2]| NpyFile { path: "x.npy".into(), bytes: 1, shape: shape.into() };
        assert!(check_product(&matrix([2, 3]), &matrix([3, 4]), false).is_ok());
        let error = check_product(&matrix([2, 3]), &matrix([4, 3]), false).unwrap_err();
        assert!(error.hint().unwrap().contains("--transpose-b"), "{error}");
        assert!(check_product(&matrix([2, 3]), &matrix([4, 3]), true).is_ok());
        assert!(check_product(&matrix([2, 3]), &matrix([3, 4]), true).is_err());
        assert!(check_product(&matrix([2, 3]), &matrix([4, 5]), false).is_err());
        let vector = NpyFile { path: "v.npy".into(), bytes: 1, shape: vec![3] };
        assert!(check_product(&matrix([2, 3]), &vector, false).is_ok());
    }
}
