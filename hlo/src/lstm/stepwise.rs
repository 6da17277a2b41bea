//! The scan one step at a time: what XLA:CPU runs fastest.
//!
//! A step's arrays are small, so what counts is how few kernels it is made of: XLA:CPU runs a loop body of at most
//! eight kernels one after another in one thread and hands the kernels of a longer one to its thread pool, which costs
//! more than they do. Hence one array, `record [B, T + 2, 7, H]`, from which a step reads what it needs and into which it
//! writes in place: behind one entry of zeros, each step's entry has the four gates' packed tanh, the cell state after
//! the step, its tanh, and the hidden state; a last entry of zeros stands for the end. The backward loop writes the
//! cotangents of the pre-activations over the gates, and that of the cell state before the step over the cell state.
//! Every read of the array leads to the write, so that the compiler can keep it in place. Batch first, nothing is
//! transposed; the products over all steps are taken outside of the loops, one row of the batch at a time.

use super::Extents;
use crate::{Comparison, DotDimensions, ElementType, Graph, Value};

/// Parts of a step's entry.
const GATES: usize = 4;
const CELL: usize = 4;
const SQUASHED: usize = 5;
const HIDDEN: usize = 6;
const PARTS: usize = 7;

/// The last hidden state, and the record.
pub(super) fn forward(
    g: &mut Graph,
    e: Extents,
    [xs, kernel, recurrent, bias]: [Value; 4],
) -> (Value, Value) {
    let record = projected(g, e, xs, kernel, bias);
    let record = g.counted_loop(e.time, &[record], &[recurrent], move |g, t, carry, fixed| {
        let (record, recurrent) = (carry[0], fixed[0]);
        let one = g.scalar(ElementType::S32, 1.0);
        let entry = g.add(t, one);
        let h = part(g, record, t, HIDDEN, 1);
        let from_state = g.matmul(h, recurrent);
        let from_input = part(g, record, entry, 0, GATES);
        let z = g.add(from_input, from_state);
        let packed = g.tanh(z);
        let gates = e.gates(g, packed);
        let c = part(g, record, t, CELL, 1);
        let next_c = e.next_cell(g, &gates, c);
        let squashed = g.tanh(next_c);
        let next_h = g.mul(gates.o, squashed);
        let packed: Vec<Value> = (0..GATES).map(|k| e.part(g, packed, k)).collect();
        let parts = interleave(g, e, &[&packed[..], &[next_c, squashed, next_h]].concat());
        vec![put(g, record, entry, parts)]
    })[0];
    let end = g.scalar(ElementType::S32, e.time as f64);
    (part(g, record, end, HIDDEN, 1), record)
}

/// The record before the first step: `x W + b` in the place of the gates, zeros elsewhere.
fn projected(g: &mut Graph, e: Extents, xs: Value, kernel: Value, bias: Value) -> Value {
    let record = g.full(e.ty, 0.0, &[e.batch, e.time + 2, PARTS, e.units]);
    g.counted_loop(e.batch, &[record], &[xs, kernel, bias], move |g, row, carry, fixed| {
        let (&[record], &[xs, kernel, bias]) = (carry, fixed) else { return carry.to_vec() };
        let x = g.row(xs, row);
        let z = g.matmul(x, kernel);
        let bias = g.broadcast(bias, &[e.time, 4 * e.units], &[1]);
        let z = g.add(z, bias);
        let z = g.reshape(z, &[1, e.time, GATES, e.units]);
        let (zero, one) = (g.scalar(ElementType::S32, 0.0), g.scalar(ElementType::S32, 1.0));
        vec![g.dynamic_update_slice(record, z, &[row, one, zero, zero])]
    })[0]
}

/// Cotangents of the scaled inputs from that of the last hidden state.
pub(super) fn backward(
    g: &mut Graph,
    e: Extents,
    [xs, kernel, recurrent, _]: [Value; 4],
    record: Value,
    cotangent: Value,
) -> Vec<Value> {
    let record = scan_back(g, e, recurrent, record, cotangent);
    let over_time =
        DotDimensions { lhs_contracting: vec![0], rhs_contracting: vec![0], ..Default::default() };
    let transposed = g.transpose(kernel, &[1, 0]);
    let d_bias = g.full(e.ty, 0.0, &[4 * e.units]);
    let sums = [g.zeros_like(xs), g.zeros_like(kernel), g.zeros_like(recurrent), d_bias];
    let fixed = [xs, record, transposed];
    g.counted_loop(e.batch, &sums, &fixed, move |g, row, carry, fixed| {
        let (&[d_xs, d_kernel, d_recurrent, d_bias], &[xs, record, transposed]) = (carry, fixed) else {
            return carry.to_vec();
        };
        let (x, record) = (g.row(xs, row), g.row(record, row));
        let h = g.slice(record, &[0, HIDDEN, 0], &[e.time, HIDDEN + 1, e.units], &[1, 1, 1]);
        let h = g.reshape(h, &[e.time, e.units]);
        let dz = g.slice(record, &[1, 0, 0], &[e.time + 1, GATES, e.units], &[1, 1, 1]);
        let dz = g.reshape(dz, &[e.time, 4 * e.units]);
        let from_input = g.dot_general(x, dz, over_time.clone());
        let from_state = g.dot_general(h, dz, over_time);
        let (d_x, sum) = (g.matmul(dz, transposed), g.sum(dz, &[0]));
        vec![
            g.put_row(d_xs, row, d_x),
            g.add(d_kernel, from_input),
            g.add(d_recurrent, from_state),
            g.add(d_bias, sum),
        ]
    })
}

/// The loop back over time: in the place of each step's gates the cotangents of its pre-activations.
fn scan_back(g: &mut Graph, e: Extents, recurrent: Value, record: Value, cotangent: Value) -> Value {
    let transposed = g.transpose(recurrent, &[1, 0]);
    let fixed = [transposed, cotangent];
    g.counted_loop(e.time, &[record], &fixed, move |g, round, carry, fixed| {
        let &[transposed, cotangent] = fixed else { return carry.to_vec() };
        let record = carry[0];
        let one = g.scalar(ElementType::S32, 1.0);
        let last = g.scalar(ElementType::S32, e.time as f64);
        let entry = g.sub(last, round);
        let (before, after) = (g.sub(entry, one), g.add(entry, one));
        // What the step behind has written, zeros behind the last, which gets its cotangent from outside.
        let behind = part(g, record, after, 0, GATES + 1);
        let d_gates = g.slice_in_dim(behind, 1, 0, GATES * e.units);
        let dh = g.matmul(d_gates, transposed);
        let first = g.scalar(ElementType::S32, 0.0);
        let is_last = g.compare(round, first, Comparison::Eq);
        let dh = g.select(is_last, cotangent, dh);
        let dc = e.part(g, behind, CELL);
        let step = part(g, record, entry, 0, SQUASHED + 1);
        let c = part(g, record, before, CELL, 1);
        let d_entry = step_back(g, e, step, c, dh, dc);
        vec![put(g, record, entry, d_entry)]
    })[0]
}

/// The cotangents of a step's pre-activations and of the cell state before it, `[B, 5, H]`, from its entry, the cell
/// state before it and the cotangents of the hidden and the cell state after it.
fn step_back(g: &mut Graph, e: Extents, step: Value, c: Value, dh: Value, dc: Value) -> Value {
    let (gates, squashed) = (e.gates(g, step), e.part(g, step, SQUASHED));
    let (one, half) = (g.scalar(e.ty, 1.0), g.scalar(e.ty, 0.5));
    let slope = |g: &mut Graph, tanh: Value| {
        let square = g.mul(tanh, tanh);
        g.sub(one, square)
    };
    let through_h = slope(g, squashed);
    let through_h = g.mul(gates.o, through_h);
    let through_h = g.mul(dh, through_h);
    let dc = g.add(dc, through_h);
    let by = |g: &mut Graph, d: Value, other: Value, k: usize| {
        let tanh = e.part(g, step, k);
        let slope = slope(g, tanh);
        let product = g.mul(d, other);
        let product = g.mul(product, slope);
        // a = ½ tanh + ½ for the sigmoid gates.
        if k == 2 { product } else { g.mul(product, half) }
    };
    let d_gates = [by(g, dc, gates.g, 0), by(g, dc, c, 1), by(g, dc, gates.i, 2), by(g, dh, squashed, 3)];
    let d_cell = g.mul(dc, gates.f);
    interleave(g, e, &[&d_gates[..], &[d_cell]].concat())
}

/// Arrays `[B, H]` as parts of one `[B, n, H]`: by selection, which compilers merge with what makes and uses it, where
/// they write a concatenation's operands first.
fn interleave(g: &mut Graph, e: Extents, parts: &[Value]) -> Value {
    let dims = [e.batch, parts.len(), e.units];
    let mut all = g.broadcast(parts[0], &dims, &[0, 2]);
    for (k, &v) in parts.iter().enumerate().skip(1) {
        let (here, v) = (place(g, e, parts.len(), k), g.broadcast(v, &dims, &[0, 2]));
        all = g.select(here, v, all);
    }
    all
}

/// Where the `k`-th of `parts` parts is, `[B, parts, H]`.
fn place(g: &mut Graph, e: Extents, parts: usize, k: usize) -> Value {
    let index = g.iota(ElementType::S32, &[e.batch, parts, e.units], 1);
    let k = g.scalar(ElementType::S32, k as f64);
    g.compare(index, k, Comparison::Eq)
}

/// `count` parts of step `t`, side by side: `[B, T, n, H] -> [B, count H]`.
fn part(g: &mut Graph, stored: Value, t: Value, first: usize, count: usize) -> Value {
    let dims = g.dims(stored);
    let start = start(g, t, first);
    let parts = g.dynamic_slice(stored, &start, &[dims[0], 1, count, dims[3]]);
    g.reshape(parts, &[dims[0], count * dims[3]])
}

/// `stored` with the first parts of step `t` replaced by `parts` `[B, n, H]`.
fn put(g: &mut Graph, stored: Value, t: Value, parts: Value) -> Value {
    let dims = g.dims(parts);
    let (start, step) = (start(g, t, 0), g.reshape(parts, &[dims[0], 1, dims[1], dims[2]]));
    g.dynamic_update_slice(stored, step, &start)
}

fn start(g: &mut Graph, t: Value, part: usize) -> [Value; 4] {
    let (zero, part) = (g.scalar(ElementType::S32, 0.0), g.scalar(ElementType::S32, part as f64));
    [zero, t, part, zero]
}
