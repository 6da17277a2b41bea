//! Where a run begins: with weights drawn or read, or where a run that was stopped left off.

use super::agreement;
use super::dataset::Dataset;
use super::machine::Machine;
use super::saved;
use super::session::Session;
use super::trainer::{Totals, zeros};
use crate::cli::TrainArgs;
use crate::config::TrainConfig;
use crate::model::files::{self, Contents, OptimizerState, SavedModel};
use crate::model::optimizer::Adam;
use crate::model::{ModelConfig, NamedTensor, VariableSpec, initialize, trainable_variables, variables};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// The state a run begins with.
pub(super) struct Start {
    pub(super) model: ModelConfig,
    pub(super) weights: Vec<NamedTensor>,
    pub(super) optimizer: Option<OptimizerState>,
    /// Of the epoch that the last run was stopped in.
    pub(super) epoch_so_far: Totals,
    /// Whether it was stopped before that epoch's evaluation.
    pub(super) unevaluated: bool,
    /// For the header.
    pub(super) origin: String,
}

/// What a run writes into its model, beside the settings, to be gone on with.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    /// The settings.
    #[serde(flatten)]
    pub(super) config: &'a TrainConfig,
    /// Windows to train, to validate and to test.
    pub(super) windows: [usize; 3],
    /// [`Dataset::fingerprint`].
    pub(super) fingerprint: &'a str,
    /// Where it was computed.
    pub(super) machine: &'a Machine,
    /// Sums over the epoch in hand.
    pub(super) epoch_so_far: Totals,
    /// Whether the run was stopped before the evaluation of the epoch in hand.
    pub(super) unevaluated: bool,
}

/// Settings that a run may be gone on with at another value.
const MAY_CHANGE: [&str; 2] = ["epochs", "steps"];

impl Start {
    /// What the arguments ask for.
    ///
    /// # Errors
    /// When the file is missing or does not fit, or the run in it was another one.
    pub(super) fn of(
        args: &TrainArgs,
        config: &TrainConfig,
        dataset: &Dataset,
        machine: &Machine,
    ) -> Result<Self> {
        let mut model = ModelConfig::new(config.window, dataset.table.channels, dataset.table.classes.len());
        model.l2 = config.l2;
        model.dropout = config.dropout;
        model.batch_norm_momentum = config.batch_norm_momentum;
        let start = match &args.init_weights {
            _ if args.resume => Self::resumed(&model, config, dataset, machine)?,
            Some(file) => Self::read(file, &model)?,
            None => Self {
                weights: initialize::initial(&model, config.seed),
                optimizer: None,
                epoch_so_far: Totals::default(),
                unevaluated: false,
                origin: format!("drawn with seed {}", config.seed),
                model,
            },
        };
        if start.model.lstm_steps() == 0 {
            bail!(
                "--window {} is too short: the convolutions and pools need at least {} samples",
                config.window,
                start.model.shortest_window()
            );
        }
        Ok(start)
    }

    /// The state that process 0 of the job begins with, whatever this one has: a host may hold no saved model, or an
    /// old one. All processes must have agreed on the network before.
    ///
    /// # Errors
    /// When the devices fail.
    pub(super) fn of_first(self, session: &Session, adam: &Adam) -> Result<Self> {
        if session.share.is_whole() {
            return Ok(self);
        }
        let words = self.to_words().repeat(session.share.replicas.len());
        self.with_words(&agreement::of_first(session, &words)?, adam)
    }

    /// Sums of the epoch in hand, steps taken, whether that epoch is unevaluated, weights and moments, as bits.
    fn to_words(&self) -> Vec<i32> {
        let iteration = self.optimizer.as_ref().map_or(0, |optimizer| optimizer.iteration);
        let mut words: Vec<i32> = self.epoch_so_far.to_words().collect();
        words.extend([iteration as i32, (iteration >> 32) as i32, self.unevaluated.into()]);
        let moments = match &self.optimizer {
            Some(optimizer) => [&optimizer.first_moments[..], &optimizer.second_moments[..]].concat(),
            None => {
                let specs = trainable_variables(&self.model);
                specs.iter().chain(&specs).map(zeros).collect()
            }
        };
        let values = self.weights.iter().chain(&moments).flat_map(|tensor| &tensor.values);
        words.extend(values.map(|value| value.to_bits() as i32));
        words
    }

    /// This start with the state that [`Self::to_words`] was made of.
    fn with_words(self, words: &[i32], adam: &Adam) -> Result<Self> {
        let Some((epoch_so_far, [low, high, unevaluated, values @ ..])) = words.split_first_chunk() else {
            bail!("process 0 sent no state");
        };
        let mut values = values.iter().map(|&bits| f32::from_bits(bits as u32));
        let mut read = |specs: Vec<VariableSpec>| -> Vec<NamedTensor> {
            let tensor = |spec: VariableSpec| {
                let own = values.by_ref().take(spec.elements()).collect();
                NamedTensor { name: spec.name, dims: spec.dims, values: own }
            };
            specs.into_iter().map(tensor).collect()
        };
        let weights = read(variables(&self.model));
        let optimizer = OptimizerState {
            iteration: i64::from(*low as u32) | i64::from(*high) << 32,
            learning_rate: adam.learning_rate,
            first_moments: read(trainable_variables(&self.model)),
            second_moments: read(trainable_variables(&self.model)),
            beta_1: adam.beta_1,
            beta_2: adam.beta_2,
            epsilon: adam.epsilon,
        };
        let epoch_so_far = Totals::from_words(*epoch_so_far);
        Ok(Self { weights, optimizer: Some(optimizer), epoch_so_far, unevaluated: *unevaluated != 0, ..self })
    }

    /// Weights of a file, in layers of its sizes; the optimizer starts anew.
    fn read(file: &Path, base: &ModelConfig) -> Result<Self> {
        let contents = files::read_any(file)?;
        let model = contents.sized(base);
        let mut origin = format!("of {}, {}", file.display(), sizes(&model));
        if let Contents::Model(saved) = &contents {
            saved.notes.iter().for_each(|note| eprintln!("note: {note}"));
            if let Some(state) = &saved.optimizer {
                origin += &format!("; its optimizer's state ({} steps) is left out", state.iteration);
            }
        }
        let weights = contents
            .weights_for(&model)
            .map_err(|problem| anyhow::anyhow!("--init-weights {}: {problem}", file.display()))?;
        let epoch_so_far = Totals::default();
        Ok(Self { model, weights, optimizer: None, epoch_so_far, unevaluated: false, origin })
    }

    /// The run whose model is in `--out`.
    fn resumed(
        base: &ModelConfig,
        config: &TrainConfig,
        dataset: &Dataset,
        machine: &Machine,
    ) -> Result<Self> {
        let out = config.out.display();
        let saved = saved::open(&config.out)?;
        let Some(run) = saved::run(&saved) else {
            bail!("--resume: no run of this program left {out}; --init-weights {out} starts from its weights")
        };
        same_run(&saved, run, config, dataset)?;
        let before = run.get("machine").and_then(|machine| Machine::deserialize(machine).ok());
        if let Some(difference) = before.and_then(|before| machine.difference(&before)) {
            eprintln!("note: the run goes on up to rounding, not bit for bit: {difference}");
        }
        let unevaluated = run.get("unevaluated") == Some(&Value::Bool(true));
        let epoch_so_far = run.get("epoch_so_far").and_then(|totals| Totals::deserialize(totals).ok());
        let model = Contents::Model(Box::new(saved.clone())).sized(base);
        let Some(optimizer) = saved.optimizer else {
            bail!("--resume: {out} has no optimizer state; --init-weights {out} starts from its weights")
        };
        Ok(Self {
            origin: format!("of {out}, {}, after {} steps", sizes(&model), optimizer.iteration),
            model,
            weights: saved.weights,
            optimizer: Some(optimizer),
            epoch_so_far: epoch_so_far.unwrap_or_default(),
            unevaluated,
        })
    }
}

fn sizes(model: &ModelConfig) -> String {
    let [first, second] = model.conv_filters;
    format!(
        "Conv1D({first}, {kernel}), Conv1D({second}, {kernel}), MaxPool({}), LSTM({}), Dense({})",
        model.pool_size,
        model.lstm_units,
        model.dense_units,
        kernel = model.kernel_size
    )
}

/// Refuses to go on with a run of other settings, classes or windows; names the first that differs.
fn same_run(saved: &SavedModel, run: &Value, config: &TrainConfig, dataset: &Dataset) -> Result<()> {
    let out = config.out.display();
    let settings = serde_json::to_value(config)?;
    for (name, here) in settings.as_object().into_iter().flatten() {
        let there = run.get(name).unwrap_or(&Value::Null);
        if there != here && !MAY_CHANGE.contains(&name.as_str()) {
            bail!(
                "--resume: the run of {out} has {name} {there}, this one {here}; a run goes on with the \
                 settings it began with"
            );
        }
    }
    let classes = saved.details.as_ref().map(|details| &details.class_names);
    if classes.is_some_and(|classes| *classes != dataset.table.classes) {
        bail!(
            "--resume: the run of {out} has other classes than the data; go on with the data it began with"
        );
    }
    let (here, there) = (serde_json::to_value(dataset.windows())?, run.get("windows"));
    if there.is_some_and(|there| *there != here) {
        bail!(
            "--resume: the run of {out} has {} windows to train, validate and test, the data {here}; go on \
             with the data it began with",
            there.unwrap_or(&Value::Null)
        );
    }
    if run.get("fingerprint").is_some_and(|there| *there != dataset.fingerprint()) {
        bail!(
            "--resume: the run of {out} learnt from other recordings, or from windows that were dealt to other parts; \
             go on with the data it began with"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::optimizer::LearningRate;

    fn start(seed: u32, optimizer: Option<OptimizerState>) -> Start {
        let model = ModelConfig::new(40, 2, 3);
        let weights = initialize::initial(&model, seed);
        let epoch_so_far = Totals::default();
        Start { model, weights, optimizer, epoch_so_far, unevaluated: false, origin: String::new() }
    }

    #[test]
    fn a_state_sent_as_words_replaces_another_bit_for_bit() {
        let adam = Adam::new(LearningRate::Constant(1e-3));
        let moments = |sign: f32| -> Vec<NamedTensor> {
            let mut moments: Vec<NamedTensor> =
                trainable_variables(&ModelConfig::new(40, 2, 3)).iter().map(zeros).collect();
            moments.iter_mut().flat_map(|tensor| &mut tensor.values).for_each(|value| *value = sign * 1e-30);
            moments
        };
        let optimizer = OptimizerState {
            iteration: (1 << 40) + 7,
            learning_rate: adam.learning_rate,
            first_moments: moments(-1.0),
            second_moments: moments(1.0),
            beta_1: adam.beta_1,
            beta_2: adam.beta_2,
            epsilon: adam.epsilon,
        };
        let mut sent = start(1, Some(optimizer.clone()));
        sent.epoch_so_far = Totals::from_words([7, -1, 3, 1 << 30, 0, i32::MIN]);
        sent.unevaluated = true;
        let received = start(2, None).with_words(&sent.to_words(), &adam).unwrap();
        assert_eq!(received.optimizer, Some(optimizer));
        assert!(received.weights == sent.weights);
        assert!(received.epoch_so_far.to_words().eq([7, -1, 3, 1 << 30, 0, i32::MIN]));
        assert!(received.unevaluated);

        // A fresh start is sent with the state that its trainer would begin with.
        let fresh = start(2, None).with_words(&start(1, None).to_words(), &adam).unwrap();
        let state = fresh.optimizer.unwrap();
        let mut values = state.first_moments.iter().chain(&state.second_moments).flat_map(|m| &m.values);
        assert!(state.iteration == 0 && values.all(|&value| value.to_bits() == 0));
    }
}
