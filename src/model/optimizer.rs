//! Adam (Kingma and Ba 2015) as Keras 3 computes it, with a constant or an exponentially decaying rate.

use serde::{Deserialize, Serialize};
use tpu_train_hlo::{ElementType, Graph, Value};

/// The learning rate as a function of the steps taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearningRate {
    /// The same at every step.
    Constant(f64),
    /// `initial · decay_rate^(step / decay_steps)`, not in staircases.
    ExponentialDecay {
        /// The rate at step 0.
        initial: f64,
        /// Steps in which the rate falls to `decay_rate` of its value.
        decay_steps: f64,
        /// The share that is left after `decay_steps`.
        decay_rate: f64,
    },
}

impl LearningRate {
    /// The rate at a step counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        match *self {
            Self::Constant(rate) => rate,
            Self::ExponentialDecay { initial, decay_steps, decay_rate } => {
                initial * decay_rate.powf(step as f64 / decay_steps)
            }
        }
    }

    /// The rate at `step`, an f32 scalar counted from 0, as an f32 scalar.
    fn build(&self, g: &mut Graph, step: Value) -> Value {
        match *self {
            Self::Constant(rate) => g.scalar(ElementType::F32, rate),
            Self::ExponentialDecay { initial, decay_steps, decay_rate } => {
                let decay_steps = g.scalar(ElementType::F32, decay_steps);
                let decay_rate = g.scalar(ElementType::F32, decay_rate);
                let exponent = g.div(step, decay_steps);
                let decay = g.pow(decay_rate, exponent);
                let initial = g.scalar(ElementType::F32, initial);
                g.mul(initial, decay)
            }
        }
    }
}

/// Adam's constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    /// The learning rate.
    pub learning_rate: LearningRate,
    /// Decay of the first moments.
    pub beta_1: f64,
    /// Decay of the second moments.
    pub beta_2: f64,
    /// Added to the square root of the second moment, outside the bias correction as Keras has it.
    pub epsilon: f64,
}

impl Adam {
    /// Keras's constants at the given rate.
    pub fn new(learning_rate: LearningRate) -> Self {
        Self { learning_rate, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7 }
    }

    /// One update. `iteration` is the s32 count of updates made before this one.
    pub fn update(&self, g: &mut Graph, iteration: Value, slots: &[Slot]) -> Vec<Updated> {
        let step = g.convert(iteration, ElementType::F32);
        let rate = self.learning_rate.build(g, step);
        let one = g.scalar(ElementType::F32, 1.0);
        let step = g.add(step, one);
        let bias_correction = |g: &mut Graph, beta: f64| {
            let beta = g.scalar(ElementType::F32, beta);
            let power = g.pow(beta, step);
            g.sub(one, power)
        };
        let first = bias_correction(g, self.beta_1);
        let second = bias_correction(g, self.beta_2);
        let root = g.sqrt(second);
        let alpha = g.mul(rate, root);
        let alpha = g.div(alpha, first);
        slots.iter().map(|slot| self.update_slot(g, alpha, slot)).collect()
    }

    fn update_slot(&self, g: &mut Graph, alpha: Value, slot: &Slot) -> Updated {
        let first_moment = self.moment(g, slot.first_moment, slot.gradient, self.beta_1);
        let squared = g.mul(slot.gradient, slot.gradient);
        let second_moment = self.moment(g, slot.second_moment, squared, self.beta_2);
        let epsilon = g.scalar(ElementType::F32, self.epsilon);
        let root = g.sqrt(second_moment);
        let root = g.add(root, epsilon);
        let change = g.mul(first_moment, alpha);
        let change = g.div(change, root);
        Updated { variable: g.sub(slot.variable, change), first_moment, second_moment }
    }

    /// `moment + (value − moment) · (1 − beta)`.
    fn moment(&self, g: &mut Graph, moment: Value, value: Value, beta: f64) -> Value {
        let rest = g.scalar(ElementType::F32, 1.0 - beta);
        let change = g.sub(value, moment);
        let change = g.mul(change, rest);
        g.add(moment, change)
    }
}

/// A variable with its gradient and moments, all of one shape.
pub struct Slot {
    /// The variable.
    pub variable: Value,
    /// Its gradient.
    pub gradient: Value,
    /// Running mean of the gradient.
    pub first_moment: Value,
    /// Running mean of the squared gradient.
    pub second_moment: Value,
}

/// A variable and its moments after an update.
pub struct Updated {
    /// The variable.
    pub variable: Value,
    /// Running mean of the gradient.
    pub first_moment: Value,
    /// Running mean of the squared gradient.
    pub second_moment: Value,
}
