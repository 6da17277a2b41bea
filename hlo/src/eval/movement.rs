//! Operations of the evaluator that move elements.

use super::Tensor;
use crate::{PadDimension, Shape};

/// Distance in memory of neighbours along each dimension.
pub(super) fn strides(dims: &[usize]) -> Vec<isize> {
    let mut result = vec![1; dims.len()];
    for d in (1..dims.len()).rev() {
        result[d - 1] = result[d] * dims[d] as isize;
    }
    result
}

/// Calls `f` with the offset `base + Σ index·steps` of each index of `dims`, in row-major order.
pub(super) fn walk(dims: &[usize], base: isize, steps: &[isize], f: &mut impl FnMut(usize)) {
    match dims.split_first() {
        None => f(base as usize),
        Some((&extent, inner)) => {
            for i in 0..extent as isize {
                walk(inner, base + i * steps[0], &steps[1..], f);
            }
        }
    }
}

/// Elements of `a` at `base + Σ index·steps`, as an array of `shape`.
fn view(a: &Tensor, shape: &Shape, base: isize, steps: &[isize]) -> Tensor {
    let mut values = Vec::with_capacity(shape.elements());
    walk(&shape.dims, base, steps, &mut |at| values.push(a.values[at]));
    Tensor::new(shape.clone(), values)
}

pub(super) fn iota(shape: &Shape, dimension: usize) -> Tensor {
    let mut steps = vec![0; shape.rank()];
    steps[dimension] = 1;
    let mut values = Vec::with_capacity(shape.elements());
    walk(&shape.dims, 0, &steps, &mut |at| values.push(at as f64));
    super::elementwise::wrapped(shape.clone(), values)
}

pub(super) fn broadcast(a: &Tensor, shape: &Shape, mapping: &[usize]) -> Tensor {
    let mut steps = vec![0; shape.rank()];
    for (&to, stride) in mapping.iter().zip(strides(&a.shape.dims)) {
        steps[to] = stride;
    }
    view(a, shape, 0, &steps)
}

pub(super) fn transpose(a: &Tensor, permutation: &[usize]) -> Tensor {
    let own = strides(&a.shape.dims);
    let shape = a.shape.with_dims(permutation.iter().map(|&d| a.shape.dims[d]).collect());
    let steps: Vec<isize> = permutation.iter().map(|&d| own[d]).collect();
    view(a, &shape, 0, &steps)
}

pub(super) fn reverse(a: &Tensor, dims: &[usize]) -> Tensor {
    let (mut steps, mut base) = (strides(&a.shape.dims), 0);
    for &d in dims {
        base += (a.shape.dims[d] as isize - 1) * steps[d];
        steps[d] = -steps[d];
    }
    view(a, &a.shape, base, &steps)
}

pub(super) fn slice(a: &Tensor, shape: &Shape, starts: &[usize], by: &[usize]) -> Tensor {
    let own = strides(&a.shape.dims);
    let base = own.iter().zip(starts).map(|(stride, &start)| stride * start as isize).sum();
    let steps: Vec<isize> = own.iter().zip(by).map(|(stride, &by)| stride * by as isize).collect();
    view(a, shape, base, &steps)
}

pub(super) fn pad(a: &Tensor, value: &Tensor, shape: &Shape, padding: &[PadDimension]) -> Tensor {
    let mut values = vec![value.values[0]; shape.elements()];
    let (own, target) = (strides(&a.shape.dims), strides(&shape.dims));
    for (at, &x) in a.values.iter().enumerate() {
        let mut to = Some(0);
        for (d, p) in padding.iter().enumerate() {
            let index = at as isize / own[d] % a.shape.dims[d] as isize;
            let place = p.low as isize + index * (p.interior as isize + 1);
            to = to.filter(|_| (0..shape.dims[d] as isize).contains(&place)).map(|t| t + place * target[d]);
        }
        if let Some(to) = to {
            values[to as usize] = x;
        }
    }
    Tensor::new(shape.clone(), values)
}

/// Writes `part` into `values` (an array of `dims`) from `starts` on.
fn write(values: &mut [f64], dims: &[usize], part: &Tensor, starts: &[usize]) {
    let steps = strides(dims);
    let base = steps.iter().zip(starts).map(|(stride, &start)| stride * start as isize).sum();
    let mut from = part.values.iter();
    walk(&part.shape.dims, base, &steps, &mut |at| from.next().into_iter().for_each(|&x| values[at] = x));
}

pub(super) fn concatenate(parts: &[Tensor], shape: &Shape, dimension: usize) -> Tensor {
    let mut values = vec![0.0; shape.elements()];
    let mut starts = vec![0; shape.rank()];
    for part in parts {
        write(&mut values, &shape.dims, part, &starts);
        starts[dimension] += part.shape.dims[dimension];
    }
    Tensor::new(shape.clone(), values)
}

/// Starts moved so that a part of `sizes` lies inside.
fn clamped(starts: &[Tensor], whole: &[usize], sizes: &[usize]) -> Vec<usize> {
    let ends = whole.iter().zip(sizes).map(|(w, s)| (w - s) as f64);
    starts.iter().zip(ends).map(|(s, end)| s.values[0].clamp(0.0, end) as usize).collect()
}

pub(super) fn dynamic_slice(v: &[Tensor], shape: &Shape) -> Tensor {
    let starts = clamped(&v[1..], &v[0].shape.dims, &shape.dims);
    slice(&v[0], shape, &starts, &vec![1; shape.rank()])
}

pub(super) fn dynamic_update_slice(v: &[Tensor]) -> Tensor {
    let starts = clamped(&v[2..], &v[0].shape.dims, &v[1].shape.dims);
    let mut values = v[0].values.to_vec();
    write(&mut values, &v[0].shape.dims, &v[1], &starts);
    Tensor::new(v[0].shape.clone(), values)
}
