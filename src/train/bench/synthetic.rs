//! Windows made in the program, the same in every run.

use crate::data::{Batch, Samples};
use crate::model::ModelConfig;
use tpu_train_hlo::random::threefry2x32_host;

/// Largest magnitude of a 12-bit sample.
const FULL_SCALE: i16 = 2048;

/// A full batch of noise over the whole range of a 12-bit recorder, as int16, with labels of all classes.
pub(super) fn batch(model: &ModelConfig, rows: usize, number: u32) -> Batch {
    let draws = |stream: u32, i: usize| threefry2x32_host([number, stream], [i as u32, 0])[0];
    let sample = |i: usize| (draws(0, i) % (2 * FULL_SCALE as u32)) as i16 - FULL_SCALE;
    let per_channel = rows * model.channels;
    Batch {
        samples: Samples::I16((0..rows * model.window * model.channels).map(sample).collect()),
        places: Vec::new(),
        minimum: vec![f32::from(-FULL_SCALE); per_channel],
        range: vec![f32::from(FULL_SCALE) * 2.0 - 1.0; per_channel],
        labels: (0..rows).map(|row| (draws(1, row) % model.classes as u32) as i32).collect(),
        weights: vec![1.0; rows],
        real_rows: rows,
    }
}
