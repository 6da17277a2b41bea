//! Dots and convolutions of the evaluator.

use super::Tensor;
use super::movement::{strides, transpose};
use crate::{ConvolutionConfig, DotDimensions, Shape};

pub(super) fn dot(a: &Tensor, b: &Tensor, shape: &Shape, d: &DotDimensions) -> Tensor {
    let (left, right) =
        (arranged(a, &d.lhs_batch, &d.lhs_contracting), arranged(b, &d.rhs_batch, &d.rhs_contracting));
    let product = |dims: &[usize]| dims.iter().map(|&i| a.shape.dims[i]).product::<usize>();
    let (batch, depth) = (product(&d.lhs_batch), product(&d.lhs_contracting));
    let mut values = Vec::with_capacity(shape.elements());
    if shape.elements() > 0 {
        let rows = left.values.len() / (batch * depth).max(1);
        let columns = shape.elements() / (batch * rows);
        for n in 0..batch {
            for row in 0..rows {
                let x = &left.values[(n * rows + row) * depth..][..depth];
                for column in 0..columns {
                    let y = &right.values[(n * columns + column) * depth..][..depth];
                    values.push(x.iter().zip(y).map(|(x, y)| x * y).sum());
                }
            }
        }
    }
    Tensor::new(shape.clone(), values)
}

/// Transposed to batch, free, contracting.
fn arranged(a: &Tensor, batch: &[usize], contracting: &[usize]) -> Tensor {
    let mut order = batch.to_vec();
    order.extend((0..a.shape.rank()).filter(|d| !batch.contains(d) && !contracting.contains(d)));
    order.extend(contracting);
    transpose(a, &order)
}

/// Works on the input as `[batch, spatial.., in]`, the kernel as `[spatial.., in, out]`, the result as
/// `[batch, spatial.., out]`.
pub(super) fn convolution(a: &Tensor, k: &Tensor, shape: &Shape, c: &ConvolutionConfig) -> Tensor {
    let order = |first: &[usize], spatial: &[usize], last: &[usize]| [first, spatial, last].concat();
    let input = transpose(a, &order(&[c.lhs_batch], &c.lhs_spatial, &[c.lhs_feature]));
    let kernel = transpose(k, &order(&[], &c.rhs_spatial, &[c.rhs_input, c.rhs_output]));
    let arrangement = order(&[c.out_batch], &c.out_spatial, &[c.out_feature]);
    let dims: Vec<usize> = arrangement.iter().map(|&d| shape.dims[d]).collect();
    let rank = c.windows.len();
    let (spatial, window) = (&dims[1..=rank], &kernel.shape.dims[..rank]);
    let (features, filters) = (kernel.shape.dims[rank], kernel.shape.dims[rank + 1]);
    let pixels: usize = spatial.iter().product();
    let input_pixels: usize = input.shape.dims[1..=rank].iter().product();
    let mut values = vec![0.0; dims.iter().product()];
    for (pixel, at) in indices(spatial).iter().enumerate() {
        for (tap, offset) in indices(window).iter().enumerate() {
            let Some(source) = source(c, &input.shape.dims[1..=rank], window, at, offset) else { continue };
            for n in 0..dims[0] {
                let out = &mut values[(n * pixels + pixel) * filters..][..filters];
                let x = &input.values[(n * input_pixels + source) * features..][..features];
                for (i, x) in x.iter().enumerate() {
                    let weights = &kernel.values[(tap * features + i) * filters..][..filters];
                    out.iter_mut().zip(weights).for_each(|(o, w)| *o += x * w);
                }
            }
        }
    }
    let mut back = vec![0; arrangement.len()];
    arrangement.iter().enumerate().for_each(|(from, &to)| back[to] = from);
    transpose(&Tensor::new(shape.with_dims(dims), values), &back)
}

/// All indices of an array of `dims`, in row-major order.
pub(super) fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    let steps = strides(dims);
    let index = |at: usize| dims.iter().zip(&steps).map(|(&n, &step)| at / step as usize % n).collect();
    (0..dims.iter().product()).map(index).collect()
}

/// Where the input element lies that a kernel element meets, if it is not padding.
fn source(
    c: &ConvolutionConfig,
    extents: &[usize],
    window: &[usize],
    at: &[usize],
    offset: &[usize],
) -> Option<usize> {
    let mut flat = 0;
    for (d, w) in c.windows.iter().enumerate() {
        let tap = if w.reversal { window[d] - 1 - offset[d] } else { offset[d] };
        let place = (at[d] * w.stride + tap * w.rhs_dilation) as i64 - w.low;
        let spread = w.lhs_dilation as i64;
        if place < 0 || place % spread != 0 || place / spread >= extents[d] as i64 {
            return None;
        }
        flat = flat * extents[d] + (place / spread) as usize;
    }
    Some(flat)
}
