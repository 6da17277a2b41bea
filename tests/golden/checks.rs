//! What must hold of every case, with the bounds.
//!
//! A **distance** of two arrays is the Euclidean norm of their difference over all elements, divided by the norm of the
//! expected one (the Frobenius norm, for a kernel); where the expected one is all zeros, the norm itself.

use tpu_train::model::VariableSpec;
use tpu_train::model::optimizer::Slot;
use tpu_train::model::step::{self, Program, State};
use tpu_train::runtime::Replicated;
use tpu_train::train::trainer::Trainer;
use tpu_train_hlo::{ElementType, Graph, Shape, lower};

use super::case::Case;
use super::run::{Device, Learned, evaluate, f32_shape, scaled_batch, scaled_config};

/// Of the loss from Keras's in float64.
const LOSS: f64 = 1e-5;
/// Distance of a gradient from Keras's in float64.
const GRADIENT: f64 = 3e-4;
/// Distance of the moving statistics from Keras's in float64.
const MOVING: f64 = 1e-5;
/// Of a weight after the update from Keras's in float32, and distance of the moments.
const UPDATE: f64 = 1e-6;
/// How many times as far from float64 as Keras's float32 a gradient may be from equal states: over all steps together
/// (root mean square) against Keras's distance over all steps; at one step against Keras's at that step, or over all
/// steps where that is more, since the distance at one step is a single throw of the roundings' dice (Keras's own, of
/// `conv1d/kernel`, lies anywhere from 3 to 13 units in the last place).
pub(super) const FORCED_FACTOR: f64 = 2.0;
/// One gradient in so many may be farther than that from Keras's distance at its step alone, or [`ROUNDING`] where that
/// is more.
pub(super) const FORCED_EXCEPTIONS: usize = 100;
/// How many times as far from float64 as Keras's float32 losses and weights may be after ten free steps.
const FREE_FACTOR: f64 = 3.0;
/// One unit in the last place of float32, the rounding level of a distance: where Keras happens to be nearer than that,
/// its distance says which way the last bits fell, not how good its arithmetic is.
const ROUNDING: f64 = 1.0 / (1 << 23) as f64;
/// Distance of the evaluator's float64 from Keras's.
const DOUBLE: f64 = 1e-9;
/// Of a probability from Keras's, both in float32.
const PROBABILITY: f64 = 1e-6;

pub(super) fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(found, expected)| found - expected));
    let scale = norm(&mut expected.iter().copied());
    if scale > 0.0 { difference / scale } else { difference }
}

fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max)
}

/// The largest of what a check measured, printed when it is over.
struct Largest<'a> {
    case: &'a Case,
    values: Vec<(&'static str, f64, String)>,
}

impl<'a> Largest<'a> {
    fn of(case: &'a Case) -> Self {
        Self { case, values: Vec::new() }
    }

    /// Asserts a bound and remembers how near it was.
    fn at_most(&mut self, bound: f64, what: &'static str, value: f64, place: &str) {
        let name = &self.case.name;
        assert!(value <= bound, "{name}: {what} {value:.3e} of {place}, expected at most {bound:.1e}");
        match self.values.iter_mut().find(|known| known.0 == what) {
            Some(known) if known.1 >= value => {}
            Some(known) => *known = (what, value, place.to_owned()),
            None => self.values.push((what, value, place.to_owned())),
        }
    }
}

impl Drop for Largest<'_> {
    fn drop(&mut self) {
        for (what, value, place) in &self.values {
            eprintln!("{}: largest {what} {value:.2e}, of {place}", self.case.name);
        }
    }
}

/// Gradients at one step each, their distances from float64 held against Keras's.
#[derive(Default)]
pub(super) struct AtOneStep {
    /// The largest multiple of Keras's distance at that step, or of its usual one where that is more.
    pub(super) largest: f64,
    /// Gradients.
    pub(super) count: usize,
    /// Those farther than [`FORCED_FACTOR`] times Keras's distance at that step, or rounding where that is more.
    pub(super) farther: usize,
}

/// Teacher-forced: loss, gradients and moving statistics of each step from Keras's own float32 state. What it gives is
/// to be held against [`FORCED_FACTOR`] where a model is large enough: in the smallest ones a variable has three values,
/// and its distance scatters all the more.
pub(super) fn gradients(device: &Device, case: &Case) -> AtOneStep {
    let mut largest = Largest::of(case);
    let specs = case.trainable();
    // Of each variable at each step, ours and Keras's.
    let mut distances: Vec<Vec<[f64; 2]>> = vec![Vec::new(); specs.len()];
    for first in 0..case.batches {
        let config = case.step_config(case.batch(first).real_rows);
        let program = device.compile(step::gradients(&config).unwrap());
        for step in (first..case.steps).step_by(case.batches) {
            let mut inputs = device.put(&case.weights(step));
            inputs.push(device.put_step(step));
            inputs.extend(device.put_batch(case, &config, step));
            let found = Learned::new(device.run(&program, &inputs));
            let of_step = compare_forced(case, step, &found, &mut largest);
            distances.iter_mut().zip(of_step).for_each(|(all, one)| all.push(one));
        }
    }
    let mut at_one_step = AtOneStep::default();
    for (spec, distances) in specs.iter().zip(&distances) {
        compare_with_keras(spec, distances, &mut largest, &mut at_one_step);
    }
    at_one_step
}

/// Our distances of one gradient from float64, at each step, against Keras's.
fn compare_with_keras(
    spec: &VariableSpec,
    distances: &[[f64; 2]],
    largest: &mut Largest<'_>,
    at_one_step: &mut AtOneStep,
) {
    let [ours, theirs] = [0, 1].map(|of| root_mean_square(distances.iter().map(|pair| pair[of])));
    let usual = theirs.max(ROUNDING);
    largest.at_most(FORCED_FACTOR, "multiple of Keras's distance over all steps", ours / usual, &spec.name);
    for [ours, theirs] in distances {
        at_one_step.largest = at_one_step.largest.max(ours / theirs.max(usual));
        at_one_step.count += 1;
        at_one_step.farther += usize::from(*ours > FORCED_FACTOR * theirs.max(ROUNDING));
    }
}

fn root_mean_square(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    (values.map(|value| value * value).sum::<f64>() / count).sqrt()
}

/// Gives the distances of the gradients, ours and Keras's.
fn compare_forced(case: &Case, step: usize, found: &Learned, largest: &mut Largest<'_>) -> Vec<[f64; 2]> {
    let double = |key: &str| case.double.get(&format!("forced{step}/{key}"));
    let place = |name: &str| format!("step {step}, {name}");
    largest.at_most(LOSS, "difference", (found.loss - double("loss")[0]).abs(), &place("loss"));
    for (spec, moving) in moving(case).iter().zip(&found.moving) {
        let name = format!("weight/{spec}");
        largest.at_most(MOVING, "statistics' distance", distance(moving, double(&name)), &place(&name));
    }
    let specs = case.trainable();
    let gradients = specs.iter().zip(&found.gradients).map(|(spec, gradient)| {
        let name = format!("gradient/{}", spec.name);
        let ours = distance(gradient, double(&name));
        largest.at_most(GRADIENT, "distance", ours, &place(&name));
        let theirs = distance(case.single.get(&format!("step{step}/{name}")), double(&name));
        [ours, theirs]
    });
    gradients.collect()
}

fn moving(case: &Case) -> Vec<String> {
    case.variables().into_iter().filter(|spec| !spec.trainable).map(|spec| spec.name).collect()
}

/// The optimizer alone, fed with Keras's float32 state and gradients.
pub(super) fn update(device: &Device, case: &Case) {
    let mut largest = Largest::of(case);
    let program = device.compile(adam_program(case));
    let specs = case.trainable();
    for step in 0..case.steps {
        let of = |step: usize, kind: &str| case.single.of(&format!("step{step}/{kind}/"), &specs);
        let mut inputs = vec![device.put_step(step)];
        for kind in ["weight", "gradient", "m", "v"] {
            let named =
                specs.iter().zip(of(step, kind)).map(|(spec, values)| tpu_train::model::NamedTensor {
                    name: spec.name.clone(),
                    dims: spec.dims.clone(),
                    values: super::case::to_f32(&values),
                });
            inputs.extend(device.put(&named.collect::<Vec<_>>()));
        }
        let found = device.run(&program, &inputs);
        let (weights, moments) = found.split_at(specs.len());
        for (i, spec) in specs.iter().enumerate() {
            let place = |kind: &str| format!("step {step}, {kind}/{}", spec.name);
            let expected = |kind: &str| case.single.get(&format!("step{}/{kind}/{}", step + 1, spec.name));
            let change = largest_difference(&weights[i], expected("weight"));
            largest.at_most(UPDATE, "difference", change, &place("weight"));
            for (kind, moments) in ["m", "v"].into_iter().zip(moments.chunks(specs.len())) {
                largest.at_most(UPDATE, "distance", distance(&moments[i], expected(kind)), &place(kind));
            }
        }
    }
}

/// Parameters: iteration, variables, gradients, first moments, second moments. Outputs: variables and moments.
fn adam_program(case: &Case) -> Program {
    let mut graph = Graph::new("adam");
    let g = &mut graph;
    let iteration = g.parameter("iteration", Shape::scalar(ElementType::S32));
    let specs = case.trainable();
    let [variables, gradients, first, second] = ["variable", "gradient", "first", "second"].map(|kind| {
        let declare =
            |spec: &VariableSpec| g.parameter(&format!("{kind}/{}", spec.name), f32_shape(&spec.dims));
        specs.iter().map(declare).collect::<Vec<_>>()
    });
    let slot = |i: usize| Slot {
        variable: variables[i],
        gradient: gradients[i],
        first_moment: first[i],
        second_moment: second[i],
    };
    let slots: Vec<Slot> = (0..specs.len()).map(slot).collect();
    let updated = case.adam.update(g, iteration, &slots);
    let mut outputs: Vec<_> = updated.iter().map(|updated| updated.variable).collect();
    outputs.extend(updated.iter().map(|updated| updated.first_moment));
    outputs.extend(updated.iter().map(|updated| updated.second_moment));
    Program { module: lower(&graph, &outputs, &[]).unwrap(), outputs: outputs.len() }
}

/// Teacher-forced, the whole training step: its metrics, moments and moving statistics against Keras's, and its weights
/// against the update of its own moments, computed here in float64. (Where a gradient is nearly zero the update is its
/// rounding's sign, so that equal weights after a whole step are nothing float32 can promise.)
pub(super) fn whole_step(device: &Device, case: &Case) {
    let mut largest = Largest::of(case);
    let specs = case.trainable();
    let state = State::of(&case.config);
    for first in 0..case.batches {
        let config = case.step_config(case.batch(first).real_rows);
        let program = device.compile(step::train_step(&config).unwrap());
        for step in (first..case.steps).step_by(case.batches) {
            let optimizer = case.optimizer(step);
            let mut inputs = device.put(&case.weights(step));
            inputs.extend(device.put(&optimizer.first_moments));
            inputs.extend(device.put(&optimizer.second_moments));
            inputs.push(device.put_step(step));
            inputs.extend(device.put_batch(case, &config, step));
            let found = device.run(&program, &inputs);

            let place = |name: &str| format!("step {step}, {name}");
            assert_eq!(found[state.iteration()], [(step + 1) as f64]);
            let (metrics, loss) = (&found[state.len()], case.double.get(&format!("forced{step}/loss"))[0]);
            let difference = (metrics[0] / metrics[2] - loss).abs();
            largest.at_most(LOSS, "difference", difference, &place("loss"));
            assert_eq!(metrics[1], right_answers(case, step), "{}", place("right answers"));
            for (name, found) in moving(case).iter().zip(&found[tpu_train::model::MOVING_STATISTICS]) {
                let expected = case.double.get(&format!("forced{step}/weight/{name}"));
                largest.at_most(MOVING, "statistics' distance", distance(found, expected), &place(name));
            }
            let moments = &found[state.variables..state.iteration()];
            let after = |kind: &str| case.single.of(&format!("step{}/{kind}/", step + 1), &specs);
            for (i, expected) in after("m").into_iter().chain(after("v")).enumerate() {
                let name = &specs[i % specs.len()].name;
                largest.at_most(
                    GRADIENT,
                    "moments' distance",
                    distance(&moments[i], &expected),
                    &place(name),
                );
            }
            let (firsts, seconds) = moments.split_at(specs.len());
            let places = (0..state.variables).filter(|&place| case.variables()[place].trainable);
            for (i, variable) in places.enumerate() {
                let before = case.single.get(&format!("step{step}/weight/{}", specs[i].name));
                let expected = moved(case, step, before, &firsts[i], &seconds[i]);
                let difference = largest_difference(&found[variable], &expected);
                largest.at_most(UPDATE, "difference", difference, &place(&specs[i].name));
            }
        }
    }
}

/// Adam's update of a variable, given its moments after the step.
fn moved(case: &Case, step: usize, variable: &[f64], first: &[f64], second: &[f64]) -> Vec<f64> {
    let adam = &case.adam;
    let count = step as i32 + 1;
    let correction = (1.0 - adam.beta_2.powi(count)).sqrt() / (1.0 - adam.beta_1.powi(count));
    let alpha = adam.learning_rate.at(step as u64) * correction;
    let moments = first.iter().zip(second);
    let moved = variable.iter().zip(moments).map(|(w, (m, v))| w - alpha * m / (v.sqrt() + adam.epsilon));
    moved.collect()
}

/// Rows whose largest probability in training mode is their label's.
fn right_answers(case: &Case, step: usize) -> f64 {
    let probabilities = case.double.get(&format!("forced{step}/softmax")).chunks(case.config.classes);
    let right = probabilities.zip(case.batch(step).labels).filter(|(row, label)| {
        let label = row[*label as usize];
        row.iter().all(|&other| other <= label)
    });
    right.count() as f64
}

/// Ten steps on our own: the distance from Keras's float64 trajectory against that of Keras's float32.
pub(super) fn free_running(device: &Device, case: &Case) {
    let mut largest = Largest::of(case);
    let rows = case.most_rows();
    let config = case.step_config(rows);
    let program = device.compile(step::train_step(&config).unwrap());
    let mut trainer = Trainer::new(&device.session, &config, program, &case.weights(0), None).unwrap();
    let mut losses: Vec<[f64; 2]> = Vec::new();
    for step in 0..case.steps {
        let loss = trainer.step(&case.padded_batch(step, rows)).unwrap().loss();
        let [theirs, exact] = [&case.single, &case.double].map(|of| of.get(&format!("step{step}/loss"))[0]);
        losses.push([loss - exact, theirs - exact]);
    }
    let [ours, theirs] = [0, 1].map(|of| root_mean_square(losses.iter().map(|pair| pair[of])));
    let times = ours / theirs.max(ROUNDING);
    largest.at_most(FREE_FACTOR, "multiple of Keras's distance", times, "the ten losses");
    let (weights, _) = trainer.fetch().unwrap();
    for weight in &weights {
        let name = format!("step{}/weight/{}", case.steps, weight.name);
        let (single, double) = (case.single.get(&name), case.double.get(&name));
        let ours: Vec<f64> = weight.values.iter().map(|&value| value.into()).collect();
        let (ours, theirs) = (distance(&ours, double), distance(single, double));
        let times = ours / theirs.max(ROUNDING);
        largest.at_most(FREE_FACTOR, "multiple of Keras's distance", times, &name);
    }
}

/// Probabilities by the moving statistics, before the first step and after the last.
pub(super) fn predictions(device: &Device, case: &Case) {
    let mut largest = Largest::of(case);
    let config = case.step_config(case.batch(0).real_rows);
    let program = device.compile(step::evaluate(&config).unwrap());
    let exact = step::evaluate_graph(&scaled_config(case, 0));
    for step in [0, case.steps] {
        let name = format!("step{step}/prediction");
        let mut inputs: Vec<Replicated> = device.put(&case.weights(step));
        inputs.extend(device.put_batch(case, &config, 0));
        let found = &device.run(&program, &inputs)[0];
        let difference = largest_difference(found, case.single.get(&name));
        largest.at_most(PROBABILITY, "difference", difference, &name);
        let mut inputs = case.double.of(&format!("step{step}/weight/"), &case.variables());
        inputs.extend(scaled_batch(case, 0));
        let difference = largest_difference(&evaluate(&exact, &inputs)[0], case.double.get(&name));
        largest.at_most(DOUBLE, "evaluator's difference", difference, &name);
    }
}

/// The evaluator on the gradients' graph, from Keras's float32 states.
pub(super) fn evaluated_gradients(case: &Case) {
    let mut largest = Largest::of(case);
    for step in 0..case.steps {
        let program = step::gradients_graph(&scaled_config(case, step));
        let mut inputs = case.single.of(&format!("step{step}/weight/"), &case.variables());
        inputs.push(vec![step as f64]);
        inputs.extend(scaled_batch(case, step));
        let found = Learned::new(evaluate(&program, &inputs));
        let expected = |key: &str| case.double.get(&format!("forced{step}/{key}"));
        let place = |name: &str| format!("step {step}, {name}");
        let loss = (found.loss - expected("loss")[0]).abs();
        largest.at_most(DOUBLE, "evaluator's difference", loss, &place("loss"));
        let gradients = case.trainable().into_iter().map(|spec| format!("gradient/{}", spec.name));
        let statistics = moving(case).into_iter().map(|name| format!("weight/{name}"));
        for (name, found) in gradients.chain(statistics).zip(found.gradients.iter().chain(&found.moving)) {
            let distance = distance(found, expected(&name));
            largest.at_most(DOUBLE, "evaluator's distance", distance, &place(&name));
        }
    }
}

/// The evaluator on the training step's graph, all steps on its own.
pub(super) fn evaluated_steps(case: &Case) {
    let mut largest = Largest::of(case);
    let (variables, specs) = (case.variables(), case.trainable());
    let mut state = case.double.of("step0/weight/", &variables);
    state.extend(case.double.of("step0/m/", &specs));
    state.extend(case.double.of("step0/v/", &specs));
    state.push(vec![0.0]);
    for step in 0..case.steps {
        let program = step::train_step_graph(&scaled_config(case, step));
        let mut inputs = std::mem::take(&mut state);
        inputs.extend(scaled_batch(case, step));
        state = evaluate(&program, &inputs);
        let metrics = state.pop().unwrap();
        let loss = (metrics[0] / metrics[2] - case.double.get(&format!("step{step}/loss"))[0]).abs();
        largest.at_most(DOUBLE, "evaluator's difference", loss, &format!("step {step}, loss"));
        let keys = variables.iter().map(|spec| format!("weight/{}", spec.name));
        let keys = keys.chain(specs.iter().map(|spec| format!("m/{}", spec.name)));
        let keys = keys.chain(specs.iter().map(|spec| format!("v/{}", spec.name)));
        for (key, found) in keys.zip(&state) {
            let name = format!("step{}/{key}", step + 1);
            let distance = distance(found, case.double.get(&name));
            largest.at_most(DOUBLE, "evaluator's distance", distance, &name);
        }
    }
}
