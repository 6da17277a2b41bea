//! The programs that run on the device: the training step, its gradients alone, and the evaluation.
//!
//! Each is one graph, the same on every replica. The training step takes the state in the order of
//! [`State`] and then one replica's rows of the batch, and gives the state after the step, each array in the
//! place of its donated predecessor, and four numbers over the global batch ([`METRICS`]).
//!
//! The last parameter of each program is a replica's flag `stop`, 1 where its process was asked to stop. The flags
//! are summed with the metrics, so that every process of a job sees in the same step that one was asked.
//!
//! Every row has a weight, 1 for a window and 0 for padding. Loss, metrics, gradients and batch statistics
//! divide by the sum of the weights over all replicas, so that a partial batch counts for what it holds.

use super::forms::Forms;
use super::network::{self, BatchNormScope, Precision, Training};
use super::optimizer::{Adam, Slot};
use super::{ModelConfig, VariableSpec, variables};
use tpu_train_hlo::{Comparison, ElementType, Graph, GraphError, Shape, Value, lower};
use tpu_train_proto::xla::HloModuleProto;

/// What a program is built for.
#[derive(Clone, Debug, PartialEq)]
pub struct StepConfig {
    /// The network.
    pub model: ModelConfig,
    /// The optimizer.
    pub optimizer: Adam,
    /// Replicas the global batch is cut over.
    pub replicas: usize,
    /// Rows of the batch on each replica.
    pub rows: usize,
    /// Rows of batch normalisation's statistics.
    pub batch_norm: BatchNormScope,
    /// What products are computed in.
    pub precision: Precision,
    /// Type of the raw samples: `S16` or `F32`.
    pub samples: ElementType,
    /// Seed of dropout's draws.
    pub seed: u32,
    /// How the work is laid out.
    pub forms: Forms,
}

/// The four numbers a training step reports, sums over the rows of the global batch: loss (penalty
/// included) times weight, right answers, weights; and over the replicas: flags to stop.
pub const METRICS: usize = 4;

/// The sums over the global batch that an evaluation reports before the confusion counts: loss (penalty
/// included) times weight, weights; and over the replicas: flags to stop.
pub const EVALUATION_SUMS: usize = 3;

/// The sums over the global batch that [`batch_statistics`] reports: weights; and over the replicas: flags to stop.
pub const STATISTICS_SUMS: usize = 2;

/// Places of the training state among the parameters and the outputs of the training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// All variables: `0..variables`.
    pub variables: usize,
    /// Trainable variables; the first moments, then the second moments, follow the variables.
    pub trainable: usize,
}

impl State {
    /// The state of a network.
    pub fn of(config: &ModelConfig) -> Self {
        let all = variables(config);
        let trainable = all.iter().filter(|variable| variable.trainable).count();
        Self { variables: all.len(), trainable }
    }

    /// Place of the s32 count of steps taken.
    pub fn iteration(&self) -> usize {
        self.variables + 2 * self.trainable
    }

    /// Arrays in the state.
    pub fn len(&self) -> usize {
        self.iteration() + 1
    }

    /// A state always holds its iteration.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// One replica's rows of a batch, as parameters, in this order.
pub(super) struct BatchParameters {
    /// `[B, T, C]`, raw.
    pub(super) samples: Value,
    /// `[B, C]` f32.
    pub(super) minimum: Value,
    /// `[B, C]` f32.
    pub(super) range: Value,
    /// `[B]` s32.
    pub(super) labels: Value,
    /// `[B]` f32.
    pub(super) weights: Value,
    /// `[1]` f32: 1 where this replica's process was asked to stop.
    pub(super) stop: Value,
}

impl BatchParameters {
    fn declare(g: &mut Graph, config: &StepConfig) -> Self {
        let (rows, model) = (config.rows, &config.model);
        let samples = Shape::new(config.samples, &[rows, model.window, model.channels]);
        let per_channel = Shape::new(ElementType::F32, &[rows, model.channels]);
        Self {
            samples: g.parameter("samples", samples),
            minimum: g.parameter("minimum", per_channel.clone()),
            range: g.parameter("range", per_channel),
            labels: g.parameter("labels", Shape::new(ElementType::S32, &[rows])),
            weights: g.parameter("weights", Shape::new(ElementType::F32, &[rows])),
            stop: g.parameter("stop", Shape::new(ElementType::F32, &[1])),
        }
    }

    fn scaled(&self, g: &mut Graph) -> Value {
        network::scale(g, self.samples, self.minimum, self.range)
    }
}

/// A program: the module to compile and how many outputs each replica gives.
pub struct Program {
    /// The module, whose root is a tuple of the outputs.
    pub module: HloModuleProto,
    /// Number of outputs.
    pub outputs: usize,
}

/// A program before it is lowered, for the evaluator and for whoever wants to read it.
pub struct ProgramGraph {
    /// The graph, whose parameters are the program's.
    pub graph: Graph,
    /// What the program gives, in order.
    pub outputs: Vec<Value>,
    /// The first outputs take the places of as many first parameters.
    pub(super) donated: usize,
}

impl ProgramGraph {
    /// The program.
    ///
    /// # Errors
    /// The graph's first error.
    pub fn lower(&self) -> Result<Program, GraphError> {
        let aliases: Vec<(usize, usize)> = (0..self.donated).map(|place| (place, place)).collect();
        Ok(Program { module: lower(&self.graph, &self.outputs, &aliases)?, outputs: self.outputs.len() })
    }
}

/// An empty graph whose products are computed as the configuration has it.
pub(super) fn new_graph(name: &str, config: &StepConfig) -> Graph {
    let mut g = Graph::new(name);
    g.set_precision(config.precision.into());
    g
}

pub(super) fn declare(g: &mut Graph, prefix: &str, specs: &[VariableSpec]) -> Vec<Value> {
    specs
        .iter()
        .map(|spec| g.parameter(&format!("{prefix}{}", spec.name), Shape::new(ElementType::F32, &spec.dims)))
        .collect()
}

/// One optimizer step. Parameters: state, samples, minimum, range, labels, weights, stop. Outputs: state,
/// metrics.
///
/// # Errors
/// A configuration that no graph can be built for.
pub fn train_step(config: &StepConfig) -> Result<Program, GraphError> {
    train_step_graph(config).lower()
}

/// The graph of [`train_step`].
pub fn train_step_graph(config: &StepConfig) -> ProgramGraph {
    let mut graph = new_graph("train_step", config);
    let g = &mut graph;
    let state = declare_state(g, &config.model);
    let batch = BatchParameters::declare(g, config);
    let (mut outputs, metrics) = advance(g, config, &state, &batch);
    let donated = outputs.len();
    outputs.push(metrics);
    ProgramGraph { graph, outputs, donated }
}

/// The training state as parameters, in the order of [`State`].
pub(super) fn declare_state(g: &mut Graph, model: &ModelConfig) -> Vec<Value> {
    let specs = variables(model);
    let trainable: Vec<VariableSpec> = specs.iter().filter(|spec| spec.trainable).cloned().collect();
    let mut state = declare(g, "", &specs);
    state.extend(declare(g, "first_moment/", &trainable));
    state.extend(declare(g, "second_moment/", &trainable));
    state.push(g.parameter("iteration", Shape::scalar(ElementType::S32)));
    state
}

/// The state after one step, and the step's metrics.
pub(super) fn advance(
    g: &mut Graph,
    config: &StepConfig,
    state: &[Value],
    batch: &BatchParameters,
) -> (Vec<Value>, Value) {
    let places = State::of(&config.model);
    let (variables, moments) = state[..places.iteration()].split_at(places.variables);
    let (first, second) = moments.split_at(places.trainable);
    let iteration = state[places.iteration()];
    let trainable: Vec<usize> =
        (0..places.variables).filter(|place| !super::MOVING_STATISTICS.contains(place)).collect();

    let learned = learn(g, config, variables, &trainable, iteration, batch);
    let slots: Vec<Slot> = (0..trainable.len())
        .map(|i| Slot {
            variable: variables[trainable[i]],
            gradient: learned.gradients[i],
            first_moment: first[i],
            second_moment: second[i],
        })
        .collect();
    let updated = g.scope("adam", |g| config.optimizer.update(g, iteration, &slots));

    let mut state = variables.to_vec();
    for (place, updated) in trainable.iter().zip(&updated) {
        state[*place] = updated.variable;
    }
    state.splice(super::MOVING_STATISTICS, learned.moving_statistics);
    state.extend(updated.iter().map(|updated| updated.first_moment));
    state.extend(updated.iter().map(|updated| updated.second_moment));
    let one = g.scalar(ElementType::S32, 1.0);
    state.push(g.add(iteration, one));
    (state, learned.metrics)
}

/// The gradients of one step, without taking it. Parameters: variables, iteration, samples, minimum, range,
/// labels, weights, stop. Outputs: the gradients of the trainable variables, the moving mean and variance after
/// the step, the metrics.
///
/// # Errors
/// A configuration that no graph can be built for.
pub fn gradients(config: &StepConfig) -> Result<Program, GraphError> {
    gradients_graph(config).lower()
}

/// The graph of [`gradients`].
pub fn gradients_graph(config: &StepConfig) -> ProgramGraph {
    let mut graph = new_graph("gradients", config);
    let g = &mut graph;
    let specs = variables(&config.model);
    let trainable: Vec<usize> = (0..specs.len()).filter(|&i| specs[i].trainable).collect();
    let variables = declare(g, "", &specs);
    let iteration = g.parameter("iteration", Shape::scalar(ElementType::S32));
    let batch = BatchParameters::declare(g, config);
    let learned = learn(g, config, &variables, &trainable, iteration, &batch);
    let mut outputs = learned.gradients;
    outputs.extend(learned.moving_statistics);
    outputs.push(learned.metrics);
    ProgramGraph { graph, outputs, donated: 0 }
}

/// The network on a batch. Parameters: variables, samples, minimum, range, labels, weights, stop. Outputs: softmax
/// probabilities `[B, classes]` of the replica's own rows; and, the same on every replica, the
/// [`EVALUATION_SUMS`] and behind them how often each class was taken for each, row-major `[label, predicted]`.
///
/// # Errors
/// A configuration that no graph can be built for.
pub fn evaluate(config: &StepConfig) -> Result<Program, GraphError> {
    evaluate_graph(config).lower()
}

/// The graph of [`evaluate`].
pub fn evaluate_graph(config: &StepConfig) -> ProgramGraph {
    let mut graph = new_graph("evaluate", config);
    let g = &mut graph;
    let variables = declare(g, "", &variables(&config.model));
    let batch = BatchParameters::declare(g, config);
    let windows = batch.scaled(g);
    let logits = network::forward(g, &config.model, &config.forms, &variables, windows, None).logits;
    let log_probabilities = log_softmax(g, logits);
    let probabilities = g.exp(log_probabilities);
    let losses = cross_entropy(g, log_probabilities, batch.labels);
    let losses = g.mul(losses, batch.weights);
    let loss = g.sum(losses, &[0]);
    let weight = g.sum(batch.weights, &[0]);
    let penalty = penalty(g, config.model.l2, variables[L2_KERNEL]);
    let penalty = g.mul(penalty, weight);
    let loss = g.add(loss, penalty);
    let confusion = confusion(g, logits, &batch);
    let [loss, weight] = [loss, weight].map(|sum| g.reshape(sum, &[1]));
    let sums = g.concatenate(&[loss, weight, batch.stop, confusion], 0);
    let sums = network::sum_over_replicas(g, sums, config.replicas);
    ProgramGraph { graph, outputs: vec![probabilities, sums], donated: 0 }
}

/// What batch normalisation takes its statistics over in training, the whole batch's, without a step. Parameters: as
/// those of [`evaluate`]. Outputs, the same on every replica: mean and biased variance of each feature, `[F]`, and the
/// [`STATISTICS_SUMS`].
///
/// # Errors
/// A configuration that no graph can be built for.
pub fn batch_statistics(config: &StepConfig) -> Result<Program, GraphError> {
    batch_statistics_graph(config).lower()
}

/// The graph of [`batch_statistics`].
pub fn batch_statistics_graph(config: &StepConfig) -> ProgramGraph {
    let mut graph = new_graph("batch_statistics", config);
    let g = &mut graph;
    let variables = declare(g, "", &variables(&config.model));
    let batch = BatchParameters::declare(g, config);
    let zero = g.scalar(ElementType::U32, 0.0);
    let training = Training {
        weights: batch.weights,
        replicas: config.replicas,
        batch_norm: BatchNormScope::Synced,
        dropout_key: [zero, zero],
    };
    // Moving statistics that forget all are those of the batch.
    let model = ModelConfig { batch_norm_momentum: 0.0, ..config.model.clone() };
    let windows = batch.scaled(g);
    let forward = network::forward(g, &model, &config.forms, &variables, windows, Some(&training));
    let weight = g.sum(batch.weights, &[0]);
    let weight = g.reshape(weight, &[1]);
    let sums = g.concatenate(&[weight, batch.stop], 0);
    let sums = network::sum_over_replicas(g, sums, config.replicas);
    let mut outputs = forward.moving_statistics.to_vec();
    outputs.push(sums);
    ProgramGraph { graph, outputs, donated: 0 }
}

/// `[classes²]`: the weights of the rows of each class (major) that are taken for each (minor).
fn confusion(g: &mut Graph, logits: Value, batch: &BatchParameters) -> Value {
    let dims = g.dims(logits);
    let (rows, classes) = (dims[0], dims[1]);
    let predicted = g.argmax(logits, 1);
    let predicted = g.one_hot(predicted, classes, ElementType::F32);
    let predicted = g.broadcast(predicted, &[rows, classes, classes], &[0, 2]);
    let labels = g.one_hot(batch.labels, classes, ElementType::F32);
    let labels = g.broadcast(labels, &[rows, classes, classes], &[0, 1]);
    let weights = g.broadcast(batch.weights, &[rows, classes, classes], &[0]);
    let weighted = g.mul(labels, weights);
    let pairs = g.mul(weighted, predicted);
    let counts = g.sum(pairs, &[0]);
    g.reshape(counts, &[classes * classes])
}

/// What a replica learns from a batch, the same on all of them.
struct Learned {
    gradients: Vec<Value>,
    moving_statistics: [Value; 2],
    metrics: Value,
}

fn learn(
    g: &mut Graph,
    config: &StepConfig,
    variables: &[Value],
    trainable: &[usize],
    iteration: Value,
    batch: &BatchParameters,
) -> Learned {
    let seed = g.scalar(ElementType::U32, f64::from(config.seed));
    let step = g.convert(iteration, ElementType::U32);
    let training = Training {
        weights: batch.weights,
        replicas: config.replicas,
        batch_norm: config.batch_norm,
        dropout_key: [seed, step],
    };
    let windows = batch.scaled(g);
    let forward = network::forward(g, &config.model, &config.forms, variables, windows, Some(&training));
    let log_probabilities = log_softmax(g, forward.logits);
    let losses = g.scope("loss", |g| {
        let losses = cross_entropy(g, log_probabilities, batch.labels);
        g.mul(losses, batch.weights)
    });
    let loss = g.sum(losses, &[0]);
    let weight = g.sum(batch.weights, &[0]);
    let correct = right_answers(g, forward.logits, batch);

    let mut sums: Vec<Value> = [loss, correct, weight].into_iter().map(|sum| g.reshape(sum, &[1])).collect();
    sums.push(batch.stop);
    let sums = g.concatenate(&sums, 0);
    let sums = network::sum_over_replicas(g, sums, config.replicas);
    let global_weight = g.slice_in_dim(sums, 0, 2, 3);
    let global_weight = g.reshape(global_weight, &[]);
    // It does not depend on the variables; without this its cotangent would be summed over the replicas too.
    let global_weight = g.stop_gradient(global_weight);

    // The objective is the sum over the replicas of each one's share, so that the transpose of the
    // statistics' all-reduce is an all-reduce and the gradients are summed once.
    let objective = g.div(loss, global_weight);
    let wanted: Vec<Value> = trainable.iter().map(|&place| variables[place]).collect();
    let local = g.gradients(objective, &wanted);
    let mut gradients: Vec<Value> = g.scope("all_reduce_gradients", |g| {
        local.iter().map(|&gradient| network::sum_over_replicas(g, gradient, config.replicas)).collect()
    });
    let mut metrics = sums;
    if config.model.l2 > 0.0
        && let Some(place) = trainable.iter().position(|&place| place == L2_KERNEL)
    {
        let penalty = penalty(g, config.model.l2, variables[L2_KERNEL]);
        let of_penalty = g.gradients(penalty, &[variables[L2_KERNEL]])[0];
        gradients[place] = g.add(gradients[place], of_penalty);
        let weighted = g.mul(penalty, global_weight);
        let weighted = g.reshape(weighted, &[1]);
        let rest = g.full(ElementType::F32, 0.0, &[METRICS - 1]);
        let added = g.concatenate(&[weighted, rest], 0);
        metrics = g.add(sums, added);
    }
    Learned { gradients, moving_statistics: forward.moving_statistics, metrics }
}

/// Place of the kernel that carries the L2 penalty among the variables.
const L2_KERNEL: usize = 11;

/// `logits − log Σ exp(logits)` over the last dimension of `[B, classes]`.
pub(super) fn log_softmax(g: &mut Graph, logits: Value) -> Value {
    g.scope("log_softmax", |g| {
        let dims = g.shape(logits).dims.clone();
        let largest = g.reduce_max(logits, &[1]);
        let largest = g.stop_gradient(largest);
        let largest = g.broadcast(largest, &dims, &[0]);
        let shifted = g.sub(logits, largest);
        let powers = g.exp(shifted);
        let sum = g.sum(powers, &[1]);
        let log = g.log(sum);
        let log = g.broadcast(log, &dims, &[0]);
        g.sub(shifted, log)
    })
}

/// Cross-entropy of each row, `[B]`: minus the log-probability of its label.
fn cross_entropy(g: &mut Graph, log_probabilities: Value, labels: Value) -> Value {
    let dims = g.shape(log_probabilities).dims.clone();
    let classes = g.iota(ElementType::S32, &dims, 1);
    let labels = g.broadcast(labels, &dims, &[0]);
    let is_label = g.compare(classes, labels, Comparison::Eq);
    let zero = g.full(ElementType::F32, 0.0, &dims);
    let picked = g.select(is_label, log_probabilities, zero);
    let picked = g.sum(picked, &[1]);
    g.neg(picked)
}

/// Sum of the weights of the rows whose most probable class is their label.
fn right_answers(g: &mut Graph, logits: Value, batch: &BatchParameters) -> Value {
    let logits = g.stop_gradient(logits);
    let predicted = g.argmax(logits, 1);
    let right = g.compare(predicted, batch.labels, Comparison::Eq);
    let right = g.convert(right, ElementType::F32);
    let right = g.mul(right, batch.weights);
    g.sum(right, &[0])
}

/// `l2 · Σ kernel²`.
fn penalty(g: &mut Graph, l2: f64, kernel: Value) -> Value {
    let squared = g.mul(kernel, kernel);
    let sum = g.sum(squared, &[0, 1]);
    let l2 = g.scalar(ElementType::F32, l2);
    g.mul(l2, sum)
}
