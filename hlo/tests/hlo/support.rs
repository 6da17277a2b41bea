//! What several tests use: seeded numbers, evaluation of one replica, the gradient check.

use tpu_train_hlo::eval::{Tensor, evaluate};
use tpu_train_hlo::{ElementType, Graph, Literal, Shape, Value, random};

/// Numbers in [-1, 1), a pure function of the stream's number.
pub(crate) fn numbers(stream: u32, count: usize) -> Vec<f64> {
    (0..count as u32).map(|i| 2.0 * f64::from(random::uniform_host([7, stream], i)) - 1.0).collect()
}

pub(crate) fn f32s(dims: &[usize]) -> Shape {
    Shape::new(ElementType::F32, dims)
}

pub(crate) fn tensor(stream: u32, dims: &[usize]) -> Tensor {
    let shape = f32s(dims);
    let values = numbers(stream, shape.elements());
    Tensor::new(shape, values)
}

/// The values of `outputs` on one replica.
pub(crate) fn values(g: &Graph, outputs: &[Value], inputs: &[Tensor]) -> Vec<Vec<f64>> {
    let results = evaluate(g, outputs, &[inputs.to_vec()]).unwrap();
    results[0].iter().map(|t| t.values().to_vec()).collect()
}

/// A scalar that weighs every element of `v` differently, so that its cotangent has no symmetry.
pub(crate) fn weighed(g: &mut Graph, v: Value) -> Value {
    let dims = g.dims(v);
    let weights = numbers(99, g.shape(v).elements());
    let ty = g.shape(v).element_type;
    let weights = g.constant(Literal::new(ty, &dims, weights));
    let product = g.mul(v, weights);
    let all: Vec<usize> = (0..dims.len()).collect();
    g.sum(product, &all)
}

/// Holds the gradients of `build` by all its parameters against the central difference along one random direction.
pub(crate) fn check_gradients(shapes: &[&[usize]], build: impl Fn(&mut Graph, &[Value]) -> Value) {
    let inputs: Vec<Tensor> = shapes.iter().enumerate().map(|(i, dims)| tensor(i as u32, dims)).collect();
    check_gradients_at(&inputs, build);
}

/// [`check_gradients`] at a given point.
pub(crate) fn check_gradients_at(inputs: &[Tensor], build: impl Fn(&mut Graph, &[Value]) -> Value) {
    const STEP: f64 = 1e-5;
    const TOLERANCE: f64 = 1e-7;
    let mut g = Graph::new("check");
    let parameters: Vec<Value> =
        inputs.iter().enumerate().map(|(i, t)| g.parameter(&format!("p{i}"), t.shape().clone())).collect();
    let result = build(&mut g, &parameters);
    let objective = weighed(&mut g, result);
    let gradients = g.gradients(objective, &parameters);
    g.finish().unwrap();
    let directions: Vec<Vec<f64>> =
        inputs.iter().enumerate().map(|(i, t)| numbers(50 + i as u32, t.values().len())).collect();
    let moved = |by: f64| -> f64 {
        let inputs: Vec<Tensor> = inputs
            .iter()
            .zip(&directions)
            .map(|(t, d)| {
                let values = t.values().iter().zip(d).map(|(x, d)| x + by * d).collect();
                Tensor::new(t.shape().clone(), values)
            })
            .collect();
        values(&g, &[objective], &inputs)[0][0]
    };
    let numeric = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
    let found = values(&g, &gradients, inputs);
    let analytic: f64 = found.iter().zip(&directions).map(|(g, d)| dot(g, d)).sum();
    let error = (numeric - analytic).abs();
    assert!(error <= TOLERANCE * numeric.abs().max(1.0), "central difference {numeric}, gradient {analytic}");
    assert!(found.iter().any(|g| g.iter().any(|&x| x != 0.0)), "no gradient at all");
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "element {i}: found {f}, expected {e}");
    }
}
