//! The training state on the devices, and the step that moves it on.

use super::session::Session;
use crate::data::Batch;
use crate::model::execution::Execution;
use crate::model::files::OptimizerState;
use crate::model::step::{METRICS, State, StepConfig};
use crate::model::{MOVING_STATISTICS, NamedTensor, VariableSpec, trainable_variables, variables};
use crate::pjrt::Platform;
use crate::runtime::{Arg, HostTensor, Program, Replicated};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Sums over windows: what loss and accuracy are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    loss: f64,
    correct: f64,
    weight: f64,
}

impl Totals {
    /// The sums' bits.
    pub(super) fn to_words(self) -> impl Iterator<Item = i32> {
        let halves = |sum: f64| [sum.to_bits() as i32, (sum.to_bits() >> 32) as i32];
        [self.loss, self.correct, self.weight].into_iter().flat_map(halves)
    }

    /// What [`Self::to_words`] was made of.
    pub(super) fn from_words(words: [i32; 6]) -> Self {
        let sum =
            |at: usize| f64::from_bits(u64::from(words[at] as u32) | u64::from(words[at + 1] as u32) << 32);
        Self { loss: sum(0), correct: sum(2), weight: sum(4) }
    }

    /// Mean loss of a window.
    pub fn loss(&self) -> f64 {
        self.loss / self.weight
    }

    /// Share of windows classified right.
    pub fn accuracy(&self) -> f64 {
        self.correct / self.weight
    }

    /// Windows counted.
    pub fn windows(&self) -> u64 {
        self.weight.round() as u64
    }

    /// Adds another stretch of windows.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.correct += other.correct;
        self.weight += other.weight;
    }
}

/// A batch, or what a step needs of one, on the devices.
pub type Uploaded = Vec<Replicated>;

/// Steps on their way; the devices may still be at work on them, or on those before.
pub struct Launched {
    steps: usize,
    /// The number of the last of them.
    last: u64,
    metrics: Replicated,
}

impl Launched {
    /// The number of the first step, counted from 1.
    pub fn first(&self) -> u64 {
        self.last + 1 - self.steps as u64
    }

    /// Whether the devices are through with them.
    ///
    /// # Errors
    /// When the plugin does not say.
    pub fn is_done(&self) -> Result<bool> {
        Ok(self.metrics.is_ready()?)
    }

    /// Waits for the steps' end; what each gave, in order.
    ///
    /// # Errors
    /// When the devices failed.
    pub fn wait(self) -> Result<Vec<Outcome>> {
        let metrics = self.metrics.fetch(0)?.to_f32()?;
        let (steps, rest) = metrics.as_chunks::<METRICS>();
        if steps.len() < self.steps || !rest.is_empty() {
            bail!("{} training steps gave {} metrics, {METRICS} expected of each", self.steps, metrics.len());
        }
        let outcome = |&[loss, correct, weight, stop]: &[f32; METRICS]| Outcome {
            totals: Totals { loss: loss.into(), correct: correct.into(), weight: weight.into() },
            stopped: stop > 0.0,
        };
        Ok(steps[..self.steps].iter().map(outcome).collect())
    }
}

/// What a step gives, the same in every process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Sums over the windows of the global batch.
    pub totals: Totals,
    /// Whether a process of the job was asked to stop before the step.
    pub stopped: bool,
}

/// A model in training.
pub struct Trainer<'a> {
    session: &'a Session,
    config: StepConfig,
    execution: Execution,
    program: Program,
    /// The windows that the execution looks into, where the devices hold them.
    held: Option<Replicated>,
    /// In the order of [`State`]; empty only while a step has it, or after one has failed.
    state: Vec<Replicated>,
    /// Steps launched.
    iteration: u64,
}

impl<'a> Trainer<'a> {
    /// Puts the initial state on the devices.
    ///
    /// # Errors
    /// When a device has no room.
    pub fn new(
        session: &'a Session,
        config: &StepConfig,
        program: Program,
        weights: &[NamedTensor],
        optimizer: Option<&OptimizerState>,
    ) -> Result<Self> {
        let mut state = session.replicate(weights)?;
        let iteration = optimizer.map_or(0, |state| state.iteration);
        match optimizer {
            Some(optimizer) => {
                state.extend(session.replicate(&optimizer.first_moments)?);
                state.extend(session.replicate(&optimizer.second_moments)?);
            }
            None => {
                let zeros: Vec<NamedTensor> = trainable_variables(&config.model).iter().map(zeros).collect();
                // Two uploads: one buffer cannot be donated twice.
                state.extend(session.replicate(&zeros)?);
                state.extend(session.replicate(&zeros)?);
            }
        }
        let Ok(count) = i32::try_from(iteration) else {
            bail!("the saved optimizer has taken {iteration} steps; at most {} can be counted", i32::MAX);
        };
        state.push(session.replicate_one(&HostTensor::scalar_i32(count))?);
        let (execution, config) = (Execution::default(), config.clone());
        Ok(Self { session, config, execution, program, held: None, state, iteration: count as u64 })
    }

    /// With a program that was built for this execution, and the windows it looks into.
    #[must_use]
    pub fn with_execution(mut self, execution: Execution, held: Option<Replicated>) -> Self {
        (self.execution, self.held) = (execution, held);
        self
    }

    /// Steps that one launch takes at most.
    pub fn steps_at_once(&self) -> usize {
        self.execution.steps
    }

    /// Where the steps run.
    pub fn platform(&self) -> Platform {
        self.session.runtime.platform()
    }

    /// Whether the job has no other process, which would have to launch the same steps.
    pub fn is_alone(&self) -> bool {
        self.session.share.is_whole()
    }

    /// Steps launched, those before the weights were loaded included.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// One optimizer step, from its batch to what it gave.
    ///
    /// # Errors
    /// When the devices fail; the state is then lost.
    pub fn step(&mut self, batch: &Batch) -> Result<Totals> {
        let batch = self.upload(batch)?;
        Ok(self.launch(&[batch], false)?.wait()?[0].totals)
    }

    /// A batch on the devices, for [`Self::launch`].
    ///
    /// # Errors
    /// When a device has no room.
    pub fn upload(&self, batch: &Batch) -> Result<Uploaded> {
        self.session.upload_rows(batch, &self.config)
    }

    /// Starts one optimizer step for each batch, at most as many as an execution takes, and does not wait for them.
    /// `stop` tells all processes of the job that this one was asked to stop.
    ///
    /// # Errors
    /// When they cannot be started; the state is then lost.
    pub fn launch(&mut self, batches: &[Uploaded], stop: bool) -> Result<Launched> {
        let (steps, most) = (batches.len(), self.execution.steps);
        let Some(last) = batches.last().filter(|_| steps <= most) else {
            bail!("{steps} batches for an execution of 1 to {most} steps");
        };
        // What is behind the count is never looked at.
        let rest = std::iter::repeat_n(last, most - steps);
        let mut flags = vec![self.session.flag(stop)?];
        if self.execution.is_counted() {
            flags.push(self.session.replicate_one(&HostTensor::scalar_i32(steps as i32))?);
        }
        let inputs = batches.iter().chain(rest).flatten().chain(&flags).chain(&self.held).map(Arg::Borrow);
        let state = std::mem::take(&mut self.state);
        let arguments = state.into_iter().map(Arg::Donate).chain(inputs).collect();
        let mut outputs = self.program.execute(arguments)?;
        let metrics = outputs.pop();
        self.state = outputs;
        self.iteration += steps as u64;
        let Some(metrics) = metrics else { bail!("the training step gave no metrics") };
        Ok(Launched { steps, last: self.iteration, metrics })
    }

    /// The variables on the devices, moving statistics included.
    pub fn variables(&self) -> &[Replicated] {
        &self.state[..State::of(&self.config.model).variables]
    }

    /// Puts these in the place of the moving mean and the moving variance, `[F]` each.
    ///
    /// # Errors
    /// When a device has no room.
    pub fn set_moving_statistics(&mut self, statistics: &[Vec<f32>; 2]) -> Result<()> {
        for (place, values) in MOVING_STATISTICS.zip(statistics) {
            self.state[place] = self.session.replicate_one(&HostTensor::from_f32(values, &[values.len()]))?;
        }
        Ok(())
    }

    /// The variables and the optimizer's state on the host.
    ///
    /// # Errors
    /// When the devices fail.
    pub fn fetch(&self) -> Result<(Vec<NamedTensor>, OptimizerState)> {
        let places = State::of(&self.config.model);
        let (model, optimizer) = (&self.config.model, &self.config.optimizer);
        let fetch = |specs: Vec<VariableSpec>, first: usize| -> Result<Vec<NamedTensor>> {
            let tensors = specs.into_iter().zip(&self.state[first..]);
            tensors.map(|(spec, tensor)| self.fetch_one(spec, tensor)).collect()
        };
        let weights = fetch(variables(model), 0)?;
        let first_moments = fetch(trainable_variables(model), places.variables)?;
        let second_moments = fetch(trainable_variables(model), places.variables + places.trainable)?;
        let state = OptimizerState {
            iteration: self.iteration as i64,
            learning_rate: optimizer.learning_rate,
            first_moments,
            second_moments,
            beta_1: optimizer.beta_1,
            beta_2: optimizer.beta_2,
            epsilon: optimizer.epsilon,
        };
        Ok((weights, state))
    }

    fn fetch_one(&self, spec: VariableSpec, tensor: &Replicated) -> Result<NamedTensor> {
        let values = tensor.fetch(0)?.to_f32()?;
        Ok(NamedTensor { name: spec.name, dims: spec.dims, values })
    }
}

impl Drop for Trainer<'_> {
    fn drop(&mut self) {
        // No step may still run when the plugin goes. A failure was, or will be, reported by whoever asks for it.
        self.state.iter().for_each(|value| drop(value.wait()));
    }
}

/// A tensor of zeros for a variable.
pub(super) fn zeros(spec: &VariableSpec) -> NamedTensor {
    NamedTensor { name: spec.name.clone(), dims: spec.dims.clone(), values: vec![0.0; spec.elements()] }
}
