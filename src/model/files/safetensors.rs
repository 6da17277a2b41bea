//! safetensors: the variables under their own names, the optimizer's moments under `optimizer/first_moment/…` and
//! `optimizer/second_moment/…`, the network and the details as one JSON text in the header's `tpu_train`.
//!
//! Files of other programs hold layers under any names; `.` and `/` part the layer from the tensor.

use std::collections::HashMap;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

use super::hdf5::MOST_ELEMENTS;
use super::layers::{FoundLayer, fit, natural_key};
use super::optimizer::Variable;
use super::{Contents, Extras, OptimizerState, Problem, SavedModel, Weights, finite, trainable_variables};
use crate::model::{ModelConfig, NamedTensor};

const EXTRAS: &str = "tpu_train";
const MOMENTS: [&str; 2] = ["optimizer/first_moment/", "optimizer/second_moment/"];

pub(super) fn to_bytes(model: &SavedModel) -> Result<Vec<u8>, Problem> {
    let mut tensors: Vec<(String, &NamedTensor)> =
        model.weights.iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    if let Some(state) = &model.optimizer {
        let prefix = |second: bool| MOMENTS[usize::from(second)];
        tensors.extend(
            state.moments().map(|(second, moment)| (format!("{}{}", prefix(second), moment.name), moment)),
        );
    }
    let bytes: Vec<(String, &[usize], Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, tensor.dims.as_slice(), bytes)
        })
        .collect();
    let damaged = |error| Problem::damaged("the safetensors file to be written", error);
    let views: Vec<(&str, TensorView)> = bytes
        .iter()
        .map(|(name, dims, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, dims.to_vec(), bytes)?)))
        .collect::<Result<_, _>>()
        .map_err(damaged)?;
    let extras = String::from_utf8_lossy(&Extras::all_of(model).to_json()?).into_owned();
    // One key only: the header's order of several is not defined.
    serialize(views, Some(HashMap::from([(EXTRAS.to_owned(), extras)]))).map_err(damaged)
}

pub(super) fn from_bytes(bytes: &[u8]) -> Result<Contents, Problem> {
    let damaged = |error| Problem::damaged("the safetensors file", error);
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let extras = header.metadata().as_ref().and_then(|metadata| metadata.get(EXTRAS));
    let extras = extras.map(|json| Extras::from_json(json.as_bytes())).transpose()?.unwrap_or_default();
    let layers = found_layers(&file)?;
    let Some(config) = extras.config.clone() else { return Ok(Contents::Weights(Weights { layers })) };
    let weights = fit(layers, &config)?;
    let optimizer = optimizer(&file, &extras, &config)?;
    let (details, notes) = (extras.details, Vec::new());
    Ok(Contents::Model(Box::new(SavedModel { config, weights, optimizer, details, notes })))
}

/// The layers, in the order of their names and numbers; the optimizer's tensors are none.
fn found_layers(file: &SafeTensors) -> Result<Vec<FoundLayer>, Problem> {
    let mut layers: Vec<FoundLayer> = Vec::new();
    for (name, view) in file.tensors() {
        if name.starts_with("optimizer") {
            continue;
        }
        let path =
            name.trim_end_matches(":0").replace('.', "/").replace("/lstm_cell/", "/").replace("/cell/", "/");
        let (layer, leaf) = path.rsplit_once('/').unwrap_or(("", &path));
        let tensor = tensor(&name, leaf, &view)?;
        match layers.iter_mut().find(|found| found.name == layer) {
            Some(found) => found.weights.push(tensor),
            None => layers.push(FoundLayer { name: layer.to_owned(), weights: vec![tensor] }),
        }
    }
    layers.sort_by_cached_key(|layer| natural_key(&layer.name));
    layers.iter_mut().for_each(|layer| layer.weights.sort_by_cached_key(|tensor| natural_key(&tensor.name)));
    Ok(layers)
}

fn tensor(object: &str, name: &str, view: &TensorView) -> Result<NamedTensor, Problem> {
    let bytes = view.data();
    if bytes.len() as u64 / 8 > MOST_ELEMENTS {
        let (object, found) = (object.to_owned(), bytes.len() as u64);
        return Err(Problem::TooLarge { object, found, limit: 8 * MOST_ELEMENTS });
    }
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F64 => bytes
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
            .collect(),
        Dtype::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        other => return Err(Problem::ElementType { object: object.to_owned(), found: other.to_string() }),
    };
    Ok(NamedTensor { name: name.to_owned(), dims: view.shape().to_vec(), values: finite(object, values)? })
}

fn optimizer(
    file: &SafeTensors,
    extras: &Extras,
    config: &ModelConfig,
) -> Result<Option<OptimizerState>, Problem> {
    let (Some(settings), Some(iteration)) = (extras.optimizer, extras.iteration) else { return Ok(None) };
    let trainable = trainable_variables(config);
    let mut list = vec![Variable::Scalar(iteration as f64)];
    for spec in &trainable {
        for prefix in MOMENTS {
            let name = format!("{prefix}{}", spec.name);
            let view = file.tensor(&name).map_err(|error| Problem::damaged(&name, error))?;
            list.push(Variable::Tensor(tensor(&name, &spec.name, &view)?));
        }
    }
    settings.restore(list, &trainable)
}
