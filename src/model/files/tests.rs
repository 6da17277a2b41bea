use super::*;
use serde_json::json;

/// Sizes that all differ, and odd ones.
pub(super) fn tiny() -> ModelConfig {
    ModelConfig {
        window: 41,
        channels: 2,
        classes: 4,
        conv_filters: [6, 5],
        kernel_size: 3,
        pool_size: 2,
        lstm_units: 3,
        dense_units: 7,
        l2: 0.0,
        dropout: 0.0,
        batch_norm_momentum: 0.99,
        batch_norm_epsilon: 1e-3,
    }
}

/// Values that differ from each other, in (-1, 1), by a linear congruential generator.
fn numbers(mut state: u32, count: usize) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub(super) fn random_tensors(config: &ModelConfig, seed: u32, trainable: bool) -> Vec<NamedTensor> {
    let specs = variables(config).into_iter().filter(|spec| spec.trainable || !trainable);
    let tensor = |(index, spec): (usize, crate::model::VariableSpec)| NamedTensor {
        values: numbers(seed + 31 * index as u32, spec.dims.iter().product()),
        name: spec.name,
        dims: spec.dims,
    };
    specs.enumerate().map(tensor).collect()
}

pub(super) fn random_weights(config: &ModelConfig) -> Vec<NamedTensor> {
    random_tensors(config, 1, false)
}

pub(super) fn model(config: ModelConfig, learning_rate: LearningRate) -> SavedModel {
    let details = ModelDetails {
        class_names: (0..config.classes).map(|class| format!("ünrest {class}")).collect(),
        channel_names: vec!["ECG".to_owned(), "PCG".to_owned()],
        window: config.window,
        stride: config.window,
        sampling_frequency: 8000.0,
        run: json!({"seed": 42, "recipe": "readme"}),
    };
    SavedModel {
        weights: random_weights(&config),
        optimizer: Some(OptimizerState {
            iteration: 123,
            learning_rate,
            first_moments: random_tensors(&config, 1000, true),
            second_moments: random_tensors(&config, 2000, true),
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-7,
        }),
        details: Some(details),
        notes: Vec::new(),
        config,
    }
}

const NAMES: [&str; 4] = ["m.keras", "m.weights.h5", "m.h5", "m.safetensors"];

fn models() -> [SavedModel; 2] {
    let decay = LearningRate::ExponentialDecay { initial: 0.002, decay_steps: 1000.0, decay_rate: 0.9 };
    [
        model(tiny(), LearningRate::Constant(0.003)),
        model(ModelConfig { l2: 0.01, dropout: 0.5, batch_norm_momentum: 0.9, ..tiny() }, decay),
    ]
}

#[test]
fn every_format_gives_back_what_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    for model in models() {
        for name in NAMES {
            let path = folder.path().join(name);
            write_any(&path, &model).unwrap();
            assert_eq!(read_model(&path).unwrap(), model, "{name}");
            let first = std::fs::read(&path).unwrap();
            write_any(&path, &model).unwrap();
            assert!(first == std::fs::read(&path).unwrap(), "{name}: equal models, other bytes");
        }
    }
}

#[test]
fn a_model_without_optimizer_and_details_stays_without() {
    let folder = tempfile::tempdir().unwrap();
    let model = SavedModel { optimizer: None, details: None, ..model(tiny(), LearningRate::Constant(1.0)) };
    for name in NAMES {
        let path = folder.path().join(name);
        write_any(&path, &model).unwrap();
        assert_eq!(read_model(&path).unwrap(), model, "{name}");
    }
}

#[test]
fn details_of_another_network_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [model, _] = models();
    let refused = |change: &dyn Fn(&mut ModelDetails), expected: &str| {
        let mut other = model.clone();
        change(other.details.as_mut().unwrap());
        for name in NAMES {
            let path = folder.path().join(name);
            write_any(&path, &other).unwrap();
            let error = read_model(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    };
    refused(&|details| details.class_names.clear(), "it names 0 classes, the network has 4");
    refused(&|details| details.class_names.push("third".into()), "it names 5 classes");
    refused(&|details| details.class_names[1] = details.class_names[0].clone(), "two classes one name");
    refused(&|details| details.window += 1, "the network takes");
    refused(&|details| details.stride = 0, "every 0 samples");
}

#[test]
fn another_precision_is_noted() {
    let mut json: serde_json::Value = serde_json::from_str(&model_json(&tiny())).unwrap();
    assert_eq!(network_parse::precision_note(&json), None);
    let policy =
        json!({"module": "keras", "class_name": "DTypePolicy", "config": {"name": "mixed_bfloat16"}});
    json["config"]["layers"][1]["config"]["dtype"] = policy;
    assert!(network_parse::precision_note(&json).unwrap().contains("in mixed_bfloat16;"));
}

#[test]
fn damaged_files_are_errors_and_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let [model, _] = models();
    for name in NAMES {
        let path = folder.path().join(name);
        write_any(&path, &model).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for part in 0..40 {
            let cut = bytes.len() * part / 40;
            assert!(parse(bytes[..cut].to_vec()).is_err(), "{name} cut at {cut}");
        }
        // One byte changed anywhere may go unnoticed in a value, but must not bring the program down.
        let step = (bytes.len() / 1500).max(1);
        for position in (0..bytes.len()).step_by(step).chain(0..bytes.len().min(600)) {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[position] ^= change;
                let _ = parse(bytes);
            }
        }
    }
}

#[test]
fn wrong_tensors_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.keras");
    let [good, _] = models();
    let mut model = good.clone();
    model.weights[3].dims = vec![1, 5];
    let said = write_any(&path, &model).unwrap_err().to_string();
    assert!(
        said.ends_with("m.keras: conv1d_1/bias needs shape [5], found [1, 5] in conv1d_1/bias"),
        "{said}"
    );
    let mut model = good.clone();
    model.weights[0].values[1] = f32::NAN;
    assert!(write_any(&path, &model).unwrap_err().to_string().contains("conv1d/kernel holds 1 values"));
    let mut model = good.clone();
    model.optimizer.as_mut().unwrap().second_moments.pop();
    assert!(write_any(&path, &model).is_err());
    assert!(write_any(&folder.path().join("m.pt"), &good).unwrap_err().to_string().contains("ends in .pt,"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_is_no_model_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = |path: &Path| read_model(path).unwrap_err().to_string();
    assert!(said(folder.path()).contains("a folder"));
    assert!(said(&folder.path().join("none.keras")).ends_with("no such file or folder"));
    let path = folder.path().join("m.keras");
    std::fs::write(&path, b"").unwrap();
    assert!(said(&path).contains("an empty file"));
    std::fs::write(&path, b"import keras").unwrap();
    assert!(said(&path).contains("bytes that begin with \"import k\""));
}

#[test]
fn weights_go_into_a_network_of_another_window() {
    let folder = tempfile::tempdir().unwrap();
    let [model, _] = models();
    let longer = ModelConfig { window: 400, l2: 0.1, ..tiny() };
    let wider = ModelConfig { dense_units: 8, ..tiny() };
    for name in NAMES {
        let path = folder.path().join(name);
        write_any(&path, &model).unwrap();
        assert_eq!(read_weights(&path, &longer).unwrap(), model.weights);
        let said = read_weights(&path, &wider).unwrap_err().to_string();
        assert!(said.contains("dense/kernel needs shape [3, 8], found [3, 7]"), "{said}");
    }
}
