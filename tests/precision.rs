//! `--precision`: float32 products are float32 on every platform, bf16 ones learn as well.

use crate::run::{Bench, quick};
use crate::support;
use serde_json::Value;
use tpu_train::cli::PlatformArgs;
use tpu_train::data::{Batch, Samples};
use tpu_train::model::forms::Forms;
use tpu_train::model::inference::inference;
use tpu_train::model::network::{BatchNormScope, Precision};
use tpu_train::model::optimizer::{Adam, LearningRate};
use tpu_train::model::step::{self, StepConfig};
use tpu_train::model::{ModelConfig, initialize, trainable_variables};
use tpu_train::pjrt::{Platform, PlatformRequest};
use tpu_train::runtime::{Arg, HostTensor, Replicated};
use tpu_train::train::session::Session;
use tpu_train::train::trainer::Trainer;
use tpu_train_hlo::ElementType;
use tpu_train_hlo::random::uniform_host;
use tpu_train_proto::xla::precision_config::Precision as Operand;
use tpu_train_proto::xla::{HloModuleProto, PrimitiveType};

/// A reduced network on short windows.
fn model() -> ModelConfig {
    let mut model = ModelConfig::new(60, 2, 4);
    (model.conv_filters, model.lstm_units, model.dense_units) = ([16, 32], 16, 32);
    model.batch_norm_momentum = 0.9;
    model
}

fn config(model: ModelConfig, rows: usize, precision: Precision) -> StepConfig {
    StepConfig {
        model,
        optimizer: Adam::new(LearningRate::ExponentialDecay {
            initial: 5e-3,
            decay_steps: 100.0,
            decay_rate: 0.3,
        }),
        replicas: 1,
        rows,
        batch_norm: BatchNormScope::Synced,
        precision,
        samples: ElementType::F32,
        seed: 7,
        forms: Forms::CPU,
    }
}

fn session(rows: usize) -> Option<Session> {
    support::runtime(1)?;
    let args = PlatformArgs {
        platform: PlatformRequest::Only(Platform::Cpu),
        plugin: None,
        slices: Some(1),
        devices_per_slice: None,
    };
    Some(Session::start(&args, Some(rows), None).unwrap())
}

/// Windows of noise around a half, louder by `more` from class to class.
fn batch(seed: u32, rows: usize, model: &ModelConfig, more: f32) -> Batch {
    let labels: Vec<i32> = (0..rows).map(|row| (row % model.classes) as i32).collect();
    let length = model.window * model.channels;
    let sample = |i: usize| {
        let loudness = 0.25 + more * labels[i / length] as f32;
        0.5 + (uniform_host([seed, 1], i as u32) - 0.5) * loudness
    };
    Batch {
        samples: Samples::F32((0..rows * length).map(sample).collect()),
        places: Vec::new(),
        minimum: vec![0.0; rows * 2],
        range: vec![1.0; rows * 2],
        labels,
        weights: vec![1.0; rows],
        real_rows: rows,
    }
}

/// Operand types and precisions of every product in a module.
fn products(module: &HloModuleProto) -> Vec<(String, Vec<PrimitiveType>, Vec<Operand>, PrimitiveType)> {
    let mut found = Vec::new();
    for computation in &module.computations {
        let type_of = |id: i64| {
            let operand = computation.instructions.iter().find(|instruction| instruction.id == id).unwrap();
            operand.shape.as_ref().unwrap().element_type()
        };
        for instruction in &computation.instructions {
            if ["dot", "convolution"].contains(&instruction.opcode.as_str()) {
                let types = instruction.operand_ids.iter().map(|&id| type_of(id)).collect();
                let precision = instruction.precision_config.as_ref().unwrap();
                let result = instruction.shape.as_ref().unwrap().element_type();
                let precisions = precision.operand_precision().collect();
                found.push((instruction.name.clone(), types, precisions, result));
            }
        }
    }
    found
}

#[test]
fn every_product_is_computed_in_the_precision_asked_for() {
    let full = ModelConfig::new(500, 2, 6);
    for (precision, factor, operand) in [
        (Precision::F32, PrimitiveType::F32, Operand::Highest),
        (Precision::Bf16, PrimitiveType::Bf16, Operand::Default),
    ] {
        let config = config(full.clone(), 4, precision);
        let modules = [
            (step::train_step(&config).unwrap().module, 15),
            (step::evaluate(&config).unwrap().module, 6),
            (inference(&full, 4, precision).unwrap(), 6),
        ];
        for (module, at_least) in modules {
            let products = products(&module);
            assert!(products.len() >= at_least, "{} has only {} products", module.name, products.len());
            for (name, factors, operands, result) in products {
                assert_eq!(factors, [factor; 2], "{precision:?} {name} of {}", module.name);
                assert_eq!(operands, [operand; 2], "{precision:?} {name} of {}", module.name);
                assert_eq!(result, PrimitiveType::F32, "{name} accumulates in float32");
            }
        }
    }
}

fn gradients(session: &Session, config: &StepConfig, batch: &Batch) -> Vec<Vec<f32>> {
    let program = session.compile(step::gradients(config).unwrap()).unwrap();
    let mut inputs = session.replicate(&initialize::initial(&config.model, 3)).unwrap();
    inputs.push(session.runtime.replicate(&HostTensor::scalar_i32(0), 1).unwrap());
    inputs.extend(session.upload(batch, config).unwrap());
    let outputs = program.execute(inputs.iter().map(Arg::Borrow).collect()).unwrap();
    outputs.iter().map(|output| output.fetch(0).unwrap().to_f32().unwrap()).collect()
}

#[test]
fn the_gradients_of_bf16_lie_near_those_of_f32() {
    let Some(session) = session(16) else { return };
    let model = ModelConfig::new(203, 2, 6);
    let batch = batch(1, 16, &model, 0.25);
    let of = |precision| gradients(&session, &config(model.clone(), 16, precision), &batch);
    let (exact, rounded) = (of(Precision::F32), of(Precision::Bf16));
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let (mut all_errors, mut all_norms) = (Vec::new(), Vec::new());
    for ((spec, exact), rounded) in trainable_variables(&model).iter().zip(&exact).zip(&rounded) {
        let error = norm(&mut exact.iter().zip(rounded).map(|(a, b)| a - b));
        let length = norm(&mut exact.iter().copied());
        eprintln!("gradient of {}: bf16 is {:.2e} from f32", spec.name, error / length);
        assert!(error / length < 0.15, "the gradient of {} is {:.3} off", spec.name, error / length);
        assert!(error > 0.0, "the gradient of {} shows no rounding to bf16", spec.name);
        all_errors.push(error as f32);
        all_norms.push(length as f32);
    }
    let whole = norm(&mut all_errors.into_iter()) / norm(&mut all_norms.into_iter());
    eprintln!("whole gradient: bf16 is {whole:.2e} from f32");
    assert!(whole < 0.1, "the whole gradient is {whole:.3} from that of float32");
}

/// Validation accuracy after training on synthetic windows.
fn accuracy(session: &Session, precision: Precision, seed: u32) -> f64 {
    let (steps, rows, more) = (300, 32, 0.12);
    let config = config(model(), rows, precision);
    let program = session.compile(step::train_step(&config).unwrap()).unwrap();
    let weights = initialize::initial(&config.model, seed);
    let mut trainer = Trainer::new(session, &config, program, &weights, None).unwrap();
    for step in 0..steps {
        trainer.step(&batch(1000 * seed + step, rows, &config.model, more)).unwrap();
    }
    let program = session.compile(step::evaluate(&config).unwrap()).unwrap();
    let (mut right, mut all) = (0, 0);
    for number in 0..16 {
        let batch = batch(1_000_000 + number, rows, &config.model, more);
        let uploaded: Vec<Replicated> = session.upload(&batch, &config).unwrap();
        let arguments = trainer.variables().iter().chain(&uploaded).map(Arg::Borrow).collect();
        let probabilities = program.execute(arguments).unwrap()[0].fetch(0).unwrap().to_f32().unwrap();
        for (row, &label) in probabilities.chunks(config.model.classes).zip(&batch.labels) {
            right += usize::from(row.iter().all(|p| *p <= row[label as usize]));
            all += 1;
        }
    }
    right as f64 / all as f64
}

#[test]
fn bf16_reaches_the_accuracy_of_f32() {
    let Some(session) = session(32) else { return };
    let slow = std::env::var_os("TPU_TRAIN_SLOW").is_some();
    let seeds: &[u32] = if slow { &[1, 2, 3] } else { &[1] };
    if !slow {
        eprintln!("one seed of three: TPU_TRAIN_SLOW=1 trains all");
    }
    let of = |precision| seeds.iter().map(|&seed| accuracy(&session, precision, seed)).collect::<Vec<f64>>();
    let (exact, rounded) = (of(Precision::F32), of(Precision::Bf16));
    eprintln!("validation accuracy: f32 {exact:.3?}, bf16 {rounded:.3?}");
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let least = exact.iter().copied().fold(f64::INFINITY, f64::min);
    let spread = exact.iter().copied().fold(0.0, f64::max) - least;
    assert!(least > 0.6, "float32 itself learns nothing: {exact:?}");
    // One seed alone has no spread, and 512 windows tell no less than a hundredth.
    let spread = if slow { spread.max(0.01) } else { 0.05 };
    assert!(mean(&rounded) >= mean(&exact) - spread, "f32 {exact:?}, bf16 {rounded:?}");
}

#[test]
fn a_model_trained_in_bf16_is_evaluated_in_bf16() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let said = bench.succeed(&quick(&["train"], &["--steps", "2", "--precision", "bf16", "--json"]));
    let trained: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(trained["settings"]["precision"], "bf16");
    let eval = ["eval", "--model", "model.keras", "--data", "recordings", "--prepared", "shards"];
    let said = bench.succeed(&[&eval[..], &["--part", "test", "--batch-size", "16", "--json"]].concat());
    let evaluated: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(evaluated["loss"], trained["loss"]);
    bench.succeed(&["export", "--model", "model.keras", "--out", "model.hlo.txt"]);
    let text = std::fs::read_to_string(bench.path("model.hlo.txt")).unwrap();
    // What the first convolution sees of a window at each member of a pool: three samples of two channels.
    assert!(text.contains("bf16[249,6]"), "{text}");
}
