//! Every rule against central differences.

use tpu_train_hlo::eval::Tensor;
use tpu_train_hlo::{
    Comparison, ConvolutionConfig, ConvolutionWindow, DotDimensions, ElementType, Graph, GraphError,
    Precision, Reducer, Shape, Value,
};

use crate::support::{assert_close, check_gradients, check_gradients_at, f32s, tensor, values};

/// A parameter's values moved away from zero, for log, rsqrt and division.
fn positive(g: &mut Graph, v: Value) -> Value {
    let two = g.scalar_like(v, 2.0);
    g.add(v, two)
}

#[test]
fn unary_operations() {
    let rules: [fn(&mut Graph, Value) -> Value; 5] =
        [Graph::neg, Graph::exp, Graph::log, Graph::tanh, Graph::rsqrt];
    for rule in rules {
        check_gradients(&[&[3, 5]], |g, p| {
            let v = positive(g, p[0]);
            rule(g, v)
        });
    }
}

#[test]
fn binary_operations() {
    let rules: [fn(&mut Graph, Value, Value) -> Value; 6] =
        [Graph::add, Graph::sub, Graph::mul, Graph::div, Graph::max, Graph::min];
    for rule in rules {
        for (left, right) in [(&[2, 3][..], &[2, 3][..]), (&[], &[2, 3]), (&[2, 3], &[]), (&[], &[])] {
            check_gradients(&[left, right], |g, p| {
                let v = positive(g, p[1]);
                let w = positive(g, p[0]);
                rule(g, w, v)
            });
        }
    }
}

#[test]
fn select_and_relu_and_shared_operands() {
    check_gradients(&[&[4, 3], &[4, 3]], |g, p| {
        let zero = g.scalar_like(p[0], 0.0);
        let pred = g.compare(p[0], zero, Comparison::Lt);
        let square = g.mul(p[1], p[1]);
        let chosen = g.select(pred, p[0], square);
        let positive = g.relu(chosen);
        g.add(positive, p[1])
    });
}

#[test]
fn relu_has_no_slope_at_zero() {
    let mut g = Graph::new("relu");
    let x = g.parameter("x", f32s(&[3]));
    let y = g.relu(x);
    let total = g.sum(y, &[0]);
    let dx = g.gradients(total, &[x]);
    let at = Tensor::new(f32s(&[3]), vec![-1.0, 0.0, 2.0]);
    assert_eq!(values(&g, &dx, &[at]), [[0.0, 0.0, 1.0]]);
}

#[test]
fn movement() {
    check_gradients(&[&[3, 4]], |g, p| g.broadcast(p[0], &[3, 2, 4, 5], &[0, 2]));
    check_gradients(&[&[2, 3, 4]], |g, p| g.transpose(p[0], &[2, 0, 1]));
    check_gradients(&[&[2, 3, 4]], |g, p| g.reshape(p[0], &[4, 6]));
    check_gradients(&[&[7, 5]], |g, p| g.slice(p[0], &[1, 0], &[7, 4], &[2, 3]));
    check_gradients(&[&[8, 5]], |g, p| g.slice(p[0], &[1, 2], &[7, 2 + 1], &[3, 1]));
    check_gradients(&[&[2, 1], &[2, 3], &[2, 2]], |g, p| g.concatenate(p, 1));
    check_gradients(&[&[2, 3, 4]], |g, p| g.sum(p[0], &[2, 0]));
    check_gradients(&[&[3]], |g, p| {
        let narrow = g.convert(p[0], ElementType::Bf16);
        let square = g.mul(narrow, narrow);
        g.convert(square, ElementType::F32)
    });
}

#[test]
fn dots() {
    let dims =
        |lhs_contracting: &[usize], rhs_contracting: &[usize], lhs_batch: &[usize], rhs_batch: &[usize]| {
            DotDimensions {
                lhs_contracting: lhs_contracting.to_vec(),
                rhs_contracting: rhs_contracting.to_vec(),
                lhs_batch: lhs_batch.to_vec(),
                rhs_batch: rhs_batch.to_vec(),
            }
        };
    check_gradients(&[&[2, 3, 4], &[4, 5]], |g, p| g.matmul(p[0], p[1]));
    let cases: [(&[usize], &[usize], DotDimensions); 5] = [
        (&[3, 4], &[5, 4], dims(&[1], &[1], &[], &[])),
        (&[4, 3, 2], &[2, 5, 4], dims(&[0, 2], &[2, 0], &[], &[])),
        (&[2, 3, 4, 5], &[4, 6, 2, 5], dims(&[3], &[3], &[2, 0], &[0, 2])),
        (&[3, 2, 4], &[7, 4, 3], dims(&[2], &[1], &[0], &[2])),
        (&[3], &[4], dims(&[], &[], &[], &[])),
    ];
    for (left, right, dims) in cases {
        check_gradients(&[left, right], |g, p| g.dot_general(p[0], p[1], dims.clone()));
    }
}

#[test]
fn bf16_products_keep_float32_gradients() {
    let mut g = Graph::new("bf16");
    g.set_precision(Precision::Bf16);
    let (x, w) = (g.parameter("x", f32s(&[2, 3])), g.parameter("w", f32s(&[3, 4])));
    let y = g.matmul(x, w);
    let total = g.sum(y, &[0, 1]);
    let gradients = g.gradients(total, &[x, w]);
    g.finish().unwrap();
    assert!([y, gradients[0], gradients[1]].iter().all(|&v| g.shape(v).element_type == ElementType::F32));
}

fn conv1d_config(window: ConvolutionWindow) -> ConvolutionConfig {
    ConvolutionConfig {
        lhs_batch: 0,
        lhs_feature: 2,
        lhs_spatial: vec![1],
        rhs_input: 1,
        rhs_output: 2,
        rhs_spatial: vec![0],
        out_batch: 0,
        out_feature: 2,
        out_spatial: vec![1],
        windows: vec![window],
    }
}

#[test]
fn convolutions_of_one_dimension() {
    check_gradients(&[&[2, 9, 3], &[3, 3, 4]], |g, p| g.conv1d(p[0], p[1]));
    for time in [7, 8] {
        for kernel in [1, 2, 3] {
            for (stride, lhs_dilation, rhs_dilation) in
                [(1, 1, 1), (2, 1, 1), (3, 1, 2), (1, 2, 1), (2, 3, 2)]
            {
                for (low, high, reversal) in [(0, 0, false), (2, 1, true), (-1, 3, false), (1, -2, true)] {
                    let window =
                        ConvolutionWindow { stride, low, high, lhs_dilation, rhs_dilation, reversal };
                    let config = conv1d_config(window);
                    check_gradients(&[&[2, time, 2], &[kernel, 2, 3]], |g, p| {
                        g.convolution(p[0], p[1], config.clone())
                    });
                }
            }
        }
    }
}

#[test]
fn convolution_of_two_dimensions_in_odd_order() {
    let config = ConvolutionConfig {
        lhs_batch: 2,
        lhs_feature: 0,
        lhs_spatial: vec![3, 1],
        rhs_input: 3,
        rhs_output: 1,
        rhs_spatial: vec![0, 2],
        out_batch: 1,
        out_feature: 3,
        out_spatial: vec![2, 0],
        windows: vec![
            ConvolutionWindow { stride: 2, low: 1, reversal: true, ..Default::default() },
            ConvolutionWindow { rhs_dilation: 2, high: 1, ..Default::default() },
        ],
    };
    check_gradients(&[&[3, 6, 2, 7], &[3, 4, 2, 3]], |g, p| g.convolution(p[0], p[1], config.clone()));
}

#[test]
fn softmax_cross_entropy() {
    check_gradients(&[&[4, 5]], |g, p| {
        let held = g.stop_gradient(p[0]);
        let greatest = g.reduce_max(held, &[1]);
        let greatest = g.broadcast(greatest, &[4, 5], &[0]);
        let shifted = g.sub(p[0], greatest);
        let exps = g.exp(shifted);
        let total = g.sum(exps, &[1]);
        let log_total = g.log(total);
        let labels = g.iota(ElementType::S32, &[4], 0);
        let labels = g.one_hot(labels, 5, ElementType::F32);
        let chosen = g.mul(labels, shifted);
        let chosen = g.sum(chosen, &[1]);
        g.sub(log_total, chosen)
    });
}

#[test]
fn a_gradient_ends_where_it_is_stopped_and_is_zero_where_nothing_depends() {
    let mut g = Graph::new("stop");
    let (x, y) = (g.parameter("x", f32s(&[2])), g.parameter("y", f32s(&[2])));
    let held = g.stop_gradient(x);
    let product = g.mul(held, x);
    let total = g.sum(product, &[0]);
    let gradients = g.gradients(total, &[x, y, product]);
    let found = values(&g, &gradients, &[tensor(0, &[2]), tensor(1, &[2])]);
    assert_close(&found[0], tensor(0, &[2]).values(), 0.0);
    assert_eq!(found[1], [0.0, 0.0]);
    assert_eq!(found[2], [1.0, 1.0]);
}

#[test]
fn a_custom_rule_replaces_the_generic_ones() {
    // The square, with a rule that claims ten times its slope; a second region inside of it must not be asked.
    let build = |g: &mut Graph, x: Value| {
        g.custom_vjp(
            &[x],
            |g| {
                let inner =
                    g.custom_vjp(&[x], |g| (vec![g.mul(x, x)], ()), |_, (), _| panic!("the inner rule"));
                (inner, x)
            },
            |g, &x, ct| {
                let twenty = g.scalar_like(x, 20.0);
                let slope = g.mul(x, twenty);
                vec![g.mul(slope, ct[0])]
            },
        )[0]
    };
    let mut g = Graph::new("custom");
    let x = g.parameter("x", f32s(&[3]));
    let shifted = g.exp(x);
    let square = build(&mut g, shifted);
    let total = g.sum(square, &[0]);
    let dx = g.gradients(total, &[x]);
    let input = tensor(0, &[3]);
    let expected: Vec<f64> = input.values().iter().map(|x| 20.0 * (2.0 * x).exp()).collect();
    assert_close(&values(&g, &dx, &[input])[0], &expected, 1e-12);
}

#[test]
fn operations_without_a_rule_name_themselves_and_their_place() {
    const WINDOW: [tpu_train_hlo::WindowDimension; 2] =
        [tpu_train_hlo::WindowDimension { size: 1, stride: 1, low: 0, high: 0, dilation: 1 }; 2];
    type Build = dyn Fn(&mut Graph, Value) -> Value;
    let build: [(&str, &Build); 6] = [
        ("sqrt", &|g, x| g.sqrt(x)),
        ("reverse", &|g, x| g.reverse(x, &[0])),
        ("reduce", &|g, x| g.reduce_max(x, &[1])),
        ("reduce-window", &|g, x| g.reduce_window(x, &WINDOW, Reducer::Max)),
        ("all-reduce", &|g, x| g.all_reduce(x, Reducer::Max)),
        ("get-tuple-element", &|g, x| {
            let never = |g: &mut Graph, _: &[Value]| g.scalar(ElementType::Pred, 0.0);
            g.while_loop(&[x], never, |_, carry| carry.to_vec())[0]
        }),
    ];
    for (name, build) in build {
        let mut g = Graph::new("none");
        let x = g.parameter("x", f32s(&[2, 2]));
        let line = line!() + 1;
        let y = build(&mut g, x);
        let all: Vec<usize> = (0..g.shape(y).rank()).collect();
        let total = g.sum(y, &all);
        g.gradients(total, &[x]);
        match g.finish() {
            Err(GraphError::NotDifferentiable { op, file, line: at }) => {
                assert_eq!(op, name);
                assert!(file.ends_with("gradients.rs") && at.abs_diff(line) < 40, "{file}:{at}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn an_integer_path_carries_no_gradient() {
    let mut g = Graph::new("integers");
    let (x, n) = (g.parameter("x", f32s(&[2])), g.parameter("n", Shape::new(ElementType::S32, &[2])));
    let scaled = g.convert(n, ElementType::F32);
    let product = g.mul(x, scaled);
    let total = g.sum(product, &[0]);
    let dx = g.gradients(total, &[x]);
    let counts = Tensor::new(Shape::new(ElementType::S32, &[2]), vec![3.0, -4.0]);
    assert_eq!(values(&g, &dx, &[tensor(0, &[2]), counts]), [[3.0, -4.0]]);
}

#[test]
fn batch_norm_with_weights() {
    let weights = Tensor::new(f32s(&[3]), vec![1.0, 1.0, 0.0]);
    check_gradients_at(&[tensor(0, &[3, 4, 2]), tensor(1, &[2])], |g, p| {
        let weights =
            g.constant(tpu_train_hlo::Literal::new(ElementType::F32, &[3], weights.values().to_vec()));
        let weights = g.broadcast(weights, &[3, 4, 2], &[0]);
        let count = g.sum(weights, &[0, 1]);
        let weighed = g.mul(p[0], weights);
        let total = g.sum(weighed, &[0, 1]);
        let mean = g.div(total, count);
        let mean = g.broadcast(mean, &[3, 4, 2], &[2]);
        let centred = g.sub(p[0], mean);
        let square = g.mul(centred, centred);
        let square = g.mul(square, weights);
        let total = g.sum(square, &[0, 1]);
        let variance = g.div(total, count);
        let epsilon = g.scalar_like(variance, 1e-3);
        let variance = g.add(variance, epsilon);
        let scale = g.rsqrt(variance);
        let scale = g.mul(scale, p[1]);
        let scale = g.broadcast(scale, &[3, 4, 2], &[2]);
        g.mul(centred, scale)
    });
}
