//! Images and what they show, for models that are no language models: two `.npy` files.

use crate::error::CliError;
use potluck_relay::npy;
use potluck_train::digits::{CLASSES, PIXELS, RECORD, VOCABULARY};
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

/// Most images: records of a data set of the largest size.
const MAX_IMAGES: u64 = (potluck_train::data::MAX_TOKENS / RECORD as u64) - 1;

/// Reads images (count x 64, intensities of 0 to 16) and labels (count, 0 to 9) as records of 65 tokens.
///
/// # Errors
/// Other than two files; files that are no `.npy`, or of other shapes; values that are no such numbers.
pub fn read(paths: &[PathBuf]) -> Result<Vec<u32>, CliError> {
    let [images, labels] = paths else {
        let message = format!("the model \"digits\" needs two files in `corpus`, not {}", paths.len());
        return Err(refused(message));
    };
    let (shape, pixels) = values(images, VOCABULARY)?;
    let [count, width] = shape[..] else {
        return Err(refused(format!("{} is no matrix", images.display())));
    };
    if width != PIXELS as u64 {
        return Err(refused(format!("{} has {width} columns instead of {PIXELS}", images.display())));
    }
    let (shape, labels_read) = values(labels, CLASSES)?;
    if shape != [count] {
        let what = format!("{} has the shape {shape:?} for {count} images", labels.display());
        return Err(refused(what));
    }
    let rows = pixels.chunks_exact(PIXELS).zip(&labels_read);
    Ok(rows.flat_map(|(row, label)| row.iter().copied().chain([*label])).collect())
}

fn refused(message: String) -> CliError {
    let hint = "name images (count x 64, 0 to 16) and labels (count, 0 to 9), saved with numpy.save: \
                corpus = [\"digits.npy\", \"digits-labels.npy\"]";
    CliError::Input { message, hint: hint.to_owned() }
}

/// The shape of a file, and its values, whole numbers below `end`.
fn values(path: &Path, end: usize) -> Result<(Vec<u64>, Vec<u32>), CliError> {
    let failed = |cause| CliError::file(path, "read", cause);
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut reader = BufReader::new(file);
    let header = npy::read_header(&mut reader, bytes)
        .map_err(|cause| refused(format!("{} cannot be used: {cause}", path.display())))?;
    if header.fortran && header.shape.len() > 1 {
        return Err(refused(format!("{} is in Fortran's order", path.display())));
    }
    let shape: Vec<u64> = header.shape.iter().copied().map(u64::from).collect();
    let all: u64 = shape.iter().product();
    if all > MAX_IMAGES * PIXELS as u64 {
        return Err(refused(format!("{} has the shape {shape:?}: too large", path.display())));
    }
    let mut data = Vec::new();
    reader.take(all * header.element.bytes() as u64).read_to_end(&mut data).map_err(failed)?;
    let mut tokens = Vec::with_capacity(all as usize);
    let mut bad = None;
    npy::to_f64(&data, header.element, header.big_endian, |value| {
        if value >= 0.0 && value < end as f64 && value.fract() == 0.0 {
            tokens.push(value as u32);
        } else {
            bad.get_or_insert((tokens.len(), value));
        }
    });
    if let Some((at, value)) = bad {
        let what = format!("{}: value {at} is {value}, not a whole number below {end}", path.display());
        return Err(refused(what));
    }
    Ok((shape, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data").join(name)
    }

    #[test]
    fn images_become_records() {
        let tokens = read(&[sample("digits.npy"), sample("digits-labels.npy")]).unwrap();
        assert_eq!(tokens.len(), 1797 * RECORD);
        let labels: Vec<u32> = tokens.chunks(RECORD).map(|record| record[PIXELS]).collect();
        assert_eq!((&labels[..10], labels[1796]), (&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9][..], 8));
        assert_eq!(&tokens[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
    }

    #[test]
    fn what_is_no_images_is_refused_with_the_reason() {
        let [images, labels] = [sample("digits.npy"), sample("digits-labels.npy")];
        for (paths, expected) in [
            (vec![images.clone()], "two files"),
            (vec![labels.clone(), labels.clone()], "no matrix"),
            (vec![images.clone(), images.clone()], "value 3 is 13"),
            (vec![sample("README.md"), labels.clone()], "not a .npy file"),
            (vec![sample("none.npy"), labels], "none.npy"),
        ] {
            let error = read(&paths).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
