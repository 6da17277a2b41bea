//! Convolution, bias, relu and pool in one loop, against the layers one by one.

use tpu_train_hlo::conv_pool::{ConvForm, conv_relu_pool};
use tpu_train_hlo::eval::Tensor;
use tpu_train_hlo::pool::max_pool1d;
use tpu_train_hlo::{Graph, Value};

use crate::support::{assert_close, check_gradients, f32s, tensor, values, weighed};

fn layer_by_layer(g: &mut Graph, x: Value, kernel: Value, bias: Value, pool: usize) -> Value {
    let y = g.conv1d(x, kernel);
    let dims = g.dims(y);
    let bias = g.broadcast(bias, &dims, &[2]);
    let y = g.add(y, bias);
    let y = g.relu(y);
    max_pool1d(g, y, pool)
}

/// The result and the three gradients.
fn results(
    inputs: &[Tensor],
    pool: usize,
    layer: impl Fn(&mut Graph, Value, Value, Value, usize) -> Value,
) -> Vec<Vec<f64>> {
    let mut g = Graph::new("conv_pool");
    let parameters: Vec<Value> =
        inputs.iter().enumerate().map(|(i, t)| g.parameter(&format!("p{i}"), t.shape().clone())).collect();
    let y = layer(&mut g, parameters[0], parameters[1], parameters[2], pool);
    let objective = weighed(&mut g, y);
    let mut outputs = vec![y];
    outputs.extend(g.gradients(objective, &parameters));
    values(&g, &outputs, inputs)
}

const FORMS: [ConvForm; 2] = [ConvForm::Looped, ConvForm::Packed];

/// Batch, time, channels, kernel length, filters, pool: with and without a rest in the pool.
const SIZES: [[usize; 6]; 5] =
    [[2, 10, 3, 3, 4, 2], [1, 11, 2, 3, 2, 2], [3, 9, 1, 1, 2, 3], [2, 12, 2, 4, 3, 4], [1, 5, 2, 3, 2, 1]];

fn shapes([batch, time, channels, width, filters, _]: [usize; 6]) -> [Vec<usize>; 3] {
    [vec![batch, time, channels], vec![width, channels, filters], vec![filters]]
}

#[test]
fn equals_the_layers_one_by_one() {
    for sizes in SIZES {
        let inputs: Vec<Tensor> =
            shapes(sizes).iter().enumerate().map(|(i, dims)| tensor(20 + i as u32, dims)).collect();
        let expected = results(&inputs, sizes[5], layer_by_layer);
        for form in FORMS {
            let found = results(&inputs, sizes[5], |g, x, k, b, p| conv_relu_pool(g, form, x, k, b, p));
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(found, expected, 1e-12);
            }
        }
    }
}

#[test]
fn ties_and_what_relu_stops_go_where_the_layers_send_them() {
    // Three levels only, so that members are often equal, and often not above zero.
    let coarse = |stream, dims: &[usize]| {
        let fine = tensor(stream, dims);
        let values = fine.values().iter().map(|v| (v * 1.5).round()).collect();
        Tensor::new(f32s(dims), values)
    };
    let sizes = [4, 21, 2, 3, 3, 2];
    let inputs: Vec<Tensor> =
        shapes(sizes).iter().enumerate().map(|(i, dims)| coarse(30 + i as u32, dims)).collect();
    let expected = results(&inputs, 2, layer_by_layer);
    assert!(expected[0].iter().filter(|&&y| y == 0.0).count() > 5, "relu stops nothing");
    for form in FORMS {
        let found = results(&inputs, 2, |g, x, k, b, p| conv_relu_pool(g, form, x, k, b, p));
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(found, expected, 1e-12);
        }
    }
}

#[test]
fn equals_central_differences() {
    for sizes in SIZES {
        let s = shapes(sizes);
        let dims: Vec<&[usize]> = s.iter().map(Vec::as_slice).collect();
        for form in FORMS {
            check_gradients(&dims, |g, p| conv_relu_pool(g, form, p[0], p[1], p[2], sizes[5]));
        }
    }
}

#[test]
fn a_signal_too_short_is_an_error() {
    let mut g = Graph::new("short");
    let x = g.parameter("x", f32s(&[1, 3, 2]));
    let (kernel, bias) = (g.parameter("k", f32s(&[3, 2, 4])), g.parameter("b", f32s(&[4])));
    conv_relu_pool(&mut g, ConvForm::Looped, x, kernel, bias, 2);
    let message = g.finish().unwrap_err().to_string();
    assert!(message.contains("conv_relu_pool at ") && message.contains("f32[1,3,2]"), "{message}");
}
