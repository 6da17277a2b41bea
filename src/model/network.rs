//! The forward pass: layers over the graph.
//!
//! [`forward`] takes the variables in the order of [`super::variables`] and scaled windows, and gives the
//! logits. In training, batch normalisation takes its statistics from the batch, weighted so that padding
//! rows count for nothing, over all replicas or over each replica's own rows; in evaluation it takes the
//! moving ones.

use super::forms::Forms;
use super::{ModelConfig, batch_norm};
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

/// What the products (convolutions, dense layers, the LSTM's gates) are computed in. Sums, cell state, loss
/// and weights are float32 in either, batch statistics at least that ([`Forms::statistics`]).
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
    /// The moving mean and the moving variance, `[F]` f32 each; in training those after this step.
    pub moving_statistics: [Value; 2],
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
    let (x, moving_statistics) =
        g.scope("batch_normalization", |g| batch_norm::apply(g, config, forms, x, &v[4..8], training));
    let x = g.scope("lstm", |g| lstm::last_hidden(g, forms.lstm, x, v[8], v[9], v[10]));
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
pub(super) fn along_features(g: &mut Graph, features: Value, like: Value) -> Value {
    let dims = g.shape(like).dims.clone();
    g.broadcast(features, &dims, &[dims.len() - 1])
}

/// Sum over all replicas; the value itself where there is one.
pub(crate) fn sum_over_replicas(g: &mut Graph, v: Value, replicas: usize) -> Value {
    if replicas > 1 { g.all_reduce(v, tpu_train_hlo::Reducer::Add) } else { v }
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
