//! `export`, judged by Keras, and the weights that other models start from.

use crate::run::{Bench, quick};
use crate::support::{self, judge};
use prost::Message;
use tpu_train::model::files::{read_model, read_weights, write_any};
use tpu_train::model::{ModelConfig, initialize};
use tpu_train::runtime::{Arg, HostTensor};
use tpu_train_proto::xla::HloModuleProto;

/// Opens every format, compares predictions and optimizers, trains each on by one step; leaves windows and their
/// probabilities for the graph to be compared with.
const OPEN_ALL: &str = r#"
import sys, keras, numpy, safetensors, safetensors.numpy, h5py
folder = sys.argv[1]
def compiled():
    model = keras.models.clone_model(keras.saving.load_model(f"{folder}/model.keras"))
    model.compile(keras.optimizers.Adam(0.002), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model
def weights(model): return [v for v in model.variables if "seed_generator" not in v.path]

tensors = safetensors.numpy.load_file(f"{folder}/out.safetensors")
from_tensors = compiled()
names = [f"{v.path}".split("/", 1)[-1] if v.path.startswith("sequential") else v.path for v in weights(from_tensors)]
names = [name.replace("lstm_cell/", "") for name in names]
for name, variable in zip(names, weights(from_tensors)): variable.assign(tensors[name])
from_weights = compiled()
from_weights.load_weights(f"{folder}/out.weights.h5")
models = {
    "keras": keras.saving.load_model(f"{folder}/out.keras"),
    "h5": keras.saving.load_model(f"{folder}/out.h5"),
    "weights.h5": from_weights,
    "safetensors": from_tensors,
}
random = numpy.random.default_rng(5)
windows = random.random((4, 500, 2), "f4")
expected = keras.saving.load_model(f"{folder}/model.keras").predict(windows, verbose=0)
for name, model in models.items():
    difference = numpy.abs(model.predict(windows, verbose=0) - expected).max()
    assert difference < 1e-5, (name, difference)
windows.tofile(f"{folder}/windows.f32")
expected.tofile(f"{folder}/probabilities.f32")

trainable = [n for n in names if "moving" not in n]
for name in ("keras", "weights.h5"):
    optimizer = models[name].optimizer
    assert int(optimizer.iterations) == 3, (name, int(optimizer.iterations))
    assert abs(float(optimizer.learning_rate) - 0.002) < 1e-9
    for i, variable in enumerate(trainable):
        first, second = (numpy.asarray(slot[i]) for slot in (optimizer._momentums, optimizer._velocities))
        numpy.testing.assert_array_equal(first, tensors[f"optimizer/first_moment/{variable}"], strict=True)
        numpy.testing.assert_array_equal(second, tensors[f"optimizer/second_moment/{variable}"], strict=True)
        assert numpy.abs(first).max() > 0 and second.max() > 0, variable
    labels = random.integers(0, expected.shape[1], 4) * 0
    models[name].train_on_batch(windows, labels)
    assert int(optimizer.iterations) == 4
for a, b in zip(weights(models["keras"]), weights(models["weights.h5"])):
    numpy.testing.assert_allclose(numpy.asarray(a), numpy.asarray(b), atol=1e-6)

from jaxlib import _hlo
shape = str(_hlo.XlaComputation(open(f"{folder}/out.hlo.pb", "rb").read()).program_shape())
assert "windows: f32[4,500,2]) -> (f32[4,6])" in shape, shape
assert _hlo.hlo_module_from_text(open(f"{folder}/out.hlo.txt").read()).name == "inference"
"#;

#[test]
fn keras_opens_every_export_and_predicts_the_same() {
    let Some(runtime) = support::runtime(1) else { return };
    let bench = Bench::new();
    bench.simulate();
    bench.succeed(&quick(&["train"], &["--steps", "3", "--learning-rate", "0.002"]));
    let model = read_model(&bench.path("model.keras")).unwrap();
    for ending in ["keras", "weights.h5", "h5", "safetensors"] {
        let out = format!("exports/out.{ending}");
        assert_eq!(bench.succeed(&["export", "--model", "model.keras", "--out", &out]).trim(), out);
        assert!(read_model(&bench.path(&out)).unwrap() == model, "{out} holds another model");
    }
    for ending in ["hlo.pb", "hlo.txt"] {
        let out = format!("exports/out.{ending}");
        bench.succeed(&["export", "--model", "exports/out.weights.h5", "--out", &out, "--batch-size", "4"]);
    }
    let text = std::fs::read_to_string(bench.path("exports/out.hlo.txt")).unwrap();
    assert!(text.contains("parameter(15)") && text.contains("operand_precision={highest,highest}"), "{text}");

    let refused = [
        (vec!["export", "--model", "model.keras", "--out", "model.onnx"], ".hlo.pb or .hlo.txt"),
        (vec!["export", "--model", "model.keras", "--out", "b.h5", "--batch-size", "2"], "--batch-size"),
        (vec!["export", "--model", "none.keras", "--out", "b.h5"], "none.keras"),
    ];
    for (args, expected) in refused {
        let said = bench.fail(1, &args);
        assert!(said.contains(expected), "{said}");
    }

    let Some(judge) = judge::python() else { return };
    std::fs::copy(bench.path("model.keras"), bench.path("exports/model.keras")).unwrap();
    judge.run(OPEN_ALL, &[bench.path("exports")]);
    let read = |name: &str| -> Vec<f32> {
        let bytes = std::fs::read(bench.path(name)).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let proto = std::fs::read(bench.path("exports/out.hlo.pb")).unwrap();
    let program = runtime.compile(&HloModuleProto::decode(&*proto).unwrap(), 1, None).unwrap();
    let windows = HostTensor::from_f32(&read("exports/windows.f32"), &[4, 500, 2]);
    let weights = model.weights.iter().map(|tensor| HostTensor::from_f32(&tensor.values, &tensor.dims));
    let inputs: Vec<_> =
        weights.chain([windows]).map(|tensor| runtime.replicate(&tensor, 1).unwrap()).collect();
    let outputs = program.execute(inputs.iter().map(Arg::Borrow).collect()).unwrap();
    let found = outputs[0].fetch(0).unwrap().to_f32().unwrap();
    let expected = read("exports/probabilities.f32");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} by the graph, {expected} by Keras");
    }
}

/// A network of other sizes than the recipe's, as Keras saves it and its weights.
const OTHER_SIZES: &str = r#"
import sys, keras
from keras import layers
keras.utils.set_random_seed(3)
def save(name, pool):
    model = keras.Sequential([keras.Input((300, 2)),
        layers.Conv1D(5, 4, activation="relu"), layers.MaxPooling1D(pool), layers.Conv1D(7, 4, activation="relu"),
        layers.MaxPooling1D(pool), layers.BatchNormalization(), layers.LSTM(6), layers.Dense(9, activation="relu"),
        layers.Dense(6, activation="softmax")])
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")
    model.save(f"{sys.argv[1]}/{name}.keras")
    model.save_weights(f"{sys.argv[1]}/{name}.weights.h5")
save("three", 3)
save("two", 2)
"#;

#[test]
fn a_run_takes_over_the_sizes_of_the_weights_it_starts_from() {
    if support::runtime(1).is_none() {
        return;
    }
    let Some(judge) = judge::python() else { return };
    let bench = Bench::new();
    bench.simulate();
    judge.run(OTHER_SIZES, &[bench.path("")]);
    for (file, pool) in [("three.keras", 3), ("two.weights.h5", 2)] {
        let output = bench.run(&quick(&["train"], &["--steps", "1", "--init-weights", file]));
        let header = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{header}");
        let said = format!("of {file}, Conv1D(5, 4), Conv1D(7, 4), MaxPool({pool}), LSTM(6), Dense(9)");
        assert!(header.contains(&said), "{header}");
        let trained = read_model(&bench.path("model.keras")).unwrap();
        let sizes = (trained.config.conv_filters, trained.config.kernel_size, trained.config.pool_size);
        assert_eq!(sizes, ([5, 7], 4, pool));
        assert_eq!(trained.optimizer.unwrap().iteration, 1);
        // One step of Adam moves no weight by more than its rate.
        let before = read_weights(&bench.path(file), &trained.config).unwrap();
        for (before, after) in before.iter().zip(&trained.weights).filter(|(b, _)| !b.name.contains("moving"))
        {
            let moved = before.values.iter().zip(&after.values).map(|(b, a)| (b - a).abs());
            assert!(moved.fold(0.0, f32::max) < 1.1e-3, "{} was not taken over", before.name);
        }
    }
    let other = ModelConfig::new(500, 2, 4);
    let model = tpu_train::model::files::SavedModel {
        weights: initialize::initial(&other, 1),
        config: other,
        optimizer: None,
        details: None,
        notes: Vec::new(),
    };
    write_any(&bench.path("four.keras"), &model).unwrap();
    let said = bench.fail(1, &quick(&["train"], &["--init-weights", "four.keras"]));
    assert!(said.contains("dense_1/kernel needs shape [128, 6], found [128, 4]"), "{said}");
}
