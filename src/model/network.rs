//! The forward pass: layers over the graph.
//!
//! [`forward`] takes the variables in the order of [`super::variables`] and scaled windows, and gives the
//! logits. In training, batch normalisation takes its statistics from the batch, weighted so that padding
//! rows count for nothing, over all replicas or over each replica's own rows; in evaluation it takes the
//! moving ones.

use super::ModelConfig;
use super::forms::Forms;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tpu_train_hlo::conv_pool::conv_relu_pool;
use tpu_train_hlo::{ElementType, Graph, Value, lstm, random};

/// Over which rows batch normalisation takes its statistics in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormScope {
    /// Over the global batch: any number of replicas trains the same model.
    Synced,
    /// Over each replica's own rows, as the source's distribution strategy does.
    Local,
}

/// What the products (convolutions, dense layers, the LSTM's gates) are computed in. Sums, cell state, batch
/// statistics, loss and weights are float32 in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32, on every platform: operand precision HIGHEST.
    #[default]
    F32,
    /// Factors rounded to bfloat16.
    Bf16,
}

impl From<Precision> for tpu_train_hlo::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// What training adds to the forward pass.
pub struct Training {
    /// Weight of each row, `[B]` f32: 1 for a window, 0 for padding.
    pub weights: Value,
    /// Replicas the global batch is cut over.
    pub replicas: usize,
    /// Rows of batch normalisation's statistics.
    pub batch_norm: BatchNormScope,
    /// Dropout's key, two u32 scalars that change with each step.
    pub dropout_key: [Value; 2],
}

/// What the forward pass gives.
pub struct Forward {
    /// Unnormalised log-probabilities, `[B, classes]` f32.
    pub logits: Value,
    /// In training, the moving mean and the moving variance after this step, `[F]` f32 each.
    pub moving_statistics: Option<[Value; 2]>,
}

/// Scales raw samples to [0, 1]: `(samples − minimum) / range`, a true division, which gives the float32
/// nearest to the source's float64 result where a reciprocal would not.
///
/// `samples` is `[B, T, C]` of any numeric type, `minimum` and `range` are `[B, C]` f32.
pub fn scale(g: &mut Graph, samples: Value, minimum: Value, range: Value) -> Value {
    g.scope("scale", |g| {
        let dims = g.shape(samples).dims.clone();
        let samples = g.convert(samples, ElementType::F32);
        let minimum = g.broadcast(minimum, &dims, &[0, 2]);
        let range = g.broadcast(range, &dims, &[0, 2]);
        let shifted = g.sub(samples, minimum);
        g.div(shifted, range)
    })
}

/// The network on scaled windows `[B, T, C]`; `training` is `None` in evaluation.
pub fn forward(
    g: &mut Graph,
    config: &ModelConfig,
    forms: &Forms,
    variables: &[Value],
    windows: Value,
    training: Option<&Training>,
) -> Forward {
    let v = variables;
    let pool = config.pool_size;
    let x = g.scope("conv1d", |g| conv_relu_pool(g, forms.conv, windows, v[0], v[1], pool));
    let x = g.scope("conv1d_1", |g| conv_relu_pool(g, forms.conv, x, v[2], v[3], pool));
    let normalization =
        g.scope("batch_normalization", |g| batch_norm(g, config, forms, x, &v[4..8], training));
    let Normalization { centred, factor, shift, moving_statistics } = normalization;
    let x = g.scope("lstm", |g| {
        let (kernel, bias) = fold(g, factor, shift, v[8], v[10]);
        lstm::last_hidden(g, forms.lstm, centred, kernel, v[9], bias)
    });
    let x = g.scope("dense", |g| {
        let x = dense(g, x, v[11], v[12]);
        g.relu(x)
    });
    let x = match training {
        Some(training) if config.dropout > 0.0 => {
            g.scope("dropout", |g| dropout(g, x, config.dropout, training))
        }
        _ => x,
    };
    let logits = g.scope("dense_1", |g| dense(g, x, v[13], v[14]));
    Forward { logits, moving_statistics }
}

fn dense(g: &mut Graph, x: Value, kernel: Value, bias: Value) -> Value {
    let x = g.matmul(x, kernel);
    add_bias(g, x, bias)
}

/// Adds `bias` `[F]` along the last dimension of `x`.
fn add_bias(g: &mut Graph, x: Value, bias: Value) -> Value {
    let bias = along_features(g, bias, x);
    g.add(x, bias)
}

/// `[F]` repeated to the shape of `like`, whose last dimension is F.
fn along_features(g: &mut Graph, features: Value, like: Value) -> Value {
    let dims = g.shape(like).dims.clone();
    g.broadcast(features, &dims, &[dims.len() - 1])
}

/// Sum over all replicas; the value itself where there is one.
pub(crate) fn sum_over_replicas(g: &mut Graph, v: Value, replicas: usize) -> Value {
    if replicas > 1 { g.all_reduce(v, tpu_train_hlo::Reducer::Add) } else { v }
}

/// What batch normalisation makes of its input: `centred · factor + shift`.
struct Normalization {
    /// The input less its mean, `[B, T, F]`.
    centred: Value,
    /// `[F]`.
    factor: Value,
    /// `[F]`.
    shift: Value,
    moving_statistics: Option<[Value; 2]>,
}

fn batch_norm(
    g: &mut Graph,
    config: &ModelConfig,
    forms: &Forms,
    x: Value,
    variables: &[Value],
    training: Option<&Training>,
) -> Normalization {
    let [gamma, beta, moving_mean, moving_variance] =
        [variables[0], variables[1], variables[2], variables[3]];
    let (centred, variance, moving_statistics) = match training {
        None => {
            let mean = along_features(g, moving_mean, x);
            (g.sub(x, mean), moving_variance, None)
        }
        Some(training) => {
            let statistics = batch_statistics(g, forms, x, training);
            let moving = moving_statistics(g, config, [moving_mean, moving_variance], &statistics, training);
            (statistics.centred, statistics.variance, Some(moving))
        }
    };
    let epsilon = g.scalar(ElementType::F32, config.batch_norm_epsilon);
    let variance = g.add(variance, epsilon);
    let inverse = g.rsqrt(variance);
    Normalization { centred, factor: g.mul(inverse, gamma), shift: beta, moving_statistics }
}

/// The kernel and the bias of a layer that takes `x · factor + shift`, made to take `x`: one pass over it less.
/// (Taking the mean out by the bias as well would save another, but loses digits where it is large beside the
/// deviation.)
fn fold(g: &mut Graph, factor: Value, shift: Value, kernel: Value, bias: Value) -> (Value, Value) {
    let dims = g.dims(kernel);
    let row = g.reshape(shift, &[1, dims[0]]);
    let from_shift = g.matmul(row, kernel);
    let from_shift = g.reshape(from_shift, &[dims[1]]);
    let factor = g.broadcast(factor, &dims, &[0]);
    (g.mul(kernel, factor), g.add(bias, from_shift))
}

struct Statistics {
    /// The input less its mean.
    centred: Value,
    mean: Value,
    variance: Value,
    /// Sum of the weights of the rows they were taken over.
    weight: Value,
}

/// Mean and biased variance over rows and time of `x` `[B, T, F]`, each row counted by its weight; the
/// variance from the centred values, as Keras takes it.
fn batch_statistics(g: &mut Graph, forms: &Forms, x: Value, training: &Training) -> Statistics {
    let dims = g.shape(x).dims.clone();
    let replicas = match training.batch_norm {
        BatchNormScope::Synced => training.replicas,
        BatchNormScope::Local => 1,
    };
    let weight = g.sum(training.weights, &[0]);
    let weight = sum_over_replicas(g, weight, replicas);
    // A replica may hold padding alone; its statistics are then zeros that no row uses.
    let one = g.scalar(ElementType::F32, 1.0);
    let divisor = g.max(weight, one);
    let steps = g.scalar(ElementType::F32, dims[1] as f64);
    let count = g.mul(divisor, steps);
    let rows = training.weights;
    // Each row's own mean and squared deviations in one pass over it, then those of the batch (Chan, Golub and LeVeque
    // 1983, "Algorithms for computing the sample variance").
    let forward = |g: &mut Graph| {
        let (row_means, row_squares) = row_moments(g, forms, x);
        let mean_of = |g: &mut Graph, sums: Value| {
            let weights = g.broadcast(rows, &[dims[0], dims[2]], &[0]);
            let weighted = g.mul(sums, weights);
            let sum = g.sum(weighted, &[0]);
            let sum = sum_over_replicas(g, sum, replicas);
            g.div(sum, count)
        };
        let sums = g.mul(row_means, steps);
        let mean = mean_of(g, sums);
        let centre = along_features(g, mean, row_means);
        let off = g.sub(row_means, centre);
        let off = g.mul(off, off);
        let off = g.mul(off, steps);
        let squares = g.add(row_squares, off);
        let centre = along_features(g, mean, x);
        let centred = g.sub(x, centre);
        (vec![centred, mean, mean_of(g, squares)], centred)
    };
    // The variance does not change with the mean it is taken about, so its cotangent reaches x directly:
    // d_centred + weight / count · (d_mean − Σ d_centred + 2 centred d_variance).
    let rule = move |g: &mut Graph, &centred: &Value, cotangents: &[Value]| {
        let &[d_centred, d_mean, d_variance] = cotangents else { return cotangents.to_vec() };
        let sum = g.sum(d_centred, &[0, 1]);
        let d_mean = g.sub(d_mean, sum);
        let [d_mean, d_variance] = [d_mean, d_variance].map(|d| {
            let sum = sum_over_replicas(g, d, replicas);
            g.div(sum, count)
        });
        let two = g.scalar(ElementType::F32, 2.0);
        let slope = g.mul(d_variance, two);
        let [d_mean, slope] = [d_mean, slope].map(|v| along_features(g, v, centred));
        let part = g.mul(centred, slope);
        let part = g.add(part, d_mean);
        let dims = g.dims(centred);
        let weights = g.broadcast(rows, &dims, &[0]);
        let part = g.mul(part, weights);
        vec![g.add(d_centred, part)]
    };
    let found = g.custom_vjp(&[x], forward, rule);
    Statistics { centred: found[0], mean: found[1], variance: found[2], weight }
}

/// Of each row of `x` `[B, T, F]` the mean over time and the sum of the squared deviations from it, `[B, F]` each.
fn row_moments(g: &mut Graph, forms: &Forms, x: Value) -> (Value, Value) {
    let &[rows, _, features] = &g.shape(x).dims[..] else { return (x, x) };
    if !forms.loop_over_moments {
        return moments(g, x);
    }
    let zeros = g.full(ElementType::F32, 0.0, &[rows, features]);
    let done = g.counted_loop(rows, &[zeros, zeros], &[x], move |g, row, carry, fixed| {
        let x = g.row(fixed[0], row);
        let (mean, squares) = moments(g, x);
        vec![g.put_row(carry[0], row, mean), g.put_row(carry[1], row, squares)]
    });
    (done[0], done[1])
}

/// Over the last dimension but one of `x`, the mean and the sum of the squared deviations from it.
fn moments(g: &mut Graph, x: Value) -> (Value, Value) {
    let dims = g.shape(x).dims.clone();
    let time = dims.len() - 2;
    let sum = g.sum(x, &[time]);
    let steps = g.scalar(ElementType::F32, dims[time] as f64);
    let mean = g.div(sum, steps);
    let others: Vec<usize> = (0..dims.len()).filter(|&d| d != time).collect();
    let centre = g.broadcast(mean, &dims, &others);
    let off = g.sub(x, centre);
    let squared = g.mul(off, off);
    (mean, g.sum(squared, &[time]))
}

/// `moving · momentum + batch · (1 − momentum)`; with per-replica statistics the mean of what the replicas
/// that hold a window would set, so that all replicas stay equal.
fn moving_statistics(
    g: &mut Graph,
    config: &ModelConfig,
    moving: [Value; 2],
    batch: &Statistics,
    training: &Training,
) -> [Value; 2] {
    let batch_values = [batch.mean, batch.variance].map(|value| {
        let value = g.stop_gradient(value);
        if training.batch_norm == BatchNormScope::Synced || training.replicas == 1 {
            return value;
        }
        let one = g.scalar(ElementType::F32, 1.0);
        let present = g.min(batch.weight, one);
        let sum = g.mul(value, present);
        let sum = sum_over_replicas(g, sum, training.replicas);
        let holders = sum_over_replicas(g, present, training.replicas);
        g.div(sum, holders)
    });
    let momentum = g.scalar(ElementType::F32, config.batch_norm_momentum);
    let rest = g.scalar(ElementType::F32, 1.0 - config.batch_norm_momentum);
    [0, 1].map(|i| {
        let kept = g.mul(moving[i], momentum);
        let new = g.mul(batch_values[i], rest);
        g.add(kept, new)
    })
}

/// Drops units with probability `rate` and scales the others by 1 / (1 − rate). The draw of a unit depends
/// on the key and the unit's place in the global batch, not on the number of replicas.
fn dropout(g: &mut Graph, x: Value, rate: f64, training: &Training) -> Value {
    let dims = g.shape(x).dims.clone();
    let local = g.scalar(ElementType::U32, dims.iter().product::<usize>() as f64);
    let first = if training.replicas > 1 {
        let replica = g.replica_id();
        g.mul(replica, local)
    } else {
        g.scalar(ElementType::U32, 0.0)
    };
    let draw = random::uniform(g, training.dropout_key, first, &dims);
    let rate_value = g.full(ElementType::F32, rate, &dims);
    let kept = g.compare(draw, rate_value, tpu_train_hlo::Comparison::Ge);
    let scale = g.scalar(ElementType::F32, 1.0 / (1.0 - rate));
    let scaled = g.mul(x, scale);
    let zero = g.full(ElementType::F32, 0.0, &dims);
    g.select(kept, scaled, zero)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tpu_train_hlo::Shape;
    use tpu_train_hlo::eval::{Tensor, evaluate};

    const ROWS: usize = 96;
    const UNITS: usize = 128;

    /// What dropout makes of ones, over `replicas` parts of the batch put together again.
    fn dropped(rate: f64, key: [u32; 2], replicas: usize) -> Vec<f64> {
        let mut g = Graph::new("dropout");
        let rows = ROWS / replicas;
        let ones = g.full(ElementType::F32, 1.0, &[rows, UNITS]);
        let weights = g.full(ElementType::F32, 1.0, &[rows]);
        // A parameter, so that the key is not folded into the graph: it changes with each step.
        let key_parameter = g.parameter("key", Shape::new(ElementType::U32, &[2]));
        let dropout_key = [0, 1].map(|i| {
            let part = g.slice_in_dim(key_parameter, 0, i, i + 1);
            g.reshape(part, &[])
        });
        let training = Training { weights, replicas, batch_norm: BatchNormScope::Synced, dropout_key };
        let out = dropout(&mut g, ones, rate, &training);
        let key = Tensor::new(Shape::new(ElementType::U32, &[2]), key.map(f64::from).to_vec());
        let outputs = evaluate(&g, &[out], &vec![vec![key]; replicas]).unwrap();
        outputs.iter().flat_map(|of_replica| of_replica[0].values().to_vec()).collect()
    }

    fn kept(rate: f64, key: [u32; 2]) -> Vec<bool> {
        dropped(rate, key, 1).iter().map(|&value| value > 0.0).collect()
    }

    /// Asserts that an event of probability `p` happened as often as it should, within five standard errors.
    fn assert_share(hits: impl Iterator<Item = bool>, p: f64, what: &str) {
        let (count, hit) =
            hits.fold((0.0, 0.0), |(count, hit), is| (count + 1.0, hit + f64::from(u8::from(is))));
        let (share, error) = (hit / count, (p * (1.0 - p) / count).sqrt());
        assert!((share - p).abs() < 5.0 * error, "{what}: {share}, expected {p} ± {error}");
    }

    #[test]
    fn dropout_keeps_its_share_of_units_and_scales_them() {
        for rate in [0.1, 0.25, 0.5, 0.8] {
            let values = dropped(rate, [7, 0], 1);
            let scale = 1.0 / (1.0 - rate);
            assert!(values.iter().all(|&value| value == 0.0 || (value - scale).abs() < 1e-12));
            let kept: Vec<bool> = values.iter().map(|&value| value > 0.0).collect();
            let p = 1.0 - rate;
            assert_share(kept.iter().copied(), p, "kept");
            // Neighbours along a row, a row apart, and the same unit of the next step are independent.
            assert_share(kept.windows(2).map(|pair| pair[0] && pair[1]), p * p, "kept with the next unit");
            assert_share(kept.windows(UNITS + 1).map(|w| w[0] && w[UNITS]), p * p, "kept with the next row");
            for row in kept.chunks(UNITS) {
                assert_share(row.iter().copied(), p, "kept in a row");
            }
            for unit in 0..UNITS {
                assert_share(kept.iter().skip(unit).step_by(UNITS).copied(), p, "kept of a unit");
            }
        }
    }

    #[test]
    fn dropout_differs_by_step_and_seed_and_repeats() {
        let first = kept(0.5, [7, 0]);
        assert_eq!(first, kept(0.5, [7, 0]));
        for other in [[7, 1], [8, 0], [0, 7], [7, 1 << 31]] {
            let same = first.iter().zip(kept(0.5, other)).map(|(&a, b)| a == b);
            assert_share(same, 0.5, "the same with another key");
        }
    }

    #[test]
    fn dropout_does_not_depend_on_the_replicas() {
        let one = dropped(0.25, [7, 3], 1);
        for replicas in [2, 3, 8] {
            assert!(dropped(0.25, [7, 3], replicas) == one, "{replicas} replicas draw otherwise");
        }
    }
}
