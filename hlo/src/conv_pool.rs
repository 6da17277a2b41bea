//! Convolution, bias, relu and max-pooling over time as one layer, with a hand-written rule.
//!
//! Keras's `Conv1D(activation="relu")` (valid padding, stride 1) followed by `MaxPooling1D` (valid padding, stride =
//! size, a remainder is dropped; of equal elements the first takes the gradient).
//! The layer is memory traffic more than arithmetic: before pooling its result is `pool` times as large as after, and
//! a plain graph writes it, reads it back for bias and relu, and needs it again for the gradient. Two ways around that,
//! with the same result, [`ConvForm`]; in both what the gradient needs of a pool is one byte: which member it was, or that
//! relu let none through.
//! Usage: `let y = conv_pool::conv_relu_pool(&mut g, form, x, kernel, bias, 2);`

use std::panic::Location;

use crate::pool::first_greatest;
use crate::{Comparison, DotDimensions, ElementType, Graph, PadDimension, Shape, Value};

/// How the layer is laid out.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ConvForm {
    /// A loop takes one row of the batch at a time, so that only the pooled result leaves the cache; products are taken
    /// on patches, one matrix for each member of the pool. What XLA:CPU runs fastest.
    Looped,
    /// `pool` neighbouring samples become the channels of one, and one convolution gives all members of a pool side by
    /// side as its filters: what suits a TPU's wide matrix unit, which three samples of two channels would leave idle.
    Packed,
}

/// `x [B, T, C]`, `kernel [K, C, F]`, `bias [F]` -> `[B, (T - K + 1) / pool, F]`.
#[track_caller]
pub fn conv_relu_pool(
    g: &mut Graph,
    form: ConvForm,
    x: Value,
    kernel: Value,
    bias: Value,
    pool: usize,
) -> Value {
    let Some(layer) = Layer::new(g, [x, kernel, bias], pool) else {
        let shapes = [x, kernel, bias].map(|v| g.shape(v).to_string()).join(", ");
        let problem = format!(
            "expected [B, T, C], [K, C, F], [F] of one floating-point type with T of at least K - 1 + {pool}, \
             found {shapes}"
        );
        g.fail("conv_relu_pool", Location::caller(), problem);
        return x;
    };
    match form {
        ConvForm::Looped => {
            let forward = |g: &mut Graph| {
                let (pooled, choice) = layer.forward(g, [x, kernel, bias]);
                (vec![pooled], choice)
            };
            g.custom_vjp(&[x, kernel, bias], forward, move |g, &choice, cotangents| {
                layer.backward(g, [x, kernel], choice, cotangents[0])
            })[0]
        }
        ConvForm::Packed => {
            let members = layer.packed(g, x, kernel);
            layer.pool_packed(g, members, bias)
        }
    }
}

/// Extents and type.
#[derive(Copy, Clone)]
struct Layer {
    ty: ElementType,
    batch: usize,
    time: usize,
    channels: usize,
    width: usize,
    filters: usize,
    pool: usize,
    /// Time steps after pooling.
    pooled: usize,
}

impl Layer {
    fn new(g: &Graph, [x, kernel, bias]: [Value; 3], pool: usize) -> Option<Self> {
        let ty = g.shape(x).element_type;
        let (&[batch, time, channels], &[width, _, filters]) =
            (&g.shape(x).dims[..], &g.shape(kernel).dims[..])
        else {
            return None;
        };
        let is = |v: Value, dims: &[usize]| *g.shape(v) == Shape::new(ty, dims);
        let fits = ty.is_float() && is(kernel, &[width, channels, filters]) && is(bias, &[filters]);
        let pooled = (time + 1).saturating_sub(width).checked_div(pool)?;
        // Which member it was is kept in one byte, with a value to spare.
        (fits && width > 0 && pooled > 0 && pool < 256).then_some(Self {
            ty,
            batch,
            time,
            channels,
            width,
            filters,
            pool,
            pooled,
        })
    }

    /// The loop over rows: the pooled result, and the member that each comes from or [`Self::pool`] where relu made it
    /// 0, both `[B, pooled, F]`.
    fn forward(self, g: &mut Graph, [x, kernel, bias]: [Value; 3]) -> (Value, Value) {
        let kernel = self.flat(g, kernel);
        let stored = [self.batch, self.pooled, self.filters];
        let (pooled, choice) = (g.full(self.ty, 0.0, &stored), g.full(ElementType::U8, 0.0, &stored));
        let done =
            g.counted_loop(self.batch, &[pooled, choice], &[x, kernel, bias], move |g, row, carry, fixed| {
                let (&[pooled, choice], &[x, kernel, bias]) = (carry, fixed) else { return carry.to_vec() };
                let x = g.row(x, row);
                let bias = g.broadcast(bias, &[self.pooled, self.filters], &[1]);
                let members: Vec<Value> = (0..self.pool)
                    .map(|member| {
                        let patches = self.patches(g, x, member);
                        let product = g.matmul(patches, kernel);
                        g.add(product, bias)
                    })
                    .collect();
                let (result, place) = self.relu_pool(g, &members);
                vec![g.put_row(pooled, row, result), g.put_row(choice, row, place)]
            });
        (done[0], done[1])
    }

    /// Cotangents of x, kernel and bias.
    fn backward(self, g: &mut Graph, [x, kernel]: [Value; 2], choice: Value, cotangent: Value) -> Vec<Value> {
        let flat = self.flat(g, kernel);
        let transposed = g.transpose(flat, &[1, 0]);
        let (d_x, d_kernel) = (g.zeros_like(x), g.zeros_like(flat));
        let d_bias = g.full(self.ty, 0.0, &[self.filters]);
        let fixed = [x, choice, cotangent, transposed];
        let done =
            g.counted_loop(self.batch, &[d_x, d_kernel, d_bias], &fixed, move |g, row, carry, fixed| {
                let (&[d_x, d_kernel, d_bias], &[x, choice, cotangent, transposed]) = (carry, fixed) else {
                    return carry.to_vec();
                };
                let [x, choice, cotangent] = [x, choice, cotangent].map(|v| g.row(v, row));
                let members = self.spread(g, choice, cotangent);
                let (mut d_kernel, mut d_bias) = (d_kernel, d_bias);
                for (member, &d) in members.iter().enumerate() {
                    let patches = self.patches(g, x, member);
                    let over_time = DotDimensions {
                        lhs_contracting: vec![0],
                        rhs_contracting: vec![0],
                        ..Default::default()
                    };
                    let part = g.dot_general(patches, d, over_time);
                    d_kernel = g.add(d_kernel, part);
                    let sum = g.sum(d, &[0]);
                    d_bias = g.add(d_bias, sum);
                }
                let back = self.unpatch(g, &members, transposed);
                vec![g.put_row(d_x, row, back), d_kernel, d_bias]
            });
        let d_kernel = g.reshape(done[1], &[self.width, self.channels, self.filters]);
        vec![done[0], d_kernel, done[2]]
    }

    /// All members of each pool before bias and relu, side by side: `[B, pooled, pool F]`.
    fn packed(&self, g: &mut Graph, x: Value, kernel: Value) -> Value {
        let taps = (self.pool + self.width - 1).div_ceil(self.pool);
        let groups = self.pooled + taps - 1;
        let wanted = groups * self.pool;
        let x = if wanted <= self.time {
            g.slice_in_dim(x, 1, 0, wanted)
        } else {
            let rest = g.full(self.ty, 0.0, &[self.batch, wanted - self.time, self.channels]);
            g.concatenate(&[x, rest], 1)
        };
        let x = g.reshape(x, &[self.batch, groups, self.pool * self.channels]);
        let flat = self.flat(g, kernel);
        let columns: Vec<Value> = (0..self.pool)
            .map(|member| {
                let after = (taps * self.pool - self.width - member) * self.channels;
                let zeros = |g: &mut Graph, rows: usize| g.full(self.ty, 0.0, &[rows, self.filters]);
                let (above, below) = (zeros(g, member * self.channels), zeros(g, after));
                g.concatenate(&[above, flat, below], 0)
            })
            .collect();
        let kernel = g.concatenate(&columns, 1);
        let kernel = g.reshape(kernel, &[taps, self.pool * self.channels, self.pool * self.filters]);
        g.conv1d(x, kernel)
    }

    /// Bias, relu and the greatest member of each pool, `[B, pooled, F]`.
    fn pool_packed(self, g: &mut Graph, packed: Value, bias: Value) -> Value {
        let forward = |g: &mut Graph| {
            let bias = g.broadcast(bias, &[self.batch, self.pooled, self.filters], &[2]);
            let members: Vec<Value> = (0..self.pool)
                .map(|member| {
                    let first = member * self.filters;
                    let part = g.slice_in_dim(packed, 2, first, first + self.filters);
                    g.add(part, bias)
                })
                .collect();
            let (result, choice) = self.relu_pool(g, &members);
            (vec![result], choice)
        };
        g.custom_vjp(&[packed, bias], forward, move |g, &choice, cotangents| {
            let members = self.spread(g, choice, cotangents[0]);
            let packed = g.concatenate(&members, 2);
            let sums = g.sum(packed, &[0, 1]);
            let by_member = g.reshape(sums, &[self.pool, self.filters]);
            vec![packed, g.sum(by_member, &[0])]
        })[0]
    }

    /// Relu of the greatest of a pool's members, and which it is, or [`Self::pool`] where relu made it 0.
    fn relu_pool(&self, g: &mut Graph, members: &[Value]) -> (Value, Value) {
        let (greatest, place) = first_greatest(g, members, ElementType::U8);
        let result = g.relu(greatest);
        let (zero, none) = (g.scalar(self.ty, 0.0), g.scalar(ElementType::U8, self.pool as f64));
        let positive = g.compare(greatest, zero, Comparison::Gt);
        (result, g.select(positive, place, none))
    }

    /// The members' cotangents from that of the pooled result.
    fn spread(&self, g: &mut Graph, choice: Value, cotangent: Value) -> Vec<Value> {
        let zero = g.scalar(self.ty, 0.0);
        (0..self.pool)
            .map(|member| {
                let place = g.scalar(ElementType::U8, member as f64);
                let here = g.compare(choice, place, Comparison::Eq);
                g.select(here, cotangent, zero)
            })
            .collect()
    }

    /// The kernel as a matrix `[K C, F]`.
    fn flat(&self, g: &mut Graph, kernel: Value) -> Value {
        g.reshape(kernel, &[self.width * self.channels, self.filters])
    }

    /// What the kernel sees at the `member`-th element of each pool: `[T, C] -> [pooled, K C]`.
    fn patches(&self, g: &mut Graph, x: Value, member: usize) -> Value {
        let taps: Vec<Value> = (0..self.width)
            .map(|tap| {
                let first = member + tap;
                let limit = first + (self.pooled - 1) * self.pool + 1;
                g.slice(x, &[first, 0], &[limit, self.channels], &[self.pool, 1])
            })
            .collect();
        g.concatenate(&taps, 1)
    }

    /// The cotangent of x `[T, C]` from those of the pools' members `[pooled, F]`: each tap's part goes back to where
    /// [`Self::patches`] took it from.
    fn unpatch(&self, g: &mut Graph, members: &[Value], transposed: Value) -> Value {
        let zero = g.scalar(self.ty, 0.0);
        let mut sum = None;
        for (member, &d) in members.iter().enumerate() {
            let d_patches = g.matmul(d, transposed);
            for tap in 0..self.width {
                let part = g.slice_in_dim(d_patches, 1, tap * self.channels, (tap + 1) * self.channels);
                let low = member + tap;
                let high = self.time - low - ((self.pooled - 1) * self.pool + 1);
                let padding = PadDimension { low: low as i64, high: high as i64, interior: self.pool - 1 };
                let part = g.pad(part, zero, &[padding, PadDimension::default()]);
                sum = Some(match sum {
                    Some(so_far) => g.add(so_far, part),
                    None => part,
                });
            }
        }
        sum.unwrap_or(zero)
    }
}
