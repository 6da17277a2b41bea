//! The LSTM scan, forward as one loop and backward by a hand-derived rule.
//!
//! Keras's cell, gates in the order i, f, c, o: with `z = x W + h U + b`,
//! `i, f, o = σ(z_i), σ(z_f), σ(z_o)`, `g = tanh(z_c)`, `c' = f c + i g`, `h' = o tanh(c')`, and `h = c = 0` at first.
//! Since `σ(x) = ½ tanh(½ x) + ½`, the columns of `W`, `U` and `b` are scaled by ½ for i, f and o once, outside of the
//! loop, and one packed tanh serves all four gates. What autodiff through a loop would store at each step
//! (some thirteen arrays) shrinks to the state before the step, `h` and `c`, and perhaps that tanh; the weights'
//! gradients come from one large product after the backward loop. A graph without a gradient does not store: the
//! lowered loop carries only what is needed. [`LstmForm`] is the one place that decides where the work is done.
//! Usage: `let h = lstm::last_hidden(&mut g, x, kernel, recurrent, bias);`

use std::panic::Location;

use crate::{Comparison, DotDimensions, ElementType, Graph, Literal, Shape, Value};

/// Where the work of the scan is done; the result is the same.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct LstmForm {
    /// Whether `x W` is one large product before the loop, `[T, B, 4H]`, or one for each step.
    pub hoist_projection: bool,
    /// Whether the forward pass of a training graph stores the gates, `[T, B, 4H]`, or the backward pass computes
    /// them again.
    pub store_gates: bool,
    /// Whether the arrays over all steps have time as their first dimension, for which `x` is transposed. With batch
    /// first a step is a strided part of them and nothing is transposed.
    pub time_major: bool,
}

impl LstmForm {
    /// What XLA:CPU runs fastest: each step's product stays in the cache, storing is cheaper than a second product.
    pub const CPU: Self = Self { hoist_projection: false, store_gates: true, time_major: false };
    /// What suits a TPU: few, contiguous reads and writes of memory in each step, large products outside.
    pub const TPU: Self = Self { hoist_projection: true, store_gates: false, time_major: true };
}

impl Default for LstmForm {
    fn default() -> Self {
        Self::CPU
    }
}

/// The hidden state after the last step: `x [B, T, F]`, `kernel [F, 4H]`, `recurrent [H, 4H]`, `bias [4H]` -> `[B, H]`.
#[track_caller]
pub fn last_hidden(g: &mut Graph, x: Value, kernel: Value, recurrent: Value, bias: Value) -> Value {
    last_hidden_as(g, LstmForm::default(), x, kernel, recurrent, bias)
}

/// [`last_hidden`] in a chosen form.
#[track_caller]
pub fn last_hidden_as(
    g: &mut Graph,
    form: LstmForm,
    x: Value,
    kernel: Value,
    recurrent: Value,
    bias: Value,
) -> Value {
    let Some(scan) = Scan::new(g, form, [x, kernel, recurrent, bias]) else {
        let shapes = [x, kernel, recurrent, bias].map(|v| g.shape(v).to_string()).join(", ");
        let problem =
            format!("expected [B, T, F], [F, 4H], [H, 4H], [4H] of one floating-point type, found {shapes}");
        g.fail("lstm", Location::caller(), problem);
        return x;
    };
    let xs = if form.time_major { g.transpose(x, &[1, 0, 2]) } else { x };
    let [kernel, recurrent, bias] = [kernel, recurrent, bias].map(|v| scan.scale_columns(g, v));
    let inputs = [xs, kernel, recurrent, bias];
    let forward = |g: &mut Graph| {
        let (last, saved) = scan.forward(g, inputs);
        (vec![last], saved)
    };
    g.custom_vjp(&inputs, forward, move |g, saved, cotangents| scan.backward(g, inputs, saved, cotangents[0]))
        [0]
}

/// Extents and type of one scan.
#[derive(Copy, Clone)]
struct Scan {
    form: LstmForm,
    ty: ElementType,
    batch: usize,
    time: usize,
    units: usize,
}

/// What the forward pass leaves for the rule, time first: the state before each step, and perhaps the gates' tanh.
struct Saved {
    h: Value,
    c: Value,
    gates: Option<Value>,
}

/// The four gates from their packed tanh.
struct Gates {
    i: Value,
    f: Value,
    g: Value,
    o: Value,
}

impl Scan {
    fn new(g: &Graph, form: LstmForm, [x, kernel, recurrent, bias]: [Value; 4]) -> Option<Self> {
        let ty = g.shape(x).element_type;
        let (&[batch, time, features], &[units, _]) = (&g.shape(x).dims[..], &g.shape(recurrent).dims[..])
        else {
            return None;
        };
        let is = |v: Value, dims: &[usize]| *g.shape(v) == Shape::new(ty, dims);
        let fits = is(kernel, &[features, 4 * units])
            && is(recurrent, &[units, 4 * units])
            && is(bias, &[4 * units]);
        (fits && ty.is_float() && time > 0).then_some(Self { form, ty, batch, time, units })
    }

    /// Columns of the sigmoid gates times ½, which makes them `tanh` gates.
    fn scale_columns(&self, g: &mut Graph, v: Value) -> Value {
        let scales =
            (0..4 * self.units).map(|column| if column / self.units == 2 { 1.0 } else { 0.5 }).collect();
        let row = g.constant(Literal::new(self.ty, &[4 * self.units], scales));
        let dims = g.dims(v);
        let row = if dims.len() == 1 { row } else { g.broadcast(row, &dims, &[1]) };
        g.mul(v, row)
    }

    /// Extents of an array over all steps, or over one.
    fn dims(&self, steps: usize, width: usize) -> [usize; 3] {
        if self.form.time_major { [steps, self.batch, width] } else { [self.batch, steps, width] }
    }

    /// Zeros for every step.
    fn stored(&self, g: &mut Graph, width: usize) -> Value {
        g.full(self.ty, 0.0, &self.dims(self.time, width))
    }

    /// Where step `t` starts.
    fn start(&self, g: &mut Graph, t: Value) -> [Value; 3] {
        let zero = g.scalar(ElementType::S32, 0.0);
        if self.form.time_major { [t, zero, zero] } else { [zero, t, zero] }
    }

    /// The matrix of step `t`.
    fn at(&self, g: &mut Graph, stored: Value, t: Value) -> Value {
        let (width, start) = (g.dims(stored)[2], self.start(g, t));
        let row = g.dynamic_slice(stored, &start, &self.dims(1, width));
        g.reshape(row, &[self.batch, width])
    }

    /// `stored` with the matrix of step `t` replaced.
    fn put(&self, g: &mut Graph, stored: Value, t: Value, matrix: Value) -> Value {
        let (width, start) = (g.dims(matrix)[1], self.start(g, t));
        let row = g.reshape(matrix, &self.dims(1, width));
        g.dynamic_update_slice(stored, row, &start)
    }

    /// All steps of all rows as one matrix.
    fn flat(&self, g: &mut Graph, stored: Value) -> Value {
        let width = g.dims(stored)[2];
        g.reshape(stored, &[self.time * self.batch, width])
    }

    /// The `which`-th part of width H along the last dimension.
    fn part(&self, g: &mut Graph, packed: Value, which: usize) -> Value {
        let last = g.shape(packed).rank() - 1;
        g.slice_in_dim(packed, last, which * self.units, (which + 1) * self.units)
    }

    fn gates(&self, g: &mut Graph, packed: Value) -> Gates {
        let half = g.scalar(self.ty, 0.5);
        let mut sigmoid = |which| {
            let part = self.part(g, packed, which);
            let scaled = g.mul(part, half);
            g.add(scaled, half)
        };
        let (i, f, o) = (sigmoid(0), sigmoid(1), sigmoid(3));
        Gates { i, f, g: self.part(g, packed, 2), o }
    }

    /// `z + b`, the bias along the last dimension.
    fn add_bias(&self, g: &mut Graph, z: Value, bias: Value) -> Value {
        let dims = g.dims(z);
        let bias = g.broadcast(bias, &dims, &[dims.len() - 1]);
        g.add(z, bias)
    }

    /// The loop over time. Carry: step, h, c, input rows, weights, stored arrays.
    fn forward(self, g: &mut Graph, [xs, kernel, recurrent, bias]: [Value; 4]) -> (Value, Saved) {
        let step = g.scalar(ElementType::S32, 0.0);
        let state = g.full(self.ty, 0.0, &[self.batch, self.units]);
        let rows = if self.form.hoist_projection { g.matmul(xs, kernel) } else { xs };
        let (hs, cs) = (self.stored(g, self.units), self.stored(g, self.units));
        let mut carry = vec![step, state, state, rows, kernel, recurrent, bias, hs, cs];
        if self.form.store_gates {
            carry.push(self.stored(g, 4 * self.units));
        }
        let condition = move |g: &mut Graph, carry: &[Value]| {
            let end = g.scalar(ElementType::S32, self.time as f64);
            g.compare(carry[0], end, Comparison::Lt)
        };
        let end = g.while_loop(&carry, condition, move |g, carry| self.forward_step(g, carry));
        (end[1], Saved { h: end[7], c: end[8], gates: end.get(9).copied() })
    }

    fn forward_step(&self, g: &mut Graph, carry: &[Value]) -> Vec<Value> {
        let &[t, h, c, rows, kernel, recurrent, bias, hs, cs, ..] = carry else { return carry.to_vec() };
        let row = self.at(g, rows, t);
        let from_input = if self.form.hoist_projection { row } else { g.matmul(row, kernel) };
        let from_state = g.matmul(h, recurrent);
        let z = g.add(from_input, from_state);
        let z = self.add_bias(g, z, bias);
        let packed = g.tanh(z);
        let gates = self.gates(g, packed);
        let (kept, new) = (g.mul(gates.f, c), g.mul(gates.i, gates.g));
        let next_c = g.add(kept, new);
        let squashed = g.tanh(next_c);
        let next_h = g.mul(gates.o, squashed);
        let one = g.scalar(ElementType::S32, 1.0);
        let (next_t, hs, cs) = (g.add(t, one), self.put(g, hs, t, h), self.put(g, cs, t, c));
        let mut next = vec![next_t, next_h, next_c, rows, kernel, recurrent, bias, hs, cs];
        if let Some(&stored) = carry.get(9) {
            next.push(self.put(g, stored, t, packed));
        }
        next
    }

    /// Cotangents of the scaled inputs from that of the last hidden state.
    fn backward(&self, g: &mut Graph, inputs: [Value; 4], saved: &Saved, cotangent: Value) -> Vec<Value> {
        let [xs, kernel, recurrent, bias] = inputs;
        let packed = match saved.gates {
            Some(gates) => gates,
            None => {
                let (from_input, from_state) = (g.matmul(xs, kernel), g.matmul(saved.h, recurrent));
                let z = g.add(from_input, from_state);
                let z = self.add_bias(g, z, bias);
                g.tanh(z)
            }
        };
        let (slopes, factors) = self.coefficients(g, packed, saved.c);
        let dz = self.backward_loop(g, slopes, factors, recurrent, cotangent);
        let [rows, states, d_rows] = [xs, saved.h, dz].map(|v| self.flat(g, v));
        let over_rows =
            DotDimensions { lhs_contracting: vec![0], rhs_contracting: vec![0], ..Default::default() };
        let d_kernel = g.dot_general(rows, d_rows, over_rows.clone());
        let d_recurrent = g.dot_general(states, d_rows, over_rows);
        let d_bias = g.sum(dz, &[0, 1]);
        let transposed = g.transpose(kernel, &[1, 0]);
        vec![g.matmul(dz, transposed), d_kernel, d_recurrent, d_bias]
    }

    /// What the backward loop multiplies with at each step: with `dc` and `dh` the cotangents of the step's `c'` and
    /// `h'`, `dc += dh * factors[0]`, then `dz = (dc, dc, dc, dh) * slopes` and `dc *= factors[1]`.
    fn coefficients(&self, g: &mut Graph, packed: Value, c: Value) -> (Value, Value) {
        let gates = self.gates(g, packed);
        let (kept, new) = (g.mul(gates.f, c), g.mul(gates.i, gates.g));
        let next_c = g.add(kept, new);
        let squashed = g.tanh(next_c);
        let (one, half) = (g.scalar(self.ty, 1.0), g.scalar(self.ty, 0.5));
        let slope = |g: &mut Graph, tanh: Value| {
            let square = g.mul(tanh, tanh);
            g.sub(one, square)
        };
        // One packed slope of tanh; the ½ of the sigmoid gates (a = ½ tanh + ½) goes to what it is multiplied with.
        let slopes = slope(g, packed);
        let others = [gates.g, c, gates.i, squashed];
        let others = [0, 1, 2, 3].map(|j| if j == 2 { others[j] } else { g.mul(others[j], half) });
        let others = g.concatenate(&others, 2);
        let through_h = slope(g, squashed);
        let through_h = g.mul(gates.o, through_h);
        (g.mul(slopes, others), g.concatenate(&[through_h, gates.f], 2))
    }

    /// The loop back over time. Carry: step, dh, dc, slopes (replaced row by row with dz), factors, weights.
    fn backward_loop(
        &self,
        g: &mut Graph,
        slopes: Value,
        factors: Value,
        recurrent: Value,
        dh: Value,
    ) -> Value {
        let scan = *self;
        let last = g.scalar(ElementType::S32, self.time as f64 - 1.0);
        let dc = g.full(self.ty, 0.0, &[self.batch, self.units]);
        let transposed = g.transpose(recurrent, &[1, 0]);
        let carry = [last, dh, dc, slopes, factors, transposed];
        let condition = |g: &mut Graph, carry: &[Value]| {
            let zero = g.scalar(ElementType::S32, 0.0);
            g.compare(carry[0], zero, Comparison::Ge)
        };
        g.while_loop(&carry, condition, move |g, carry| scan.backward_step(g, carry))[3]
    }

    fn backward_step(&self, g: &mut Graph, carry: &[Value]) -> Vec<Value> {
        let &[t, dh, dc, slopes, factors, recurrent] = carry else { return carry.to_vec() };
        let (slope, factor) = (self.at(g, slopes, t), self.at(g, factors, t));
        let (through_h, forget) = (self.part(g, factor, 0), self.part(g, factor, 1));
        let through_h = g.mul(dh, through_h);
        let dc = g.add(dc, through_h);
        let packed = g.concatenate(&[dc, dc, dc, dh], 1);
        let dz = g.mul(packed, slope);
        let slopes = self.put(g, slopes, t, dz);
        let one = g.scalar(ElementType::S32, 1.0);
        vec![g.sub(t, one), g.matmul(dz, recurrent), g.mul(dc, forget), slopes, factors, recurrent]
    }
}
