//! The CNN-LSTM, its optimizer and its files.
//!
//! ```text
//! window [T, C] → Conv1D(64, 3) relu → MaxPool(2) → Conv1D(128, 3) relu → MaxPool(2) → BatchNorm
//!               → LSTM(64), last state → Dense(128) relu → Dropout → Dense(classes) softmax
//! ```
//!
//! A model is a [`ModelConfig`], which fixes the list of [`variables`], and their values. [`network`] builds
//! the forward pass, [`optimizer`] the update, [`step`] the two programs that run on the device: the training
//! step and the evaluation; [`execution`] what one execution of the former does; [`inference`] the one that is
//! exported. Names, shapes, order and semantics are those of Keras 3, so that [`files`] needs no translation table.

mod batch_norm;
pub mod execution;
pub mod files;
pub mod flops;
pub mod forms;
pub mod inference;
pub mod initialize;
pub mod network;
pub mod optimizer;
pub mod step;

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Shape and regularisation of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Samples in one window.
    pub window: usize,
    /// Signals in one window: ECG and PCG.
    pub channels: usize,
    /// Classes told apart.
    pub classes: usize,
    /// Filters of the two convolutions.
    pub conv_filters: [usize; 2],
    /// Kernel length of both convolutions, samples.
    pub kernel_size: usize,
    /// Size and stride of both max-pools, samples.
    pub pool_size: usize,
    /// Units of the LSTM.
    pub lstm_units: usize,
    /// Units of the hidden dense layer.
    pub dense_units: usize,
    /// L2 penalty on the hidden dense layer's kernel; 0 is none.
    pub l2: f64,
    /// Share of hidden dense units dropped in training; 0 is none.
    pub dropout: f64,
    /// Momentum of the batch normalisation's moving statistics.
    pub batch_norm_momentum: f64,
    /// Added to the variance before its square root is taken.
    pub batch_norm_epsilon: f64,
}

impl ModelConfig {
    /// The network of the source for windows of `window` samples and `channels` signals.
    pub fn new(window: usize, channels: usize, classes: usize) -> Self {
        Self {
            window,
            channels,
            classes,
            conv_filters: [64, 128],
            kernel_size: 3,
            pool_size: 2,
            lstm_units: 64,
            dense_units: 128,
            l2: 0.0,
            dropout: 0.0,
            batch_norm_momentum: 0.99,
            batch_norm_epsilon: 1e-3,
        }
    }

    /// The shortest window that leaves the LSTM one step.
    pub fn shortest_window(&self) -> usize {
        let before = |after: usize| after * self.pool_size + self.kernel_size - 1;
        before(before(1))
    }

    /// Steps the LSTM takes over one window; 0 where the window is shorter than [`Self::shortest_window`].
    pub fn lstm_steps(&self) -> usize {
        let after = |before: usize| (before + 1).saturating_sub(self.kernel_size) / self.pool_size;
        after(after(self.window))
    }
}

/// Name, shape and role of one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariableSpec {
    /// Layer and variable, as `lstm/recurrent_kernel`.
    pub name: String,
    /// Shape, in Keras's layout.
    pub dims: Vec<usize>,
    /// Whether the optimizer updates it; the moving statistics it leaves alone.
    pub trainable: bool,
}

impl VariableSpec {
    /// Values it holds.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// A variable's values, row-major.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedTensor {
    /// Layer and variable, as `lstm/recurrent_kernel`.
    pub name: String,
    /// Shape.
    pub dims: Vec<usize>,
    /// Values, row-major.
    pub values: Vec<f32>,
}

/// Position of the moving mean and the moving variance in [`variables`].
pub const MOVING_STATISTICS: Range<usize> = 6..8;

/// The variables in Keras's order.
pub fn variables(config: &ModelConfig) -> Vec<VariableSpec> {
    let [first, second] = config.conv_filters;
    let (kernel, units, dense) = (config.kernel_size, config.lstm_units, config.dense_units);
    let all: [(&str, &[usize]); 15] = [
        ("conv1d/kernel", &[kernel, config.channels, first]),
        ("conv1d/bias", &[first]),
        ("conv1d_1/kernel", &[kernel, first, second]),
        ("conv1d_1/bias", &[second]),
        ("batch_normalization/gamma", &[second]),
        ("batch_normalization/beta", &[second]),
        ("batch_normalization/moving_mean", &[second]),
        ("batch_normalization/moving_variance", &[second]),
        ("lstm/kernel", &[second, 4 * units]),
        ("lstm/recurrent_kernel", &[units, 4 * units]),
        ("lstm/bias", &[4 * units]),
        ("dense/kernel", &[units, dense]),
        ("dense/bias", &[dense]),
        ("dense_1/kernel", &[dense, config.classes]),
        ("dense_1/bias", &[config.classes]),
    ];
    all.iter()
        .enumerate()
        .map(|(index, (name, dims))| VariableSpec {
            name: (*name).to_owned(),
            dims: dims.to_vec(),
            trainable: !MOVING_STATISTICS.contains(&index),
        })
        .collect()
}

/// The variables the optimizer updates, in Keras's order.
pub fn trainable_variables(config: &ModelConfig) -> Vec<VariableSpec> {
    variables(config).into_iter().filter(|variable| variable.trainable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_network_has_its_published_size() {
        let config = ModelConfig::new(10_000, 2, 6);
        let all: usize = variables(&config).iter().map(VariableSpec::elements).sum();
        let trainable: usize = trainable_variables(&config).iter().map(VariableSpec::elements).sum();
        assert_eq!((all, trainable, config.lstm_steps()), (84_166, 83_910, 2498));
    }

    #[test]
    fn the_shortest_window_leaves_one_step() {
        let mut config = ModelConfig::new(0, 2, 6);
        config.window = config.shortest_window();
        assert_eq!((config.window, config.lstm_steps()), (10, 1));
        config.window -= 1;
        assert_eq!(config.lstm_steps(), 0);
    }
}
