//! The HDF5 format of Keras 1 and 2, which Keras 3 still reads and writes as `.h5`.
//!
//! Attributes `model_config` and `training_config` are JSON; `model_weights/<layer>` lists the paths of its arrays in
//! the attribute `weight_names`, in order, and `layer_names` lists the layers. The optimizer's variables stand in
//! `optimizer_weights` in the same way. A file of weights alone has the layers at its root.
//!
//! Keras 3 writes the optimizer's moments into such a file but never restores them, not even its own: it builds the
//! optimizer for no variable at all (Keras 3.15). To train on in Keras 3, use `.keras`, or compile the model anew.

use serde_json::{Value, json};

use super::hdf5::{Data, Group, Reader};
use super::layers::{FoundLayer, fit};
use super::network_json::{self, layer_names};
use super::optimizer::{self, Variable};
use super::{
    Contents, Extras, LearningRate, OptimizerState, Problem, SavedModel, Weights, network_parse,
    trainable_variables,
};
use crate::model::NamedTensor;

const LAYERS: &str = "model_weights";
const OPTIMIZER: &str = "optimizer_weights";
/// Our own entry.
const EXTRAS: &str = "tpu_train";

pub(super) fn to_bytes(model: &SavedModel) -> Result<Vec<u8>, Problem> {
    let mut root = Group::default();
    root.string("backend", "jax");
    root.string("keras_version", network_json::KERAS_VERSION);
    root.string("model_config", network_json::legacy_config(&model.config).to_string());
    if let Some(state) = &model.optimizer {
        root.string("training_config", network_json::legacy_training_config(state).to_string());
        put_optimizer(root.at(OPTIMIZER), state);
    }
    put_layers(root.at(LAYERS), model);
    if model.details.is_some() {
        root.put(EXTRAS, Data::Bytes(Extras::details_of(model).to_json()?));
    }
    root.into_bytes()
}

fn put_layers<'a>(group: &mut Group<'a>, model: &'a SavedModel) {
    let names = layer_names(&model.config);
    group.string("backend", "jax");
    group.string("keras_version", network_json::KERAS_VERSION);
    group.strings("layer_names", names.iter().map(|name| (*name).to_owned()).collect());
    for layer in names {
        let own = |tensor: &&NamedTensor| tensor.name.split('/').next() == Some(layer);
        let tensors: Vec<&NamedTensor> = model.weights.iter().filter(own).collect();
        let paths: Vec<String> = tensors.iter().map(|tensor| legacy_path(&tensor.name)).collect();
        let group = group.at(layer);
        tensors.into_iter().zip(&paths).for_each(|(tensor, path)| group.put(path, Data::Tensor(tensor)));
        group.strings("weight_names", paths);
    }
    group.at("top_level_model_weights").strings("weight_names", Vec::new());
}

/// `lstm/kernel` → `sequential/lstm/lstm_cell/kernel`.
fn legacy_path(name: &str) -> String {
    match name.strip_prefix("lstm/") {
        Some(leaf) => format!("sequential/lstm/lstm_cell/{leaf}"),
        None => format!("sequential/{name}"),
    }
}

fn put_optimizer<'a>(group: &mut Group<'a>, state: &'a OptimizerState) {
    let mut paths = vec!["adam/iteration".to_owned()];
    group.put("adam/iteration", Data::Integer(state.iteration));
    if let LearningRate::Constant(rate) = state.learning_rate {
        paths.push("adam/learning_rate".to_owned());
        group.put("adam/learning_rate", Data::Float(rate as f32));
    }
    for (second, moment) in state.moments() {
        let kind = if second { "velocity" } else { "momentum" };
        let path = format!("adam/{}_{kind}", legacy_path(&moment.name).replace('/', "_"));
        group.put(&path, Data::Tensor(moment));
        paths.push(path);
    }
    group.strings("weight_names", paths);
}

pub(super) fn from_file(file: &Reader) -> Result<Contents, Problem> {
    let Some(json) = file.string("", "model_config")? else {
        let root = if file.has_group(LAYERS) { LAYERS } else { "" };
        return Ok(Contents::Weights(Weights { layers: found_layers(file, root)? }));
    };
    let parse = |json: &str, name: &str| -> Result<Value, Problem> {
        serde_json::from_str(json).map_err(|error| Problem::damaged(format!("the attribute {name}"), error))
    };
    let json = parse(&json, "model_config")?;
    let config = network_parse::model_config(&json)?;
    let weights = fit(found_layers(file, LAYERS)?, &config)?;
    let training = match file.string("", "training_config")? {
        Some(json) => parse(&json, "training_config")?,
        None => json!({}),
    };
    let mut notes: Vec<String> = network_parse::precision_note(&json).into_iter().collect();
    let described = training.get("optimizer_config");
    let optimizer = optimizer::from_keras(
        described,
        || optimizer_variables(file),
        &trainable_variables(&config),
        &mut notes,
    )?;
    let extras = file.bytes(EXTRAS)?.map(|bytes| Extras::from_json(&bytes)).transpose()?;
    let details = extras.and_then(|extras| extras.details);
    Ok(Contents::Model(Box::new(SavedModel { config, weights, optimizer, details, notes })))
}

fn found_layers(file: &Reader, root: &str) -> Result<Vec<FoundLayer>, Problem> {
    let Some(names) = file.strings(root, "layer_names")? else {
        return Err(Problem::missing(
            "the list of layers",
            "save the model from Keras by model.save(\"model.keras\")",
        ));
    };
    names.into_iter().map(|name| found_layer(file, root, name)).collect()
}

fn found_layer(file: &Reader, root: &str, name: String) -> Result<FoundLayer, Problem> {
    let group = if root.is_empty() { name.clone() } else { format!("{root}/{name}") };
    let paths = file.strings(&group, "weight_names")?.unwrap_or_default();
    let seed = |path: &&String| path.contains("seed_generator");
    let weights = paths.iter().filter(|path| !seed(path)).map(|path| file.tensor(&format!("{group}/{path}")));
    Ok(FoundLayer { weights: weights.collect::<Result<_, _>>()?, name })
}

fn optimizer_variables(file: &Reader) -> Result<Vec<Variable>, Problem> {
    if !file.has_group(OPTIMIZER) {
        return Ok(Vec::new());
    }
    let paths = file.strings(OPTIMIZER, "weight_names")?.unwrap_or_default();
    paths.iter().map(|path| file.variable(&format!("{OPTIMIZER}/{path}"))).collect()
}
