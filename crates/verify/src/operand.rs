//! Rows of operands that come as panels.

use crate::error::CheckError;
use potluck_types::MatmulShape;

/// Checks the dimensions and gives them as `[m, k, n]`.
pub(crate) fn dimensions(shape: MatmulShape, max_k: u32) -> Result<[usize; 3], CheckError> {
    use potluck_types::limits::MAX_DIMENSION;
    let checked = |name, found, max| match found {
        1.. if found <= max => Ok(found as usize),
        _ => Err(CheckError::Dimension { name, found, max }),
    };
    Ok([
        checked("m", shape.m, MAX_DIMENSION)?,
        checked("k", shape.k, max_k)?,
        checked("n", shape.n, MAX_DIMENSION)?,
    ])
}

/// The rows of an operand, over the borders of its panels: one pointer a row, no copy of the data.
///
/// Shapes: `count` rows of `row_bytes` bytes.
pub(crate) fn rows<'a>(
    operand: &'static str,
    panels: &[&'a [u8]],
    count: usize,
    row_bytes: usize,
) -> Result<Vec<&'a [u8]>, CheckError> {
    let mut found = 0;
    for (panel, bytes) in panels.iter().enumerate() {
        if bytes.len() % row_bytes != 0 {
            return Err(CheckError::PartialRow { operand, panel, found: bytes.len(), row_bytes });
        }
        found += bytes.len() / row_bytes;
    }
    if found != count {
        return Err(CheckError::RowCount { operand, expected: count, found });
    }
    Ok(panels.iter().flat_map(|bytes| bytes.chunks_exact(row_bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_need_whole_rows_and_the_right_number() {
        let bytes = [0u8; 24];
        assert_eq!(rows("A", &[&bytes, &bytes[..8]], 4, 8).map(|r| r.len()), Ok(4));
        assert_eq!(
            rows("A", &[&bytes, &bytes[..9]], 4, 8),
            Err(CheckError::PartialRow { operand: "A", panel: 1, found: 9, row_bytes: 8 })
        );
        assert_eq!(
            rows("A", &[&bytes], 4, 8),
            Err(CheckError::RowCount { operand: "A", expected: 4, found: 3 })
        );
        assert_eq!(
            dimensions(MatmulShape { m: 1, k: 9, n: 1 }, 8),
            Err(CheckError::Dimension { name: "k", found: 9, max: 8 })
        );
        assert_eq!(
            dimensions(MatmulShape { m: 0, k: 1, n: 1 }, 8),
            Err(CheckError::Dimension { name: "m", found: 0, max: 1 << 20 })
        );
    }
}
