//! A slow evaluator in f64: the oracle of the tests.
//!
//! Floating-point elements of every type are held and computed in f64, unrounded, so central differences are sharp;
//! integers are exact and wrap at their width (64-bit ones are exact up to 2^53). Several replicas run in lockstep,
//! so all-reduce sees all of them; a loop must turn equally often in each.
//! Usage: `eval::evaluate(&graph, &[loss], &[vec![x, w]])`, one list of inputs for each replica.

mod elementwise;
mod movement;
mod products;
mod windows;

use std::sync::Arc;

use crate::graph::Computation;
use crate::live::Live;
use crate::op::Op;
use crate::{ElementType, Graph, GraphError, Reducer, Shape, Value};

/// An array of the evaluator; cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Shape,
    values: Arc<Vec<f64>>,
}

impl Tensor {
    /// An array from its elements in row-major order; integers and truth values as whole numbers.
    ///
    /// # Panics
    /// If their number is not that of the shape.
    pub fn new(shape: Shape, values: Vec<f64>) -> Self {
        assert_eq!(shape.elements(), values.len(), "elements of {shape}");
        Self { shape, values: Arc::new(values) }
    }

    /// Its element type and extents.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its elements in row-major order.
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

/// The results of one node: one, or the elements of a tuple.
type Results = Vec<Tensor>;

/// The values of `outputs` on each replica, from its parameters.
///
/// # Errors
/// The graph's first error; inputs that do not fit the parameters; replicas that leave a loop at different times.
pub fn evaluate(
    graph: &Graph,
    outputs: &[Value],
    inputs: &[Vec<Tensor>],
) -> Result<Vec<Vec<Tensor>>, GraphError> {
    graph.finish()?;
    let shapes = graph.parameter_shapes();
    let problem = inputs.iter().find_map(|given| misfit(&shapes, given)).or_else(|| graph.foreign(outputs));
    let found = match problem {
        Some(problem) => Err(problem),
        None => run(graph, outputs, inputs),
    };
    found.map_err(|problem| GraphError::Evaluation { graph: graph.name().to_owned(), problem })
}

fn misfit(parameters: &[Shape], given: &[Tensor]) -> Option<String> {
    if parameters.len() != given.len() {
        return Some(format!("expected {} inputs, found {}", parameters.len(), given.len()));
    }
    let pairs = parameters.iter().zip(given).enumerate();
    let wrong = pairs.into_iter().find(|(_, (p, t))| **p != t.shape);
    wrong.map(|(i, (p, t))| format!("parameter {i} is {p}, found {}", t.shape))
}

/// The outputs on each replica, `inputs[replica][parameter]`.
fn run(graph: &Graph, outputs: &[Value], inputs: &[Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, String> {
    let live = Live::of(graph, outputs);
    let mut results: Vec<Vec<Results>> = vec![vec![Vec::new(); graph.nodes.len()]; inputs.len()];
    for (i, node) in graph.nodes.iter().enumerate().filter(|(i, _)| live.nodes[*i]) {
        let operands: Vec<Vec<Tensor>> = results
            .iter()
            .map(|r| node.operands.iter().filter_map(|v| r[v.index()].first().cloned()).collect())
            .collect();
        let computed: Vec<Results> = match &*node.op {
            Op::Parameter { number, .. } => inputs.iter().map(|given| vec![given[*number].clone()]).collect(),
            Op::Element(element) => {
                results.iter().map(|r| vec![r[node.operands[0].index()][*element].clone()]).collect()
            }
            Op::AllReduce(reducer) => all_reduce(*reducer, &operands),
            Op::ReplicaId => (0..inputs.len())
                .map(|r| vec![Tensor::new(Shape::scalar(ElementType::U32), vec![r as f64])])
                .collect(),
            Op::While { condition, body } => {
                while_loop(condition, body, &live.carries[i], node_carry(&results, node))?
            }
            op => operands.iter().map(|v| vec![array(op, v, node.shape())]).collect(),
        };
        for (of_replica, value) in results.iter_mut().zip(computed) {
            of_replica[i] = value;
        }
    }
    Ok(results.iter().map(|r| outputs.iter().map(|v| r[v.index()][0].clone()).collect()).collect())
}

/// The initial carry of a loop on each replica; an empty scalar stands for an element that nothing needs.
fn node_carry(results: &[Vec<Results>], node: &crate::graph::Node) -> Vec<Vec<Tensor>> {
    let absent = || Tensor::new(Shape::scalar(ElementType::F32), vec![0.0]);
    let of = |r: &Vec<Results>| {
        node.operands.iter().map(|v| r[v.index()].first().cloned().unwrap_or_else(absent)).collect()
    };
    results.iter().map(of).collect()
}

fn while_loop(
    condition: &Computation,
    body: &Computation,
    live: &[bool],
    mut carry: Vec<Vec<Tensor>>,
) -> Result<Vec<Results>, String> {
    let elements: Vec<usize> = (0..live.len()).filter(|&e| live[e]).collect();
    let outputs: Vec<Value> = elements.iter().map(|&e| body.outputs[e]).collect();
    loop {
        let holds = run(&condition.graph, &condition.outputs, &carry)?;
        let on: Vec<bool> = holds.iter().map(|h| h[0].values[0] != 0.0).collect();
        if on.iter().any(|&o| o != on[0]) {
            return Err("expected a loop to turn equally often on all replicas".to_owned());
        }
        if !on.first().copied().unwrap_or(false) {
            return Ok(carry);
        }
        let next = run(&body.graph, &outputs, &carry)?;
        for (carry, next) in carry.iter_mut().zip(next) {
            elements.iter().zip(next).for_each(|(&e, value)| carry[e] = value);
        }
    }
}

fn all_reduce(reducer: Reducer, operands: &[Vec<Tensor>]) -> Vec<Results> {
    let Some((first, others)) = operands.split_first() else { return Vec::new() };
    let fold = |i: usize, start: &Tensor| {
        others.iter().fold(start.clone(), |sum, other| elementwise::binary(reducer.binary(), &sum, &other[i]))
    };
    let reduced: Results = first.iter().enumerate().map(|(i, t)| fold(i, t)).collect();
    vec![reduced; operands.len()]
}

/// One array operation.
fn array(op: &Op, v: &[Tensor], shape: &Shape) -> Tensor {
    match op {
        Op::Constant(literal) => elementwise::wrapped(shape.clone(), literal.values.clone()),
        Op::Iota { dimension, .. } => movement::iota(shape, *dimension),
        Op::Unary(op) => elementwise::unary(*op, &v[0]),
        Op::Binary(op) => elementwise::binary(*op, &v[0], &v[1]),
        Op::Compare(comparison) => elementwise::compare(*comparison, &v[0], &v[1]),
        Op::Select => elementwise::select(&v[0], &v[1], &v[2]),
        Op::Convert(_) => elementwise::convert(&v[0], shape),
        Op::BitcastConvert(_) => elementwise::bitcast(&v[0], shape),
        Op::Broadcast { mapping, .. } => movement::broadcast(&v[0], shape, mapping),
        Op::Reshape(_) => Tensor { shape: shape.clone(), values: v[0].values.clone() },
        Op::StopGradient => v[0].clone(),
        Op::Transpose(permutation) => movement::transpose(&v[0], permutation),
        Op::Reverse(dims) => movement::reverse(&v[0], dims),
        Op::Slice { starts, strides, .. } => movement::slice(&v[0], shape, starts, strides),
        Op::Pad(padding) => movement::pad(&v[0], &v[1], shape, padding),
        Op::Concatenate(dimension) => movement::concatenate(v, shape, *dimension),
        Op::DynamicSlice(_) => movement::dynamic_slice(v, shape),
        Op::DynamicUpdateSlice => movement::dynamic_update_slice(v),
        Op::Dot { dims, .. } => products::dot(&v[0], &v[1], shape, dims),
        Op::Convolution { config, .. } => products::convolution(&v[0], &v[1], shape, config),
        Op::Reduce { dims, reducer } => windows::reduce(&v[0], shape, dims, *reducer),
        Op::ReduceWindow { window, reducer } => windows::reduce_window(&v[0], shape, window, *reducer),
        Op::Parameter { .. } | Op::ReplicaId | Op::AllReduce(_) | Op::While { .. } | Op::Element(_) => {
            unreachable!("{} is computed for all replicas at once", op.name())
        }
    }
}
