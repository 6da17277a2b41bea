//! The CNN-LSTM.

pub mod files;

/// What decides the network's shape and its training mode.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelConfig {
    /// Samples in a window.
    pub window: usize,
    /// Channels of a sample.
    pub channels: usize,
    /// Classes told apart.
    pub classes: usize,
    /// Filters of the two convolutions.
    pub conv_filters: [usize; 2],
    /// Taps of either convolution.
    pub kernel_size: usize,
    /// Window and stride of either max-pool.
    pub pool_size: usize,
    /// Units of the LSTM.
    pub lstm_units: usize,
    /// Units of the hidden dense layer.
    pub dense_units: usize,
    /// L2 factor on the hidden dense layer's kernel; 0 for none.
    pub l2: f64,
    /// Dropout rate behind the hidden dense layer; 0 for none.
    pub dropout: f64,
    /// Momentum of the moving statistics.
    pub batch_norm_momentum: f64,
    /// Added to the variance.
    pub batch_norm_epsilon: f64,
}

/// Float values with a name and dimensions (row-major).
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct NamedTensor {
    /// Such as `conv1d/kernel`.
    pub name: String,
    /// The dimensions; empty for a scalar.
    pub dims: Vec<usize>,
    /// As many as the product of the dimensions.
    pub values: Vec<f32>,
}

/// One variable of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct VariableSpec {
    /// Such as `conv1d/kernel`.
    pub name: String,
    /// The dimensions.
    pub dims: Vec<usize>,
    /// Whether the optimizer updates it; moving statistics are not trainable.
    pub trainable: bool,
}

/// The variables in Keras's order.
pub fn variables(config: &ModelConfig) -> Vec<VariableSpec> {
    let [first, second] = config.conv_filters;
    let (taps, units, dense) = (config.kernel_size, config.lstm_units, config.dense_units);
    let spec = |name: &str, dims: &[usize]| VariableSpec {
        name: name.to_owned(),
        dims: dims.to_vec(),
        trainable: !name.contains("/moving_"),
    };
    vec![
        spec("conv1d/kernel", &[taps, config.channels, first]),
        spec("conv1d/bias", &[first]),
        spec("conv1d_1/kernel", &[taps, first, second]),
        spec("conv1d_1/bias", &[second]),
        spec("batch_normalization/gamma", &[second]),
        spec("batch_normalization/beta", &[second]),
        spec("batch_normalization/moving_mean", &[second]),
        spec("batch_normalization/moving_variance", &[second]),
        spec("lstm/kernel", &[second, 4 * units]),
        spec("lstm/recurrent_kernel", &[units, 4 * units]),
        spec("lstm/bias", &[4 * units]),
        spec("dense/kernel", &[units, dense]),
        spec("dense/bias", &[dense]),
        spec("dense_1/kernel", &[dense, config.classes]),
        spec("dense_1/bias", &[config.classes]),
    ]
}
