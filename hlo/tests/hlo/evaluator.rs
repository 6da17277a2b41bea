//! The oracle itself, against numbers worked out by hand or by a plain loop.

use tpu_train_hlo::eval::Tensor;
use tpu_train_hlo::{
    Comparison, ConvolutionConfig, ConvolutionWindow, ElementType, Graph, Literal, PadDimension, Reducer,
    Shape, Value, WindowDimension,
};

use crate::support::{assert_close, f32s, numbers, tensor, values};

fn list(g: &mut Graph, ty: ElementType, values: &[f64]) -> Value {
    g.constant(Literal::new(ty, &[values.len()], values.to_vec()))
}

#[test]
fn integers_wrap_at_their_width() {
    let mut g = Graph::new("integers");
    let a = list(&mut g, ElementType::U32, &[4_294_967_295.0, 3_000_000_000.0, 7.0, 5.0]);
    let b = list(&mut g, ElementType::U32, &[2.0, 3_000_000_000.0, 3.0, 32.0]);
    let results = [
        g.add(a, b),
        g.mul(a, b),
        g.sub(b, a),
        g.shl(a, b),
        g.shr(a, b),
        g.xor(a, b),
        g.not(a),
        g.div(a, b),
        g.rem(a, b),
    ];
    let product = (3_000_000_000u32).wrapping_mul(3_000_000_000);
    let expected: [[f64; 4]; 9] = [
        [1.0, 1_705_032_704.0, 10.0, 37.0],
        [4_294_967_294.0, f64::from(product), 21.0, 160.0],
        [3.0, 0.0, 4_294_967_292.0, 27.0],
        [4_294_967_292.0, 0.0, 56.0, 0.0],
        [1_073_741_823.0, 0.0, 0.0, 0.0],
        [4_294_967_293.0, 0.0, 4.0, 37.0],
        [0.0, 1_294_967_295.0, 4_294_967_288.0, 4_294_967_290.0],
        [2_147_483_647.0, 1.0, 2.0, 0.0],
        [1.0, 0.0, 1.0, 5.0],
    ];
    for (found, expected) in values(&g, &results, &[]).iter().zip(expected) {
        assert_eq!(*found, expected);
    }
    let mut g = Graph::new("signed");
    let a = list(&mut g, ElementType::S32, &[-8.0, 2_147_483_647.0]);
    let one = g.scalar_like(a, 1.0);
    let results = [g.shr(a, one), g.add(a, one), g.abs(a), g.div(a, a), g.neg(a)];
    let found = values(&g, &results, &[]);
    assert_eq!(found[0], [2_147_483_644.0, 1_073_741_823.0]);
    assert_eq!(found[1], [-7.0, -2_147_483_648.0]);
    assert_eq!(found[2..], [[8.0, 2_147_483_647.0], [1.0, 1.0], [8.0, -2_147_483_647.0]]);
}

#[test]
fn conversions() {
    let mut g = Graph::new("convert");
    let x = list(&mut g, ElementType::F32, &[2.7, -2.7, 1e10, 0.0]);
    let n = list(&mut g, ElementType::S32, &[-1.0, 300.0, 0.0, 1.0]);
    let one = list(&mut g, ElementType::F32, &[1.0]);
    let bits = g.bitcast_convert(one, ElementType::U32);
    let back = g.bitcast_convert(bits, ElementType::F32);
    let results = [
        g.convert(x, ElementType::S32),
        g.convert(n, ElementType::U8),
        g.convert(x, ElementType::Pred),
        g.convert(n, ElementType::F32),
        bits,
        back,
    ];
    let found = values(&g, &results, &[]);
    assert_eq!(found[0], [2.0, -2.0, 2_147_483_647.0, 0.0]);
    assert_eq!(found[1], [255.0, 44.0, 0.0, 1.0]);
    assert_eq!(found[2], [1.0, 1.0, 1.0, 0.0]);
    assert_eq!(found[3], [-1.0, 300.0, 0.0, 1.0]);
    assert_eq!(found[4], [1_065_353_216.0]);
    assert_eq!(found[5], [1.0]);
}

#[test]
fn movement() {
    let mut g = Graph::new("movement");
    let x = g.iota(ElementType::S32, &[6], 0);
    let x = g.reshape(x, &[2, 3]);
    let zero = g.scalar(ElementType::S32, 9.0);
    let cut = PadDimension { low: -1, high: 2, interior: 1 };
    let far = g.scalar(ElementType::S32, 5.0);
    let part = g.slice_in_dim(x, 1, 0, 2);
    let results = [
        g.transpose(x, &[1, 0]),
        g.reverse(x, &[1]),
        g.pad(x, zero, &[PadDimension::default(), cut]),
        g.dynamic_slice(x, &[far, far], &[1, 2]),
        g.dynamic_update_slice(x, part, &[far, far]),
        g.iota(ElementType::S32, &[2, 2], 1),
        g.one_hot(part, 2, ElementType::S32),
    ];
    let found = values(&g, &results, &[]);
    assert_eq!(found[0], [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(found[1], [2.0, 1.0, 0.0, 5.0, 4.0, 3.0]);
    assert_eq!(found[2], [9.0, 1.0, 9.0, 2.0, 9.0, 9.0, 9.0, 4.0, 9.0, 5.0, 9.0, 9.0]);
    assert_eq!(found[3], [4.0, 5.0]);
    assert_eq!(found[4], [0.0, 0.0, 1.0, 3.0, 3.0, 4.0]);
    assert_eq!(found[5], [0.0, 1.0, 0.0, 1.0]);
    assert_eq!(found[6], [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn reductions() {
    let mut g = Graph::new("reductions");
    let x =
        g.constant(Literal::new(ElementType::F32, &[2, 4], vec![1.0, 5.0, 5.0, 2.0, -1.0, -7.0, -1.0, -2.0]));
    let window = WindowDimension { size: 2, stride: 2, low: 1, high: 0, dilation: 2 };
    let flags = list(&mut g, ElementType::Pred, &[1.0, 1.0, 0.0]);
    let results = [
        g.sum(x, &[0]),
        g.reduce_max(x, &[1]),
        g.reduce(x, &[0, 1], Reducer::Mul),
        g.argmax(x, 1),
        g.reduce_window(x, &[WindowDimension::default(), window], Reducer::Max),
        g.reduce(flags, &[0], Reducer::And),
        g.reduce(flags, &[0], Reducer::Or),
    ];
    let found = values(&g, &results, &[]);
    assert_eq!(found[0], [0.0, -2.0, 4.0, 0.0]);
    assert_eq!(found[1], [5.0, -1.0]);
    assert_eq!(found[2], [700.0]);
    assert_eq!(found[3], [1.0, 0.0]);
    assert_eq!(found[4], [5.0, 5.0, -7.0, -2.0]);
    assert_eq!(found[5..], [[0.0], [1.0]]);
}

#[test]
fn argmax_of_nan_stays_inside() {
    let mut g = Graph::new("nan");
    let x = list(&mut g, ElementType::F32, &[0.0, f64::NAN, 1.0]);
    let index = g.argmax(x, 0);
    assert_eq!(values(&g, &[index], &[]), [[2.0]]);
}

#[test]
fn a_loop_turns_until_its_condition_fails() {
    let mut g = Graph::new("powers");
    let (one, limit) =
        (g.scalar(ElementType::S32, 1.0), g.parameter("limit", Shape::scalar(ElementType::S32)));
    let end = g.while_loop(
        &[one, limit, one],
        |g, c| g.compare(c[0], c[1], Comparison::Lt),
        |g, c| {
            let (doubled, counted) = (g.add(c[0], c[0]), g.add(c[2], c[2]));
            vec![doubled, c[1], counted]
        },
    );
    let limit = Tensor::new(Shape::scalar(ElementType::S32), vec![100.0]);
    assert_eq!(values(&g, &[end[0]], &[limit]), [[128.0]]);
}

/// One-dimensional convolution straight from its definition.
fn plain(
    x: &[f64],
    [batch, time, channels]: [usize; 3],
    k: &[f64],
    [taps, filters]: [usize; 2],
    w: ConvolutionWindow,
) -> Vec<f64> {
    let spread = (time as i64 - 1) * w.lhs_dilation as i64 + 1;
    let reach = (taps as i64 - 1) * w.rhs_dilation as i64 + 1;
    let positions = (spread + w.low + w.high - reach) / w.stride as i64 + 1;
    let mut out = Vec::new();
    for n in 0..batch {
        for p in 0..positions {
            for f in 0..filters {
                let mut sum = 0.0;
                for j in 0..taps {
                    let at = p * w.stride as i64 + (j * w.rhs_dilation) as i64 - w.low;
                    if at < 0 || at >= spread || at % w.lhs_dilation as i64 != 0 {
                        continue;
                    }
                    let tap = if w.reversal { taps - 1 - j } else { j };
                    for c in 0..channels {
                        let row = n * time + (at / w.lhs_dilation as i64) as usize;
                        sum += x[row * channels + c] * k[(tap * channels + c) * filters + f];
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

#[test]
fn convolution_from_its_definition() {
    let windows = [
        ConvolutionWindow::default(),
        ConvolutionWindow { stride: 2, low: 2, high: 1, lhs_dilation: 1, rhs_dilation: 2, reversal: true },
        ConvolutionWindow { stride: 3, low: -1, high: 4, lhs_dilation: 2, rhs_dilation: 1, reversal: false },
    ];
    for window in windows {
        let mut g = Graph::new("convolution");
        let (x, k) = (g.parameter("x", f32s(&[2, 7, 3])), g.parameter("k", f32s(&[3, 3, 4])));
        let config = ConvolutionConfig {
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
        };
        let y = g.convolution(x, k, config);
        let found = values(&g, &[y], &[tensor(1, &[2, 7, 3]), tensor(2, &[3, 3, 4])]);
        let expected = plain(&numbers(1, 42), [2, 7, 3], &numbers(2, 36), [3, 4], window);
        assert_close(&found[0], &expected, 1e-14);
    }
}
