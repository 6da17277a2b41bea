//! The forward pass: layers over the graph.
//!
//! [`forward`] takes the variables in the order of [`super::variables`] and scaled windows, and gives the
//! logits. In training, batch normalisation takes its statistics from the batch, weighted so that padding
//! rows count for nothing, over all replicas or over each replica's own rows; in evaluation it takes the
//! moving ones.

use super::ModelConfig;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tpu_train_hlo::{ElementType, Graph, Value, lstm, pool, random};

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
    variables: &[Value],
    windows: Value,
    training: Option<&Training>,
) -> Forward {
    let v = variables;
    let x = g.scope("conv1d", |g| convolve(g, windows, v[0], v[1]));
    let x = g.scope("max_pooling1d", |g| pool::max_pool1d(g, x, config.pool_size));
    let x = g.scope("conv1d_1", |g| convolve(g, x, v[2], v[3]));
    let x = g.scope("max_pooling1d_1", |g| pool::max_pool1d(g, x, config.pool_size));
    let (x, moving_statistics) =
        g.scope("batch_normalization", |g| batch_norm(g, config, x, &v[4..8], training));
    let x = g.scope("lstm", |g| lstm::last_hidden(g, x, v[8], v[9], v[10]));
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

fn convolve(g: &mut Graph, x: Value, kernel: Value, bias: Value) -> Value {
    let x = g.conv1d(x, kernel);
    let x = add_bias(g, x, bias);
    g.relu(x)
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

fn batch_norm(
    g: &mut Graph,
    config: &ModelConfig,
    x: Value,
    variables: &[Value],
    training: Option<&Training>,
) -> (Value, Option<[Value; 2]>) {
    let [gamma, beta, moving_mean, moving_variance] =
        [variables[0], variables[1], variables[2], variables[3]];
    let (mean, variance, moving) = match training {
        None => (moving_mean, moving_variance, None),
        Some(training) => {
            let statistics = batch_statistics(g, x, training);
            let moving = moving_statistics(g, config, [moving_mean, moving_variance], &statistics, training);
            (statistics.mean, statistics.variance, Some(moving))
        }
    };
    let epsilon = g.scalar(ElementType::F32, config.batch_norm_epsilon);
    let variance = g.add(variance, epsilon);
    let inverse = g.rsqrt(variance);
    let factor = g.mul(inverse, gamma);
    let shift = g.mul(mean, factor);
    let shift = g.sub(beta, shift);
    let factor = along_features(g, factor, x);
    let shift = along_features(g, shift, x);
    let x = g.mul(x, factor);
    (g.add(x, shift), moving)
}

struct Statistics {
    mean: Value,
    variance: Value,
    /// Sum of the weights of the rows they were taken over.
    weight: Value,
}

/// Mean and biased variance over rows and time of `x` `[B, T, F]`, each row counted by its weight; the
/// variance from the centred values, as Keras takes it.
fn batch_statistics(g: &mut Graph, x: Value, training: &Training) -> Statistics {
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
    let weights = g.broadcast(training.weights, &dims, &[0]);
    let mean_of = |g: &mut Graph, values: Value| {
        let weighted = g.mul(values, weights);
        let sum = g.sum(weighted, &[0, 1]);
        let sum = sum_over_replicas(g, sum, replicas);
        g.div(sum, count)
    };
    let mean = mean_of(g, x);
    let centre = along_features(g, mean, x);
    let centred = g.sub(x, centre);
    let squared = g.mul(centred, centred);
    let variance = mean_of(g, squared);
    Statistics { mean, variance, weight }
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
