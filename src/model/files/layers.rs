//! Fits the layers found in a file to the network's variables, by structure and shape.
//!
//! Keras numbers layers as a session makes them (`conv1d_7`), and formats differ in the order they keep. So a
//! layer's kind is told by the ranks of its tensors, and where two of a kind could stand in either place the shapes
//! decide; only if both fit does the file's order.

use crate::model::{ModelConfig, NamedTensor, VariableSpec, variables};

use super::Problem;

/// A layer as a file names it, with its tensors; a tensor's name is the last part of its path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FoundLayer {
    pub(super) name: String,
    pub(super) weights: Vec<NamedTensor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Convolution,
    BatchNormalization,
    Lstm,
    Dense,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Convolution, Self::BatchNormalization, Self::Lstm, Self::Dense];

    fn of<'a>(ranks: impl Iterator<Item = &'a [usize]>) -> Option<Self> {
        match *ranks.map(<[usize]>::len).collect::<Vec<_>>() {
            [3, 1] => Some(Self::Convolution),
            [1, 1, 1, 1] => Some(Self::BatchNormalization),
            [2, 2, 1] => Some(Self::Lstm),
            [2, 1] => Some(Self::Dense),
            _ => None,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Convolution => "Conv1D",
            Self::BatchNormalization => "BatchNormalization",
            Self::Lstm => "LSTM",
            Self::Dense => "Dense",
        }
    }
}

/// The order of a layer's tensors in Keras, by name.
const ORDER: [&str; 7] =
    ["kernel", "recurrent_kernel", "gamma", "beta", "bias", "moving_mean", "moving_variance"];

impl FoundLayer {
    /// Brings named tensors into Keras's order; numbered ones have it already.
    fn sort(&mut self) {
        let rank = |tensor: &NamedTensor| ORDER.iter().position(|name| *name == tensor.name);
        if self.weights.iter().all(|tensor| rank(tensor).is_some()) {
            self.weights.sort_by_key(rank);
        }
    }

    fn kind(&self) -> Option<Kind> {
        Kind::of(self.weights.iter().map(|tensor| tensor.dims.as_slice()))
    }

    fn fits(&self, specs: &[VariableSpec]) -> bool {
        self.weights.iter().zip(specs).all(|(tensor, spec)| tensor.dims == spec.dims)
    }
}

/// The tensors for [`variables`], in its order and under its names.
pub(super) fn fit(found: Vec<FoundLayer>, config: &ModelConfig) -> Result<Vec<NamedTensor>, Problem> {
    let expected = grouped(variables(config));
    let mut chosen: Vec<Option<FoundLayer>> = vec![None; expected.len()];
    let mut found = with_kinds(found, &expected)?;
    for kind in Kind::ALL {
        let places: Vec<usize> =
            (0..expected.len()).filter(|place| kind_of(&expected[*place]) == Some(kind)).collect();
        let mut layers: Vec<FoundLayer> =
            found.extract_if(.., |(of, _)| *of == kind).map(|(_, layer)| layer).collect();
        if let ([first, second], [a, b]) = (&*places, &*layers) {
            let fits = |one: &FoundLayer, two: &FoundLayer| {
                one.fits(&expected[*first]) && two.fits(&expected[*second])
            };
            if !fits(a, b) && fits(b, a) {
                layers.swap(0, 1);
            }
        }
        places.into_iter().zip(layers).for_each(|(place, layer)| chosen[place] = Some(layer));
    }
    let mut tensors = Vec::new();
    for (layer, specs) in chosen.into_iter().flatten().zip(expected) {
        tensors.extend(named(layer, specs)?);
    }
    Ok(tensors)
}

/// `base` with the sizes that the layers' shapes tell; those of a kind that is not there as expected stay.
pub(super) fn sized(found: &[FoundLayer], base: &ModelConfig) -> ModelConfig {
    let mut config = base.clone();
    let mut layers = found.to_vec();
    layers.iter_mut().for_each(FoundLayer::sort);
    let kernels = |kind: Kind| -> Vec<&[usize]> {
        let of_kind = layers.iter().filter(|layer| layer.kind() == Some(kind));
        of_kind.map(|layer| layer.weights[0].dims.as_slice()).collect()
    };
    let chained = |a: &[usize], b: &[usize], inputs: usize| {
        let [input, output] = [a.len() - 2, a.len() - 1];
        a[input] == inputs && b[input] == a[output]
    };
    if let [a, b] = *kernels(Kind::Convolution) {
        let (first, second) =
            if !chained(a, b, base.channels) && chained(b, a, base.channels) { (b, a) } else { (a, b) };
        (config.kernel_size, config.conv_filters) = (first[0], [first[2], second[2]]);
    }
    if let [lstm] = *kernels(Kind::Lstm) {
        config.lstm_units = lstm[1] / 4;
    }
    if let [a, b] = *kernels(Kind::Dense) {
        let first = if !chained(a, b, config.lstm_units) && chained(b, a, config.lstm_units) { b } else { a };
        config.dense_units = first[1];
    }
    config
}

/// Variables by layer, in order.
fn grouped(specs: Vec<VariableSpec>) -> Vec<Vec<VariableSpec>> {
    let layer = |spec: &VariableSpec| spec.name.split('/').next().map(str::to_owned);
    let mut groups: Vec<Vec<VariableSpec>> = Vec::new();
    for spec in specs {
        match groups.last_mut() {
            Some(group) if layer(&group[0]) == layer(&spec) => group.push(spec),
            _ => groups.push(vec![spec]),
        }
    }
    groups
}

fn kind_of(specs: &[VariableSpec]) -> Option<Kind> {
    Kind::of(specs.iter().map(|spec| spec.dims.as_slice()))
}

/// Sorts each layer's tensors and refuses kinds, or numbers of a kind, that the network does not have.
fn with_kinds(
    found: Vec<FoundLayer>,
    expected: &[Vec<VariableSpec>],
) -> Result<Vec<(Kind, FoundLayer)>, Problem> {
    let mut layers = Vec::new();
    for mut layer in found.into_iter().filter(|layer| !layer.weights.is_empty()) {
        layer.sort();
        match layer.kind() {
            Some(kind) => layers.push((kind, layer)),
            None => return Err(unknown(&layer)),
        }
    }
    for kind in Kind::ALL {
        let needed = expected.iter().filter(|specs| kind_of(specs) == Some(kind)).count();
        let names: Vec<&str> =
            layers.iter().filter(|(of, _)| *of == kind).map(|(_, layer)| layer.name.as_str()).collect();
        if names.len() != needed {
            return Err(Problem::Structure {
                expected: format!("{needed} {} with weights", kind.class()),
                found: if names.is_empty() {
                    "none".to_owned()
                } else {
                    format!("{}: {}", names.len(), names.join(", "))
                },
            });
        }
    }
    Ok(layers)
}

fn unknown(layer: &FoundLayer) -> Problem {
    let shapes: Vec<String> = layer.weights.iter().map(|tensor| format!("{:?}", tensor.dims)).collect();
    Problem::Structure {
        expected: "only Conv1D, BatchNormalization, LSTM and Dense with their biases to hold weights"
            .to_owned(),
        found: format!("layer {:?} with tensors of shape {}", layer.name, shapes.join(", ")),
    }
}

/// Checks the shapes and gives the network's names.
fn named(layer: FoundLayer, specs: Vec<VariableSpec>) -> Result<Vec<NamedTensor>, Problem> {
    let FoundLayer { name, weights } = layer;
    let one = |(tensor, spec): (NamedTensor, VariableSpec)| {
        if tensor.dims != spec.dims {
            let layer = format!("{name}/{}", tensor.name);
            return Err(Problem::Shape {
                variable: spec.name,
                layer,
                expected: spec.dims,
                found: tensor.dims,
            });
        }
        Ok(NamedTensor { name: spec.name, ..tensor })
    };
    weights.into_iter().zip(specs).map(one).collect()
}

/// The name without its number, and the number: `conv1d_7` → (`conv1d`, 7), `conv1d` → (`conv1d`, 0).
pub(super) fn natural_key(name: &str) -> (String, u64) {
    match name.rsplit_once('_') {
        Some((stem, number)) => match number.parse() {
            Ok(number) => (stem.to_owned(), number),
            Err(_) => (name.to_owned(), 0),
        },
        None => (name.to_owned(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::files::tests::{random_weights, tiny};

    fn layers(config: &ModelConfig) -> Vec<FoundLayer> {
        let mut layers: Vec<FoundLayer> = Vec::new();
        for tensor in random_weights(config) {
            let (layer, leaf) = tensor.name.split_once('/').unwrap();
            let tensor = NamedTensor { name: leaf.to_owned(), ..tensor.clone() };
            match layers.last_mut() {
                Some(last) if last.name == layer => last.weights.push(tensor),
                _ => layers.push(FoundLayer { name: layer.to_owned(), weights: vec![tensor] }),
            }
        }
        layers
    }

    #[test]
    fn names_and_order_do_not_matter_where_shapes_tell() {
        let config = tiny();
        let mut shuffled = layers(&config);
        shuffled.reverse();
        for (index, layer) in shuffled.iter_mut().enumerate() {
            layer.name = format!("layer_{index}");
            layer.weights.reverse();
        }
        assert_eq!(fit(shuffled, &config).unwrap(), random_weights(&config));
    }

    #[test]
    fn sizes_are_told_by_shapes() {
        let config = tiny();
        let mut shuffled = layers(&config);
        shuffled.reverse();
        let base = ModelConfig { pool_size: config.pool_size, ..ModelConfig::new(config.window, 2, 3) };
        let base = ModelConfig { channels: config.channels, classes: config.classes, ..base };
        let found = sized(&shuffled, &base);
        let sizes = |c: &ModelConfig| (c.conv_filters, c.kernel_size, c.lstm_units, c.dense_units);
        assert_eq!(sizes(&found), sizes(&config));
        assert_eq!(sized(&[], &base), base);
    }

    #[test]
    fn equal_shapes_keep_the_order_of_the_file() {
        let config = ModelConfig { channels: 4, conv_filters: [4, 4], ..tiny() };
        assert_eq!(fit(layers(&config), &config).unwrap(), random_weights(&config));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let config = tiny();
        let other = ModelConfig { lstm_units: config.lstm_units + 1, ..config.clone() };
        let said = fit(layers(&config), &other).unwrap_err().to_string();
        assert_eq!(said, "lstm/kernel needs shape [5, 16], found [5, 12] in lstm/kernel");
        let mut missing = layers(&config);
        missing.remove(0);
        let said = fit(missing, &config).unwrap_err().to_string();
        assert_eq!(said, "the layers do not fit: expected 2 Conv1D with weights, found 1: conv1d_1");
        let mut strange = layers(&config);
        strange[0].weights.pop();
        assert!(fit(strange, &config).unwrap_err().to_string().contains("layer \"conv1d\" with tensors"));
    }
}
