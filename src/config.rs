//! The resolved, validated run: what was typed, over the recipe, over the defaults.

use crate::cli::TrainArgs;
use crate::data::SplitBy;
use crate::model::network::{BatchNormScope, Precision};
use crate::model::optimizer::LearningRate;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A set of settings to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recipe {
    /// The plain model, six classes, a split by subject.
    Readme,
    /// What the source's TPU notebook sets, its exact-match class rule included.
    Source,
}

/// Which statistics batch normalisation has in evaluation, and in the saved model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormStatistics {
    /// Moving averages of the batches', as Keras keeps them.
    #[default]
    Moving,
    /// Those of all training windows, taken anew with the weights at each epoch's end.
    Precise,
}

/// Everything a training run is decided by, but for the platform it runs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// Settings started from.
    pub recipe: Recipe,
    /// Column learnt instead of the scenario.
    pub label_column: Option<String>,
    /// Samples in a window.
    pub window: usize,
    /// Samples between windows' starts.
    pub stride: usize,
    /// What a part of the split holds whole.
    pub split: SplitBy,
    /// Share of windows for validation.
    pub val_fraction: f64,
    /// Share of windows for the test.
    pub test_fraction: f64,
    /// Steps in one execution of the program.
    #[serde(default = "one_step")]
    pub steps_per_execution: usize,
    /// Windows in a step over all replicas; `None`, before a platform is chosen, leaves it to that.
    pub batch_size: Option<usize>,
    /// Passes over the training windows, from the run's beginning.
    pub epochs: u64,
    /// Steps after which to stop, from the run's beginning.
    pub steps: Option<u64>,
    /// Whether windows are shuffled anew each epoch.
    pub shuffle: bool,
    /// Seed of all draws.
    pub seed: u32,
    /// Learning rate.
    pub learning_rate: LearningRate,
    /// Share of hidden dense units dropped.
    pub dropout: f64,
    /// L2 penalty on the hidden dense kernel.
    pub l2: f64,
    /// Rows of batch normalisation's statistics.
    pub batch_norm: BatchNormScope,
    /// Momentum of the moving statistics.
    pub batch_norm_momentum: f64,
    /// Batch normalisation's statistics in evaluation.
    #[serde(default)]
    pub batch_norm_statistics: BatchNormStatistics,
    /// What products are computed in.
    #[serde(default)]
    pub precision: Precision,
    /// Folder of the TensorBoard logs; not saved with the model, which does not depend on it.
    #[serde(skip)]
    pub logdir: PathBuf,
    /// Where the model is saved; not saved with the model either.
    #[serde(skip)]
    pub out: PathBuf,
}

/// A setting that makes no sense.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A share outside [0, 1).
    #[error("{option} {value} is not a share: expected 0 ≤ share < 1")]
    Share {
        /// The option.
        option: &'static str,
        /// What was typed.
        value: f64,
    },
    /// The parts leave nothing to train on.
    #[error(
        "--val-fraction {validation} and --test-fraction {test} leave no windows to train on; \
         their sum must be below 1"
    )]
    Fractions {
        /// Share for validation.
        validation: f64,
        /// Share for the test.
        test: f64,
    },
    /// Not a positive number.
    #[error("{option} {value} is out of range: expected a number above 0")]
    Positive {
        /// The option.
        option: &'static str,
        /// What was typed.
        value: f64,
    },
    /// Not a number from 0 up.
    #[error("{option} {value} is out of range: expected a number of at least 0")]
    Negative {
        /// The option.
        option: &'static str,
        /// What was typed.
        value: f64,
    },
    /// Decay not of the form STEPS:RATE.
    #[error("--lr-decay {value} is not STEPS:RATE with both above 0, as in 10000:0.9")]
    Decay {
        /// What was typed.
        value: String,
    },
    /// A demo brings its own data.
    #[error("--demo simulates its own recordings and takes no --data; leave one of them out")]
    DemoWithData,
}

/// Epochs of the demo: as many as two cores take in a minute and a half.
const DEMO_EPOCHS: u64 = 8;

impl TrainConfig {
    /// The run that `args` ask for.
    pub fn resolve(args: &TrainArgs) -> Result<Self, ConfigError> {
        if args.demo && (args.data.data.is_some() || args.data.prepared.is_some()) {
            return Err(ConfigError::DemoWithData);
        }
        let base = Self::base(args);
        let window = args.window.unwrap_or(base.window);
        let config = Self {
            recipe: args.recipe,
            label_column: args.data.label_column.clone(),
            window,
            stride: args.stride.unwrap_or(window),
            split: args.split.unwrap_or(base.split),
            val_fraction: args.val_fraction.unwrap_or(base.val_fraction),
            test_fraction: args.test_fraction.unwrap_or(base.test_fraction),
            steps_per_execution: args.steps_per_execution,
            batch_size: args.batch_size.or(base.batch_size),
            epochs: args.epochs.unwrap_or(base.epochs),
            steps: args.steps,
            shuffle: base.shuffle && !args.no_shuffle,
            seed: args.seed.unwrap_or(base.seed),
            learning_rate: learning_rate(args, base.learning_rate)?,
            dropout: args.dropout.unwrap_or(base.dropout),
            l2: args.l2.unwrap_or(base.l2),
            batch_norm: args.batch_norm.unwrap_or(base.batch_norm),
            batch_norm_momentum: args.batch_norm_momentum.unwrap_or(base.batch_norm_momentum),
            batch_norm_statistics: args.batch_norm_statistics.unwrap_or(base.batch_norm_statistics),
            precision: args.precision.unwrap_or(base.precision),
            logdir: args.logdir.clone().unwrap_or(base.logdir),
            out: args.out.clone().unwrap_or(base.out),
        };
        config.validate()?;
        Ok(config)
    }

    /// The recipe's settings, and the demo's over them.
    fn base(args: &TrainArgs) -> Self {
        let mut base = match args.recipe {
            Recipe::Readme => Self::readme(),
            Recipe::Source => Self::source(),
        };
        if args.demo {
            base.epochs = DEMO_EPOCHS;
            // Two hundred steps: too few for Keras's 0.99 to forget its start, and for small steps.
            base.batch_norm_momentum = 0.9;
            base.learning_rate =
                LearningRate::ExponentialDecay { initial: 2e-3, decay_steps: 30.0, decay_rate: 0.5 };
            base.val_fraction = 0.17;
            base.test_fraction = 0.17;
            base.logdir = "demo/logs/fit".into();
            base.out = "demo/model.keras".into();
        }
        base
    }

    pub(crate) fn readme() -> Self {
        Self {
            recipe: Recipe::Readme,
            label_column: None,
            window: 10_000,
            stride: 10_000,
            split: SplitBy::Subject,
            val_fraction: 0.1,
            test_fraction: 0.1,
            steps_per_execution: 1,
            batch_size: None,
            epochs: 50,
            steps: None,
            shuffle: true,
            seed: 42,
            learning_rate: LearningRate::Constant(1e-3),
            dropout: 0.0,
            l2: 0.0,
            batch_norm: BatchNormScope::Synced,
            batch_norm_momentum: 0.99,
            batch_norm_statistics: BatchNormStatistics::Moving,
            precision: Precision::F32,
            logdir: "logs/fit".into(),
            out: "model.keras".into(),
        }
    }

    /// The source validates on its test windows, so one part serves as both.
    fn source() -> Self {
        Self {
            recipe: Recipe::Source,
            split: SplitBy::Random,
            val_fraction: 0.0,
            batch_size: Some(512),
            shuffle: false,
            learning_rate: LearningRate::ExponentialDecay {
                initial: 1e-3,
                decay_steps: 10_000.0,
                decay_rate: 0.9,
            },
            dropout: 0.5,
            l2: 0.01,
            batch_norm: BatchNormScope::Local,
            ..Self::readme()
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for (option, value) in [
            ("--val-fraction", self.val_fraction),
            ("--test-fraction", self.test_fraction),
            ("--dropout", self.dropout),
            ("--batch-norm-momentum", self.batch_norm_momentum),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(ConfigError::Share { option, value });
            }
        }
        if self.val_fraction + self.test_fraction >= 1.0 {
            return Err(ConfigError::Fractions { validation: self.val_fraction, test: self.test_fraction });
        }
        let rate = self.learning_rate.at(0);
        for (option, value) in [
            ("--learning-rate", rate),
            ("--window", self.window as f64),
            ("--stride", self.stride as f64),
            ("--epochs", self.epochs as f64),
            ("--steps", self.steps.unwrap_or(1) as f64),
            ("--batch-size", self.batch_size.unwrap_or(1) as f64),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(ConfigError::Positive { option, value });
            }
        }
        if !(self.l2 >= 0.0 && self.l2.is_finite()) {
            return Err(ConfigError::Negative { option: "--l2", value: self.l2 });
        }
        Ok(())
    }
}

impl TrainConfig {
    /// Whether validation windows are the test windows, as in the source.
    pub fn validates_on_test(&self) -> bool {
        self.recipe == Recipe::Source
    }

    /// What to say after a run of `steps` steps whose moving statistics have not forgotten what they began with.
    pub fn moving_statistics_note(&self, steps: u64) -> Option<String> {
        let left = self.batch_norm_momentum.powf(steps as f64);
        (self.batch_norm_statistics == BatchNormStatistics::Moving && left >= 0.01).then(|| {
            format!(
                "after {steps} steps batch normalisation's moving statistics are still {:.0} % what they began with, \
                 and so is what an evaluation sees; more steps, a smaller \
                 --batch-norm-momentum or --batch-norm-statistics precise mend that",
                100.0 * left
            )
        })
    }

    /// The labels and how they are read.
    fn labels(&self) -> String {
        match (&self.label_column, self.recipe) {
            (Some(column), _) => column.clone(),
            (None, Recipe::Readme) => "Recording Scenario".into(),
            (None, Recipe::Source) => "Recording Scenario, by the source's exact match".into(),
        }
    }
}

/// What a run did that was saved before it could do otherwise.
fn one_step() -> usize {
    1
}

fn learning_rate(args: &TrainArgs, base: LearningRate) -> Result<LearningRate, ConfigError> {
    let initial = args.learning_rate.unwrap_or(base.at(0));
    let decay = match (&args.lr_decay, base) {
        (None, LearningRate::Constant(_)) => None,
        (None, LearningRate::ExponentialDecay { decay_steps, decay_rate, .. }) => {
            Some((decay_steps, decay_rate))
        }
        (Some(typed), _) => Some(parse_decay(typed)?),
    };
    Ok(match decay {
        None => LearningRate::Constant(initial),
        Some((decay_steps, decay_rate)) => {
            LearningRate::ExponentialDecay { initial, decay_steps, decay_rate }
        }
    })
}

fn parse_decay(typed: &str) -> Result<(f64, f64), ConfigError> {
    let positive = |text: &str| text.trim().parse().ok().filter(|v: &f64| *v > 0.0 && v.is_finite());
    typed
        .split_once(':')
        .and_then(|(steps, rate)| Some((positive(steps)?, positive(rate)?)))
        .ok_or_else(|| ConfigError::Decay { value: typed.to_owned() })
}

/// Every setting, one a line, for the run header.
impl fmt::Display for TrainConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = match self.learning_rate {
            LearningRate::Constant(rate) => format!("{rate}"),
            LearningRate::ExponentialDecay { initial, decay_steps, decay_rate } => {
                format!("{initial}, to {decay_rate} of it in {decay_steps} steps")
            }
        };
        let name = |value: &dyn fmt::Debug| format!("{value:?}").to_lowercase();
        let steps = self.steps.map_or(String::new(), |steps| format!(", at most {steps} steps"));
        writeln!(f, "recipe         {}", name(&self.recipe))?;
        writeln!(f, "labels         {}", self.labels())?;
        writeln!(f, "windows        {} samples every {}", self.window, self.stride)?;
        writeln!(
            f,
            "split          by {}, validation {}, test {}",
            name(&self.split),
            if self.validates_on_test() {
                "on the test windows".into()
            } else {
                self.val_fraction.to_string()
            },
            self.test_fraction
        )?;
        let batch = self.batch_size.map_or("the platform's".into(), |batch| batch.to_string());
        let at_once = match self.steps_per_execution {
            1 => String::new(),
            steps => format!(", {steps} steps in one execution"),
        };
        writeln!(f, "batch          {batch}{at_once}")?;
        writeln!(f, "epochs         {}{steps}", self.epochs)?;
        writeln!(f, "order          {}", if self.shuffle { "shuffled" } else { "as recorded" })?;
        writeln!(f, "seed           {}", self.seed)?;
        writeln!(f, "learning rate  {rate}")?;
        writeln!(f, "dropout        {}", self.dropout)?;
        writeln!(f, "l2             {}", self.l2)?;
        let statistics = match self.batch_norm_statistics {
            BatchNormStatistics::Moving => format!("momentum {}", self.batch_norm_momentum),
            BatchNormStatistics::Precise => "precise statistics".into(),
        };
        writeln!(f, "batch norm     {}, {statistics}", name(&self.batch_norm))?;
        write!(f, "precision      {}", name(&self.precision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn resolve(args: &[&str]) -> Result<TrainConfig, ConfigError> {
        let cli = Cli::parse_from(["tpu-train"].iter().chain(args));
        TrainConfig::resolve(&cli.train)
    }

    #[test]
    fn what_is_typed_goes_over_the_recipe() {
        let config = resolve(&["--recipe", "source", "--learning-rate", "0.01", "--dropout", "0"]).unwrap();
        let decay = LearningRate::ExponentialDecay { initial: 0.01, decay_steps: 10_000.0, decay_rate: 0.9 };
        assert_eq!((config.learning_rate, config.dropout, config.l2), (decay, 0.0, 0.01));
        assert!(!config.shuffle);
    }

    #[test]
    fn moving_statistics_that_remember_their_start_are_mentioned() {
        let note = |args: &[&str], steps| resolve(args).unwrap().moving_statistics_note(steps);
        assert!(note(&[], 125).unwrap().contains("after 125 steps"), "0.99^125 is 0.28");
        assert!(note(&[], 125).unwrap().contains("still 28 % what they began with"));
        assert_eq!(note(&[], 500), None);
        assert_eq!(note(&["--batch-norm-momentum", "0.9"], 125), None);
        assert_eq!(note(&["--batch-norm-statistics", "precise"], 1), None);
    }

    #[test]
    fn the_sources_recipe_is_what_its_notebook_sets() {
        let config = resolve(&["--recipe", "source"]).unwrap();
        let decay = LearningRate::ExponentialDecay { initial: 1e-3, decay_steps: 10_000.0, decay_rate: 0.9 };
        assert_eq!((config.batch_size, config.epochs, config.window), (Some(512), 50, 10_000));
        assert_eq!((config.learning_rate, config.l2, config.dropout), (decay, 0.01, 0.5));
        assert_eq!((config.shuffle, config.batch_norm), (false, BatchNormScope::Local));
        assert_eq!((config.split, config.val_fraction, config.test_fraction), (SplitBy::Random, 0.0, 0.1));
        assert_eq!(config.label_rule(), crate::data::LabelRule::SourceScenario);
        assert!(config.validates_on_test());
        let plain = resolve(&[]).unwrap();
        assert_eq!((plain.split, plain.l2, plain.dropout), (SplitBy::Subject, 0.0, 0.0));
        assert_eq!(plain.label_rule(), crate::data::LabelRule::Scenario);
    }

    #[test]
    fn the_stride_follows_the_window() {
        assert_eq!(resolve(&["--window", "500"]).unwrap().stride, 500);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (args, option) in [
            (["--val-fraction", "1"], "--val-fraction"),
            (["--lr-decay", "7"], "--lr-decay"),
            (["--learning-rate", "0"], "--learning-rate"),
            (["--dropout", "1.5"], "--dropout"),
            (["--l2", "nan"], "--l2"),
            (["--window", "0"], "--window"),
        ] {
            let error = resolve(&args).unwrap_err().to_string();
            assert!(error.starts_with(option), "{error}");
        }
        assert!(resolve(&["--val-fraction", "0.5", "--test-fraction", "0.5"]).is_err());
        assert_eq!(resolve(&["--demo", "--data", "x"]), Err(ConfigError::DemoWithData));
    }
}
