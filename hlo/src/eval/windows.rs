//! Reductions of the evaluator.

use super::Tensor;
use super::elementwise::binary;
use super::movement::transpose;
use super::products::indices;
use crate::{Reducer, Shape, WindowDimension};

/// Folds elements of one type.
fn fold(reducer: Reducer, like: &Shape, values: impl Iterator<Item = f64>) -> f64 {
    let ty = like.element_type;
    if ty.is_float() && reducer == Reducer::Add {
        return values.sum();
    }
    let scalar = |x: f64| Tensor::new(Shape::scalar(ty), vec![x]);
    let start = scalar(reducer.identity(ty));
    values.fold(start, |sum, x| binary(reducer.binary(), &sum, &scalar(x))).values[0]
}

pub(super) fn reduce(a: &Tensor, shape: &Shape, dims: &[usize], reducer: Reducer) -> Tensor {
    let mut order: Vec<usize> = (0..a.shape.rank()).filter(|d| !dims.contains(d)).collect();
    order.extend(dims);
    let depth: usize = dims.iter().map(|&d| a.shape.dims[d]).product();
    let rows = transpose(a, &order);
    let row = |i: usize| fold(reducer, shape, rows.values[i * depth..(i + 1) * depth].iter().copied());
    Tensor::new(shape.clone(), (0..shape.elements()).map(row).collect())
}

pub(super) fn reduce_window(
    a: &Tensor,
    shape: &Shape,
    window: &[WindowDimension],
    reducer: Reducer,
) -> Tensor {
    let sizes: Vec<usize> = window.iter().map(|w| w.size).collect();
    let offsets = indices(&sizes);
    let under = |at: &Vec<usize>, offset: &Vec<usize>| {
        let mut flat = 0;
        for (d, w) in window.iter().enumerate() {
            let place = (at[d] * w.stride + offset[d] * w.dilation) as i64 - w.low;
            let inside = (0..a.shape.dims[d] as i64).contains(&place);
            flat = flat * a.shape.dims[d] + if inside { place as usize } else { return None };
        }
        Some(a.values[flat])
    };
    let values = indices(&shape.dims)
        .iter()
        .map(|at| fold(reducer, shape, offsets.iter().filter_map(|offset| under(at, offset))))
        .collect();
    Tensor::new(shape.clone(), values)
}
