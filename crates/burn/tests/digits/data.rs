//! The sample data: its last tenth is held out.

use potluck_train::digits::PIXELS;
use potluck_train::engine::Batch;
use std::path::Path;

pub(super) struct Data {
    images: Vec<u32>,
    labels: Vec<u32>,
}

/// What follows the header of a `.npy` of format 1. (By hand: the crate that reads them would change the features of
/// crates that burn uses too, and so have all of burn built once more.)
fn elements(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data").join(name);
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{name}");
    bytes[10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))..].to_vec()
}

pub(super) fn load() -> Data {
    let images = elements("digits.npy");
    let images: Vec<f32> = images.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    let labels = elements("digits-labels.npy");
    assert_eq!(images.len(), labels.len() * PIXELS);
    Data {
        images: images.iter().map(|pixel| *pixel as u32).collect(),
        labels: labels.iter().map(|label| u32::from(*label)).collect(),
    }
}

impl Data {
    fn split(&self) -> usize {
        self.labels.len() * 9 / 10
    }

    /// The batch of these images.
    pub(super) fn batch(&self, rows: &[usize]) -> Batch {
        let mut batch = Batch { sequences: rows.len(), length: PIXELS, inputs: vec![], targets: vec![] };
        for row in rows {
            let image = &self.images[row * PIXELS..][..PIXELS];
            batch.inputs.extend(image);
            batch.targets.extend(&image[1..]);
            batch.targets.push(self.labels[*row]);
        }
        batch
    }

    /// A batch of images that are not held out.
    pub(super) fn drawn(&self, seed: u64, rows: usize) -> Batch {
        let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % self.split()
        };
        self.batch(&(0..rows).map(|_| next()).collect::<Vec<_>>())
    }

    /// Pixels and labels of the images that are held out.
    pub(super) fn held_out(&self) -> (Vec<u32>, Vec<u32>) {
        let split = self.split();
        (self.images[split * PIXELS..].to_vec(), self.labels[split..].to_vec())
    }
}
