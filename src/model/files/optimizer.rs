//! Adam's state in model files.
//!
//! Keras keeps the optimizer's variables in a numbered list: the iteration; the learning rate, unless a schedule
//! gives it; then for each trainable variable in order its first and second moment. (Keras before 2.11 wrote all
//! first moments, then all second ones.) A list of another length is skipped by Keras with no more than a warning.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Problem;
use crate::model::optimizer::LearningRate;
use crate::model::{NamedTensor, VariableSpec};

/// The state of Adam between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// Steps taken.
    pub iteration: i64,
    /// How the learning rate follows from the iteration.
    pub learning_rate: LearningRate,
    /// Running means of the gradients, for the trainable variables in order, under their names.
    pub first_moments: Vec<NamedTensor>,
    /// Running means of the squared gradients.
    pub second_moments: Vec<NamedTensor>,
    /// Decay of the first moments.
    pub beta_1: f64,
    /// Decay of the second moments.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

/// Adam without its variables.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) learning_rate: LearningRate,
    pub(super) beta_1: f64,
    pub(super) beta_2: f64,
    pub(super) epsilon: f64,
}

/// One of the optimizer's variables as a file holds it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Variable {
    /// A scalar.
    Scalar(f64),
    /// Anything else.
    Tensor(NamedTensor),
}

impl OptimizerState {
    pub(super) fn settings(&self) -> Settings {
        let Self { learning_rate, beta_1, beta_2, epsilon, .. } = *self;
        Settings { learning_rate, beta_1, beta_2, epsilon }
    }

    /// The moments in Keras's order: interleaved, each with whether it is a second one.
    pub(super) fn moments(&self) -> impl Iterator<Item = (bool, &NamedTensor)> {
        let pairs = self.first_moments.iter().zip(&self.second_moments);
        pairs.flat_map(|(first, second)| [(false, first), (true, second)])
    }
}

impl Settings {
    /// Reads Keras's `{"class_name": "Adam", "config": …}`; the error is a note on why it cannot be continued.
    pub(super) fn parse(optimizer: &Value) -> Result<Self, String> {
        let class = optimizer.get("class_name").and_then(Value::as_str).unwrap_or("unknown");
        if !class.eq_ignore_ascii_case("adam") {
            return Err(format!("the optimizer {class} is not Adam: its state is left behind"));
        }
        let config = optimizer.get("config").unwrap_or(&Value::Null);
        for setting in [
            "weight_decay",
            "clipnorm",
            "global_clipnorm",
            "clipvalue",
            "use_ema",
            "amsgrad",
            "decay",
            "gradient_accumulation_steps",
            "loss_scale_factor",
        ] {
            let value = config.get(setting).unwrap_or(&Value::Null);
            if !(value.is_null() || *value == Value::Bool(false) || value.as_f64() == Some(0.0)) {
                return Err(format!("Adam's {setting} = {value} is not supported: its state is left behind"));
            }
        }
        let number = |key: &str, default: f64| match config.get(key) {
            None => Ok(default),
            Some(value) => finite_number(value).ok_or(format!("Adam's {key} = {value} is no number")),
        };
        Ok(Self {
            learning_rate: learning_rate(config)?,
            beta_1: number("beta_1", 0.9)?,
            beta_2: number("beta_2", 0.999)?,
            epsilon: number("epsilon", 1e-7)?,
        })
    }

    /// Puts a file's list of variables in its places. `None`: the optimizer was never used.
    pub(super) fn restore(
        self,
        variables: Vec<Variable>,
        trainable: &[VariableSpec],
    ) -> Result<Option<OptimizerState>, Problem> {
        let mut settings = self;
        let count = variables.len();
        let mut variables = variables.into_iter().peekable();
        let iteration = match variables.next() {
            Some(Variable::Scalar(iteration)) if iteration >= 0.0 && iteration < 2f64.powi(53) => {
                iteration as i64
            }
            None => return Ok(None),
            Some(_) => return Err(Problem::damaged("the optimizer's iteration", "expected a whole number")),
        };
        if let Some(Variable::Scalar(rate)) = variables.next_if(|next| matches!(next, Variable::Scalar(_))) {
            settings.learning_rate = settings.learning_rate.stored_as(rate);
        }
        let tensors: Vec<NamedTensor> = variables
            .filter_map(|variable| match variable {
                Variable::Tensor(tensor) => Some(tensor),
                Variable::Scalar(_) => None,
            })
            .collect();
        if tensors.is_empty() && iteration == 0 {
            return Ok(None);
        }
        let Some([first, second]) = split(tensors, trainable) else {
            return Err(Problem::Structure {
                expected: format!("{} optimizer variables of the weights' shapes", 2 * trainable.len() + 1),
                found: format!("{count}, or other shapes"),
            });
        };
        let Self { learning_rate, beta_1, beta_2, epsilon } = settings;
        let (first_moments, second_moments) = (first, second);
        Ok(Some(OptimizerState {
            iteration,
            learning_rate,
            first_moments,
            second_moments,
            beta_1,
            beta_2,
            epsilon,
        }))
    }
}

impl LearningRate {
    /// The current rate of a file, which Keras keeps as a float32, over the one it was configured with.
    fn stored_as(self, rate: f64) -> Self {
        match self {
            Self::Constant(configured) if configured as f32 != rate as f32 && rate.is_finite() => {
                Self::Constant(rate)
            }
            _ => self,
        }
    }
}

/// Adam's state from Keras's description and list; what cannot be continued becomes a note, for the weights alone are
/// of use.
pub(super) fn from_keras(
    optimizer: Option<&Value>,
    variables: impl FnOnce() -> Result<Vec<Variable>, Problem>,
    trainable: &[VariableSpec],
    notes: &mut Vec<String>,
) -> Result<Option<OptimizerState>, Problem> {
    let Some(optimizer) = optimizer else { return Ok(None) };
    let settings = match Settings::parse(optimizer) {
        Ok(settings) => settings,
        Err(note) => {
            notes.push(note);
            return Ok(None);
        }
    };
    match settings.restore(variables()?, trainable) {
        Err(Problem::Structure { expected, found }) => {
            notes.push(format!("the optimizer's state is left behind: expected {expected}, found {found}"));
            Ok(None)
        }
        restored => restored,
    }
}

/// First and second moments, out of an interleaved list or one after the other.
fn split(tensors: Vec<NamedTensor>, trainable: &[VariableSpec]) -> Option<[Vec<NamedTensor>; 2]> {
    let count = trainable.len();
    if tensors.len() != 2 * count {
        return None;
    }
    let interleaved = |index: usize| (index % 2, index / 2);
    let one_after_the_other = |index: usize| (index / count, index % count);
    let fits = |place: &dyn Fn(usize) -> (usize, usize)| {
        tensors.iter().enumerate().all(|(index, tensor)| tensor.dims == trainable[place(index).1].dims)
    };
    let place: &dyn Fn(usize) -> (usize, usize) = match (fits(&interleaved), fits(&one_after_the_other)) {
        (true, _) => &interleaved,
        (false, true) => &one_after_the_other,
        (false, false) => return None,
    };
    let mut moments = [Vec::new(), Vec::new()];
    for (index, tensor) in tensors.into_iter().enumerate() {
        let (moment, variable) = place(index);
        moments[moment].push(NamedTensor { name: trainable[variable].name.clone(), ..tensor });
    }
    Some(moments)
}

fn learning_rate(config: &Value) -> Result<LearningRate, String> {
    let value = config.get("learning_rate").or_else(|| config.get("lr")).unwrap_or(&Value::Null);
    if let Some(rate) = finite_number(value) {
        return Ok(LearningRate::Constant(rate));
    }
    let class = value.get("class_name").and_then(Value::as_str).unwrap_or("none");
    let schedule = |key: &str| value.get("config").and_then(|config| config.get(key));
    let number = |key: &str| schedule(key).and_then(finite_number);
    let numbers = (number("initial_learning_rate"), number("decay_steps"), number("decay_rate"));
    match (class, schedule("staircase").and_then(Value::as_bool).unwrap_or(false), numbers) {
        ("ExponentialDecay", false, (Some(initial), Some(decay_steps), Some(decay_rate)))
            if decay_steps > 0.0 =>
        {
            Ok(LearningRate::ExponentialDecay { initial, decay_steps, decay_rate })
        }
        _ => {
            Err(format!("the learning rate's schedule {class} is not supported: Adam's state is left behind"))
        }
    }
}

fn finite_number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}
