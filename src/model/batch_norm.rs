//! Batch normalisation over rows and time, with a hand-derived rule.
//!
//! In training the statistics are the batch's, weighted so that padding rows count for nothing, over all replicas or
//! over each replica's own rows; in evaluation the moving ones. The rule is that of Ioffe and Szegedy 2015, "Batch
//! normalization", §3, with a row's weight in place of one: with `x̂ = (x − mean) / √(variance + ε)` and `N` the sum of
//! the weights times the steps, `dx = γ / √(variance + ε) · (dy − weight · (Σ dy + x̂ Σ dy x̂) / N)`.
//!
//! An error of a statistic or of a sum is the same for every element of its feature and does not average out: it is the
//! largest part of what a float32 step's gradients are off by. So where [`Forms::statistics`] is float64, everything between the
//! float32 arrays is computed in it.

use super::ModelConfig;
use super::forms::Forms;
use super::network::{BatchNormScope, Training, along_features, sum_over_replicas};
use tpu_train_hlo::{ElementType, Graph, Value};

/// `x [B, T, F]` normalised, and the moving mean and variance, in training those after the step. The variables are γ, β, the
/// moving mean and the moving variance, `[F]` each.
pub(super) fn apply(
    g: &mut Graph,
    config: &ModelConfig,
    forms: &Forms,
    x: Value,
    variables: &[Value],
    training: Option<&Training>,
) -> (Value, [Value; 2]) {
    let [gamma, beta, moving_mean, moving_variance] =
        [variables[0], variables[1], variables[2], variables[3]];
    let Some(training) = training else {
        let inverse = inverse_deviation(g, config, moving_variance);
        let normal = normalized(g, x, moving_mean, inverse);
        return (scaled(g, normal, gamma, beta), [moving_mean, moving_variance]);
    };
    let rows = Rows::new(g, forms, x, training);
    let forward = |g: &mut Graph| {
        let (mean, variance) = rows.statistics(g, x);
        let inverse = inverse_deviation(g, config, variance);
        let normal = normalized(g, x, mean, inverse);
        let y = scaled(g, normal, gamma, beta);
        (vec![g.convert(y, ElementType::F32), mean, variance], (mean, inverse))
    };
    // The statistics themselves go to the moving ones only, which no cotangent comes from.
    let rule = move |g: &mut Graph, &(mean, inverse): &(Value, Value), cotangents: &[Value]| {
        rows.backward(g, x, gamma, [mean, inverse], cotangents[0])
    };
    let found = g.custom_vjp(&[x, gamma, beta], forward, rule);
    let batch = [found[1], found[2]];
    (found[0], moving_statistics(g, config, [moving_mean, moving_variance], batch, &rows, training))
}

/// `1 / √(variance + ε)`.
fn inverse_deviation(g: &mut Graph, config: &ModelConfig, variance: Value) -> Value {
    let epsilon = g.scalar_like(variance, config.batch_norm_epsilon);
    let variance = g.add(variance, epsilon);
    g.rsqrt(variance)
}

/// `(x − mean) · inverse`, in the type of the mean.
fn normalized(g: &mut Graph, x: Value, mean: Value, inverse: Value) -> Value {
    let x = g.convert(x, g.shape(mean).element_type);
    let [mean, inverse] = [mean, inverse].map(|v| along_features(g, v, x));
    let centred = g.sub(x, mean);
    g.mul(centred, inverse)
}

/// `normal · γ + β`, in the type of `normal`.
fn scaled(g: &mut Graph, normal: Value, gamma: Value, beta: Value) -> Value {
    let [gamma, beta] = [gamma, beta].map(|v| {
        let v = g.convert(v, g.shape(normal).element_type);
        along_features(g, v, normal)
    });
    let product = g.mul(normal, gamma);
    g.add(product, beta)
}

/// The rows that statistics are taken over.
#[derive(Clone, Copy)]
struct Rows {
    /// Each row's weight, `[B]`, in the type of the statistics.
    weights: Value,
    /// Sum of the weights over the replicas that share statistics.
    weight: Value,
    /// Elements of a feature among them: that sum, at least 1, times the steps.
    count: Value,
    /// Replicas that share statistics.
    replicas: usize,
    /// Whether sums over time are taken row by row in a loop.
    looped: bool,
}

impl Rows {
    fn new(g: &mut Graph, forms: &Forms, x: Value, training: &Training) -> Self {
        let replicas = match training.batch_norm {
            BatchNormScope::Synced => training.replicas,
            BatchNormScope::Local => 1,
        };
        let weights = g.convert(training.weights, forms.statistics);
        let weight = g.sum(weights, &[0]);
        let weight = sum_over_replicas(g, weight, replicas);
        // A replica may hold padding alone; its statistics are then zeros that no row uses.
        let one = g.scalar_like(weight, 1.0);
        let divisor = g.max(weight, one);
        let steps = g.scalar_like(weight, g.shape(x).dims[1] as f64);
        let count = g.mul(divisor, steps);
        Self { weights, weight, count, replicas, looped: forms.loop_over_rows }
    }

    /// Mean and biased variance: each row's own mean and squared deviations in one pass over it, then those of the
    /// batch (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance").
    fn statistics(&self, g: &mut Graph, x: Value) -> (Value, Value) {
        let [sums, squares] = self.each(g, &[x], &[], |g, arrays, _| {
            let (x, dims) = (arrays[0], g.dims(arrays[0]));
            let time = dims.len() - 2;
            let sum = g.sum(x, &[time]);
            let steps = g.scalar_like(sum, dims[time] as f64);
            let mean = g.div(sum, steps);
            let others: Vec<usize> = (0..dims.len()).filter(|&d| d != time).collect();
            let centre = g.broadcast(mean, &dims, &others);
            let off = g.sub(x, centre);
            let squared = g.mul(off, off);
            [sum, g.sum(squared, &[time])]
        });
        let steps = g.scalar_like(sums, g.shape(x).dims[1] as f64);
        let mean = self.weighted_mean(g, sums);
        let means = g.div(sums, steps);
        let centre = along_features(g, mean, means);
        let off = g.sub(means, centre);
        let off = g.mul(off, off);
        let off = g.mul(off, steps);
        let squares = g.add(squares, off);
        (mean, self.weighted_mean(g, squares))
    }

    /// Of each row's sum over time `[B, F]`, the mean over all elements.
    fn weighted_mean(&self, g: &mut Graph, sums: Value) -> Value {
        let dims = g.dims(sums);
        let weights = g.broadcast(self.weights, &dims, &[0]);
        let weighted = g.mul(sums, weights);
        let sum = g.sum(weighted, &[0]);
        let sum = sum_over_replicas(g, sum, self.replicas);
        g.div(sum, self.count)
    }

    /// Cotangents of x, γ and β from that of the result; see the module's description.
    fn backward(
        &self,
        g: &mut Graph,
        x: Value,
        gamma: Value,
        [mean, inverse]: [Value; 2],
        dy: Value,
    ) -> Vec<Value> {
        // A row of padding has a cotangent of zeros.
        let sums = self.each(g, &[dy, x], &[mean, inverse], |g, arrays, statistics| {
            let time = g.shape(arrays[0]).rank() - 2;
            let normal = normalized(g, arrays[1], statistics[0], statistics[1]);
            let product = g.mul(arrays[0], normal);
            [g.sum(arrays[0], &[time]), g.sum(product, &[time])]
        });
        let [d_beta, d_gamma] = sums.map(|v| g.sum(v, &[0]));
        let [mean_dy, mean_product] = [d_beta, d_gamma].map(|sum| {
            let sum = sum_over_replicas(g, sum, self.replicas);
            let mean = g.div(sum, self.count);
            along_features(g, mean, x)
        });
        let normal = normalized(g, x, mean, inverse);
        let along = g.mul(normal, mean_product);
        let off = g.add(mean_dy, along);
        let dims = g.dims(x);
        let weights = g.broadcast(self.weights, &dims, &[0]);
        let off = g.mul(off, weights);
        let dy = g.convert(dy, g.shape(off).element_type);
        let d = g.sub(dy, off);
        let gamma = g.convert(gamma, g.shape(inverse).element_type);
        let factor = g.mul(gamma, inverse);
        let factor = along_features(g, factor, x);
        [g.mul(d, factor), d_gamma, d_beta].map(|v| g.convert(v, ElementType::F32)).to_vec()
    }

    /// What `sums` makes of arrays `[B, T, F]`, in the type of the statistics, and what all rows share, two `[B, F]`: of
    /// the whole batch at once, or of `[T, F]` row by row.
    fn each(
        &self,
        g: &mut Graph,
        arrays: &[Value],
        shared: &[Value],
        sums: impl FnOnce(&mut Graph, &[Value], &[Value]) -> [Value; 2],
    ) -> [Value; 2] {
        let ty = g.shape(self.weights).element_type;
        let sums = move |g: &mut Graph, arrays: &[Value], shared: &[Value]| {
            let wide: Vec<Value> = arrays.iter().map(|&array| g.convert(array, ty)).collect();
            sums(g, &wide, shared)
        };
        if !self.looped {
            return sums(g, arrays, shared);
        }
        let (rows, features) = (g.shape(arrays[0]).dims[0], g.shape(arrays[0]).dims[2]);
        let zeros = g.full(ty, 0.0, &[rows, features]);
        let (count, fixed) = (arrays.len(), [arrays, shared].concat());
        let done = g.counted_loop(rows, &[zeros, zeros], &fixed, move |g, row, carry, fixed| {
            let (arrays, shared) = fixed.split_at(count);
            let of_row: Vec<Value> = arrays.iter().map(|&array| g.row(array, row)).collect();
            let [first, second] = sums(g, &of_row, shared);
            vec![g.put_row(carry[0], row, first), g.put_row(carry[1], row, second)]
        });
        [done[0], done[1]]
    }
}

/// `moving · momentum + batch · (1 − momentum)`; with per-replica statistics the mean of what the replicas
/// that hold a window would set, so that all replicas stay equal.
fn moving_statistics(
    g: &mut Graph,
    config: &ModelConfig,
    moving: [Value; 2],
    batch: [Value; 2],
    rows: &Rows,
    training: &Training,
) -> [Value; 2] {
    let batch = batch.map(|value| {
        let value = g.stop_gradient(value);
        if training.batch_norm == BatchNormScope::Synced || training.replicas == 1 {
            return value;
        }
        let one = g.scalar_like(rows.weight, 1.0);
        let present = g.min(rows.weight, one);
        let sum = g.mul(value, present);
        let sum = sum_over_replicas(g, sum, training.replicas);
        let holders = sum_over_replicas(g, present, training.replicas);
        g.div(sum, holders)
    });
    let momentum = g.scalar_like(batch[0], config.batch_norm_momentum);
    let rest = g.scalar_like(batch[0], 1.0 - config.batch_norm_momentum);
    [0, 1].map(|i| {
        let moving = g.convert(moving[i], g.shape(batch[i]).element_type);
        let kept = g.mul(moving, momentum);
        let new = g.mul(batch[i], rest);
        let next = g.add(kept, new);
        g.convert(next, ElementType::F32)
    })
}
