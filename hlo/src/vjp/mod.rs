//! Vector-Jacobian products: one small rule for each operation.
//!
//! A rule takes the cotangent of a node's result to those of its operands. Operations that no model here
//! differentiates have no rule and say so in the same exhaustive match: [`Graph::gradients`] then reports the
//! operation and where it was made.

mod products;

use crate::graph::Node;
use crate::infer::dilated;
use crate::op::{Binary, Op, Unary};
use crate::{Comparison, Graph, PadDimension, Reducer, Value};

/// One cotangent for each operand; `None` for an operand that takes none.
type Cotangents = Vec<Option<Value>>;

/// The rule of the node at `index`; `None` if it has no rule.
pub(crate) fn vjp(g: &mut Graph, index: usize, ct: Value) -> Option<Cotangents> {
    let (op, out) = (g.nodes[index].op.clone(), g.value(index));
    let Node { operands, .. } = &g.nodes[index];
    let v = operands.clone();
    let parts = match &*op {
        Op::Parameter { .. } | Op::Constant(_) | Op::Iota { .. } | Op::ReplicaId | Op::StopGradient => vec![],
        Op::Unary(op) => vec![Some(unary(g, *op, v[0], out, ct)?)],
        Op::Binary(op) => binary(g, *op, &v, out, ct)?,
        Op::Select => select(g, v[0], ct),
        Op::Convert(_) => vec![Some(ct)],
        Op::Broadcast { mapping, .. } => vec![Some(broadcast(g, mapping, ct))],
        Op::Reshape(_) => {
            let dims = g.dims(v[0]);
            vec![Some(g.reshape(ct, &dims))]
        }
        Op::Transpose(permutation) => vec![Some(g.transpose(ct, &inverse(permutation)))],
        Op::Slice { starts, strides, .. } => vec![Some(slice(g, v[0], starts, strides, ct))],
        Op::Concatenate(dimension) => concatenate(g, &v, *dimension, ct),
        Op::Dot { dims, precision } => products::dot(g, &v, dims, *precision, ct),
        Op::Convolution { config, precision } => products::convolution(g, &v, config, *precision, ct),
        Op::Reduce { dims, reducer: Reducer::Add } => vec![Some(sum(g, v[0], dims, ct))],
        Op::AllReduce(Reducer::Add) if v.len() == 1 => vec![Some(g.all_reduce(ct, Reducer::Add))],
        Op::Compare(_)
        | Op::BitcastConvert(_)
        | Op::Reverse(_)
        | Op::Pad(_)
        | Op::DynamicSlice(_)
        | Op::DynamicUpdateSlice
        | Op::Reduce { .. }
        | Op::ReduceWindow { .. }
        | Op::AllReduce(_)
        | Op::While { .. }
        | Op::Element(_) => return None,
    };
    Some(parts)
}

/// The permutation that undoes this one.
fn inverse(permutation: &[usize]) -> Vec<usize> {
    let mut result = vec![0; permutation.len()];
    for (to, &from) in permutation.iter().enumerate() {
        result[from] = to;
    }
    result
}

fn unary(g: &mut Graph, op: Unary, x: Value, out: Value, ct: Value) -> Option<Value> {
    Some(match op {
        Unary::Neg => g.neg(ct),
        Unary::Exp => g.mul(ct, out),
        Unary::Log => g.div(ct, x),
        Unary::Tanh => {
            let one = g.scalar_like(out, 1.0);
            let square = g.mul(out, out);
            let slope = g.sub(one, square);
            g.mul(ct, slope)
        }
        Unary::Rsqrt => {
            let half = g.scalar_like(out, -0.5);
            let square = g.mul(out, out);
            let cube = g.mul(square, out);
            let slope = g.mul(cube, half);
            g.mul(ct, slope)
        }
        Unary::Sqrt | Unary::Abs | Unary::Floor | Unary::Not => return None,
    })
}

fn binary(g: &mut Graph, op: Binary, v: &[Value], out: Value, ct: Value) -> Option<Cotangents> {
    let (a, b) = (v[0], v[1]);
    let (left, right) = match op {
        Binary::Add => (ct, ct),
        Binary::Sub => (ct, g.neg(ct)),
        Binary::Mul => (g.mul(ct, b), g.mul(ct, a)),
        Binary::Div => {
            let left = g.div(ct, b);
            let scaled = g.mul(left, out);
            (left, g.neg(scaled))
        }
        Binary::Max => chosen(g, a, b, Comparison::Gt, ct),
        Binary::Min => chosen(g, a, b, Comparison::Lt, ct),
        Binary::Pow | Binary::Rem | Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => {
            return None;
        }
    };
    Some(vec![Some(left), Some(right)])
}

/// The cotangent goes to `a` where it wins strictly, else to `b`.
fn chosen(g: &mut Graph, a: Value, b: Value, wins: Comparison, ct: Value) -> (Value, Value) {
    let won = g.compare(a, b, wins);
    let zero = g.scalar_like(ct, 0.0);
    (g.select(won, ct, zero), g.select(won, zero, ct))
}

fn select(g: &mut Graph, pred: Value, ct: Value) -> Cotangents {
    let zero = g.scalar_like(ct, 0.0);
    vec![None, Some(g.select(pred, ct, zero)), Some(g.select(pred, zero, ct))]
}

fn broadcast(g: &mut Graph, mapping: &[usize], ct: Value) -> Value {
    let repeated: Vec<usize> = (0..g.shape(ct).rank()).filter(|d| !mapping.contains(d)).collect();
    if repeated.is_empty() { ct } else { g.sum(ct, &repeated) }
}

fn slice(g: &mut Graph, operand: Value, starts: &[usize], strides: &[usize], ct: Value) -> Value {
    let (whole, part) = (g.dims(operand), g.dims(ct));
    let padding: Vec<PadDimension> = (0..whole.len())
        .map(|d| {
            let low = starts[d] as i64;
            let high = whole[d] as i64 - low - dilated(part[d], strides[d]);
            PadDimension { low, high, interior: strides[d] - 1 }
        })
        .collect();
    let zero = g.scalar_like(ct, 0.0);
    g.pad(ct, zero, &padding)
}

fn concatenate(g: &mut Graph, operands: &[Value], dimension: usize, ct: Value) -> Cotangents {
    let mut start = 0;
    operands
        .iter()
        .map(|&v| {
            let limit = start + g.shape(v).dims[dimension];
            let part = g.slice_in_dim(ct, dimension, start, limit);
            start = limit;
            Some(part)
        })
        .collect()
}

fn sum(g: &mut Graph, operand: Value, dims: &[usize], ct: Value) -> Value {
    let whole = g.dims(operand);
    let kept: Vec<usize> = (0..whole.len()).filter(|d| !dims.contains(d)).collect();
    g.broadcast(ct, &whole, &kept)
}
