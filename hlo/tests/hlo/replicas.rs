//! Several replicas in lockstep: the objective is the sum of theirs.

use tpu_train_hlo::eval::{Tensor, evaluate};
use tpu_train_hlo::{ElementType, Graph, Reducer, Shape, Value};

use crate::support::{assert_close, dot, f32s, numbers, tensor, weighed};

const REPLICAS: usize = 3;

/// Each replica: weights w (equal everywhere), rows x (its own); the objective uses a mean over all replicas.
fn model() -> (Graph, Value, Vec<Value>) {
    let mut g = Graph::new("replicas");
    let (w, x) = (g.parameter("w", f32s(&[4])), g.parameter("x", f32s(&[5, 4])));
    let projected = g.matmul(x, w);
    let local = g.sum(projected, &[0]);
    let mean = g.all_reduce(local, Reducer::Add);
    let centred = g.sub(projected, mean);
    let square = g.mul(centred, centred);
    let objective = weighed(&mut g, square);
    let gradients = g.gradients(objective, &[w, x]);
    let dw = g.all_reduce(gradients[0], Reducer::Add);
    (g, objective, vec![dw, gradients[1]])
}

#[test]
fn gradients_through_all_reduce() {
    let (g, objective, gradients) = model();
    let w = tensor(1, &[4]);
    let x: Vec<Tensor> = (0..REPLICAS).map(|r| tensor(20 + r as u32, &[5, 4])).collect();
    let directions = |stream: u32, count: usize| numbers(40 + stream, count);
    let moved = |t: &Tensor, by: f64, d: &[f64]| {
        Tensor::new(t.shape().clone(), t.values().iter().zip(d).map(|(x, d)| x + by * d).collect())
    };
    let total = |by: f64| -> f64 {
        let inputs: Vec<Vec<Tensor>> = (0..REPLICAS)
            .map(|r| vec![moved(&w, by, &directions(9, 4)), moved(&x[r], by, &directions(r as u32, 20))])
            .collect();
        evaluate(&g, &[objective], &inputs).unwrap().iter().map(|o| o[0].values()[0]).sum()
    };
    let numeric = (total(1e-5) - total(-1e-5)) / 2e-5;
    let inputs: Vec<Vec<Tensor>> = x.iter().map(|x| vec![w.clone(), x.clone()]).collect();
    let found = evaluate(&g, &gradients, &inputs).unwrap();
    assert!(found.iter().all(|f| f[0] == found[0][0]), "the weights' gradient differs between replicas");
    let of_rows: f64 = (0..REPLICAS).map(|r| dot(found[r][1].values(), &directions(r as u32, 20))).sum();
    let analytic = dot(found[0][0].values(), &directions(9, 4)) + of_rows;
    assert_close(&[analytic], &[numeric], 1e-7);
}

#[test]
fn one_all_reduce_of_several_arrays() {
    let mut g = Graph::new("many");
    let (a, b) = (g.parameter("a", f32s(&[2])), g.parameter("b", f32s(&[])));
    let id = g.replica_id();
    let id = g.convert(id, ElementType::F32);
    let b = g.add(b, id);
    let outputs = g.all_reduce_many(&[a, b], Reducer::Add);
    let one = |r: f64| vec![Tensor::new(f32s(&[2]), vec![r, 10.0 * r]), Tensor::new(f32s(&[]), vec![1.0])];
    let found = evaluate(&g, &outputs, &[one(1.0), one(2.0), one(3.0)]).unwrap();
    for replica in &found {
        assert_eq!(replica[0].values(), [6.0, 60.0]);
        assert_eq!(replica[1].values(), [6.0]);
    }
}

#[test]
fn replicas_that_leave_a_loop_apart_are_an_error() {
    let mut g = Graph::new("apart");
    let n = g.parameter("n", Shape::scalar(ElementType::S32));
    let positive = |g: &mut Graph, carry: &[Value]| {
        let zero = g.scalar(ElementType::S32, 0.0);
        g.compare(carry[0], zero, tpu_train_hlo::Comparison::Gt)
    };
    let down = |g: &mut Graph, carry: &[Value]| {
        let one = g.scalar(ElementType::S32, 1.0);
        vec![g.sub(carry[0], one)]
    };
    let end = g.while_loop(&[n], positive, down);
    let count = |n: f64| vec![Tensor::new(Shape::scalar(ElementType::S32), vec![n])];
    assert_eq!(evaluate(&g, &end, &[count(3.0), count(3.0)]).unwrap()[1][0].values(), [0.0]);
    let message = evaluate(&g, &end, &[count(3.0), count(2.0)]).unwrap_err().to_string();
    assert!(message.contains("graph apart") && message.contains("equally often"), "{message}");
}
