//! The rules of dots and convolutions: products are linear in each operand, so each cotangent is a product of the
//! same kind with the other operand.

use super::{Cotangents, inverse};
use crate::infer::dilated;
use crate::op::Op;
use crate::{ConvolutionConfig, ConvolutionWindow, DotDimensions, Graph, Precision, Value};

/// Free dimensions of one operand of a dot.
fn free(rank: usize, batch: &[usize], contracting: &[usize]) -> Vec<usize> {
    (0..rank).filter(|d| !batch.contains(d) && !contracting.contains(d)).collect()
}

pub(super) fn dot(
    g: &mut Graph,
    v: &[Value],
    d: &DotDimensions,
    precision: Precision,
    ct: Value,
) -> Cotangents {
    let swapped = DotDimensions {
        lhs_contracting: d.rhs_contracting.clone(),
        rhs_contracting: d.lhs_contracting.clone(),
        lhs_batch: d.rhs_batch.clone(),
        rhs_batch: d.lhs_batch.clone(),
    };
    let (ranks, batch) = ([g.shape(v[0]).rank(), g.shape(v[1]).rank()], d.lhs_batch.len());
    let left_free = ranks[0] - batch - d.lhs_contracting.len();
    // The result's dimensions: batch, free of the left operand, free of the right operand.
    let right_in_ct: Vec<usize> = (batch + left_free..g.shape(ct).rank()).collect();
    let left_in_ct: Vec<usize> = (batch..batch + left_free).collect();
    let left = one_side(g, d, ranks, v[1], &right_in_ct, precision, ct);
    let right = one_side(g, &swapped, [ranks[1], ranks[0]], v[0], &left_in_ct, precision, ct);
    vec![Some(left), Some(right)]
}

/// The cotangent of the left operand of a dot: contracts the right operand's free dimensions.
fn one_side(
    g: &mut Graph,
    d: &DotDimensions,
    ranks: [usize; 2],
    other: Value,
    other_in_ct: &[usize],
    precision: Precision,
    ct: Value,
) -> Value {
    let batch: Vec<usize> = (0..d.lhs_batch.len()).collect();
    let dims = DotDimensions {
        lhs_contracting: other_in_ct.to_vec(),
        rhs_contracting: free(ranks[1], &d.rhs_batch, &d.rhs_contracting),
        lhs_batch: batch,
        rhs_batch: d.rhs_batch.clone(),
    };
    let product = g.push(Op::Dot { dims, precision }, &[ct, other]);
    // It has: batch, free of this operand, contracted in the order in which the other operand holds them.
    let mut contracted: Vec<(usize, usize)> =
        d.rhs_contracting.iter().copied().zip(d.lhs_contracting.iter().copied()).collect();
    contracted.sort_unstable();
    let mut order = d.lhs_batch.clone();
    order.extend(free(ranks[0], &d.lhs_batch, &d.lhs_contracting));
    order.extend(contracted.into_iter().map(|(_, mine)| mine));
    if order.iter().copied().eq(0..ranks[0]) { product } else { g.transpose(product, &inverse(&order)) }
}

pub(super) fn convolution(
    g: &mut Graph,
    v: &[Value],
    c: &ConvolutionConfig,
    precision: Precision,
    ct: Value,
) -> Cotangents {
    vec![Some(of_input(g, v, c, precision, ct)), Some(of_kernel(g, v, c, precision, ct))]
}

/// Extents of one spatial dimension with their dilations: input, kernel, and result spread by the stride.
fn extents(g: &Graph, v: &[Value], c: &ConvolutionConfig, ct: Value, i: usize) -> (i64, i64, i64) {
    let w = &c.windows[i];
    let input = dilated(g.shape(v[0]).dims[c.lhs_spatial[i]], w.lhs_dilation);
    let kernel = dilated(g.shape(v[1]).dims[c.rhs_spatial[i]], w.rhs_dilation);
    (input, kernel, dilated(g.shape(ct).dims[c.out_spatial[i]], w.stride))
}

/// The cotangent, spread by the stride, is convolved with the kernel turned round: turned as an array, since XLA:CPU
/// runs a convolution with window reversal an order of magnitude slower.
fn of_input(g: &mut Graph, v: &[Value], c: &ConvolutionConfig, precision: Precision, ct: Value) -> Value {
    let windows = (0..c.windows.len())
        .map(|i| {
            let (w, (input, kernel, result)) = (c.windows[i], extents(g, v, c, ct, i));
            ConvolutionWindow {
                stride: w.lhs_dilation,
                low: kernel - 1 - w.low,
                high: input + w.low - result,
                lhs_dilation: w.stride,
                rhs_dilation: w.rhs_dilation,
                reversal: w.reversal,
            }
        })
        .collect();
    let config = ConvolutionConfig {
        lhs_batch: c.out_batch,
        lhs_feature: c.out_feature,
        lhs_spatial: c.out_spatial.clone(),
        rhs_input: c.rhs_output,
        rhs_output: c.rhs_input,
        rhs_spatial: c.rhs_spatial.clone(),
        out_batch: c.lhs_batch,
        out_feature: c.lhs_feature,
        out_spatial: c.lhs_spatial.clone(),
        windows,
    };
    let turned = g.reverse(v[1], &c.rhs_spatial);
    g.push(Op::Convolution { config, precision }, &[ct, turned])
}

/// The input is convolved with the cotangent as kernel: the batch is what the sum runs over.
fn of_kernel(g: &mut Graph, v: &[Value], c: &ConvolutionConfig, precision: Precision, ct: Value) -> Value {
    let windows = (0..c.windows.len())
        .map(|i| {
            let (w, (input, kernel, result)) = (c.windows[i], extents(g, v, c, ct, i));
            ConvolutionWindow {
                stride: w.rhs_dilation,
                low: w.low,
                high: kernel - 1 + result - input - w.low,
                lhs_dilation: w.lhs_dilation,
                rhs_dilation: w.stride,
                reversal: false,
            }
        })
        .collect();
    let config = ConvolutionConfig {
        lhs_batch: c.lhs_feature,
        lhs_feature: c.lhs_batch,
        lhs_spatial: c.lhs_spatial.clone(),
        rhs_input: c.out_batch,
        rhs_output: c.out_feature,
        rhs_spatial: c.out_spatial.clone(),
        out_batch: c.rhs_input,
        out_feature: c.rhs_output,
        out_spatial: c.rhs_spatial.clone(),
        windows,
    };
    let kernel = g.push(Op::Convolution { config, precision }, &[v[0], ct]);
    let backwards = c.windows.iter().zip(&c.rhs_spatial).filter(|(w, _)| w.reversal).map(|(_, &d)| d);
    let backwards: Vec<usize> = backwards.collect();
    if backwards.is_empty() { kernel } else { g.reverse(kernel, &backwards) }
}
