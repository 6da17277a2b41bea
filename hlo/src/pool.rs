//! Max-pooling over time, with a hand-written rule.
//!
//! Keras's `MaxPooling1D`: valid padding, stride = size, a remainder at the end is dropped. Among equal elements the
//! gradient goes to the first; 12-bit signals make such ties all the time.
//! Usage: `let pooled = pool::max_pool1d(&mut g, x, 2);`

use std::panic::Location;

use crate::{Comparison, ElementType, Graph, PadDimension, Value};

/// `[B, T, C] -> [B, T / size, C]`: the greatest of every `size` neighbours.
#[track_caller]
pub fn max_pool1d(g: &mut Graph, x: Value, size: usize) -> Value {
    let dims = g.dims(x);
    if dims.len() != 3 || size == 0 || dims[1] < size {
        let problem =
            format!("expected [batch, time, channels] with a time of at least {size}, found {}", g.shape(x));
        g.fail("max_pool1d", Location::caller(), problem);
        return x;
    }
    if size == 1 {
        return x;
    }
    let forward = |g: &mut Graph| {
        let members = members(g, x, size);
        let (greatest, _) = first_greatest(g, &members, ElementType::S32);
        (vec![greatest], (x, size))
    };
    let pooled =
        g.custom_vjp(&[x], forward, |g, &(x, size), cotangents| vec![spread(g, x, size, cotangents[0])]);
    pooled[0]
}

/// The first, second, … member of every window, each `[B, T / size, C]`.
fn members(g: &mut Graph, x: Value, size: usize) -> Vec<Value> {
    let dims = g.dims(x);
    let whole = dims[1] / size * size;
    (0..size)
        .map(|i| g.slice(x, &[0, i, 0], &[dims[0], whole - size + i + 1, dims[2]], &[1, size, 1]))
        .collect()
}

/// The rule: the cotangent at the first greatest member, zeros elsewhere and in the remainder.
fn spread(g: &mut Graph, x: Value, size: usize, cotangent: Value) -> Value {
    let (dims, pooled) = (g.dims(x), g.dims(cotangent));
    let members = members(g, x, size);
    let (_, first) = first_greatest(g, &members, ElementType::S32);
    let windows = [pooled[0], pooled[1], size, pooled[2]];
    let first = g.broadcast(first, &windows, &[0, 1, 3]);
    let position = g.iota(ElementType::S32, &windows, 2);
    let here = g.compare(first, position, Comparison::Eq);
    let spread = g.broadcast(cotangent, &windows, &[0, 1, 3]);
    let zero = g.scalar_like(cotangent, 0.0);
    let placed = g.select(here, spread, zero);
    let flat = g.reshape(placed, &[dims[0], pooled[1] * size, dims[2]]);
    let remainder = (dims[1] - pooled[1] * size) as i64;
    if remainder == 0 {
        return flat;
    }
    let padding = PadDimension { high: remainder, ..Default::default() };
    g.pad(flat, zero, &[PadDimension::default(), padding, PadDimension::default()])
}

/// The greatest of arrays of one shape, element by element, and which one it is, the first where several are.
pub(crate) fn first_greatest(g: &mut Graph, members: &[Value], index: ElementType) -> (Value, Value) {
    let mut greatest = members[0];
    let dims = g.dims(greatest);
    let mut place = g.full(index, 0.0, &dims);
    for (i, &member) in members.iter().enumerate().skip(1) {
        let greater = g.compare(member, greatest, Comparison::Gt);
        let here = g.scalar(index, i as f64);
        place = g.select(greater, here, place);
        greatest = g.max(greatest, member);
    }
    (greatest, place)
}
