//! Model files, judged by Keras itself.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use tpu_train::model::files::{
    LearningRate, ModelDetails, OptimizerState, SavedModel, model_json, read_model, read_weights, write_any,
};
use tpu_train::model::{ModelConfig, NamedTensor, variables};

use crate::support::judge;

/// What every script of this file starts with.
const PRELUDE: &str = r#"
import json, sys, os, warnings, logging
import numpy as np, h5py, keras
from keras import layers
warnings.simplefilter("error", UserWarning)

def complaints():
    from absl import logging as absl_logging
    class Raise(logging.Handler):
        def emit(self, record):
            "Anything that hints at a state not restored; the legacy format always says that metrics are not built."
            if "metrics have yet to be built" not in record.getMessage(): raise RuntimeError(record.getMessage())
    absl_logging.get_absl_logger().addHandler(Raise())
complaints()

def build(c, functional=False, names=None, inner_dropout=True):
    regularizer = keras.regularizers.L2(c["l2"]) if c["l2"] else None
    names = iter(names) if names else None
    def name(): return {"name": next(names)} if names else {}
    chain = [
        layers.Conv1D(c["conv_filters"][0], c["kernel_size"], activation="relu", **name()),
        layers.MaxPooling1D(c["pool_size"]),
        layers.Conv1D(c["conv_filters"][1], c["kernel_size"], activation="relu", **name()),
        layers.MaxPooling1D(c["pool_size"]),
        layers.BatchNormalization(momentum=c["batch_norm_momentum"], epsilon=c["batch_norm_epsilon"], **name()),
        layers.LSTM(c["lstm_units"], **name()),
        layers.Dense(c["dense_units"], activation="relu", kernel_regularizer=regularizer, **name()),
        *([layers.Dropout(c["dropout"])] if c["dropout"] else []),
        layers.Dense(c["classes"], activation="softmax", **name()),
    ]
    inputs = keras.Input((c["window"], c["channels"]))
    if functional:
        x = inputs
        for layer in chain: x = layer(x)
        return keras.Model(inputs, x)
    return keras.Sequential([inputs, *chain])

def compile(model, rate):
    if isinstance(rate, dict):
        rate = keras.optimizers.schedules.ExponentialDecay(rate["initial"], rate["decay_steps"], rate["decay_rate"])
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])

def weights(model):
    return [np.asarray(v) for v in model.variables if "seed_generator" not in v.path]

def batch(c, rows=5, seed=0):
    r = np.random.default_rng(seed)
    return r.random((rows, c["window"], c["channels"]), "f4"), r.integers(0, c["classes"], rows)

def load(folder, part):
    "Arrays that Rust left: a list of shapes and raw float32."
    shapes = json.load(open(f"{folder}/{part}.json"))
    flat = np.fromfile(f"{folder}/{part}.f32", "<f4")
    ends = np.cumsum([int(np.prod(s)) for s in shapes])
    return [a.reshape(s) for a, s in zip(np.split(flat, ends[:-1]), shapes)]

def leave(folder, part, arrays):
    json.dump([list(np.shape(a)) for a in arrays], open(f"{folder}/{part}.json", "w"))
    np.concatenate([np.ravel(np.asarray(a)) for a in arrays]).astype("<f4").tofile(f"{folder}/{part}.f32")

def same(ours, theirs):
    assert len(ours) == len(theirs), (len(ours), len(theirs))
    for a, b in zip(ours, theirs): np.testing.assert_array_equal(a, b, strict=True)

def equal(ours, theirs, path=""):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), (path, set(ours) ^ set(theirs))
        for key in ours: equal(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for i, (a, b) in enumerate(zip(ours, theirs)): equal(a, b, f"{path}/{i}")
    else: assert ours == theirs and type(ours) == type(theirs), (path, ours, theirs)

folder = sys.argv[1]
c = json.load(open(f"{folder}/config.json"))
"#;

/// A folder in which Rust and Python leave each other arrays.
struct Exchange {
    folder: tempfile::TempDir,
    judge: judge::Judge,
}

impl Exchange {
    fn new(config: &ModelConfig) -> Option<Self> {
        let exchange = Self { judge: judge::python()?, folder: tempfile::tempdir().unwrap() };
        std::fs::write(exchange.path("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
        Some(exchange)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, script: &str) -> String {
        self.judge.run(&format!("{PRELUDE}\n{script}"), &[self.folder.path()])
    }

    fn leave(&self, part: &str, tensors: &[NamedTensor]) {
        let shapes: Vec<_> = tensors.iter().map(|tensor| tensor.dims.clone()).collect();
        std::fs::write(self.path(&format!("{part}.json")), serde_json::to_vec(&shapes).unwrap()).unwrap();
        let bytes: Vec<u8> =
            tensors.iter().flat_map(|t| &t.values).flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(self.path(&format!("{part}.f32")), bytes).unwrap();
    }

    /// The arrays Python left, under the names of the variables.
    fn load(&self, part: &str, names: &[String]) -> Vec<NamedTensor> {
        let shapes: Vec<Vec<usize>> =
            serde_json::from_slice(&std::fs::read(self.path(&format!("{part}.json"))).unwrap()).unwrap();
        let bytes = std::fs::read(self.path(&format!("{part}.f32"))).unwrap();
        let mut values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert_eq!(shapes.len(), names.len());
        let tensor = |(dims, name): (Vec<usize>, &String)| {
            let values = values.by_ref().take(dims.iter().product()).collect();
            NamedTensor { name: name.clone(), dims, values }
        };
        shapes.into_iter().zip(names).map(tensor).collect()
    }
}

fn plain() -> ModelConfig {
    ModelConfig {
        window: 200,
        channels: 2,
        classes: 6,
        conv_filters: [64, 128],
        kernel_size: 3,
        pool_size: 2,
        lstm_units: 64,
        dense_units: 128,
        l2: 0.0,
        dropout: 0.0,
        batch_norm_momentum: 0.99,
        batch_norm_epsilon: 1e-3,
    }
}

fn odd() -> ModelConfig {
    ModelConfig {
        window: 61,
        channels: 3,
        classes: 4,
        conv_filters: [6, 5],
        kernel_size: 4,
        pool_size: 3,
        lstm_units: 3,
        dense_units: 7,
        l2: 0.01,
        dropout: 0.25,
        batch_norm_momentum: 0.9,
        batch_norm_epsilon: 1e-2,
    }
}

const DECAY: LearningRate =
    LearningRate::ExponentialDecay { initial: 0.002, decay_steps: 100.0, decay_rate: 0.9 };

fn names(config: &ModelConfig, trainable: bool) -> Vec<String> {
    variables(config).into_iter().filter(|spec| spec.trainable || !trainable).map(|spec| spec.name).collect()
}

/// Seeded values in (-0.3, 0.3); variances and second moments are made positive.
fn random(config: &ModelConfig, seed: u32, trainable: bool, positive: bool) -> Vec<NamedTensor> {
    let mut state = seed;
    let mut next = |positive: bool| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = 0.3 * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0);
        if positive { value.abs() + 0.01 } else { value }
    };
    let specs = variables(config).into_iter().filter(|spec| spec.trainable || !trainable);
    let tensor = |spec: tpu_train::model::VariableSpec| {
        let positive = positive || spec.name.ends_with("variance");
        let values = (0..spec.dims.iter().product()).map(|_| next(positive)).collect();
        NamedTensor { name: spec.name, dims: spec.dims, values }
    };
    specs.map(tensor).collect()
}

fn random_model(config: ModelConfig, learning_rate: LearningRate) -> SavedModel {
    SavedModel {
        weights: random(&config, 1, false, false),
        optimizer: Some(OptimizerState {
            iteration: 1234,
            learning_rate,
            first_moments: random(&config, 2, true, false),
            second_moments: random(&config, 3, true, true),
            beta_1: 0.85,
            beta_2: 0.99,
            epsilon: 1e-6,
        }),
        details: Some(ModelDetails {
            class_names: (0..config.classes).map(|class| format!("class {class}")).collect(),
            channel_names: vec!["ECG".to_owned(), "PCG".to_owned()],
            window: config.window,
            stride: config.window,
            sampling_frequency: 8000.0,
            run: serde_json::json!({"seed": 1}),
        }),
        notes: Vec::new(),
        config,
    }
}

fn leave_model(exchange: &Exchange, model: &SavedModel) {
    let state = model.optimizer.as_ref().unwrap();
    exchange.leave("weights", &model.weights);
    exchange.leave("m", &state.first_moments);
    exchange.leave("v", &state.second_moments);
    for name in ["model.keras", "model.h5", "model.weights.h5", "model.safetensors"] {
        write_any(&exchange.path(name), model).unwrap();
    }
}

/// Asserts every weight, every optimizer variable, equal predictions, and a step taken from the restored state.
const OPENS: &str = r#"
expected, m, v = load(folder, "weights"), load(folder, "m"), load(folder, "v")
independent = build(c)
independent.set_weights([np.asarray(w) for w in expected] if not c["dropout"] else
    [expected.pop(0) if "seed_generator" not in w.path else w for w in independent.weights])
expected = load(folder, "weights")
rate = json.load(open(f"{folder}/rate.json"))
x, y = batch(c)
outputs = independent.predict(x, verbose=0)

def check_weights(model):
    same(weights(model), expected)
    np.testing.assert_allclose(model.predict(x, verbose=0), outputs, rtol=0, atol=1e-6)

def check(model):
    check_weights(model)
    assert int(model.optimizer.iterations) == 1234
    moments = [np.asarray(variable) for variable in model.optimizer.variables if variable.ndim]
    same(moments[0::2], m)
    same(moments[1::2], v)
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    o = model.optimizer
    assert (o.beta_1, o.beta_2, o.epsilon) == (0.85, 0.99, 1e-6)
    lr = np.float64(o.learning_rate)
    if isinstance(rate, dict):
        assert len(o.variables) == 1 + 2 * len(m)
        np.testing.assert_allclose(lr, rate["initial"] * rate["decay_rate"] ** (1234 / rate["decay_steps"]), rtol=1e-5)
    else:
        assert len(o.variables) == 2 + 2 * len(m) and lr == np.float32(rate)
    assert model.loss == "sparse_categorical_crossentropy"

def trained(model):
    keras.utils.set_random_seed(7)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert set(logs) == {"loss", "accuracy"}, logs
    assert int(model.optimizer.iterations) == 1235
    return weights(model)

model = keras.saving.load_model(f"{folder}/model.keras")
check(model)
after = trained(model)

# Keras 3.15 builds the optimizer of a legacy file for no variable at all, so it never restores the moments, not even
# of its own files. What it would write is compared instead: every array, under the same name, in the same order.
model = keras.saving.load_model(f"{folder}/model.h5")
check_weights(model)
logging.disable(logging.WARNING)
keras.saving.load_model(f"{folder}/model.keras").save(f"{folder}/again.h5")
logging.disable(logging.NOTSET)
def contents(path):
    "Layers of a loaded model lack the model's own name in their paths, which no reader looks at."
    def plain(name): return getattr(name, "decode", name.__str__)().replace("sequential/", "").replace("sequential_", "")
    arrays, lists = {}, {}
    with h5py.File(path) as file:
        def one(path, item):
            if isinstance(item, h5py.Dataset): arrays[plain(path)] = item[()]
            for key in ("weight_names", "layer_names"):
                if key in item.attrs: lists[path, key] = [plain(n) for n in item.attrs[key]]
        file.visititems(one)
        return arrays, lists, json.loads(file.attrs["model_config"])
ours, theirs = contents(f"{folder}/model.h5"), contents(f"{folder}/again.h5")
ours[0].pop("tpu_train")
assert ours[0].keys() == theirs[0].keys(), ours[0].keys() ^ theirs[0].keys()
for path in ours[0]: np.testing.assert_array_equal(ours[0][path], theirs[0][path])
equal(ours[1], theirs[1])
equal(ours[2], theirs[2])

rated = keras.optimizers.schedules.ExponentialDecay(rate["initial"], rate["decay_steps"], rate["decay_rate"]) \
    if isinstance(rate, dict) else rate
keras.utils.clear_session()  # Names count from the start again.
model = build(c)
model.compile(keras.optimizers.Adam(rated, 0.85, 0.99, 1e-6), "sparse_categorical_crossentropy", metrics=["accuracy"])
network = json.loads(model.to_json())
assert network["compile_config"].pop("optimizer")
# "auto", or what the backend made of it.
network["compile_config"]["jit_compile"] = "auto"
equal(json.load(open(f"{folder}/network.json")), network)
model.optimizer.build(model.trainable_variables)
model.load_weights(f"{folder}/model.weights.h5")
check(model)
if not c["dropout"]:
    same(trained(model), after)

from safetensors.numpy import load_file
tensors = load_file(f"{folder}/model.safetensors")
same([tensors[name] for name in json.load(open(f"{folder}/names.json"))], expected)
"#;

fn keras_opens(config: ModelConfig, learning_rate: LearningRate) {
    let Some(exchange) = Exchange::new(&config) else { return };
    let model = random_model(config, learning_rate);
    leave_model(&exchange, &model);
    let rate = match learning_rate {
        LearningRate::Constant(rate) => serde_json::json!(rate),
        LearningRate::ExponentialDecay { initial, decay_steps, decay_rate } => {
            serde_json::json!({"initial": initial, "decay_steps": decay_steps, "decay_rate": decay_rate})
        }
    };
    std::fs::write(exchange.path("rate.json"), rate.to_string()).unwrap();
    std::fs::write(exchange.path("network.json"), model_json(&model.config)).unwrap();
    let names = serde_json::to_vec(&names(&model.config, false)).unwrap();
    std::fs::write(exchange.path("names.json"), names).unwrap();
    exchange.run(OPENS);
}

#[test]
fn keras_opens_every_format_with_the_optimizers_state() {
    keras_opens(plain(), LearningRate::Constant(0.003));
}

#[test]
fn keras_opens_l2_dropout_and_decay() {
    keras_opens(odd(), DECAY);
}

/// Trains in Keras, saves in every format, and leaves what Rust must find.
const TRAINS: &str = r#"
rate = json.load(open(f"{folder}/rate.json"))
options = json.load(open(f"{folder}/options.json"))
keras.utils.set_random_seed(1)
if options["numbered"]:
    for _ in range(7): layers.Conv1D(1, 1); layers.Dense(1); layers.LSTM(1); layers.BatchNormalization()
model = build(c, options["functional"], options["names"])
compile(model, rate)
x, y = batch(c)
for _ in range(3): model.train_on_batch(x, y)
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
model.save(f"{folder}/theirs.keras")
model.save(f"{folder}/theirs.h5")
model.save_weights(f"{folder}/theirs.weights.h5")
from safetensors.numpy import save_file
save_file({w.path.replace("/", "."): np.asarray(w) for w in model.variables if "seed" not in w.path},
    f"{folder}/theirs.safetensors")
leave(folder, "weights", weights(model))
moments = [np.asarray(variable) for variable in model.optimizer.variables if variable.ndim]
leave(folder, "m", moments[0::2])
leave(folder, "v", moments[1::2])
print(" ".join(layer.name for layer in model.layers))
"#;

fn rust_reads(config: ModelConfig, learning_rate: LearningRate, options: serde_json::Value) {
    let Some(exchange) = Exchange::new(&config) else { return };
    let rate = match learning_rate {
        LearningRate::Constant(rate) => serde_json::json!(rate),
        LearningRate::ExponentialDecay { initial, decay_steps, decay_rate } => {
            serde_json::json!({"initial": initial, "decay_steps": decay_steps, "decay_rate": decay_rate})
        }
    };
    std::fs::write(exchange.path("rate.json"), rate.to_string()).unwrap();
    std::fs::write(exchange.path("options.json"), options.to_string()).unwrap();
    let said = exchange.run(TRAINS);
    assert!(!options["numbered"].as_bool().unwrap() || said.contains("conv1d_7"), "{said}");
    let weights = exchange.load("weights", &names(&config, false));
    for name in ["theirs.keras", "theirs.h5"] {
        let model = read_model(&exchange.path(name)).unwrap();
        assert_eq!(model.config, config, "{name}");
        assert!(model.weights == weights, "{name}: other weights");
        assert_eq!((model.details, model.notes), (None, Vec::new()));
        let state = model.optimizer.unwrap();
        assert_eq!(state.iteration, 3, "{name}");
        match (state.learning_rate, learning_rate) {
            (LearningRate::Constant(found), LearningRate::Constant(expected)) => {
                assert_eq!(found as f32, expected as f32)
            }
            (found, expected) => assert_eq!(found, expected),
        }
        assert!(
            state.first_moments == exchange.load("m", &names(&config, true)),
            "{name}: other first moments"
        );
        assert!(
            state.second_moments == exchange.load("v", &names(&config, true)),
            "{name}: other second moments"
        );
        assert_eq!((state.beta_1, state.beta_2, state.epsilon), (0.9, 0.999, 1e-7));
    }
    for name in ["theirs.keras", "theirs.h5", "theirs.weights.h5", "theirs.safetensors"] {
        assert!(read_weights(&exchange.path(name), &config).unwrap() == weights, "{name}: other weights");
    }
    assert!(
        read_model(&exchange.path("theirs.weights.h5")).unwrap_err().to_string().contains("no description")
    );
}

#[test]
fn what_keras_trained_is_read_back() {
    let options = serde_json::json!({"functional": false, "numbered": false, "names": null});
    rust_reads(plain(), LearningRate::Constant(0.003), options);
}

#[test]
fn a_functional_model_with_numbered_layers_is_read_back() {
    let options = serde_json::json!({"functional": true, "numbered": true, "names": null});
    rust_reads(odd(), DECAY, options);
}

#[test]
fn a_model_with_names_of_its_own_is_read_back() {
    let names = ["zeta", "front", "norm", "memory", "Hidden layer", "answer"];
    let options = serde_json::json!({"functional": true, "numbered": false, "names": names});
    rust_reads(ModelConfig { dropout: 0.0, ..odd() }, LearningRate::Constant(0.001), options);
}

#[test]
fn other_precisions_and_old_files_are_read() {
    let config = odd();
    let Some(exchange) = Exchange::new(&config) else { return };
    exchange.run(
        r#"
model = build(c)
leave(folder, "weights", weights(model))
model.save_weights(f"{folder}/a.weights.h5")
import ml_dtypes
def copy(name, change):
    with h5py.File(f"{folder}/a.weights.h5") as old, h5py.File(f"{folder}/{name}.weights.h5", "w") as new:
        def one(path, item):
            if isinstance(item, h5py.Dataset): change(new, path, item[()])
        old.visititems(one)
def f64(new, path, a): new[path] = a.astype("f8")
def f16(new, path, a): new[path] = a.astype("f2")
def bf16(new, path, a):
    new.create_dataset(path, data=a.astype(ml_dtypes.bfloat16)).attrs["dtype"] = "bfloat16"
def integer(new, path, a): new[path] = a.astype("i4")
def packed(new, path, a): new.create_dataset(path, data=a, compression="gzip", shuffle=True, chunks=True)
def nan(new, path, a): new[path] = a * np.nan
def older(new, path, a): new[path.replace("layers/", "_layer_checkpoint_dependencies/")] = a
for f in (f64, f16, bf16, integer, packed, nan, older): copy(f.__name__, f)
leave(folder, "f16", [a.astype("f2").astype("f4") for a in weights(model)])
leave(folder, "bf16", [a.astype(ml_dtypes.bfloat16).astype("f4") for a in weights(model)])

# The legacy format as Keras 2 wrote it, weights alone and whole, with all first moments before the second ones.
names = ["conv1d_3", "max_pooling1d_3", "conv1d_4", "max_pooling1d_4", "batch_normalization_2", "lstm_1", "dense_2",
         "dropout_1", "dense_3"]
leaves = [["kernel", "bias"], [], ["kernel", "bias"], [], ["gamma", "beta", "moving_mean", "moving_variance"],
          ["lstm_cell_1/kernel", "lstm_cell_1/recurrent_kernel", "lstm_cell_1/bias"], ["kernel", "bias"], [],
          ["kernel", "bias"]]
def put(root):
    root.attrs["layer_names"] = [n.encode() for n in names]
    arrays = iter(weights(model))
    for name, own in zip(names, leaves):
        group = root.create_group(name)
        paths = [f"{name}/{leaf}:0" for leaf in own]
        group.attrs["weight_names"] = [p.encode() for p in paths]
        for path in paths: group[path] = next(arrays)
with h5py.File(f"{folder}/old_weights.h5", "w") as f: put(f)
with h5py.File(f"{folder}/old.h5", "w") as f:
    put(f.create_group("model_weights"))
    def layer(cls, name, **config): return {"class_name": cls, "config": {"name": name, "trainable": True, **config}}
    d = dict(dtype="float32", use_bias=True)
    conv = dict(**d, kernel_size=[c["kernel_size"]], strides=[1], padding="valid", data_format="channels_last",
        dilation_rate=[1], groups=1, activation="relu", kernel_regularizer=None)
    pool = dict(strides=[c["pool_size"]], pool_size=[c["pool_size"]], padding="valid", data_format="channels_last")
    chain = [
        layer("Conv1D", names[0], batch_input_shape=[None, c["window"], c["channels"]], filters=c["conv_filters"][0], **conv),
        layer("MaxPooling1D", names[1], **pool),
        layer("Conv1D", names[2], filters=c["conv_filters"][1], **conv),
        layer("MaxPooling1D", names[3], **pool),
        layer("BatchNormalization", names[4], axis=[2], momentum=c["batch_norm_momentum"],
            epsilon=c["batch_norm_epsilon"], center=True, scale=True),
        layer("LSTM", names[5], units=c["lstm_units"], activation="tanh", recurrent_activation="sigmoid",
            return_sequences=False, time_major=False, implementation=2, dropout=0.0, **d),
        layer("Dense", names[6], units=c["dense_units"], activation="relu",
            kernel_regularizer={"class_name": "L2", "config": {"l2": c["l2"]}}, **d),
        layer("Dropout", names[7], rate=c["dropout"], noise_shape=None, seed=None),
        layer("Dense", names[8], units=c["classes"], activation="softmax", kernel_regularizer=None, **d),
    ]
    f.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "sequential_1", "layers": chain}})
    f.attrs["training_config"] = json.dumps({"loss": "categorical_crossentropy", "optimizer_config":
        {"class_name": "Adam", "config": {"name": "Adam", "learning_rate": 0.001, "decay": 0.0, "beta_1": 0.9,
         "beta_2": 0.999, "epsilon": 1e-07, "amsgrad": False}}}).encode()
    trainable = [np.asarray(w) for w in model.trainable_variables]
    g = f.create_group("optimizer_weights")
    g["Adam/iter:0"] = np.int64(99)
    paths = ["Adam/iter:0"]
    for kind, factor in (("m", 2), ("v", 3)):
        for i, a in enumerate(trainable):
            paths.append(f"Adam/{i}/{kind}:0")
            g[paths[-1]] = factor * a
    g.attrs["weight_names"] = [p.encode() for p in paths]
"#,
    );
    let read = |name: &str| read_weights(&exchange.path(name), &config);
    let weights = exchange.load("weights", &names(&config, false));
    for name in ["a", "f64", "packed", "older"] {
        assert!(read(&format!("{name}.weights.h5")).unwrap() == weights, "{name}");
    }
    for name in ["f16", "bf16"] {
        assert!(
            read(&format!("{name}.weights.h5")).unwrap() == exchange.load(name, &names(&config, false)),
            "{name}"
        );
    }
    let said = read("integer.weights.h5").unwrap_err().to_string();
    assert!(said.contains("holds i32, expected floating-point numbers"), "{said}");
    assert!(read("nan.weights.h5").unwrap_err().to_string().contains("no finite float32"));
    assert!(read("old_weights.h5").unwrap() == weights);
    let old = read_model(&exchange.path("old.h5")).unwrap();
    assert_eq!(old.config, config);
    assert!(old.weights == weights);
    let state = old.optimizer.unwrap();
    assert_eq!(state.iteration, 99);
    let trainable = weights.iter().filter(|tensor| !tensor.name.contains("moving"));
    for ((weight, m), v) in trainable.zip(&state.first_moments).zip(&state.second_moments) {
        assert_eq!(m.name, weight.name);
        assert!(weight.values.iter().zip(&m.values).all(|(w, m)| 2.0 * w == *m));
        assert!(weight.values.iter().zip(&v.values).all(|(w, v)| 3.0 * w == *v));
    }
}

#[test]
fn networks_that_are_not_computed_are_refused_by_name() {
    let config = ModelConfig { dropout: 0.0, ..odd() };
    let Some(exchange) = Exchange::new(&config) else { return };
    exchange.run(
        r#"
def save(name, *chain):
    keras.Sequential([keras.Input((50, 2)), *chain]).save(f"{folder}/{name}.keras")
def convolutions(**more):
    return [layers.Conv1D(4, 3, activation="relu", **more), layers.MaxPooling1D(2), layers.Conv1D(5, 3, activation="relu"),
        layers.MaxPooling1D(2), layers.BatchNormalization()]
def rest(): return [layers.LSTM(3), layers.Dense(4, activation="relu"), layers.Dense(2, activation="softmax")]
save("padding", *convolutions(padding="same"), *rest())
save("gru", *convolutions(), layers.GRU(3), *rest()[1:])
save("sequences", *convolutions(), layers.LSTM(3, return_sequences=True, name="all_of_them"), *rest()[1:])
save("short", *convolutions()[:3], *rest())
save("longer", *convolutions(), *rest(), layers.Dense(2))
save("linear", *convolutions(), *rest()[:2], layers.Dense(2))
model = keras.Sequential([keras.Input((50, 2)), *convolutions(), *rest()])
model.compile(keras.optimizers.SGD(), "mse"); model.save(f"{folder}/sgd.keras")
model.compile(keras.optimizers.Adam(clipnorm=1.0), "mse"); model.save(f"{folder}/clip.keras")
model.layers[0].trainable = False
model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")
model.train_on_batch(np.ones((2, 50, 2)), np.zeros(2)); model.save(f"{folder}/frozen.keras")
a = keras.Input((50, 2)); b = keras.Input((50, 2))
x = layers.Add()([a, b])
for layer in [*convolutions(), *rest()]: x = layer(x)
keras.Model([a, b], x).save(f"{folder}/two.keras")
"#,
    );
    let said = |name: &str| {
        let error = read_model(&exchange.path(name)).unwrap_err().to_string();
        error.split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(said("padding.keras"), r#"layer "conv1d" has padding = "same", expected "valid""#);
    assert!(said("gru.keras").ends_with(r#"here LSTM, found layer "gru" (GRU)"#), "{}", said("gru.keras"));
    assert_eq!(said("sequences.keras"), r#"layer "all_of_them" has return_sequences = true, expected false"#);
    assert!(said("short.keras").contains("here MaxPooling1D, found layer \"lstm"), "{}", said("short.keras"));
    assert!(said("longer.keras").contains("expected the output layer to be the last"));
    assert!(said("linear.keras").contains(r#"has activation = "linear", expected "softmax""#));
    assert!(said("two.keras").contains("one chain of layers"), "{}", said("two.keras"));
    for (name, note) in
        [("sgd.keras", "the optimizer SGD is not Adam"), ("clip.keras", "Adam's clipnorm = 1.0")]
    {
        let model = read_model(&exchange.path(name)).unwrap();
        assert!(model.optimizer.is_none() && model.notes[0].starts_with(note), "{:?}", model.notes);
    }
    let other = ModelConfig { lstm_units: 8, ..config };
    write_any(&exchange.path("ours.keras"), &random_model(other.clone(), DECAY)).unwrap();
    let wrong = ModelConfig { conv_filters: [9, 5], ..other };
    let said = read_weights(Path::new(&exchange.path("ours.keras")), &wrong).unwrap_err().to_string();
    assert!(
        said.ends_with("conv1d/kernel needs shape [4, 3, 9], found [4, 3, 6] in conv1d/kernel"),
        "{said}"
    );
}
