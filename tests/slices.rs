//! `--slices`: eight replicas train the model that one trains.

use crate::support;
use tpu_train::cli::PlatformArgs;
use tpu_train::data::{Batch, Samples};
use tpu_train::model::forms::Forms;
use tpu_train::model::network::{BatchNormScope, Precision};
use tpu_train::model::optimizer::{Adam, LearningRate};
use tpu_train::model::step::{self, StepConfig};
use tpu_train::model::{ModelConfig, initialize, trainable_variables};
use tpu_train::pjrt::{Platform, PlatformRequest};
use tpu_train::runtime::{Arg, HostTensor};
use tpu_train::train::session::Session;
use tpu_train::train::trainer::Trainer;
use tpu_train_hlo::ElementType;
use tpu_train_hlo::random::uniform_host;

/// Short enough to be quick; leaves a remainder in both pools.
const WINDOW: usize = 203;

fn session(slices: usize, batch_size: usize) -> Option<Session> {
    support::runtime(1)?;
    let args = PlatformArgs {
        platform: PlatformRequest::Only(Platform::Cpu),
        plugin: None,
        slices: Some(slices),
        devices_per_slice: None,
    };
    Some(Session::start(&args, Some(batch_size), None).unwrap())
}

fn config(session: &Session, batch_norm: BatchNormScope, dropout: f64) -> StepConfig {
    let mut model = ModelConfig::new(WINDOW, 2, 6);
    model.dropout = dropout;
    StepConfig {
        model,
        optimizer: Adam::new(LearningRate::Constant(1e-3)),
        replicas: session.mesh.replicas(),
        rows: session.rows,
        batch_norm,
        precision: Precision::F32,
        samples: ElementType::S16,
        seed: 7,
        forms: Forms::CPU,
    }
}

/// `real` windows whose loudness tells their class, and padding up to `rows`.
fn batch(seed: u32, real: usize, rows: usize) -> Batch {
    let labels: Vec<i32> = (0..rows).map(|row| if row < real { (row % 6) as i32 } else { 0 }).collect();
    let length = WINDOW * 2;
    let sample = |i: usize| {
        let (row, draw) = (i / length, uniform_host([seed, 1], i as u32));
        if row < real { ((draw - 0.5) * 300.0 * (1 + labels[row]) as f32) as i16 } else { 0 }
    };
    Batch {
        samples: Samples::I16((0..rows * length).map(sample).collect()),
        places: Vec::new(),
        minimum: (0..rows * 2).map(|i| if i / 2 < real { -1000.0 } else { 0.0 }).collect(),
        range: (0..rows * 2).map(|i| if i / 2 < real { 2000.0 } else { 1.0 }).collect(),
        labels,
        weights: (0..rows).map(|row| f32::from(u8::from(row < real))).collect(),
        real_rows: real,
    }
}

/// Gradients, moving statistics and metrics of one step from the initial weights.
fn gradients(session: &Session, config: &StepConfig, batch: &Batch) -> Vec<(String, Vec<f32>)> {
    let program = session.compile(step::gradients(config).unwrap()).unwrap();
    let mut inputs = session.replicate(&initialize::initial(&config.model, 3)).unwrap();
    inputs.push(session.runtime.replicate(&HostTensor::scalar_i32(0), config.replicas).unwrap());
    inputs.extend(session.upload(batch, config).unwrap());
    let outputs = program.execute(inputs.iter().map(Arg::Borrow).collect()).unwrap();
    let names = trainable_variables(&config.model).into_iter().map(|spec| spec.name);
    let names = names.chain(["moving mean", "moving variance", "metrics"].map(str::to_owned));
    names
        .zip(outputs)
        .map(|(name, output)| {
            let replicas = output.fetch_all().unwrap();
            assert!(replicas.iter().all(|other| other == &replicas[0]), "{name} differs between replicas");
            (name, replicas[0].to_f32().unwrap())
        })
        .collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b))).max(1e-30)
}

fn assert_close(found: &[(String, Vec<f32>)], expected: &[(String, Vec<f32>)], bound: f64) {
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let distance = distance(found, expected);
        assert!(distance <= bound, "{name}: {distance:e} apart");
    }
}

#[test]
fn eight_slices_give_the_gradients_of_one() {
    let (Some(one), Some(eight)) = (session(1, 16), session(8, 16)) else { return };
    let batch = batch(1, 16, 16);
    for dropout in [0.0, 0.5] {
        let expected = gradients(&one, &config(&one, BatchNormScope::Synced, dropout), &batch);
        let found = gradients(&eight, &config(&eight, BatchNormScope::Synced, dropout), &batch);
        assert_close(&found, &expected, 1e-5);
    }
}

#[test]
fn a_last_batch_of_one_window_counts_as_one_window() {
    let (Some(one), Some(eight)) = (session(1, 1), session(8, 16)) else { return };
    let expected = gradients(&one, &config(&one, BatchNormScope::Synced, 0.0), &batch(2, 1, 1));
    let found = gradients(&eight, &config(&eight, BatchNormScope::Synced, 0.0), &batch(2, 1, 16));
    assert_close(&found, &expected, 1e-5);
    let weight = found.last().map(|(_, metrics)| metrics[2]);
    assert_eq!(weight, Some(1.0));
}

#[test]
fn local_statistics_leave_padding_replicas_out() {
    let (Some(one), Some(eight)) = (session(1, 2), session(8, 16)) else { return };
    // Two windows fill the first replica; the other seven hold padding alone.
    let expected = gradients(&one, &config(&one, BatchNormScope::Local, 0.0), &batch(2, 2, 2));
    let found = gradients(&eight, &config(&eight, BatchNormScope::Local, 0.0), &batch(2, 2, 16));
    assert_close(&found, &expected, 1e-5);
}

#[test]
fn ten_steps_over_eight_slices_follow_those_of_one() {
    let (Some(one), Some(eight)) = (session(1, 16), session(8, 16)) else { return };
    let losses = |session: &Session| {
        let config = config(session, BatchNormScope::Synced, 0.0);
        let program = session.compile(step::train_step(&config).unwrap()).unwrap();
        let weights = initialize::initial(&config.model, 3);
        let mut trainer = Trainer::new(session, &config, program, &weights, None).unwrap();
        let losses: Vec<f64> =
            (0..10).map(|step| trainer.step(&batch(step, 16, 16)).unwrap().loss()).collect();
        for (spec, variable) in tpu_train::model::variables(&config.model).iter().zip(trainer.variables()) {
            let replicas = variable.fetch_all().unwrap();
            assert!(replicas.iter().all(|other| other == &replicas[0]), "{} differs", spec.name);
        }
        losses
    };
    let (expected, found) = (losses(&one), losses(&eight));
    for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert!((expected - found).abs() <= 1e-4, "step {step}: {found} against {expected}");
    }
    assert!(found[9] < found[0], "the loss does not fall: {found:?}");
}
