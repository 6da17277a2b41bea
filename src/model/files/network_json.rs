//! The network and its training settings as Keras 3 writes them in JSON.

use serde_json::{Map, Value, json};

use super::{LearningRate, OptimizerState};
use crate::model::ModelConfig;

/// The Keras whose files these are.
pub(super) const KERAS_VERSION: &str = "3.15.0";

/// The layers that hold a weight or shape a tensor, in order, under the class names Keras gives them in files.
const LAYERS: [&str; 9] = [
    "conv1d",
    "max_pooling1d",
    "conv1d_1",
    "max_pooling1d_1",
    "batch_normalization",
    "lstm",
    "dense",
    "dropout",
    "dense_1",
];

/// How much Keras 3 says of a layer: everything, or what its legacy format keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Full,
    Legacy,
}

/// The names of the layers behind the input, in order.
pub(super) fn layer_names(config: &ModelConfig) -> Vec<&'static str> {
    LAYERS.into_iter().filter(|name| *name != "dropout" || config.dropout > 0.0).collect()
}

/// The network as `to_json()` of the compiled model gives it, for TensorBoard's `keras` tag.
pub fn model_json(config: &ModelConfig) -> String {
    let mut model = archive_config(config, None);
    model["compile_config"] = Value::Object(loss_and_metrics());
    model.to_string()
}

/// The `config.json` of a `.keras` archive; with an optimizer the model is a compiled one.
pub(super) fn archive_config(config: &ModelConfig, optimizer: Option<&OptimizerState>) -> Value {
    let mut model = json!({
        "module": "keras",
        "class_name": "Sequential",
        "config": sequential(config, Form::Full),
        "registered_name": null,
        "build_config": {"input_shape": input_shape(config)},
    });
    if let Some(state) = optimizer {
        let mut compile = Map::new();
        compile.insert("optimizer".to_owned(), object("keras.optimizers", "Adam", adam(state)));
        compile.extend(loss_and_metrics());
        model["compile_config"] = Value::Object(compile);
    }
    model
}

/// The attribute `model_config` of a legacy `.h5`.
pub(super) fn legacy_config(config: &ModelConfig) -> Value {
    json!({"class_name": "Sequential", "config": sequential(config, Form::Legacy)})
}

/// The attribute `training_config` of a legacy `.h5`.
pub(super) fn legacy_training_config(state: &OptimizerState) -> Value {
    let mut training = loss_and_metrics();
    training.insert("optimizer_config".to_owned(), json!({"class_name": "Adam", "config": adam(state)}));
    Value::Object(training)
}

fn loss_and_metrics() -> Map<String, Value> {
    let settings = json!({
        "loss": "sparse_categorical_crossentropy",
        "loss_weights": null,
        "metrics": ["accuracy"],
        "weighted_metrics": null,
        "run_eagerly": false,
        "steps_per_execution": 1,
        "jit_compile": "auto",
    });
    match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    }
}

fn adam(state: &OptimizerState) -> Value {
    let learning_rate = match state.learning_rate {
        LearningRate::Constant(rate) => json!(rate),
        LearningRate::ExponentialDecay { initial, decay_steps, decay_rate } => {
            let schedule = json!({
                "initial_learning_rate": initial,
                "decay_steps": decay_steps,
                "decay_rate": decay_rate,
                "staircase": false,
                "name": "ExponentialDecay",
            });
            object("keras.optimizers.schedules", "ExponentialDecay", schedule)
        }
    };
    json!({
        "name": "adam",
        "learning_rate": learning_rate,
        "weight_decay": null,
        "clipnorm": null,
        "global_clipnorm": null,
        "clipvalue": null,
        "use_ema": false,
        "ema_momentum": 0.99,
        "ema_overwrite_frequency": null,
        "loss_scale_factor": null,
        "gradient_accumulation_steps": null,
        "beta_1": state.beta_1,
        "beta_2": state.beta_2,
        "epsilon": state.epsilon,
        "amsgrad": false,
    })
}

fn sequential(config: &ModelConfig, form: Form) -> Value {
    let input = json!({
        "batch_shape": input_shape(config),
        "dtype": "float32",
        "sparse": false,
        "ragged": false,
        "name": "input_layer",
        "optional": false,
    });
    let mut layers = vec![entry("InputLayer", input, None, form)];
    layers.extend(layer_names(config).into_iter().map(|name| layer(config, name, form)));
    json!({
        "name": "sequential",
        "trainable": true,
        "dtype": float32(),
        "layers": layers,
        "build_input_shape": input_shape(config),
    })
}

fn input_shape(config: &ModelConfig) -> Value {
    json!([null, config.window, config.channels])
}

/// A layer with its name, its settings and the shape of its input.
fn layer(config: &ModelConfig, name: &'static str, form: Form) -> Value {
    let [first, second] = config.conv_filters;
    let convolved = |length: usize| (length + 1).saturating_sub(config.kernel_size);
    let pooled = |length: usize| convolved(length) / config.pool_size.max(1);
    let (length, channels) = (config.window, config.channels);
    let (class, settings, input) = match name {
        "conv1d" => ("Conv1D", convolution(config, first), Some(json!([null, length, channels]))),
        "conv1d_1" => ("Conv1D", convolution(config, second), Some(json!([null, pooled(length), first]))),
        "max_pooling1d" | "max_pooling1d_1" => ("MaxPooling1D", max_pooling(config), None),
        "batch_normalization" => (
            "BatchNormalization",
            batch_normalization(config),
            Some(json!([null, pooled(pooled(length)), second])),
        ),
        "lstm" => ("LSTM", lstm(config), Some(json!([null, pooled(pooled(length)), second]))),
        "dense" => {
            let settings = dense(config.dense_units, "relu", regularizer(config.l2));
            ("Dense", settings, Some(json!([null, config.lstm_units])))
        }
        "dropout" => ("Dropout", json!({"rate": config.dropout, "seed": null, "noise_shape": null}), None),
        _ => {
            ("Dense", dense(config.classes, "softmax", Value::Null), Some(json!([null, config.dense_units])))
        }
    };
    let mut full = Map::new();
    full.insert("name".to_owned(), json!(name));
    full.insert("trainable".to_owned(), json!(true));
    full.insert("dtype".to_owned(), float32());
    if let Value::Object(settings) = settings {
        full.extend(settings);
    }
    entry(class, Value::Object(full), input, form)
}

fn entry(class: &str, config: Value, input: Option<Value>, form: Form) -> Value {
    if form == Form::Legacy {
        return json!({"class_name": class, "config": config});
    }
    let mut layer = object("keras.layers", class, config);
    if let Some(shape) = input {
        layer["build_config"] = json!({"input_shape": shape});
    }
    layer
}

fn object(module: &str, class: &str, config: Value) -> Value {
    json!({"module": module, "class_name": class, "config": config, "registered_name": null})
}

fn float32() -> Value {
    object("keras", "DTypePolicy", json!({"name": "float32"}))
}

fn initializer(class: &str) -> Value {
    let config = match class {
        "GlorotUniform" => json!({"seed": null, "input_axes": null, "output_axes": null}),
        "Orthogonal" => json!({"seed": null, "gain": 1.0}),
        _ => json!({}),
    };
    object("keras.initializers", class, config)
}

fn regularizer(l2: f64) -> Value {
    match l2 > 0.0 {
        true => object("keras.regularizers", "L2", json!({"l2": l2})),
        false => Value::Null,
    }
}

fn convolution(config: &ModelConfig, filters: usize) -> Value {
    json!({
        "filters": filters,
        "kernel_size": [config.kernel_size],
        "strides": [1],
        "padding": "valid",
        "data_format": "channels_last",
        "dilation_rate": [1],
        "groups": 1,
        "activation": "relu",
        "use_bias": true,
        "kernel_initializer": initializer("GlorotUniform"),
        "bias_initializer": initializer("Zeros"),
        "kernel_regularizer": null,
        "bias_regularizer": null,
        "activity_regularizer": null,
        "kernel_constraint": null,
        "bias_constraint": null,
    })
}

fn max_pooling(config: &ModelConfig) -> Value {
    json!({
        "pool_size": [config.pool_size],
        "padding": "valid",
        "strides": [config.pool_size],
        "data_format": "channels_last",
    })
}

fn batch_normalization(config: &ModelConfig) -> Value {
    json!({
        "axis": -1,
        "momentum": config.batch_norm_momentum,
        "epsilon": config.batch_norm_epsilon,
        "center": true,
        "scale": true,
        "beta_initializer": initializer("Zeros"),
        "gamma_initializer": initializer("Ones"),
        "moving_mean_initializer": initializer("Zeros"),
        "moving_variance_initializer": initializer("Ones"),
        "beta_regularizer": null,
        "gamma_regularizer": null,
        "beta_constraint": null,
        "gamma_constraint": null,
        "synchronized": false,
        "renorm": false,
        "renorm_clipping": null,
        "renorm_momentum": 0.99,
    })
}

fn lstm(config: &ModelConfig) -> Value {
    json!({
        "return_sequences": false,
        "return_state": false,
        "go_backwards": false,
        "stateful": false,
        "unroll": false,
        "zero_output_for_mask": false,
        "units": config.lstm_units,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": true,
        "kernel_initializer": initializer("GlorotUniform"),
        "recurrent_initializer": initializer("Orthogonal"),
        "bias_initializer": initializer("Zeros"),
        "unit_forget_bias": true,
        "kernel_regularizer": null,
        "recurrent_regularizer": null,
        "bias_regularizer": null,
        "activity_regularizer": null,
        "kernel_constraint": null,
        "recurrent_constraint": null,
        "bias_constraint": null,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
        "seed": null,
    })
}

fn dense(units: usize, activation: &str, kernel_regularizer: Value) -> Value {
    json!({
        "units": units,
        "activation": activation,
        "use_bias": true,
        "kernel_initializer": initializer("GlorotUniform"),
        "bias_initializer": initializer("Zeros"),
        "kernel_regularizer": kernel_regularizer,
        "bias_regularizer": null,
        "kernel_constraint": null,
        "bias_constraint": null,
        "quantization_config": null,
    })
}
