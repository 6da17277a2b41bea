//! The golden files: what Keras computed, by name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tpu_train::data::{Batch, Samples};
use tpu_train::model::files::OptimizerState;
use tpu_train::model::forms::Forms;
use tpu_train::model::network::{BatchNormScope, Precision};
use tpu_train::model::optimizer::{Adam, LearningRate};
use tpu_train::model::step::StepConfig;
use tpu_train::model::{ModelConfig, NamedTensor, VariableSpec, trainable_variables, variables};
use tpu_train_hlo::ElementType;

/// Arrays by name, whatever their type in the file.
type Tensors = HashMap<String, Vec<f64>>;

/// A model, its batches, and every step of Keras in float32 and in float64.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) config: ModelConfig,
    pub(super) adam: Adam,
    pub(super) steps: usize,
    pub(super) batches: usize,
    /// Of the float32 run.
    pub(super) single: Golden,
    /// Of the float64 run.
    pub(super) double: Golden,
}

/// One of a case's two files.
pub(super) struct Golden {
    path: PathBuf,
    tensors: Tensors,
}

#[derive(Deserialize)]
struct Header {
    config: ModelConfig,
    learning_rate: LearningRate,
    steps: usize,
    batches: usize,
}

impl Golden {
    fn read(path: PathBuf) -> (Self, Header) {
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let header = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["golden"]).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| (name.to_owned(), values(view.dtype(), view.data())));
        (Self { tensors: tensors.collect(), path }, header)
    }

    pub(super) fn get(&self, name: &str) -> &[f64] {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} lacks {name}", self.path.display()))
    }

    /// The tensors `<prefix><name of variable>`, zeros where `prefix` is of moments before the first step.
    pub(super) fn of(&self, prefix: &str, specs: &[VariableSpec]) -> Vec<Vec<f64>> {
        let zero = prefix == "step0/m/" || prefix == "step0/v/";
        let one = |spec: &VariableSpec| match zero {
            true => vec![0.0; spec.elements()],
            false => self.get(&format!("{prefix}{}", spec.name)).to_vec(),
        };
        specs.iter().map(one).collect()
    }
}

fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    macro_rules! read {
        ($ty:ty) => {
            bytes.as_chunks().0.iter().map(|&chunk| <$ty>::from_le_bytes(chunk).into()).collect()
        };
    }
    match dtype {
        Dtype::I16 => read!(i16),
        Dtype::I32 => read!(i32),
        Dtype::F32 => read!(f32),
        Dtype::F64 => read!(f64),
        other => panic!("a golden tensor of type {other:?}"),
    }
}

pub(super) fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

fn named(specs: Vec<VariableSpec>, values: Vec<Vec<f64>>) -> Vec<NamedTensor> {
    let named = |(spec, values): (VariableSpec, Vec<f64>)| NamedTensor {
        name: spec.name,
        dims: spec.dims,
        values: to_f32(&values),
    };
    specs.into_iter().zip(values).map(named).collect()
}

impl Case {
    /// `<folder>/<name>.float32.safetensors` and its float64 sister.
    pub(super) fn read(folder: &Path, name: &str) -> Self {
        let file = |precision: &str| folder.join(format!("{name}.{precision}.safetensors"));
        let ((single, _), (double, header)) = (Golden::read(file("float32")), Golden::read(file("float64")));
        let Header { config, learning_rate, steps, batches } = header;
        let adam = Adam::new(learning_rate);
        Self { name: name.to_owned(), config, adam, steps, batches, single, double }
    }

    /// One that is in the repository.
    pub(super) fn committed(name: &str) -> Self {
        Self::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), name)
    }

    pub(super) fn trainable(&self) -> Vec<VariableSpec> {
        trainable_variables(&self.config)
    }

    pub(super) fn variables(&self) -> Vec<VariableSpec> {
        variables(&self.config)
    }

    /// The float32 run's weights before a step.
    pub(super) fn weights(&self, step: usize) -> Vec<NamedTensor> {
        named(self.variables(), self.single.of(&format!("step{step}/weight/"), &self.variables()))
    }

    /// The float32 run's optimizer before a step.
    pub(super) fn optimizer(&self, step: usize) -> OptimizerState {
        let moments = |kind: &str| {
            named(self.trainable(), self.single.of(&format!("step{step}/{kind}/"), &self.trainable()))
        };
        OptimizerState {
            iteration: step as i64,
            learning_rate: self.adam.learning_rate,
            first_moments: moments("m"),
            second_moments: moments("v"),
            beta_1: self.adam.beta_1,
            beta_2: self.adam.beta_2,
            epsilon: self.adam.epsilon,
        }
    }

    /// Rows of the largest batch.
    pub(super) fn most_rows(&self) -> usize {
        (0..self.batches).map(|step| self.batch(step).real_rows).max().unwrap()
    }

    /// The batch of a step, as the input pipeline would give it.
    pub(super) fn batch(&self, step: usize) -> Batch {
        let number = step % self.batches;
        let get = |part: &str| self.single.get(&format!("batch{number}/{part}"));
        let labels: Vec<i32> = get("labels").iter().map(|&label| label as i32).collect();
        Batch {
            samples: Samples::I16(get("samples").iter().map(|&sample| sample as i16).collect()),
            places: Vec::new(),
            minimum: to_f32(get("minimum")),
            range: to_f32(get("range")),
            weights: vec![1.0; labels.len()],
            real_rows: labels.len(),
            labels,
        }
    }

    /// [`Self::batch`] with padding rows behind.
    pub(super) fn padded_batch(&self, step: usize, rows: usize) -> Batch {
        let mut batch = self.batch(step);
        let channels = self.config.channels;
        if let Samples::I16(samples) = &mut batch.samples {
            samples.resize(rows * self.config.window * channels, 0);
        }
        batch.minimum.resize(rows * channels, 0.0);
        batch.range.resize(rows * channels, 1.0);
        batch.labels.resize(rows, 0);
        batch.weights.resize(rows, 0.0);
        batch
    }

    /// The windows of a step's batch, scaled by one float32 division, as Keras was given them.
    pub(super) fn scaled(&self, step: usize) -> Vec<f64> {
        let batch = self.batch(step);
        let Samples::I16(samples) = &batch.samples else { unreachable!("the goldens hold int16 samples") };
        let (window, channels) = (self.config.window, self.config.channels);
        let scale = |(place, &sample): (usize, &i16)| {
            let of = place / (window * channels) * channels + place % channels;
            f64::from((f32::from(sample) - batch.minimum[of]) / batch.range[of])
        };
        samples.iter().enumerate().map(scale).collect()
    }

    /// What a program for one replica with `rows` rows is built for.
    pub(super) fn step_config(&self, rows: usize) -> StepConfig {
        StepConfig {
            model: self.config.clone(),
            optimizer: self.adam,
            replicas: 1,
            rows,
            batch_norm: BatchNormScope::Synced,
            precision: Precision::F32,
            samples: ElementType::S16,
            seed: 5,
            forms: Forms::CPU,
        }
    }
}
