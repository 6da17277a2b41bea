//! Shape errors: kept at the first, with the place of the call.

use tpu_train_hlo::eval::{Tensor, evaluate};
use tpu_train_hlo::{
    Comparison, ConvolutionWindow, DotDimensions, ElementType, Graph, GraphError, Literal, PadDimension,
    Reducer, Shape, Value, WindowDimension, lower,
};

use crate::support::f32s;

type Build = dyn Fn(&mut Graph, Value, Value) -> Value;

#[test]
fn operands_that_do_not_fit_are_errors_in_words() {
    // x is f32[2,3], n is s32[4].
    let cases: [(&str, &str, &Build); 22] = [
        ("add", "f32[2,3] and s32[4]", &|g, x, n| g.add(x, n)),
        ("tanh", "type s32", &|g, _, n| g.tanh(n)),
        ("not", "type f32", &|g, x, _| g.not(x)),
        ("xor", "type f32", &|g, x, _| g.xor(x, x)),
        ("compare", "equal shapes", &|g, x, n| g.compare(x, n, Comparison::Eq)),
        ("select", "pred", &|g, x, _| g.select(x, x, x)),
        ("bitcast-convert", "width", &|g, x, _| g.bitcast_convert(x, ElementType::Bf16)),
        ("broadcast", "dimension 0 is not 2", &|g, x, _| g.broadcast(x, &[4, 3], &[0, 1])),
        ("broadcast", "ascending", &|g, x, _| g.broadcast(x, &[3, 2], &[1, 0])),
        ("reshape", "sizes differ", &|g, x, _| g.reshape(x, &[7])),
        ("transpose", "permutation", &|g, x, _| g.transpose(x, &[0, 0])),
        ("slice", "1..4 by 1", &|g, x, _| g.slice_in_dim(x, 1, 1, 4)),
        ("pad", "padding", &|g, x, _| {
            let zero = g.scalar_like(x, 0.0);
            g.pad(x, zero, &[PadDimension::default()])
        }),
        ("concatenate", "more than dimension 0", &|g, x, n| g.concatenate(&[x, n], 0)),
        ("dynamic-slice", "integer scalar", &|g, x, _| g.dynamic_slice(x, &[x, x], &[1, 1])),
        ("dot", "differ in extent", &|g, x, _| {
            let dims =
                DotDimensions { lhs_contracting: vec![0], rhs_contracting: vec![1], ..Default::default() };
            g.dot_general(x, x, dims)
        }),
        ("convolution", "permutation", &|g, x, _| g.conv1d(x, x)),
        ("reduce", "no dimension 2", &|g, x, _| g.sum(x, &[2])),
        ("reduce-window", "does not fit", &|g, x, _| {
            let window = [WindowDimension { size: 3, ..Default::default() }; 2];
            g.reduce_window(x, &window, Reducer::Max)
        }),
        ("iota", "no dimension 1", &|g, _, _| g.iota(ElementType::S32, &[3], 1)),
        ("constant", "6 elements, found 1", &|g, _, _| {
            g.constant(Literal::new(ElementType::F32, &[2, 3], vec![0.0]))
        }),
        ("gradients", "scalar as objective", &|g, x, _| g.gradients(x, &[x])[0]),
    ];
    for (op, words, build) in cases {
        let mut g = Graph::new("wrong");
        let x = g.parameter("x", f32s(&[2, 3]));
        let n = g.parameter("n", Shape::new(ElementType::S32, &[4]));
        assert_eq!(g.finish(), Ok(()));
        build(&mut g, x, n);
        let error = g.finish().unwrap_err();
        let GraphError::Operation { op: found, file, line, problem } = &error else { panic!("{error:?}") };
        assert_eq!(found, op, "{error}");
        assert!(problem.contains(words), "{error}");
        assert!(file.ends_with("shapes.rs") && (14..95).contains(line), "{error}");
    }
}

#[test]
fn the_first_error_is_kept_and_building_goes_on() {
    let mut g = Graph::new("wrong");
    let x = g.parameter("x", f32s(&[2, 3, 4]));
    let kernel = g.parameter("k", f32s(&[5, 4, 6]));
    let line = line!() + 1;
    let y = g.conv1d(x, kernel);
    let (_, _, _) = (g.dims(y)[2], g.matmul(y, kernel), g.transpose(y, &[9]));
    let error = g.finish().unwrap_err();
    let expected =
        format!(":{line}: a kernel of 5 does not fit into 3 elements of f32[2,3,4] with its padding");
    assert!(
        error.to_string().starts_with("convolution at ") && error.to_string().ends_with(&expected),
        "{error}"
    );
    assert_eq!(lower(&g, &[x], &[]), Err(error.clone()));
    assert_eq!(evaluate(&g, &[x], &[]), Err(error));
}

#[test]
fn a_loop_sees_only_its_carry() {
    let mut g = Graph::new("leak");
    let (x, bound) = (g.parameter("x", f32s(&[])), g.parameter("bound", f32s(&[])));
    let below = |g: &mut Graph, carry: &[Value]| {
        let bound = g.scalar_like(carry[0], 3.0);
        g.compare(carry[0], bound, Comparison::Lt)
    };
    g.while_loop(&[x], below, |g, carry| vec![g.add(carry[0], bound)]);
    let message = g.finish().unwrap_err().to_string();
    assert!(message.contains("add at ") && message.contains("another graph"), "{message}");
}

#[test]
fn a_loop_keeps_its_carry() {
    let mut g = Graph::new("carry");
    let x = g.parameter("x", f32s(&[2]));
    let always = |g: &mut Graph, _: &[Value]| g.scalar(ElementType::Pred, 1.0);
    g.while_loop(&[x], always, |g, carry| vec![g.concatenate(&[carry[0], carry[0]], 0)]);
    let message = g.finish().unwrap_err().to_string();
    assert!(message.contains("the carry is (f32[2]), the body returns (f32[4])"), "{message}");
}

#[test]
fn a_region_must_compute_its_outputs_and_its_rule_must_fit() {
    let mut g = Graph::new("region");
    let x = g.parameter("x", f32s(&[2]));
    g.custom_vjp(&[x], |_| (vec![x], ()), |_, (), ct| ct.to_vec());
    assert!(g.finish().unwrap_err().to_string().contains("inside of the region"));

    let mut g = Graph::new("rule");
    let x = g.parameter("x", f32s(&[2]));
    let y = g.custom_vjp(&[x], |g| (vec![g.neg(x)], ()), |g, (), ct| vec![g.sum(ct[0], &[0])])[0];
    let total = g.sum(y, &[0]);
    g.gradients(total, &[x]);
    assert!(g.finish().unwrap_err().to_string().contains("same extents"));
}

#[test]
fn inputs_must_fit_the_parameters() {
    let mut g = Graph::new("inputs");
    let x = g.parameter("x", f32s(&[2]));
    let given = Tensor::new(f32s(&[3]), vec![0.0; 3]);
    let message = evaluate(&g, &[x], &[vec![given]]).unwrap_err().to_string();
    assert_eq!(message, "evaluation of graph inputs: parameter 0 is f32[2], found f32[3]");
}

#[test]
fn windows_count_their_positions() {
    let mut g = Graph::new("positions");
    let x = g.parameter("x", f32s(&[1, 10, 2]));
    let kernel = g.parameter("k", f32s(&[3, 2, 4]));
    let plain = g.conv1d(x, kernel);
    assert_eq!(g.dims(plain), [1, 8, 4]);
    let window = WindowDimension { size: 2, stride: 3, low: 1, high: 0, dilation: 2 };
    let reduced =
        g.reduce_window(x, &[WindowDimension::default(), window, WindowDimension::default()], Reducer::Max);
    assert_eq!(g.dims(reduced), [1, 3, 2]);
    assert_eq!(ConvolutionWindow::default().stride, 1);
    assert_eq!(g.finish(), Ok(()));
}
