//! Model files: Keras's own (`.keras`, `.weights.h5`, the legacy whole-model `.h5`) and safetensors.
//!
//! A [`SavedModel`] is the network's [`ModelConfig`], its weights in Keras's order, the optimizer's state and what
//! a prediction needs to know ([`ModelDetails`]). Files are parsed as if they were hostile: sizes are checked before
//! memory is taken, and whatever does not fit is a [`FilesError`] of one sentence. A file appears whole or not at
//! all: it is written beside its place, flushed and renamed, and its bytes depend on the model alone.
//!
//! | ending | holds | Keras opens it with |
//! |---|---|---|
//! | `.keras` | everything | `keras.saving.load_model` |
//! | `.h5` | everything | `keras.saving.load_model`, to predict; Keras 3 restores no optimizer from it |
//! | `.weights.h5` | everything; Keras sees weights and optimizer | `model.load_weights` |
//! | `.safetensors` | everything | not at all |
//!
//! Reading takes float16, bfloat16, float32 and float64; all but float64 are exact, float64 is rounded to the nearest
//! float32. Values that are not finite are refused.
//!
//! ```no_run
//! use tpu_train::model::files;
//! let model = files::read_model("model.keras".as_ref())?;
//! files::write_any("model.h5".as_ref(), &model)?;
//! let weights = files::read_weights("theirs.weights.h5".as_ref(), &model.config)?;
//! # Ok::<(), files::FilesError>(())
//! ```

mod atomic;
mod error;
mod hdf5;
mod keras;
mod layers;
mod legacy_h5;
mod network_json;
mod network_parse;
mod optimizer;
mod safetensors;
mod weights_h5;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use self::error::Action as Doing;
use self::layers::FoundLayer;
use super::{ModelConfig, NamedTensor, VariableSpec, variables};

pub use self::error::{Action, FilesError, Problem};
pub use self::network_json::model_json;
pub use self::optimizer::OptimizerState;
pub use super::optimizer::LearningRate;

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 31;

/// A model with all that is needed to predict with it or to train it further.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedModel {
    /// The network.
    pub config: ModelConfig,
    /// All variables, in the order and with the names and dimensions of [`variables`].
    pub weights: Vec<NamedTensor>,
    /// The optimizer's state; `None` in a model that was never trained, or not with Adam.
    pub optimizer: Option<OptimizerState>,
    /// What this program knows beyond Keras; `None` in files of other programs.
    pub details: Option<ModelDetails>,
    /// What a file held and could not be taken over, one sentence each; empty for a model of one's own.
    pub notes: Vec<String>,
}

/// What a prediction needs to know beyond the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDetails {
    /// Names of the classes, in the order of the outputs.
    pub class_names: Vec<String>,
    /// Names of the channels, in the order of the inputs.
    pub channel_names: Vec<String>,
    /// Samples in a window.
    pub window: usize,
    /// Samples from one window's start to the next one's.
    pub stride: usize,
    /// Samples a second.
    pub sampling_frequency: f64,
    /// The run's settings, as its header printed them.
    pub run: serde_json::Value,
}

/// Our own entry in a file, beside what Keras needs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Extras {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<ModelConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    optimizer: Option<optimizer::Settings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iteration: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<ModelDetails>,
}

impl Extras {
    /// For formats in which Keras itself describes the network.
    fn details_of(model: &SavedModel) -> Self {
        Self { details: model.details.clone(), ..Self::default() }
    }

    /// For formats that hold tensors only.
    fn all_of(model: &SavedModel) -> Self {
        Self {
            config: Some(model.config.clone()),
            optimizer: model.optimizer.as_ref().map(OptimizerState::settings),
            iteration: model.optimizer.as_ref().map(|state| state.iteration),
            details: model.details.clone(),
        }
    }

    fn to_json(&self) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec_pretty(self).map_err(|error| Problem::damaged("the model's details", error))
    }

    fn from_json(bytes: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes).map_err(|error| Problem::damaged("the entry tpu_train", error))
    }
}

/// What a file turned out to hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Contents {
    /// A whole model.
    Model(Box<SavedModel>),
    /// Weights without the network they belong to.
    Weights(Weights),
}

/// Weights of layers, in the order of their file, to be fitted to a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    layers: Vec<FoundLayer>,
}

impl Contents {
    /// `base` with the layers' sizes as the file has them. Weights alone do not tell the pools'.
    pub fn sized(&self, base: &ModelConfig) -> ModelConfig {
        match self {
            Self::Weights(weights) => layers::sized(&weights.layers, base),
            Self::Model(model) => ModelConfig {
                conv_filters: model.config.conv_filters,
                kernel_size: model.config.kernel_size,
                pool_size: model.config.pool_size,
                lstm_units: model.config.lstm_units,
                dense_units: model.config.dense_units,
                batch_norm_epsilon: model.config.batch_norm_epsilon,
                ..base.clone()
            },
        }
    }

    /// The weights for this network, in the order of [`variables`].
    ///
    /// # Errors
    /// [`Problem::Structure`] or [`Problem::Shape`] names the first layer that does not fit.
    pub fn weights_for(self, config: &ModelConfig) -> Result<Vec<NamedTensor>, Problem> {
        match self {
            Self::Weights(weights) => layers::fit(weights.layers, config),
            Self::Model(model) => {
                check_tensors(&model.weights, variables(config))?;
                Ok(model.weights)
            }
        }
    }
}

/// The format of a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Keras 3's archive, `.keras`.
    Keras,
    /// Keras 3's weights, `.weights.h5`.
    WeightsH5,
    /// The whole-model HDF5 file of Keras 1 and 2, `.h5`.
    LegacyH5,
    /// `.safetensors`.
    Safetensors,
}

impl Format {
    /// The format a file name asks for.
    ///
    /// # Errors
    /// [`Problem::Extension`] for any other ending.
    pub fn of_name(path: &Path) -> Result<Self, Problem> {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let endings = [
            (".keras", Self::Keras),
            (".weights.h5", Self::WeightsH5),
            (".h5", Self::LegacyH5),
            (".hdf5", Self::LegacyH5),
            (".safetensors", Self::Safetensors),
        ];
        let found = endings.into_iter().find(|(ending, _)| name.ends_with(ending));
        found.map(|(_, format)| format).ok_or_else(|| Problem::Extension {
            found: match path.extension() {
                Some(ending) => format!(".{}", ending.to_string_lossy()),
                None => "no format".to_owned(),
            },
        })
    }
}

/// Reads a model file of any format, told by its first bytes.
///
/// # Errors
/// A file that is missing, damaged, of another format, or a network this program does not compute.
pub fn read_any(path: &Path) -> Result<Contents, FilesError> {
    load(path).and_then(parse).and_then(checked).map_err(Doing::Read.on(path))
}

/// Reads a whole model.
///
/// # Errors
/// As [`read_any`], and [`Problem::WeightsOnly`].
pub fn read_model(path: &Path) -> Result<SavedModel, FilesError> {
    match read_any(path)? {
        Contents::Model(model) => Ok(*model),
        Contents::Weights(_) => Err(Doing::Read.on(path)(Problem::WeightsOnly)),
    }
}

/// Reads the weights for a network out of a file of any format; the file's window length may differ.
///
/// # Errors
/// As [`read_any`], and weights that do not fit.
pub fn read_weights(path: &Path, config: &ModelConfig) -> Result<Vec<NamedTensor>, FilesError> {
    read_any(path)?.weights_for(config).map_err(Doing::Read.on(path))
}

/// Writes a model in the format its name asks for, whole or not at all.
///
/// # Errors
/// An unknown ending, tensors that do not fit the configuration, or the disk.
pub fn write_any(path: &Path, model: &SavedModel) -> Result<(), FilesError> {
    let write = || {
        let format = Format::of_name(path)?;
        check(model)?;
        let bytes = match format {
            Format::Keras => keras::to_bytes(model),
            Format::WeightsH5 => weights_h5::to_bytes(model),
            Format::LegacyH5 => legacy_h5::to_bytes(model),
            Format::Safetensors => safetensors::to_bytes(model),
        }?;
        atomic::write(path, &bytes)
    };
    write().map_err(Doing::Write.on(path))
}

/// Writes a file of another kind as models are written: whole or not at all.
///
/// # Errors
/// When the disk refuses.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), FilesError> {
    atomic::write(path, bytes).map_err(Doing::Write.on(path))
}

/// Refuses a model with details of another network.
fn checked(contents: Contents) -> Result<Contents, Problem> {
    let Contents::Model(model) = &contents else { return Ok(contents) };
    let Some(details) = &model.details else { return Ok(contents) };
    let (names, config) = (&details.class_names, &model.config);
    let problem = if names.len() != config.classes {
        format!("it names {} classes, the network has {}", names.len(), config.classes)
    } else if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
        "it gives two classes one name".to_owned()
    } else if details.window != config.window {
        format!("it says windows of {} samples, the network takes {}", details.window, config.window)
    } else if details.stride == 0 {
        "it says windows every 0 samples".to_owned()
    } else {
        return Ok(contents);
    };
    Err(Problem::damaged("the entry tpu_train", problem))
}

fn parse(bytes: Vec<u8>) -> Result<Contents, Problem> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(b"PK\x03\x04") {
        return Ok(Contents::Model(Box::new(keras::from_bytes(&bytes)?)));
    }
    if starts(b"\x89HDF\r\n\x1a\n") {
        let file = hdf5::Reader::new(bytes)?;
        return if file.has_group(weights_h5::LAYERS) || file.has_group(weights_h5::OLD_LAYERS) {
            weights_h5::from_file(&file)
        } else {
            legacy_h5::from_file(&file)
        };
    }
    if bytes.get(8) == Some(&b'{') {
        return safetensors::from_bytes(&bytes);
    }
    let found = if bytes.is_empty() {
        "an empty file".to_owned()
    } else {
        format!("bytes that begin with {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(8)]))
    };
    Err(Problem::Unrecognised { found })
}

/// The file's bytes, if it is a file and not too large.
fn load(path: &Path) -> Result<Vec<u8>, Problem> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(Problem::Unrecognised {
            found: "a folder (save it from Keras as one .keras file)".to_owned(),
        });
    }
    let mut bytes = Vec::new();
    let read = file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    match read as u64 > LARGEST_FILE {
        true => {
            Err(Problem::TooLarge { object: "the file".to_owned(), found: read as u64, limit: LARGEST_FILE })
        }
        false => Ok(bytes),
    }
}

/// Refuses to write what could not be read back.
fn check(model: &SavedModel) -> Result<(), Problem> {
    check_tensors(&model.weights, variables(&model.config))?;
    let Some(state) = &model.optimizer else { return Ok(()) };
    check_tensors(&state.first_moments, trainable_variables(&model.config))?;
    check_tensors(&state.second_moments, trainable_variables(&model.config))
}

/// The variables the optimizer updates, in order.
fn trainable_variables(config: &ModelConfig) -> Vec<VariableSpec> {
    variables(config).into_iter().filter(|spec| spec.trainable).collect()
}

fn check_tensors(tensors: &[NamedTensor], specs: Vec<VariableSpec>) -> Result<(), Problem> {
    if tensors.len() != specs.len() {
        return Err(Problem::Structure {
            expected: format!("{} tensors", specs.len()),
            found: format!("{}", tensors.len()),
        });
    }
    for (tensor, spec) in tensors.iter().zip(specs) {
        let elements: usize = spec.dims.iter().product();
        if tensor.name != spec.name || tensor.dims != spec.dims || tensor.values.len() != elements {
            return Err(Problem::Shape {
                variable: spec.name,
                layer: tensor.name.clone(),
                expected: spec.dims,
                found: tensor.dims.clone(),
            });
        }
        check_finite(&tensor.name, &tensor.values)?;
    }
    Ok(())
}

/// Refuses values that are not finite.
fn check_finite(object: &str, values: &[f32]) -> Result<(), Problem> {
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(()),
        count => Err(Problem::NotFinite { object: object.to_owned(), count }),
    }
}

fn finite(object: &str, values: Vec<f32>) -> Result<Vec<f32>, Problem> {
    check_finite(object, &values).map(|()| values)
}

#[cfg(test)]
mod tests;
