//! Max-pooling: ties, remainders, central differences.

use tpu_train_hlo::eval::Tensor;
use tpu_train_hlo::pool::max_pool1d;
use tpu_train_hlo::{ElementType, Graph, Literal, Value};

use crate::support::{check_gradients, f32s, values};

#[test]
fn equals_central_differences() {
    for (time, size) in [(8, 2), (9, 2), (7, 3), (8, 3), (5, 5), (4, 1)] {
        check_gradients(&[&[2, time, 3]], |g, p| max_pool1d(g, p[0], size));
    }
}

/// The pooled values and the gradient of one row under cotangents 1, 2, 3, ….
fn pooled(row: &[f64], size: usize) -> (Vec<f64>, Vec<f64>) {
    let mut g = Graph::new("pool");
    let x = g.parameter("x", f32s(&[1, row.len(), 1]));
    let y = max_pool1d(&mut g, x, size);
    let n = g.dims(y)[1];
    let weights = g.constant(Literal::new(ElementType::F32, &[1, n, 1], (1..=n).map(|i| i as f64).collect()));
    let product = g.mul(y, weights);
    let objective = g.sum(product, &[0, 1, 2]);
    let dx: Value = g.gradients(objective, &[x])[0];
    let mut found = values(&g, &[y, dx], &[Tensor::new(f32s(&[1, row.len(), 1]), row.to_vec())]).into_iter();
    (found.next().unwrap(), found.next().unwrap())
}

#[test]
fn the_first_greatest_takes_the_gradient() {
    let (y, dx) = pooled(&[1.0, 1.0, 0.0, 2.0, -3.0, -3.0, 9.0], 2);
    assert_eq!(y, [1.0, 2.0, -3.0]);
    assert_eq!(dx, [1.0, 0.0, 0.0, 2.0, 3.0, 0.0, 0.0]);
    let (y, dx) = pooled(&[0.0, 5.0, 5.0, 7.0, 7.0, 7.0, 1.0, 0.0, 1.0, 3.0], 3);
    assert_eq!(y, [5.0, 7.0, 1.0]);
    assert_eq!(dx, [0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_window_longer_than_the_signal_is_an_error() {
    let mut g = Graph::new("short");
    let x = g.parameter("x", f32s(&[1, 1, 4]));
    max_pool1d(&mut g, x, 2);
    let message = g.finish().unwrap_err().to_string();
    assert!(message.contains("max_pool1d at ") && message.contains("pool.rs"), "{message}");
}
