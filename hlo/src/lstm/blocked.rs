//! The scan in blocks of steps: what suits a TPU.
//!
//! There each operation of a step that reads or writes the large memory costs more than the step's arithmetic. So an
//! outer loop moves a block of steps between that memory and the fast one, and an inner loop, several steps to a round,
//! stays in it. Time comes first, so that a block is contiguous. Stored are the projected input and, before each step,
//! the hidden and the cell state; the backward pass computes a block's gates again with one product, and its weight
//! gradients with another. With products in bfloat16, what only enters products is stored in bfloat16.

use super::{Extents, Gates};
use crate::{DotDimensions, ElementType, Graph, Precision, Value};

/// Steps in a block, and in a round of the inner loop.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Steps in a block; what is left over makes one shorter block, the last.
    pub steps: usize,
    /// Steps in a round of the inner loop.
    pub unroll: usize,
}

/// What the forward pass leaves for the rule, time first.
pub(super) struct Saved {
    xs: Value,
    /// `x W + b`, `[T, B, 4H]`.
    z: Value,
    /// States before each step, `[T, B, H]`.
    hs: Value,
    cs: Value,
}

/// The scan in its blocks.
#[derive(Copy, Clone)]
pub(super) struct Blocked {
    pub(super) e: Extents,
    pub(super) blocks: Blocks,
    /// Type of what only enters products.
    pub(super) stream: ElementType,
}

impl Blocked {
    pub(super) fn new(g: &Graph, e: Extents, blocks: Blocks) -> Self {
        let narrow = g.precision() == Precision::Bf16 && e.ty == ElementType::F32;
        Self { e, blocks, stream: if narrow { ElementType::Bf16 } else { e.ty } }
    }

    /// The last hidden state.
    pub(super) fn forward(self, g: &mut Graph, [xs, kernel, recurrent, bias]: [Value; 4]) -> (Value, Saved) {
        let e = self.e;
        let xs = g.convert(xs, self.stream);
        let xs = g.transpose(xs, &[1, 0, 2]);
        let z = g.matmul(xs, kernel);
        let bias = g.broadcast(bias, &[e.time, e.batch, 4 * e.units], &[2]);
        let z = g.add(z, bias);
        let z = g.convert(z, self.stream);
        let state = g.full(e.ty, 0.0, &[e.batch, e.units]);
        let hs = g.full(self.stream, 0.0, &[e.time, e.batch, e.units]);
        let cs = g.full(e.ty, 0.0, &[e.time, e.batch, e.units]);
        let block = move |g: &mut Graph, start: Value, steps: usize, carry: &[Value], fixed: &[Value]| {
            self.forward_block(g, start, steps, carry, fixed)
        };
        let done =
            in_parts(g, false, [e.time, self.blocks.steps], &[state, state, hs, cs], &[z, recurrent], block);
        (done[0], Saved { xs, z, hs: done[2], cs: done[3] })
    }

    fn forward_block(
        &self,
        g: &mut Graph,
        start: Value,
        steps: usize,
        carry: &[Value],
        fixed: &[Value],
    ) -> Vec<Value> {
        let (&[h, c, hs, cs], &[z, recurrent]) = (carry, fixed) else { return carry.to_vec() };
        let (e, rows) = (self.e, block_of(g, z, start, steps));
        let hb = g.full(self.stream, 0.0, &[steps, e.batch, e.units]);
        let cb = g.full(e.ty, 0.0, &[steps, e.batch, e.units]);
        let round = move |g: &mut Graph, first: Value, count: usize, carry: &[Value], fixed: &[Value]| {
            let (&[mut h, mut c, hb, cb], &[rows, recurrent]) = (carry, fixed) else { return carry.to_vec() };
            let rows = block_of(g, rows, first, count);
            let (mut before_h, mut before_c) = (Vec::new(), Vec::new());
            for step in 0..count {
                let narrow = g.convert(h, self.stream);
                before_h.push(narrow);
                before_c.push(c);
                let row = g.slice_in_dim(rows, 0, step, step + 1);
                let row = g.reshape(row, &[e.batch, 4 * e.units]);
                let row = g.convert(row, e.ty);
                let from_state = g.matmul(narrow, recurrent);
                let z = g.add(row, from_state);
                let packed = g.tanh(z);
                let gates = e.gates(g, packed);
                c = e.next_cell(g, &gates, c);
                let squashed = g.tanh(c);
                h = g.mul(gates.o, squashed);
            }
            vec![h, c, put_steps(g, hb, first, &before_h), put_steps(g, cb, first, &before_c)]
        };
        let done =
            in_parts(g, false, [steps, self.blocks.unroll], &[h, c, hb, cb], &[rows, recurrent], round);
        vec![done[0], done[1], put_block(g, hs, start, done[2]), put_block(g, cs, start, done[3])]
    }

    /// Cotangents of the scaled inputs from that of the last hidden state.
    pub(super) fn backward(
        self,
        g: &mut Graph,
        [_, kernel, recurrent, _]: [Value; 4],
        saved: &Saved,
        cotangent: Value,
    ) -> Vec<Value> {
        let e = self.e;
        let transposed = g.transpose(recurrent, &[1, 0]);
        let dc = g.full(e.ty, 0.0, &[e.batch, e.units]);
        let d_recurrent = g.zeros_like(recurrent);
        let dz = g.full(self.stream, 0.0, &[e.time, e.batch, 4 * e.units]);
        let fixed = [saved.z, saved.hs, saved.cs, recurrent, transposed];
        let block = move |g: &mut Graph, start: Value, steps: usize, carry: &[Value], fixed: &[Value]| {
            self.backward_block(g, start, steps, carry, fixed)
        };
        let done =
            in_parts(g, true, [e.time, self.blocks.steps], &[cotangent, dc, d_recurrent, dz], &fixed, block);
        let (d_recurrent, dz) = (done[2], done[3]);
        let d_kernel = over_steps(g, saved.xs, dz);
        let wide = g.convert(dz, e.ty);
        let d_bias = g.sum(wide, &[0, 1]);
        let transposed = g.transpose(kernel, &[1, 0]);
        let d_xs = g.matmul(dz, transposed);
        vec![g.transpose(d_xs, &[1, 0, 2]), d_kernel, d_recurrent, d_bias]
    }

    fn backward_block(
        &self,
        g: &mut Graph,
        start: Value,
        steps: usize,
        carry: &[Value],
        fixed: &[Value],
    ) -> Vec<Value> {
        let (&[dh, dc, d_recurrent, dz], &[z, hs, cs, recurrent, transposed]) = (carry, fixed) else {
            return carry.to_vec();
        };
        let e = self.e;
        let [rows, hb, cb] = [z, hs, cs].map(|v| block_of(g, v, start, steps));
        let from_state = g.matmul(hb, recurrent);
        let rows = g.convert(rows, e.ty);
        let z = g.add(rows, from_state);
        let packed = g.tanh(z);
        let (slopes, factors) = self.coefficients(g, packed, cb);
        let block = g.full(self.stream, 0.0, &[steps, e.batch, 4 * e.units]);
        let round = move |g: &mut Graph, first: Value, count: usize, carry: &[Value], fixed: &[Value]| {
            let (&[mut dh, mut dc, block], &[slopes, factors, transposed]) = (carry, fixed) else {
                return carry.to_vec();
            };
            let [slopes, factors] = [slopes, factors].map(|v| block_of(g, v, first, count));
            let mut written = Vec::new();
            for step in (0..count).rev() {
                let [slope, factor] = [(slopes, 4), (factors, 2)].map(|(v, parts)| {
                    let row = g.slice_in_dim(v, 0, step, step + 1);
                    g.reshape(row, &[e.batch, parts * e.units])
                });
                let (through_h, forget) = (e.part(g, factor, 0), e.part(g, factor, 1));
                let through_h = g.mul(dh, through_h);
                dc = g.add(dc, through_h);
                let packed = g.concatenate(&[dc, dc, dc, dh], 1);
                let dz = g.mul(packed, slope);
                let dz = g.convert(dz, self.stream);
                dh = g.matmul(dz, transposed);
                dc = g.mul(dc, forget);
                written.insert(0, dz);
            }
            vec![dh, dc, put_steps(g, block, first, &written)]
        };
        let fixed = [slopes, factors, transposed];
        let done = in_parts(g, true, [steps, self.blocks.unroll], &[dh, dc, block], &fixed, round);
        let part = over_steps(g, hb, done[2]);
        vec![done[0], done[1], g.add(d_recurrent, part), put_block(g, dz, start, done[2])]
    }

    /// What a step back multiplies with: with `dc` and `dh` the cotangents of the step's `c'` and `h'`, `dc += dh ·
    /// factors[0]`, then `dz = (dc, dc, dc, dh) · slopes` and `dc *= factors[1]`.
    fn coefficients(&self, g: &mut Graph, packed: Value, c: Value) -> (Value, Value) {
        let e = self.e;
        let gates: Gates = e.gates(g, packed);
        let next_c = e.next_cell(g, &gates, c);
        let squashed = g.tanh(next_c);
        let (one, half) = (g.scalar(e.ty, 1.0), g.scalar(e.ty, 0.5));
        let slope = |g: &mut Graph, tanh: Value| {
            let square = g.mul(tanh, tanh);
            g.sub(one, square)
        };
        let slopes = slope(g, packed);
        // a = ½ tanh + ½ for the sigmoid gates.
        let [by_i, by_f, by_o] = [gates.g, c, squashed].map(|v| g.mul(v, half));
        let others = g.concatenate(&[by_i, by_f, gates.i, by_o], 2);
        let through_h = slope(g, squashed);
        let through_h = g.mul(gates.o, through_h);
        (g.mul(slopes, others), g.concatenate(&[through_h, gates.f], 2))
    }
}

/// `body` for each part of `length` steps of `total`, from the first to the last or back, in a loop, and for what is
/// left over at the end: it takes where the part starts and how many steps it has.
fn in_parts(
    g: &mut Graph,
    back: bool,
    [total, length]: [usize; 2],
    carry: &[Value],
    fixed: &[Value],
    body: impl Fn(&mut Graph, Value, usize, &[Value], &[Value]) -> Vec<Value>,
) -> Vec<Value> {
    let (whole, rest) = (total / length, total % length);
    let mut carry = carry.to_vec();
    let last = |g: &mut Graph, carry: Vec<Value>| {
        let start = g.scalar(ElementType::S32, (whole * length) as f64);
        if rest > 0 { body(g, start, rest, &carry, fixed) } else { carry }
    };
    if back {
        carry = last(g, carry);
    }
    if whole > 0 {
        carry = g.counted_loop(whole, &carry, fixed, |g, round, carry, fixed| {
            let length_value = g.scalar(ElementType::S32, length as f64);
            let end = g.scalar(ElementType::S32, whole as f64 - 1.0);
            let round = if back { g.sub(end, round) } else { round };
            let start = g.mul(round, length_value);
            body(g, start, length, carry, fixed)
        });
    }
    if back { carry } else { last(g, carry) }
}

/// `[T, ..] -> [steps, ..]`, from step `start` on.
fn block_of(g: &mut Graph, stored: Value, start: Value, steps: usize) -> Value {
    let mut dims = g.dims(stored);
    dims[0] = steps;
    let start = starts(g, start, dims.len());
    g.dynamic_slice(stored, &start, &dims)
}

fn put_block(g: &mut Graph, stored: Value, start: Value, block: Value) -> Value {
    let start = starts(g, start, g.shape(stored).rank());
    g.dynamic_update_slice(stored, block, &start)
}

/// `stored` `[T, B, W]` with the matrices of consecutive steps replaced.
fn put_steps(g: &mut Graph, stored: Value, first: Value, steps: &[Value]) -> Value {
    let rows: Vec<Value> = steps
        .iter()
        .map(|&step| {
            let dims = g.dims(step);
            g.reshape(step, &[1, dims[0], dims[1]])
        })
        .collect();
    let rows = g.concatenate(&rows, 0);
    put_block(g, stored, first, rows)
}

fn starts(g: &mut Graph, start: Value, rank: usize) -> Vec<Value> {
    let zero = g.scalar(ElementType::S32, 0.0);
    let mut starts = vec![zero; rank];
    starts[0] = start;
    starts
}

/// `Σ left ⊗ right` over time and batch: `[T, B, M], [T, B, N] -> [M, N]`.
fn over_steps(g: &mut Graph, left: Value, right: Value) -> Value {
    let both =
        DotDimensions { lhs_contracting: vec![0, 1], rhs_contracting: vec![0, 1], ..Default::default() };
    g.dot_general(left, right, both)
}
