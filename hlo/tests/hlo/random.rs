//! Threefry-2x32-20 against the vectors published with Random123, on the host and in the graph.

use tpu_train_hlo::eval::{Tensor, evaluate};
use tpu_train_hlo::random::{threefry2x32, threefry2x32_host, uniform, uniform_host};
use tpu_train_hlo::{ElementType, Graph, Shape, Value};

type Vector = ([u32; 2], [u32; 2], [u32; 2]);

/// Counter, key, result: the `threefry2x32 20` lines of Random123's known-answer file.
const VECTORS: [Vector; 3] = [
    ([0, 0], [0, 0], [0x6b20_0159, 0x99ba_4efe]),
    ([u32::MAX, u32::MAX], [u32::MAX, u32::MAX], [0x1cb9_96fc, 0xbb00_2be7]),
    ([0x243f_6a88, 0x85a3_08d3], [0x1319_8a2e, 0x0370_7344], [0xc492_3a9c, 0x483d_f7a0]),
];

fn words(values: &[u32]) -> Tensor {
    let shape = Shape::new(ElementType::U32, &[values.len()]);
    Tensor::new(shape, values.iter().map(|&v| f64::from(v)).collect())
}

fn word(value: u32) -> Tensor {
    Tensor::new(Shape::scalar(ElementType::U32), vec![f64::from(value)])
}

#[test]
fn the_host_gives_the_published_vectors() {
    for (counter, key, expected) in VECTORS {
        assert_eq!(threefry2x32_host(key, counter), expected);
    }
}

#[test]
fn the_graph_gives_the_published_vectors() {
    let mut g = Graph::new("threefry");
    let p: Vec<Value> =
        (0..4).map(|i| g.parameter(&format!("p{i}"), Shape::new(ElementType::U32, &[3]))).collect();
    let result = threefry2x32(&mut g, [p[0], p[1]], [p[2], p[3]]);
    let column = |f: &dyn Fn(&Vector) -> u32| words(&VECTORS.each_ref().map(f));
    let inputs = vec![column(&|v| v.1[0]), column(&|v| v.1[1]), column(&|v| v.0[0]), column(&|v| v.0[1])];
    let found = evaluate(&g, &result, &[inputs]).unwrap();
    assert_eq!(found[0], [column(&|v| v.2[0]), column(&|v| v.2[1])]);
}

/// `[rows, 5]` uniform numbers from a global index on.
fn drawn(first: u32, rows: usize) -> Vec<f64> {
    let mut g = Graph::new("uniform");
    let p: Vec<Value> =
        (0..3).map(|i| g.parameter(&format!("p{i}"), Shape::scalar(ElementType::U32))).collect();
    let u = uniform(&mut g, [p[0], p[1]], p[2], &[rows, 5]);
    assert_eq!(g.dims(u), [rows, 5]);
    evaluate(&g, &[u], &[vec![word(11), word(12), word(first)]]).unwrap()[0][0].values().to_vec()
}

#[test]
fn uniform_numbers_depend_on_the_global_index_alone() {
    let whole = drawn(0, 6);
    assert_eq!([drawn(0, 2), drawn(10, 1), drawn(15, 3)].concat(), whole);
    let host: Vec<f64> = (0..30).map(|i| f64::from(uniform_host([11, 12], i))).collect();
    assert_eq!(whole, host);
}

#[test]
fn uniform_numbers_have_uniform_moments() {
    let numbers: Vec<f64> = (0..100_000).map(|i| f64::from(uniform_host([1, 2], i))).collect();
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let neighbours = numbers.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>() / n;
    // Five standard errors each.
    assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0 / n).sqrt(), "{mean}");
    assert!((variance - 1.0 / 12.0).abs() < 5.0 * (1.0 / 180.0 / n).sqrt(), "{variance}");
    assert!(neighbours.abs() < 5.0 / 12.0 / n.sqrt(), "{neighbours}");
    assert!(numbers.iter().all(|x| (0.0..1.0).contains(x)));
}
