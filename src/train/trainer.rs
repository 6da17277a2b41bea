//! The training state on the devices, and the step that moves it on.

use super::session::Session;
use crate::data::Batch;
use crate::model::files::OptimizerState;
use crate::model::step::{METRICS, State, StepConfig};
use crate::model::{NamedTensor, VariableSpec, trainable_variables, variables};
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
    program: Program,
    /// In the order of [`State`]; empty only while a step has it, or after one has failed.
    state: Vec<Replicated>,
    /// Steps taken.
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
        Ok(Self { session, config: config.clone(), program, state, iteration: count as u64 })
    }

    /// Steps taken, those before the weights were loaded included.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// One optimizer step.
    ///
    /// # Errors
    /// When the devices fail; the state is then lost.
    pub fn step(&mut self, batch: &Batch) -> Result<Totals> {
        Ok(self.step_or_stop(batch, false)?.totals)
    }

    /// One optimizer step, in which this process says whether it was asked to stop and hears whether any was.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_or_stop(&mut self, batch: &Batch, stop: bool) -> Result<Outcome> {
        let mut batch = self.session.upload_rows(batch, &self.config)?;
        batch.push(self.session.flag(stop)?);
        let state = std::mem::take(&mut self.state);
        let arguments = state.into_iter().map(Arg::Donate).chain(batch.iter().map(Arg::Borrow)).collect();
        let mut outputs = self.program.execute(arguments)?;
        let metrics = outputs.pop();
        self.state = outputs;
        self.iteration += 1;
        let Some(metrics) = metrics else { bail!("the training step gave no metrics") };
        let metrics = metrics.fetch(0)?.to_f32()?;
        let [loss, correct, weight, stop] = metrics[..] else {
            bail!("the training step gave {} metrics, expected {METRICS}", metrics.len());
        };
        let totals = Totals { loss: loss.into(), correct: correct.into(), weight: weight.into() };
        Ok(Outcome { totals, stopped: stop > 0.0 })
    }

    /// The variables on the devices, moving statistics included.
    pub fn variables(&self) -> &[Replicated] {
        &self.state[..State::of(&self.config.model).variables]
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

/// A tensor of zeros for a variable.
pub(super) fn zeros(spec: &VariableSpec) -> NamedTensor {
    NamedTensor { name: spec.name.clone(), dims: spec.dims.clone(), values: vec![0.0; spec.elements()] }
}
