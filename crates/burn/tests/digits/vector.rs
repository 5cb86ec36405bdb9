//! Steps on images that are made up, and the losses they have. The test in a browser takes the same steps.

use potluck_train::digits::{CLASSES, PIXELS, WHITE};
use potluck_train::engine::Batch;

/// Seed of the parameters.
pub(crate) const SEED: [u8; 32] = [9; 32];
/// Learning rate.
pub(crate) const RATE: f32 = 3e-3;
/// The loss of each step, computed on a processor.
pub(crate) const LOSSES: [f32; 6] =
    [2.783_391_5, 2.586_667_8, 2.553_170_4, 2.423_580_2, 2.305_899_6, 2.288_212_5];

/// The batch of a step: 16 images, each a noise of its own around what its digit shares.
pub(crate) fn batch(step: usize) -> Batch {
    let sequences = 16;
    let mut batch = Batch { sequences, length: PIXELS, inputs: vec![], targets: vec![] };
    for row in 0..sequences {
        let label = (row * 7 + step * 3) % CLASSES;
        let image: Vec<u32> = (0..PIXELS)
            .map(|pixel| {
                let shared = (pixel * (label + 2) * 5) % 11;
                let noise = (pixel * pixel * 3 + row * 5 + step * 13) % 7;
                (shared + noise) as u32 % (WHITE + 1)
            })
            .collect();
        batch.inputs.extend(&image);
        batch.targets.extend(&image[1..]);
        batch.targets.push(label as u32);
    }
    batch
}
