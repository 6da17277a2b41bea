//! Initial values, as Keras draws them: Glorot-uniform kernels (Glorot and Bengio 2010), an orthogonal
//! recurrent kernel (Saxe et al. 2014), zero biases but for the LSTM's forget gate, whose bias is 1.
//!
//! The draws come from Threefry on the host, keyed by the seed and the variable's place, so that they are
//! the same on every platform and for any number of replicas.

use super::{ModelConfig, NamedTensor, VariableSpec, variables};
use tpu_train_hlo::random::threefry2x32_host;

/// The initial values of all variables, in Keras's order.
pub fn initial(config: &ModelConfig, seed: u32) -> Vec<NamedTensor> {
    variables(config)
        .into_iter()
        .enumerate()
        .map(|(place, spec)| {
            let mut draws = Draws::new(seed, place as u32);
            let values = values(&spec, config.lstm_units, &mut draws);
            NamedTensor { name: spec.name, dims: spec.dims, values }
        })
        .collect()
}

fn values(spec: &VariableSpec, units: usize, draws: &mut Draws) -> Vec<f32> {
    let variable = spec.name.rsplit('/').next().unwrap_or_default();
    match (spec.name.as_str(), variable) {
        ("lstm/bias", _) => {
            (0..4 * units).map(|i| if (units..2 * units).contains(&i) { 1.0 } else { 0.0 }).collect()
        }
        (_, "recurrent_kernel") => orthogonal(spec.dims[0], spec.dims[1], draws),
        (_, "kernel") => glorot_uniform(&spec.dims, draws),
        (_, "gamma" | "moving_variance") => vec![1.0; spec.elements()],
        _ => vec![0.0; spec.elements()],
    }
}

/// Uniform in ±√(6 / (fan in + fan out)); a convolution's fans count its kernel length.
fn glorot_uniform(dims: &[usize], draws: &mut Draws) -> Vec<f32> {
    let [positions @ .., inputs, outputs] = dims else { return Vec::new() };
    let receptive: usize = positions.iter().product();
    let limit = (6.0 / (receptive * (inputs + outputs)) as f64).sqrt();
    let count = receptive * inputs * outputs;
    (0..count).map(|_| ((2.0 * draws.uniform() - 1.0) * limit) as f32).collect()
}

/// `rows ≤ columns` orthonormal rows: Gram-Schmidt, run twice for accuracy, on normal draws.
fn orthogonal(rows: usize, columns: usize, draws: &mut Draws) -> Vec<f32> {
    let (count, length, transposed) =
        if rows <= columns { (rows, columns, false) } else { (columns, rows, true) };
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(count);
    while basis.len() < count {
        let mut vector: Vec<f64> = (0..length).map(|_| draws.normal()).collect();
        for _ in 0..2 {
            for other in &basis {
                let along = dot(&vector, other);
                vector.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let norm = dot(&vector, &vector).sqrt();
        // A vanishing remainder has lost its direction to rounding: draw again.
        if norm > 1e-6 {
            vector.iter_mut().for_each(|v| *v /= norm);
            basis.push(vector);
        }
    }
    let at = |row: usize, column: usize| if transposed { basis[column][row] } else { basis[row][column] };
    (0..rows * columns).map(|i| at(i / columns, i % columns) as f32).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A sequence of draws, a pure function of its key.
struct Draws {
    key: [u32; 2],
    counter: u64,
}

impl Draws {
    fn new(seed: u32, stream: u32) -> Self {
        Self { key: [seed, stream], counter: 0 }
    }

    /// Uniform in [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        let counter = [self.counter as u32, (self.counter >> 32) as u32];
        let [high, low] = threefry2x32_host(self.key, counter);
        self.counter += 1;
        let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
        bits as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * self.uniform();
        radius * angle.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(seed: u32, name: &str) -> NamedTensor {
        let all = initial(&ModelConfig::new(10_000, 2, 6), seed);
        all.into_iter().find(|tensor| tensor.name == name).unwrap()
    }

    #[test]
    fn kernels_have_the_moments_of_glorot_uniform() {
        let kernel = tensor(7, "lstm/kernel");
        let n = kernel.values.len() as f64;
        let limit = (6.0_f64 / (128 + 256) as f64).sqrt();
        let mean = kernel.values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = kernel.values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        let expected = limit * limit / 3.0;
        // Five standard errors: of the mean √(variance/n), of the variance √(4/45 · limit⁴ / n).
        assert!(mean.abs() < 5.0 * (expected / n).sqrt(), "mean {mean}");
        assert!((variance - expected).abs() < 5.0 * (4.0 / 45.0 * limit.powi(4) / n).sqrt(), "{variance}");
        assert!(kernel.values.iter().all(|v| f64::from(v.abs()) <= limit));
    }

    #[test]
    fn a_convolutions_fans_count_its_kernel_length() {
        let kernel = tensor(7, "conv1d_1/kernel");
        let limit = (6.0_f32 / (3 * (64 + 128)) as f32).sqrt();
        let largest = kernel.values.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
        assert!(largest <= limit && largest > 0.99 * limit, "largest {largest}, limit {limit}");
    }

    #[test]
    fn the_recurrent_kernel_is_orthogonal() {
        let kernel = tensor(7, "lstm/recurrent_kernel");
        let row = |i: usize| kernel.values[i * 256..(i + 1) * 256].iter().map(|&v| f64::from(v));
        for i in 0..64 {
            for j in 0..64 {
                let product: f64 = row(i).zip(row(j)).map(|(a, b)| a * b).sum();
                let expected = f64::from(u8::from(i == j));
                assert!((product - expected).abs() < 1e-6, "rows {i} and {j}: {product}");
            }
        }
    }

    #[test]
    fn the_forget_gates_bias_is_one() {
        let bias = tensor(7, "lstm/bias").values;
        assert!(bias[..64].iter().chain(&bias[128..]).all(|&v| v == 0.0));
        assert!(bias[64..128].iter().all(|&v| v == 1.0));
    }

    #[test]
    fn seeds_differ_and_repeat() {
        assert_eq!(tensor(7, "dense/kernel"), tensor(7, "dense/kernel"));
        assert_ne!(tensor(7, "dense/kernel"), tensor(8, "dense/kernel"));
    }
}
