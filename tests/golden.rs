//! The same model as Keras, step for step: `tests/golden/README.md` says what the golden files hold,
//! `tests/golden/checks.rs` what must hold of them.

#![allow(clippy::unwrap_used)]
mod case;
mod checks;
mod run;

use std::path::Path;
use std::process::Command;

use case::Case;
use checks::AtOneStep;
use run::{Device, Learned, evaluate, scaled_batch, scaled_config};
use serde_json::json;
use tpu_train::model::files::{SavedModel, read_model, write_any};
use tpu_train::model::step::{self, StepConfig};
use tpu_train::model::{ModelConfig, initialize};
use tpu_train_hlo::random::uniform_host;

use crate::support::judge;

fn committed() -> impl Iterator<Item = Case> {
    ["plain", "l2_decay", "odd"].into_iter().map(Case::committed)
}

#[test]
fn gradients_are_those_of_keras_from_equal_states() {
    let Some(device) = Device::start() else { return };
    committed().for_each(|case| assert_gradients(&device, &case));
}

#[test]
fn adam_moves_the_weights_as_keras_does() {
    let Some(device) = Device::start() else { return };
    committed().for_each(|case| checks::update(&device, &case));
}

#[test]
fn a_whole_step_is_that_of_keras_from_equal_states() {
    let Some(device) = Device::start() else { return };
    committed().for_each(|case| checks::whole_step(&device, &case));
}

#[test]
fn ten_steps_stay_as_near_to_float64_as_those_of_keras() {
    let Some(device) = Device::start() else { return };
    committed().for_each(|case| checks::free_running(&device, &case));
}

#[test]
fn predictions_are_those_of_keras() {
    let Some(device) = Device::start() else { return };
    committed().for_each(|case| checks::predictions(&device, &case));
}

#[test]
fn the_gradients_graph_is_keras_in_float64() {
    committed().for_each(|case| checks::evaluated_gradients(&case));
}

#[test]
fn ten_steps_of_the_graph_are_those_of_keras_in_float64() {
    committed().for_each(|case| checks::evaluated_steps(&case));
}

fn assert_gradients(device: &Device, case: &Case) {
    let AtOneStep { largest, count, farther } = checks::gradients(device, case);
    let name = &case.name;
    let factor = checks::FORCED_FACTOR;
    eprintln!(
        "{name}: at one step at most {largest:.2} times Keras's distance; {farther} of {count} beyond {factor} times that of the step"
    );
    assert!(largest <= factor, "{name}: {largest} times Keras's distance at one step");
    assert!(
        farther * checks::FORCED_EXCEPTIONS <= count,
        "{name}: {farther} of {count} gradients farther than {factor} times Keras's"
    );
}

/// What holds of every case that the judge has just made, however small.
fn check(device: &Device, case: &Case) {
    checks::gradients(device, case);
    checks::update(device, case);
    checks::whole_step(device, case);
    checks::predictions(device, case);
    checks::evaluated_gradients(case);
    checks::evaluated_steps(case);
}

/// Runs `make_golden.py` for `case`, a name of its own or a file.
fn make(judge: &judge::Judge, case: &str, folder: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/make_golden.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(case)
        .arg(folder)
        .env("PYTHONPATH", judge.packages())
        .env("PYTHONNOUSERSITE", "1")
        .env_remove("XLA_FLAGS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_full_width_model_is_that_of_keras() {
    if std::env::var_os("TPU_TRAIN_SLOW").is_none() {
        return eprintln!("skipped: the full-width model takes minutes; TPU_TRAIN_SLOW=1 asks for it");
    }
    let (Some(device), Some(judge)) = (Device::start(), judge::python()) else { return };
    let folder = tempfile::tempdir().unwrap();
    make(&judge, "full", folder.path());
    let case = Case::read(folder.path(), "full");
    check(&device, &case);
    assert_gradients(&device, &case);
    checks::free_running(&device, &case);
}

/// Has Keras train a model of this size, in float32 and in float64.
fn judged(judge: &judge::Judge, folder: &Path, config: &ModelConfig, more: serde_json::Value) -> Case {
    let mut case = json!({
        "config": config, "batches": 2, "learning_rate": { "constant": 2e-3 },
    });
    case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let file = folder.join("drawn.json");
    std::fs::write(&file, case.to_string()).unwrap();
    make(judge, file.to_str().unwrap(), folder);
    Case::read(folder, "drawn")
}

#[test]
fn a_model_that_keras_drew_is_the_same_here() {
    let (Some(device), Some(judge)) = (Device::start(), judge::python()) else { return };
    let config = ModelConfig {
        conv_filters: [6, 9],
        kernel_size: 4,
        pool_size: 3,
        lstm_units: 3,
        dense_units: 7,
        l2: 0.02,
        batch_norm_momentum: 0.8,
        batch_norm_epsilon: 1e-2,
        ..ModelConfig::new(61, 3, 4)
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("theirs.keras");
    let case = judged(
        &judge,
        folder.path(),
        &config,
        json!({
            "rows": [3, 2], "seed": 77, "spread": 0.1, "save": file,
            "learning_rate": { "exponential_decay": { "initial": 3e-3, "decay_steps": 3, "decay_rate": 0.5 } },
        }),
    );
    let model = read_model(&file).unwrap();
    assert_eq!(model.config, config);
    assert!(model.weights == case.weights(0), "the file holds other weights than Keras trained");
    check(&device, &case);
}

#[test]
fn a_model_that_was_drawn_here_is_the_same_in_keras() {
    let (Some(device), Some(judge)) = (Device::start(), judge::python()) else { return };
    // The LSTM takes 200 steps.
    let config = ModelConfig {
        conv_filters: [4, 9],
        kernel_size: 5,
        lstm_units: 6,
        dense_units: 5,
        ..ModelConfig::new(812, 1, 3)
    };
    assert_eq!(config.lstm_steps(), 200);
    let mut weights = initialize::initial(&config, 91);
    for (place, tensor) in weights.iter_mut().enumerate() {
        let draw = |index: usize| 0.2 * uniform_host([91, 1 + place as u32], index as u32);
        tensor.values.iter_mut().enumerate().for_each(|(index, value)| *value += draw(index));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ours.keras");
    let model = SavedModel {
        config: config.clone(),
        weights: weights.clone(),
        optimizer: None,
        details: None,
        notes: Vec::new(),
    };
    write_any(&file, &model).unwrap();
    let more = json!({ "rows": [4, 3], "seed": 78, "start": file });
    let case = judged(&judge, folder.path(), &config, more);
    assert!(weights == case.weights(0), "Keras trained other weights than the file holds");
    check(&device, &case);
}

/// A unit dropped on one side alone would set the gradients far apart.
#[test]
fn dropout_draws_are_the_same_on_the_plugin_and_in_the_evaluator() {
    let Some(device) = Device::start() else { return };
    let mut case = Case::committed("plain");
    case.config.dropout = 0.5;
    let place = case.trainable().iter().position(|spec| spec.name == "dense_1/kernel").unwrap();
    let mut seen: Vec<Vec<f64>> = Vec::new();
    for (seed, step) in [(5, 0), (5, 1), (6, 0)] {
        let config = StepConfig { seed, ..case.step_config(case.most_rows()) };
        let program = device.compile(step::gradients(&config).unwrap());
        let mut inputs = device.put(&case.weights(0));
        inputs.push(device.put_step(step));
        inputs.extend(device.put_batch(&case, &config, 0));
        let found = Learned::new(device.run(&program, &inputs));

        let program = step::gradients_graph(&StepConfig { seed, ..scaled_config(&case, 0) });
        let mut inputs = case.single.of("step0/weight/", &case.variables());
        inputs.push(vec![step as f64]);
        inputs.extend(scaled_batch(&case, 0));
        let expected = Learned::new(evaluate(&program, &inputs));
        for (found, expected) in found.gradients.iter().zip(&expected.gradients) {
            assert!(checks::distance(found, expected) <= 1e-5);
        }
        let gradient = &expected.gradients[place];
        assert!(seen.iter().all(|other| checks::distance(gradient, other) > 0.1), "seed {seed}, step {step}");
        seen.push(gradient.clone());
    }
}
