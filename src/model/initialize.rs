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

    /// Asserts the moments of values uniform in ±`limit`, and that neighbours do not depend on each other.
    fn assert_uniform(values: &[f32], limit: f64, name: &str) {
        let n = values.len() as f64;
        let moment = |power: i32| values.iter().map(|&v| f64::from(v).powi(power)).sum::<f64>() / n;
        // The k-th moment is limit^k / (k + 1) for even k, 0 for odd; its estimate has the variance
        // (E x^2k − (E x^k)²) / n.
        let expected = |k: i32| if k % 2 == 0 { limit.powi(k) / f64::from(k + 1) } else { 0.0 };
        for k in 1..=4 {
            let error = ((expected(2 * k) - expected(k).powi(2)) / n).sqrt();
            let found = moment(k);
            assert!((found - expected(k)).abs() < 5.0 * error, "{name}: moment {k} is {found}");
        }
        let products: f64 = values.windows(2).map(|pair| f64::from(pair[0]) * f64::from(pair[1])).sum();
        let covariance = products / (n - 1.0);
        assert!(covariance.abs() < 5.0 * expected(2) / (n - 1.0).sqrt(), "{name}: covariance {covariance}");
        assert!(values.iter().all(|v| f64::from(v.abs()) <= limit), "{name}: beyond {limit}");
    }

    #[test]
    fn every_kernel_has_the_moments_of_glorot_uniform() {
        let fans = [
            ("conv1d/kernel", 3 * (2 + 64)),
            ("conv1d_1/kernel", 3 * (64 + 128)),
            ("lstm/kernel", 128 + 256),
            ("dense/kernel", 64 + 128),
            ("dense_1/kernel", 128 + 6),
        ];
        for seed in [7, 8] {
            for (name, fans) in fans {
                assert_uniform(&tensor(seed, name).values, (6.0 / f64::from(fans)).sqrt(), name);
            }
        }
    }

    #[test]
    fn a_convolutions_fans_count_its_kernel_length() {
        let kernel = tensor(7, "conv1d_1/kernel");
        let limit = (6.0_f32 / (3 * (64 + 128)) as f32).sqrt();
        let largest = kernel.values.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
        assert!(largest <= limit && largest > 0.99 * limit, "largest {largest}, limit {limit}");
    }

    /// Asserts that the rows, or the columns where there are fewer of them, are orthonormal.
    fn assert_orthogonal(values: &[f32], rows: usize, columns: usize) {
        let by_rows = rows <= columns;
        let (count, length) = if by_rows { (rows, columns) } else { (columns, rows) };
        let at =
            |i: usize, k: usize| f64::from(values[if by_rows { i * columns + k } else { k * columns + i }]);
        for i in 0..count {
            for j in 0..count {
                let product: f64 = (0..length).map(|k| at(i, k) * at(j, k)).sum();
                let expected = f64::from(u8::from(i == j));
                assert!((product - expected).abs() < 1e-6, "[{rows}, {columns}]: {i} and {j}: {product}");
            }
        }
    }

    #[test]
    fn recurrent_kernels_are_orthogonal() {
        assert_orthogonal(&tensor(7, "lstm/recurrent_kernel").values, 64, 256);
        for (rows, columns) in [(5, 20), (20, 5), (7, 7), (1, 4), (4, 1), (1, 1), (33, 132), (90, 31)] {
            assert_orthogonal(&orthogonal(rows, columns, &mut Draws::new(3, 9)), rows, columns);
        }
    }

    #[test]
    fn orthogonal_kernels_favour_no_direction() {
        let values = tensor(7, "lstm/recurrent_kernel").values;
        let (n, length) = (values.len() as f64, 256.0);
        // An element of a random unit vector of this length has mean 0, variance 1 / length and fourth moment
        // 3 / (length · (length + 2)).
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let fourth = values.iter().map(|&v| f64::from(v).powi(4)).sum::<f64>() / n;
        let expected = 3.0 / (length * (length + 2.0));
        assert!(mean.abs() < 5.0 / (length * n).sqrt(), "mean {mean}");
        // That of a normal number, whose eighth moment is 105, is the larger one.
        assert!((fourth - expected).abs() < 5.0 * (96.0 / n).sqrt() / (length * length), "fourth {fourth}");
        // Two of them have nothing in common.
        let other = tensor(8, "lstm/recurrent_kernel").values;
        let product: f64 = values.iter().zip(&other).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        assert!(product.abs() < 5.0 * n.sqrt() / length, "product {product}");
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
