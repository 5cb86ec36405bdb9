//! What the demo makes of its product: from the Gram matrix X·Xᵀ of the digits, the accuracy of the nearest
//! neighbor, each image left out in turn.

use anyhow::{Context, Result, ensure};
use npyz::{NpyFile, Order};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Accuracy that the demo must reach. The true value of the data is 0.9883.
pub(crate) const GOAL: f64 = 0.98;

/// A row-major matrix.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// Rows.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) cols: usize,
    /// `rows * cols` elements.
    pub(crate) data: Vec<f32>,
}

/// Reads a row-major float32 `.npy`.
pub(crate) fn read_matrix(path: &Path) -> Result<Matrix> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let npy = NpyFile::new(BufReader::new(file)).with_context(|| format!("{} is no .npy", path.display()))?;
    ensure!(npy.order() == Order::C, "{} is not row-major", path.display());
    let &[rows, cols] = npy.shape() else { anyhow::bail!("{} is not a matrix", path.display()) };
    let data = npy.into_vec::<f32>().with_context(|| format!("{} is not float32", path.display()))?;
    Ok(Matrix { rows: rows as usize, cols: cols as usize, data })
}

/// Reads a vector of labels.
pub(crate) fn read_labels(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(NpyFile::new(BufReader::new(file))?.into_vec()?)
}

/// The fraction of images whose nearest other image has the same label. `gram[i][j]` is the dot product of
/// images i and j, and ‖x − y‖² = x·x + y·y − 2 x·y.
pub(crate) fn nearest_neighbor_accuracy(gram: &Matrix, labels: &[u8]) -> Result<f64> {
    let n = labels.len();
    ensure!(
        gram.rows == n && gram.cols == n,
        "the Gram matrix is {} x {}, not {n} x {n}",
        gram.rows,
        gram.cols
    );
    ensure!(n > 1, "a nearest neighbor needs two images");
    let dot = |i: usize, j: usize| f64::from(gram.data[i * n + j]);
    let right = (0..n)
        .filter(|&i| {
            let distance = |j: &usize| dot(*j, *j) - 2.0 * dot(i, *j);
            let nearest = (0..n).filter(|&j| j != i).min_by(|x, y| distance(x).total_cmp(&distance(y)));
            nearest.is_some_and(|j| labels[j] == labels[i])
        })
        .count();
    Ok(right as f64 / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gram(x: &Matrix) -> Matrix {
        let row = |i: usize| &x.data[i * x.cols..][..x.cols];
        let data = (0..x.rows)
            .flat_map(|i| (0..x.rows).map(move |j| row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum()))
            .collect();
        Matrix { rows: x.rows, cols: x.rows, data }
    }

    #[test]
    fn the_sample_data_reach_the_goal_and_shuffled_labels_do_not() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data");
        let x = read_matrix(&folder.join("digits.npy")).unwrap();
        let mut labels = read_labels(&folder.join("digits-labels.npy")).unwrap();
        assert_eq!((x.rows, x.cols, labels.len()), (1797, 64, 1797));
        let gram = gram(&x);
        let accuracy = nearest_neighbor_accuracy(&gram, &labels).unwrap();
        assert!((accuracy - 0.9883).abs() < 1e-4, "{accuracy}");
        labels.rotate_left(1);
        assert!(nearest_neighbor_accuracy(&gram, &labels).unwrap() < 0.5);
        assert!(nearest_neighbor_accuracy(&gram, &labels[1..]).is_err());
    }
}
