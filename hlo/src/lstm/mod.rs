//! The LSTM scan, forward as one loop and backward by a hand-derived rule.
//!
//! Keras's cell, gates in the order i, f, c, o: with `z = x W + h U + b`,
//! `i, f, o = σ(z_i), σ(z_f), σ(z_o)`, `g = tanh(z_c)`, `c' = f c + i g`, `h' = o tanh(c')`, and `h = c = 0` at first.
//! Since `σ(x) = ½ tanh(½ x) + ½`, the columns of `W`, `U` and `b` are scaled by ½ for i, f and o once, outside of the
//! loop, and one packed tanh serves all four gates. What autodiff through a loop would store at each step
//! (some thirteen arrays) shrinks to a few. [`LstmForm`] names the ways the loops are laid out;
//! the result is the same.
//! Usage: `let h = lstm::last_hidden(&mut g, form, x, kernel, recurrent, bias);`

mod blocked;
mod stepwise;

use std::panic::Location;

use blocked::Blocked;

use crate::{ElementType, Graph, Literal, Shape, Value};

pub use blocked::Blocks;

/// How the loops over time are laid out.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum LstmForm {
    /// One step at a time, batch first, the gates stored: what XLA:CPU runs fastest.
    Stepwise,
    /// In blocks of steps, time first, the gates computed again: what suits a TPU.
    Blocked(Blocks),
}

/// The hidden state after the last step: `x [B, T, F]`, `kernel [F, 4H]`, `recurrent [H, 4H]`, `bias [4H]` -> `[B, H]`.
#[track_caller]
pub fn last_hidden(
    g: &mut Graph,
    form: LstmForm,
    x: Value,
    kernel: Value,
    recurrent: Value,
    bias: Value,
) -> Value {
    let Some(extents) = Extents::new(g, [x, kernel, recurrent, bias]) else {
        let shapes = [x, kernel, recurrent, bias].map(|v| g.shape(v).to_string()).join(", ");
        let problem =
            format!("expected [B, T, F], [F, 4H], [H, 4H], [4H] of one floating-point type, found {shapes}");
        g.fail("lstm", Location::caller(), problem);
        return x;
    };
    let [kernel, recurrent, bias] = [kernel, recurrent, bias].map(|v| extents.scale_columns(g, v));
    let inputs = [x, kernel, recurrent, bias];
    match form {
        LstmForm::Stepwise => {
            let forward = |g: &mut Graph| {
                let (last, record) = stepwise::forward(g, extents, inputs);
                (vec![last], record)
            };
            g.custom_vjp(&inputs, forward, move |g, &record, cotangents| {
                stepwise::backward(g, extents, inputs, record, cotangents[0])
            })[0]
        }
        LstmForm::Blocked(blocks) => {
            let scan = Blocked::new(g, extents, blocks);
            let forward = |g: &mut Graph| {
                let (last, saved) = scan.forward(g, inputs);
                (vec![last], saved)
            };
            g.custom_vjp(&inputs, forward, move |g, saved, cotangents| {
                scan.backward(g, inputs, saved, cotangents[0])
            })[0]
        }
    }
}

/// Extents and type of one scan.
#[derive(Copy, Clone)]
struct Extents {
    ty: ElementType,
    batch: usize,
    time: usize,
    units: usize,
}

/// The four gates from their packed tanh.
struct Gates {
    i: Value,
    f: Value,
    g: Value,
    o: Value,
}

impl Extents {
    fn new(g: &Graph, [x, kernel, recurrent, bias]: [Value; 4]) -> Option<Self> {
        let ty = g.shape(x).element_type;
        let (&[batch, time, features], &[units, _]) = (&g.shape(x).dims[..], &g.shape(recurrent).dims[..])
        else {
            return None;
        };
        let is = |v: Value, dims: &[usize]| *g.shape(v) == Shape::new(ty, dims);
        let fits = is(kernel, &[features, 4 * units])
            && is(recurrent, &[units, 4 * units])
            && is(bias, &[4 * units]);
        (fits && ty.is_float() && time > 0).then_some(Self { ty, batch, time, units })
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

    /// `f c + i g`.
    fn next_cell(&self, g: &mut Graph, gates: &Gates, c: Value) -> Value {
        let (kept, new) = (g.mul(gates.f, c), g.mul(gates.i, gates.g));
        g.add(kept, new)
    }
}
