//! What a program computes, counted by hand: the floating-point operations of the network's products.
//!
//! A multiplication and its addition are two operations. As the field counts utilisation, only products
//! (convolutions, dense layers, the LSTM's gates) count: no activation, no normalisation, no optimizer, and nothing
//! that a form of the program computes twice. So the figure belongs to the network, and two forms of a step compare
//! by their time alone. Compilers' own counts do not serve: they take the body of a loop once.
//!
//! ```
//! use tpu_train::model::{ModelConfig, flops};
//! let model = ModelConfig::new(10_000, 2, 6);
//! assert_eq!((flops::forward_flops(&model, 1) / 1e6).round(), 499.0);
//! assert_eq!((flops::training_flops(&model, 1) / 1e6).round(), 1489.0);
//! ```

use super::ModelConfig;

/// Floating-point operations of one layer on one window, forward.
struct Layer {
    forward: f64,
    /// Whether its input needs a cotangent: that of the recording does not.
    passes_on: bool,
}

fn layers(config: &ModelConfig) -> [Layer; 5] {
    let [first, second] = config.conv_filters;
    let after_convolution = |length: usize| (length + 1).saturating_sub(config.kernel_size);
    let length_1 = after_convolution(config.window);
    let length_2 = after_convolution(length_1 / config.pool_size);
    let gates = 4 * config.lstm_units;
    let product = |factors: &[usize]| 2.0 * factors.iter().map(|&factor| factor as f64).product::<f64>();
    let layer = |forward: f64| Layer { forward, passes_on: true };
    [
        Layer { forward: product(&[length_1, config.kernel_size, config.channels, first]), passes_on: false },
        layer(product(&[length_2, config.kernel_size, first, second])),
        layer(product(&[config.lstm_steps(), second + config.lstm_units, gates])),
        layer(product(&[config.lstm_units, config.dense_units])),
        layer(product(&[config.dense_units, config.classes])),
    ]
}

/// Floating-point operations of the forward pass (an evaluation, a prediction) on `rows` windows.
pub fn forward_flops(config: &ModelConfig, rows: usize) -> f64 {
    rows as f64 * layers(config).iter().map(|layer| layer.forward).sum::<f64>()
}

/// Floating-point operations of one training step on `rows` windows: the forward pass, and for each product as many
/// again for the gradient of its weights and for the cotangent of its input.
pub fn training_flops(config: &ModelConfig, rows: usize) -> f64 {
    let of_layer = |layer: &Layer| layer.forward * if layer.passes_on { 3.0 } else { 2.0 };
    rows as f64 * layers(config).iter().map(of_layer).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiply-adds of a forward pass, one by one: each output position of each layer asks for its inputs.
    fn counted(config: &ModelConfig) -> u64 {
        let mut count = 0;
        let (mut length, mut channels) = (config.window, config.channels);
        for filters in config.conv_filters {
            let mut positions = 0;
            while positions + config.kernel_size <= length {
                count += (filters * channels * config.kernel_size) as u64;
                positions += 1;
            }
            (length, channels) = (positions / config.pool_size, filters);
        }
        for _ in 0..length {
            count += (channels * 4 * config.lstm_units) as u64;
            count += (config.lstm_units * 4 * config.lstm_units) as u64;
        }
        count + (config.lstm_units * config.dense_units + config.dense_units * config.classes) as u64
    }

    #[test]
    fn the_forward_pass_is_two_operations_for_each_multiply_add() {
        for window in [10, 11, 97, 10_000] {
            let mut config = ModelConfig::new(window, 3, 5);
            config.pool_size = 3 - window % 2;
            assert_eq!(forward_flops(&config, 7), 14.0 * counted(&config) as f64, "window {window}");
        }
    }

    #[test]
    fn the_windows_themselves_get_no_cotangent() {
        let config = ModelConfig::new(10_000, 2, 6);
        let first_convolution = 2.0 * 9998.0 * 3.0 * 2.0 * 64.0;
        let expected = 3.0 * forward_flops(&config, 1) - first_convolution;
        assert_eq!(training_flops(&config, 512), 512.0 * expected);
    }
}
