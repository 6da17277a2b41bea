//! Reads Keras's description of a network, of Keras 2 or 3, Sequential or Functional, into a [`ModelConfig`].
//!
//! Every setting that changes what the network computes is checked; a network this program does not compute is
//! refused with the layer, the setting, the expected and the found value. Names of layers are free.

use serde_json::{Map, Value, json};

use super::Problem;
use super::hdf5::MOST_ELEMENTS;
use crate::model::ModelConfig;

/// A layer of the chain.
#[derive(Clone, Copy)]
struct Layer<'a> {
    class: &'a str,
    name: &'a str,
    config: &'a Map<String, Value>,
}

/// The network in a model's JSON (`{"class_name": "Sequential", "config": …}`).
pub(super) fn model_config(model: &Value) -> Result<ModelConfig, Problem> {
    let layers = chain(model)?;
    let [window, channels] = input_shape(model, &layers)?;
    let mut rest = layers.into_iter().filter(|layer| layer.class != "InputLayer").peekable();
    let mut next = |class: &'static str| match rest.next_if(|layer| layer.class == class) {
        Some(layer) => Ok(layer),
        None => Err(out_of_order(class, rest.peek().copied())),
    };
    let first = Convolution::parse(next("Conv1D")?)?;
    let pool_size = pool_size(next("MaxPooling1D")?, None)?;
    let second = Convolution::parse(next("Conv1D")?)?;
    second.layer.check("kernel_size", &[json!([first.kernel_size]), json!(first.kernel_size)])?;
    self::pool_size(next("MaxPooling1D")?, Some(pool_size))?;
    let normalization = next("BatchNormalization")?;
    let (batch_norm_momentum, batch_norm_epsilon) = batch_normalization(normalization)?;
    let lstm_units = lstm(next("LSTM")?)?;
    let hidden = next("Dense")?;
    let dropout = next("Dropout").ok().map_or(Ok(0.0), |layer| layer.number("rate"))?;
    let output = next("Dense")?;
    if let Some(extra) = rest.next() {
        return Err(Problem::Structure {
            expected: "the output layer to be the last".to_owned(),
            found: format!("layer {:?} ({}) behind it", extra.name, extra.class),
        });
    }
    let (dense_units, l2) = dense(hidden, "relu")?;
    let (classes, output_l2) = dense(output, "softmax")?;
    if output_l2 != 0.0 {
        return Err(output.unexpected("kernel_regularizer", "null"));
    }
    let config = ModelConfig {
        window,
        channels,
        classes,
        conv_filters: [first.filters, second.filters],
        kernel_size: first.kernel_size,
        pool_size,
        lstm_units,
        dense_units,
        l2,
        dropout,
        batch_norm_momentum,
        batch_norm_epsilon,
    };
    plausible(&config)?;
    Ok(config)
}

/// A note on layers that Keras computes in another precision than float32.
pub(super) fn precision_note(model: &Value) -> Option<String> {
    let policy = |layer: &Layer<'_>| {
        let found = layer.config.get("dtype")?;
        let name = found.pointer("/config/name").unwrap_or(found).as_str()?;
        (name != "float32").then(|| name.to_owned())
    };
    let found = chain(model).ok()?.iter().find_map(policy)?;
    Some(format!("Keras computes its layers in {found}; here they are computed in float32"))
}

/// Refuses lengths that leave nothing for the LSTM and sizes that no memory holds.
fn plausible(config: &ModelConfig) -> Result<(), Problem> {
    let stage = |length: usize| (length + 1).saturating_sub(config.kernel_size) / config.pool_size;
    if stage(stage(config.window)) == 0 {
        return Err(Problem::Structure {
            expected: "a window that is longer than the convolutions and pools take away".to_owned(),
            found: format!("a window of {}", config.window),
        });
    }
    let sizes = [config.channels, config.classes, config.kernel_size, config.lstm_units, config.dense_units];
    match sizes.into_iter().chain(config.conv_filters).max() {
        Some(size) if size as u64 > MOST_ELEMENTS / 16 => Err(Problem::TooLarge {
            object: "a layer".to_owned(),
            found: size as u64,
            limit: MOST_ELEMENTS / 16,
        }),
        _ => Ok(()),
    }
}

fn out_of_order(class: &str, found: Option<Layer>) -> Problem {
    Problem::Structure {
        expected: format!(
            "Conv1D, MaxPooling1D, Conv1D, MaxPooling1D, BatchNormalization, LSTM, Dense, Dropout (or none), Dense; here {class}"
        ),
        found: found
            .map_or("the end".to_owned(), |layer| format!("layer {:?} ({})", layer.name, layer.class)),
    }
}

impl<'a> Layer<'a> {
    fn parse(value: &'a Value) -> Result<Self, Problem> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let config = value.get("config").and_then(Value::as_object);
        let (Some(class), Some(config)) = (text("class_name"), config) else {
            return Err(Problem::damaged(
                "the description of the network",
                "a layer without class_name and config",
            ));
        };
        let name = config.get("name").and_then(Value::as_str).or_else(|| text("name")).unwrap_or(class);
        Ok(Self { class, name, config })
    }

    fn unexpected(&self, setting: &str, expected: &str) -> Problem {
        let found = self.config.get(setting).unwrap_or(&Value::Null).to_string();
        let found = if found.len() > 80 {
            format!("{}…", found.chars().take(80).collect::<String>())
        } else {
            found
        };
        let (layer, setting, expected) = (self.name.to_owned(), setting.to_owned(), expected.to_owned());
        Problem::Setting { layer, setting, expected, found }
    }

    /// A setting that must have one of these values; an absent one stands for the default.
    fn check(&self, setting: &str, allowed: &[Value]) -> Result<(), Problem> {
        let Some(found) = self.config.get(setting) else { return Ok(()) };
        let same = |value: &Value| match (value.as_f64(), found.as_f64()) {
            (Some(one), Some(two)) => one == two,
            _ => value == found,
        };
        match allowed.iter().any(same) {
            true => Ok(()),
            false => {
                Err(self.unexpected(setting, &allowed.first().map(Value::to_string).unwrap_or_default()))
            }
        }
    }

    fn check_null(&self, settings: &[&str]) -> Result<(), Problem> {
        settings.iter().try_for_each(|setting| self.check(setting, &[Value::Null]))
    }

    /// A function by its name; Keras writes it bare or as an object.
    fn check_function(&self, setting: &str, expected: &str) -> Result<(), Problem> {
        let found = self.config.get(setting).map(|found| found.get("config").unwrap_or(found));
        match found.and_then(Value::as_str) == Some(expected) {
            true => Ok(()),
            false => Err(self.unexpected(setting, &format!("{expected:?}"))),
        }
    }

    /// A positive whole number, bare or in an array of one.
    fn size(&self, setting: &str) -> Result<usize, Problem> {
        let found = self.config.get(setting).map(|found| match found.as_array().map(Vec::as_slice) {
            Some([one]) => one,
            _ => found,
        });
        let number = found.and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
        number.filter(|number| *number > 0).ok_or_else(|| self.unexpected(setting, "a positive whole number"))
    }

    /// A finite number in [0, 1).
    fn number(&self, setting: &str) -> Result<f64, Problem> {
        let number = self.config.get(setting).and_then(Value::as_f64);
        number
            .filter(|number| (0.0..1.0).contains(number))
            .ok_or_else(|| self.unexpected(setting, "a number from 0 to less than 1"))
    }
}

struct Convolution<'a> {
    layer: Layer<'a>,
    filters: usize,
    kernel_size: usize,
}

impl<'a> Convolution<'a> {
    fn parse(layer: Layer<'a>) -> Result<Self, Problem> {
        layer.check("strides", &[json!([1]), json!(1)])?;
        layer.check("dilation_rate", &[json!([1]), json!(1)])?;
        layer.check("padding", &[json!("valid")])?;
        layer.check("data_format", &[json!("channels_last"), Value::Null])?;
        layer.check("groups", &[json!(1)])?;
        layer.check("use_bias", &[json!(true)])?;
        layer.check_function("activation", "relu")?;
        layer.check_null(&["kernel_regularizer", "bias_regularizer", "activity_regularizer"])?;
        layer.check_null(&["kernel_constraint", "bias_constraint"])?;
        Ok(Self { layer, filters: layer.size("filters")?, kernel_size: layer.size("kernel_size")? })
    }
}

fn pool_size(layer: Layer, expected: Option<usize>) -> Result<usize, Problem> {
    let size = layer.size("pool_size")?;
    layer.check("strides", &[json!([size]), json!(size), Value::Null])?;
    layer.check("padding", &[json!("valid")])?;
    layer.check("data_format", &[json!("channels_last"), Value::Null])?;
    match expected {
        Some(expected) if expected != size => Err(layer.unexpected("pool_size", &format!("[{expected}]"))),
        _ => Ok(size),
    }
}

fn batch_normalization(layer: Layer) -> Result<(f64, f64), Problem> {
    layer.check("axis", &[json!(-1), json!(2), json!([2]), json!([-1])])?;
    layer.check("center", &[json!(true)])?;
    layer.check("scale", &[json!(true)])?;
    layer.check("renorm", &[json!(false)])?;
    layer.check_null(&["beta_regularizer", "gamma_regularizer", "beta_constraint", "gamma_constraint"])?;
    Ok((layer.number("momentum")?, layer.number("epsilon")?))
}

fn lstm(layer: Layer) -> Result<usize, Problem> {
    layer.check_function("activation", "tanh")?;
    layer.check_function("recurrent_activation", "sigmoid")?;
    layer.check("use_bias", &[json!(true)])?;
    for setting in ["return_sequences", "return_state", "go_backwards", "stateful", "time_major"] {
        layer.check(setting, &[json!(false)])?;
    }
    layer.check("dropout", &[json!(0)])?;
    layer.check("recurrent_dropout", &[json!(0)])?;
    layer.check_null(&[
        "kernel_regularizer",
        "recurrent_regularizer",
        "bias_regularizer",
        "activity_regularizer",
    ])?;
    layer.check_null(&["kernel_constraint", "recurrent_constraint", "bias_constraint"])?;
    layer.size("units")
}

/// Units and the L2 factor on the kernel.
fn dense(layer: Layer, activation: &str) -> Result<(usize, f64), Problem> {
    layer.check_function("activation", activation)?;
    layer.check("use_bias", &[json!(true)])?;
    layer.check_null(&[
        "bias_regularizer",
        "activity_regularizer",
        "kernel_constraint",
        "bias_constraint",
    ])?;
    layer.check_null(&["quantization_config"])?;
    let l2 = match layer.config.get("kernel_regularizer") {
        None | Some(Value::Null) => 0.0,
        Some(regularizer) => l2_factor(regularizer).ok_or_else(|| {
            layer.unexpected("kernel_regularizer", "null or L2 with a factor that is not negative")
        })?,
    };
    Ok((layer.size("units")?, l2))
}

fn l2_factor(regularizer: &Value) -> Option<f64> {
    let class = regularizer.get("class_name")?.as_str()?;
    let config = regularizer.get("config")?;
    let l1 = config.get("l1").and_then(Value::as_f64).unwrap_or(0.0);
    let l2 = config.get("l2")?.as_f64()?;
    (matches!(class, "L2" | "L1L2") && l1 == 0.0 && l2 >= 0.0 && l2.is_finite()).then_some(l2)
}

/// Window length and channels.
fn input_shape(model: &Value, layers: &[Layer]) -> Result<[usize; 2], Problem> {
    let first = layers.first().map(|layer| layer.config);
    let shapes = [
        first.and_then(|config| config.get("batch_shape")),
        first.and_then(|config| config.get("batch_input_shape")),
        model.pointer("/config/build_input_shape"),
        model.pointer("/build_config/input_shape"),
    ];
    let shape = shapes.into_iter().flatten().find(|shape| shape.is_array());
    let size =
        |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
    match shape.and_then(Value::as_array).map(Vec::as_slice) {
        Some([_, window, channels]) if size(window).is_some() && size(channels).is_some() => {
            Ok([size(window).unwrap_or_default(), size(channels).unwrap_or_default()])
        }
        found => Err(Problem::Setting {
            layer: layers.first().map_or("the first", |layer| layer.name).to_owned(),
            setting: "the input's shape".to_owned(),
            expected: "[null, window, channels], both known".to_owned(),
            found: found.map_or("none".to_owned(), |shape| Value::from(shape.to_vec()).to_string()),
        }),
    }
}

/// The layers from input to output.
fn chain(model: &Value) -> Result<Vec<Layer<'_>>, Problem> {
    let class = model.get("class_name").and_then(Value::as_str).unwrap_or("none");
    // Keras 1 wrote the layers of a Sequential without a configuration around them.
    let list = model.pointer("/config/layers").or_else(|| model.get("config")).and_then(Value::as_array);
    let Some(list) = list else {
        return Err(Problem::damaged("the description of the network", "no list of layers"));
    };
    let layers: Vec<Layer> = list.iter().map(Layer::parse).collect::<Result<_, _>>()?;
    match class {
        "Sequential" => Ok(layers),
        "Functional" | "Model" => functional_chain(list, layers),
        _ => Err(Problem::Structure {
            expected: "a Sequential or Functional model".to_owned(),
            found: format!("a model of class {class:?}"),
        }),
    }
}

/// Orders a Functional model's layers by their connections, of which each may have one.
fn functional_chain<'a>(list: &'a [Value], layers: Vec<Layer<'a>>) -> Result<Vec<Layer<'a>>, Problem> {
    let mut sources = Vec::new();
    for (value, layer) in list.iter().zip(&layers) {
        let mut names = Vec::new();
        tensor_sources(value.get("inbound_nodes").unwrap_or(&Value::Null), &mut names);
        match *names {
            [] | [_] => sources.push(names.first().copied()),
            _ => return Err(not_a_chain(layer)),
        }
    }
    let mut ordered = Vec::new();
    let mut from = None;
    while let Some(index) = (0..layers.len()).find(|index| sources[*index] == from) {
        if ordered.len() == layers.len() {
            break;
        }
        ordered.push(layers[index]);
        from = Some(layers[index].name);
    }
    let left = layers.iter().find(|layer| !ordered.iter().any(|done| done.name == layer.name));
    match left {
        Some(layer) => Err(not_a_chain(layer)),
        None => Ok(ordered),
    }
}

fn not_a_chain(layer: &Layer) -> Problem {
    Problem::Structure {
        expected: "one chain of layers".to_owned(),
        found: format!("layer {:?} with another number of connections", layer.name),
    }
}

/// The layers a node takes its tensors from: `keras_history` in Keras 3, `[name, node, tensor, …]` in Keras 2.
fn tensor_sources<'a>(node: &'a Value, names: &mut Vec<&'a str>) {
    match node {
        Value::Array(items) => match (items.first(), items.get(1)) {
            (Some(Value::String(name)), Some(Value::Number(_))) => names.push(name),
            _ => items.iter().for_each(|item| tensor_sources(item, names)),
        },
        Value::Object(fields) => fields.values().for_each(|field| tensor_sources(field, names)),
        _ => {}
    }
}
