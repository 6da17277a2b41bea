//! Keras 3's weights in HDF5: alone (`.weights.h5`) and inside a `.keras` archive.
//!
//! `layers/<class and number>/vars/<index>` and, for a layer's inner parts, `layers/lstm/cell/vars/<index>`; the
//! user's name of a layer is the attribute `name` of its `vars`. The optimizer's list is `optimizer/vars/<index>`.

use super::hdf5::{Data, Group, Reader};
use super::layers::{FoundLayer, fit, natural_key};
use super::network_json::layer_names;
use super::optimizer::Variable;
use super::{Contents, Extras, LearningRate, Problem, SavedModel, Weights, trainable_variables};

/// Where Keras 3 keeps the layers.
pub(super) const LAYERS: &str = "layers";
/// Where Keras 2.12 and 2.13 kept them.
pub(super) const OLD_LAYERS: &str = "_layer_checkpoint_dependencies";
/// Our own entry.
const EXTRAS: &str = "tpu_train";

/// A `.weights.h5` file, with the network and the details in an entry of our own.
pub(super) fn to_bytes(model: &SavedModel) -> Result<Vec<u8>, Problem> {
    let mut root = tree(model);
    root.put(EXTRAS, Data::Bytes(Extras::all_of(model).to_json()?));
    root.into_bytes()
}

/// The groups and datasets Keras expects.
pub(super) fn tree(model: &SavedModel) -> Group<'_> {
    let mut root = Group::default();
    root.at("vars").string("name", "sequential");
    for name in layer_names(&model.config) {
        root.at(&format!("{LAYERS}/{name}/vars")).string("name", name);
    }
    root.at(&format!("{LAYERS}/lstm/cell/vars")).string("name", "lstm_cell");
    let mut index = 0;
    let mut last = "";
    for tensor in &model.weights {
        let layer = tensor.name.split('/').next().unwrap_or_default();
        index = if layer == last { index + 1 } else { 0 };
        last = layer;
        let holder = if layer == "lstm" { "lstm/cell" } else { layer };
        root.put(&format!("{LAYERS}/{holder}/vars/{index}"), Data::Tensor(tensor));
    }
    if let Some(state) = &model.optimizer {
        let vars = root.at("optimizer/vars");
        vars.string("name", "adam");
        vars.put("0", Data::Integer(state.iteration));
        let mut number = 1;
        if let LearningRate::Constant(rate) = state.learning_rate {
            vars.put("1", Data::Float(rate as f32));
            number = 2;
        }
        for (offset, (_, moment)) in state.moments().enumerate() {
            vars.put(&(number + offset).to_string(), Data::Tensor(moment));
        }
    }
    root
}

/// A whole model if we wrote the file, else weights only.
pub(super) fn from_file(file: &Reader) -> Result<Contents, Problem> {
    let layers = found_layers(file)?;
    let Some(bytes) = file.bytes(EXTRAS)? else { return Ok(Contents::Weights(Weights { layers })) };
    let extras = Extras::from_json(&bytes)?;
    let Some(config) = extras.config else { return Ok(Contents::Weights(Weights { layers })) };
    let weights = fit(layers, &config)?;
    let trainable = trainable_variables(&config);
    let optimizer = match extras.optimizer {
        Some(settings) => settings.restore(optimizer_variables(file)?, &trainable)?,
        None => None,
    };
    let (details, notes) = (extras.details, Vec::new());
    Ok(Contents::Model(Box::new(SavedModel { config, weights, optimizer, details, notes })))
}

/// The layers with weights, in the order of their numbers.
pub(super) fn found_layers(file: &Reader) -> Result<Vec<FoundLayer>, Problem> {
    let root = if file.has_group(LAYERS) { LAYERS } else { OLD_LAYERS };
    let mut groups = file.groups(root)?;
    groups.sort_by_cached_key(|name| natural_key(name));
    groups.into_iter().map(|group| found_layer(file, &format!("{root}/{group}"), group)).collect()
}

fn found_layer(file: &Reader, path: &str, group: String) -> Result<FoundLayer, Problem> {
    let mut layer = FoundLayer { name: group, weights: Vec::new() };
    for vars in file.variable_groups(path)? {
        // Seeds of dropout are state, not weights.
        if vars.contains("seed_generator") {
            continue;
        }
        for number in numbered(file, &vars)? {
            layer.weights.push(file.tensor(&format!("{vars}/{number}"))?);
        }
    }
    if let Some(name) = file.string(&format!("{path}/vars"), "name").unwrap_or(None) {
        layer.name = name;
    }
    Ok(layer)
}

/// The optimizer's list; empty where there is none.
pub(super) fn optimizer_variables(file: &Reader) -> Result<Vec<Variable>, Problem> {
    let vars = "optimizer/vars";
    if !file.has_group(vars) {
        return Ok(Vec::new());
    }
    numbered(file, vars)?.into_iter().map(|number| file.variable(&format!("{vars}/{number}"))).collect()
}

/// The datasets `0`, `1`, … of a group, in the order of their numbers.
fn numbered(file: &Reader, group: &str) -> Result<Vec<u32>, Problem> {
    let names = file.datasets(group)?;
    let number = |name: String| {
        name.parse()
            .map_err(|_| Problem::damaged(format!("{group}/{name}"), "expected a number for its name"))
    };
    let mut numbers: Vec<u32> = names.into_iter().map(number).collect::<Result<_, _>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}
