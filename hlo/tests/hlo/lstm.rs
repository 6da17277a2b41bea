//! The scan and its rule against a cell unrolled from plain operations.

use tpu_train_hlo::eval::Tensor;
use tpu_train_hlo::lstm::{Blocks, LstmForm, last_hidden};
use tpu_train_hlo::{Graph, Value, lower};

use crate::support::{assert_close, check_gradients, f32s, tensor, values, weighed};

/// Steps that leave a rest in blocks and in rounds, and ones that leave none.
const FORMS: [LstmForm; 4] = [
    LstmForm::Stepwise,
    LstmForm::Blocked(Blocks { steps: 3, unroll: 2 }),
    LstmForm::Blocked(Blocks { steps: 2, unroll: 1 }),
    LstmForm::Blocked(Blocks { steps: 32, unroll: 4 }),
];

fn sigmoid(g: &mut Graph, x: Value) -> Value {
    let one = g.scalar_like(x, 1.0);
    let negative = g.neg(x);
    let exp = g.exp(negative);
    let below = g.add(one, exp);
    g.div(one, below)
}

/// Keras's cell, step by step.
fn unrolled(g: &mut Graph, x: Value, kernel: Value, recurrent: Value, bias: Value) -> Value {
    let (dims, units) = (g.dims(x), g.dims(recurrent)[0]);
    let (batch, time) = (dims[0], dims[1]);
    let zeros = g.full(tpu_train_hlo::ElementType::F32, 0.0, &[batch, units]);
    let (mut h, mut c) = (zeros, zeros);
    for t in 0..time {
        let row = g.slice_in_dim(x, 1, t, t + 1);
        let row = g.reshape(row, &[batch, dims[2]]);
        let (from_input, from_state) = (g.matmul(row, kernel), g.matmul(h, recurrent));
        let bias = g.broadcast(bias, &[batch, 4 * units], &[1]);
        let z = g.add(from_input, from_state);
        let z = g.add(z, bias);
        let part = |g: &mut Graph, i: usize| g.slice_in_dim(z, 1, i * units, (i + 1) * units);
        let [i, f, candidate, o] = [0, 1, 2, 3].map(|i| part(g, i));
        let (i, f, o) = (sigmoid(g, i), sigmoid(g, f), sigmoid(g, o));
        let candidate = g.tanh(candidate);
        let (kept, new) = (g.mul(f, c), g.mul(i, candidate));
        c = g.add(kept, new);
        let squashed = g.tanh(c);
        h = g.mul(o, squashed);
    }
    h
}

fn shapes(batch: usize, time: usize, features: usize, units: usize) -> [Vec<usize>; 4] {
    [vec![batch, time, features], vec![features, 4 * units], vec![units, 4 * units], vec![4 * units]]
}

/// The result and the four gradients.
fn results(
    shapes: &[Vec<usize>; 4],
    scan: impl FnOnce(&mut Graph, Value, Value, Value, Value) -> Value,
) -> Vec<Vec<f64>> {
    let mut g = Graph::new("lstm");
    let p: Vec<Value> =
        shapes.iter().enumerate().map(|(i, s)| g.parameter(&format!("p{i}"), f32s(s))).collect();
    let h = scan(&mut g, p[0], p[1], p[2], p[3]);
    let objective = weighed(&mut g, h);
    let mut outputs = vec![h];
    outputs.extend(g.gradients(objective, &p));
    let inputs: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| tensor(10 + i as u32, s)).collect();
    values(&g, &outputs, &inputs)
}

#[test]
fn equals_the_unrolled_cell() {
    for (batch, time, features, units) in [(2, 1, 3, 2), (1, 2, 1, 1), (3, 7, 2, 4)] {
        let shapes = shapes(batch, time, features, units);
        let expected = results(&shapes, unrolled);
        for form in FORMS {
            let found = results(&shapes, |g, x, w, u, b| last_hidden(g, form, x, w, u, b));
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(found, expected, 1e-12);
            }
        }
    }
}

#[test]
fn equals_central_differences() {
    for form in FORMS {
        let s = shapes(2, 6, 3, 2);
        let shapes: Vec<&[usize]> = s.iter().map(Vec::as_slice).collect();
        check_gradients(&shapes, |g, p| last_hidden(g, form, p[0], p[1], p[2], p[3]));
    }
}

#[test]
fn an_inference_graph_in_blocks_stores_nothing() {
    let mut g = Graph::new("inference");
    let p: Vec<Value> =
        shapes(2, 5, 3, 4).iter().enumerate().map(|(i, s)| g.parameter(&format!("p{i}"), f32s(s))).collect();
    let form = LstmForm::Blocked(Blocks { steps: 2, unroll: 2 });
    let h = last_hidden(&mut g, form, p[0], p[1], p[2], p[3]);
    let count = |module: &tpu_train_proto::xla::HloModuleProto| {
        let instructions = module.computations.iter().flat_map(|c| &c.instructions);
        instructions.filter(|i| i.opcode == "dynamic-update-slice").count()
    };
    assert_eq!(count(&lower(&g, &[h], &[]).unwrap()), 0);
    let objective = weighed(&mut g, h);
    let gradients = g.gradients(objective, &p);
    assert!(count(&lower(&g, &gradients, &[]).unwrap()) > 0);
}

#[test]
fn shapes_that_do_not_fit_are_an_error() {
    let mut g = Graph::new("wrong");
    let x = g.parameter("x", f32s(&[2, 5, 3]));
    let (kernel, recurrent) = (g.parameter("w", f32s(&[3, 16])), g.parameter("u", f32s(&[4, 12])));
    let bias = g.parameter("b", f32s(&[16]));
    last_hidden(&mut g, LstmForm::Stepwise, x, kernel, recurrent, bias);
    let message = g.finish().unwrap_err().to_string();
    assert!(message.starts_with("lstm at ") && message.contains("f32[4,12]"), "{message}");
}
