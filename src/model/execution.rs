//! The training step as one execution of a program: several steps in it, or windows that the devices hold.
//!
//! With `K` steps an execution takes `K` batches and a count of how many of them are to be taken, so that one program
//! serves the end of an epoch too. The steps are a loop around the step's own graph.
//!
//! With windows held on the devices, replica `r` holds windows `r·N..(r+1)·N` of the training windows, each a row of
//! `[N, T·C]` raw samples, and a batch brings the places of its windows instead of their samples. Every replica lays
//! out those of the batch's rows that it holds, zeros elsewhere; their sum over the replicas is the batch, exactly.

use super::network;
use super::step::{self, BatchParameters, METRICS, Program, ProgramGraph, StepConfig};
use tpu_train_hlo::{ElementType, Graph, GraphError, Shape, Value};

/// What one execution does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Steps at most, at least 1.
    pub steps: usize,
    /// Windows that each replica holds; `None` where batches bring their samples.
    pub held: Option<usize>,
}

impl Default for Execution {
    /// The training step as it is.
    fn default() -> Self {
        Self { steps: 1, held: None }
    }
}

impl Execution {
    /// Whether the program is told how many of its batches to take.
    pub fn is_counted(&self) -> bool {
        self.steps > 1
    }
}

/// Optimizer steps. Parameters: state; then for each step samples (or places `[global batch]` s32, the same on every
/// replica), minimum, range, labels, weights; then stop; then, of several steps, how many to take (s32); then, where
/// windows are held, these. Outputs: state, metrics of each step, `[steps · METRICS]`.
///
/// # Errors
/// A configuration that no graph can be built for.
pub fn train_steps(config: &StepConfig, execution: &Execution) -> Result<Program, GraphError> {
    if *execution == Execution::default() {
        return step::train_step(config);
    }
    train_steps_graph(config, execution).lower()
}

/// The graph of [`train_steps`].
pub fn train_steps_graph(config: &StepConfig, execution: &Execution) -> ProgramGraph {
    let mut graph = step::new_graph("train_steps", config);
    let g = &mut graph;
    let state = step::declare_state(g, &config.model);
    let batches: Vec<Batch> = (0..execution.steps).map(|k| Batch::declare(g, config, execution, k)).collect();
    let stop = g.parameter("stop", Shape::new(ElementType::F32, &[1]));
    let count = execution.is_counted().then(|| g.parameter("count", Shape::scalar(ElementType::S32)));
    let held = execution.held.map(|windows| {
        let row = config.model.window * config.model.channels;
        g.parameter("held", Shape::new(config.samples, &[windows, row]))
    });
    let (mut outputs, metrics) = match count {
        None => batches[0].clone().step(g, config, &state, stop, held),
        Some(count) => repeat(g, config, &state, &batches, [stop, count], held),
    };
    let donated = outputs.len();
    outputs.push(metrics);
    ProgramGraph { graph, outputs, donated }
}

/// What a batch brings, in the order of its parameters: samples or places, minimum, range, labels, weights.
#[derive(Clone)]
struct Batch([Value; 5]);

impl Batch {
    fn declare(g: &mut Graph, config: &StepConfig, execution: &Execution, number: usize) -> Self {
        let (rows, model) = (config.rows, &config.model);
        let per_channel = Shape::new(ElementType::F32, &[rows, model.channels]);
        let (first, first_shape) = match execution.held {
            Some(_) => ("places", Shape::new(ElementType::S32, &[rows * config.replicas])),
            None => ("samples", Shape::new(config.samples, &[rows, model.window, model.channels])),
        };
        let mut declare = |name: &str, shape: Shape| g.parameter(&format!("{name}/{number}"), shape);
        Self([
            declare(first, first_shape),
            declare("minimum", per_channel.clone()),
            declare("range", per_channel),
            declare("labels", Shape::new(ElementType::S32, &[rows])),
            declare("weights", Shape::new(ElementType::F32, &[rows])),
        ])
    }

    fn step(
        self,
        g: &mut Graph,
        config: &StepConfig,
        state: &[Value],
        stop: Value,
        held: Option<Value>,
    ) -> (Vec<Value>, Value) {
        let [first, minimum, range, labels, weights] = self.0;
        let samples = match held {
            Some(held) => g.scope("lay_out", |g| lay_out(g, config, held, first)),
            None => first,
        };
        step::advance(g, config, state, &BatchParameters { samples, minimum, range, labels, weights, stop })
    }
}

/// The first `count` of the batches, one step each.
fn repeat(
    g: &mut Graph,
    config: &StepConfig,
    state: &[Value],
    batches: &[Batch],
    [stop, count]: [Value; 2],
    held: Option<Value>,
) -> (Vec<Value>, Value) {
    // `[K, …]` of each of the five.
    let stacked: Vec<Value> = (0..5)
        .map(|part| {
            let rows: Vec<Value> = batches.iter().map(|batch| as_row(g, batch.0[part])).collect();
            g.concatenate(&rows, 0)
        })
        .collect();
    let zero = g.scalar(ElementType::S32, 0.0);
    let metrics = g.full(ElementType::F32, 0.0, &[batches.len(), METRICS]);
    let mut carry = state.to_vec();
    carry.extend([metrics, zero, count, stop]);
    carry.extend(stacked);
    carry.extend(held);
    let (metrics_at, step_at) = (state.len(), state.len() + 1);
    let more = |g: &mut Graph, carry: &[Value]| {
        g.compare(carry[step_at], carry[step_at + 1], tpu_train_hlo::Comparison::Lt)
    };
    let body = |g: &mut Graph, carry: &[Value]| {
        let (step, stop) = (carry[step_at], carry[step_at + 2]);
        let stacked = &carry[step_at + 3..step_at + 8];
        let batch = Batch(std::array::from_fn(|part| row_of(g, stacked[part], step)));
        let held = carry.get(step_at + 8).copied();
        let (mut next, metrics) = batch.step(g, config, &carry[..metrics_at], stop, held);
        let metrics = as_row(g, metrics);
        let zero = g.scalar(ElementType::S32, 0.0);
        next.push(g.dynamic_update_slice(carry[metrics_at], metrics, &[step, zero]));
        let one = g.scalar(ElementType::S32, 1.0);
        next.push(g.add(step, one));
        next.extend(&carry[step_at + 1..]);
        next
    };
    let mut last = g.while_loop(&carry, more, body);
    let metrics = g.reshape(last[metrics_at], &[batches.len() * METRICS]);
    last.truncate(metrics_at);
    (last, metrics)
}

/// A value as the only row of an array.
fn as_row(g: &mut Graph, v: Value) -> Value {
    let mut dims = g.dims(v);
    dims.insert(0, 1);
    g.reshape(v, &dims)
}

/// Row `index` of an array.
fn row_of(g: &mut Graph, v: Value, index: Value) -> Value {
    let mut dims = g.dims(v);
    let zero = g.scalar(ElementType::S32, 0.0);
    let mut starts = vec![zero; dims.len()];
    starts[0] = index;
    dims[0] = 1;
    let row = g.dynamic_slice(v, &starts, &dims);
    g.reshape(row, &dims[1..])
}

/// This replica's rows of a batch, `[B, T, C]`, out of the windows that all replicas hold.
fn lay_out(g: &mut Graph, config: &StepConfig, held: Value, places: Value) -> Value {
    let (rows, model, replicas) = (config.rows, &config.model, config.replicas);
    let length = model.window * model.channels;
    let all = replicas * rows;
    let replica = g.replica_id();
    let replica = g.convert(replica, ElementType::S32);
    let windows = g.scalar(ElementType::S32, g.shape(held).dims[0] as f64);
    let first = g.mul(replica, windows);
    let whole = g.full(g.shape(held).element_type, 0.0, &[all, length]);
    let zero = g.scalar(ElementType::S32, 0.0);
    let more = |g: &mut Graph, carry: &[Value]| {
        let all = g.scalar(ElementType::S32, all as f64);
        g.compare(carry[0], all, tpu_train_hlo::Comparison::Lt)
    };
    let body = |g: &mut Graph, carry: &[Value]| {
        let &[row, whole, held, places, first] = carry else { return carry.to_vec() };
        let place = row_of(g, places, row);
        let place = g.sub(place, first);
        let window = own_window(g, held, place);
        let zero = g.scalar(ElementType::S32, 0.0);
        let whole = g.dynamic_update_slice(whole, window, &[row, zero]);
        let one = g.scalar(ElementType::S32, 1.0);
        vec![g.add(row, one), whole, held, places, first]
    };
    let whole = g.while_loop(&[zero, whole, held, places, first], more, body)[1];
    let own = if replicas > 1 {
        // float32 holds 16-bit samples exactly, and every platform can sum it.
        let whole = g.convert(whole, ElementType::F32);
        let whole = network::sum_over_replicas(g, whole, replicas);
        let rows_before = g.scalar(ElementType::S32, rows as f64);
        let rows_before = g.mul(replica, rows_before);
        g.dynamic_slice(whole, &[rows_before, zero], &[rows, length])
    } else {
        whole
    };
    g.reshape(own, &[rows, model.window, model.channels])
}

/// The window at `place` of those that this replica holds, `[1, T·C]`; zeros where it is another replica's.
fn own_window(g: &mut Graph, held: Value, place: Value) -> Value {
    let (windows, length) = (g.shape(held).dims[0], g.shape(held).dims[1]);
    let element_type = g.shape(held).element_type;
    let zero = g.scalar(ElementType::S32, 0.0);
    let last = g.scalar(ElementType::S32, (windows - 1) as f64);
    let inside = g.max(place, zero);
    let inside = g.min(inside, last);
    let is_own = g.compare(place, inside, tpu_train_hlo::Comparison::Eq);
    let is_own = g.convert(is_own, element_type);
    let window = g.dynamic_slice(held, &[inside, zero], &[1, length]);
    g.mul(window, is_own)
}
