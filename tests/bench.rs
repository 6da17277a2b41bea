//! `tpu-train bench`, and the ways of feeding a step that it compares: however the windows come, and however many
//! steps an execution takes, the model is the same (bit for bit, or up to rounding). No figure is asserted; benches print them.

use crate::run::{Bench, quick};
use crate::support;
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tpu_train::cli::PlatformArgs;
use tpu_train::data::{Batch, Samples};
use tpu_train::model::execution::{Execution, train_steps};
use tpu_train::model::forms::Forms;
use tpu_train::model::network::{BatchNormScope, Precision};
use tpu_train::model::optimizer::{Adam, LearningRate};
use tpu_train::model::step::StepConfig;
use tpu_train::model::{ModelConfig, initialize};
use tpu_train::pjrt::{Platform, PlatformRequest};
use tpu_train::train::session::Session;
use tpu_train::train::trainer::Trainer;
use tpu_train_hlo::ElementType;

/// What `tests/bench/compare.py` reads of every peer.
const KEYS_OF_PEERS: [&str; 7] = [
    "peer",
    "batch",
    "first_step_seconds",
    "step_seconds",
    "windows_per_second",
    "median_windows_per_second",
    "peak_rss_mb",
];

fn parse(said: &str) -> Value {
    serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}:\n{said}"))
}

#[test]
fn the_report_has_the_peers_keys_and_figures_that_fit_together() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    let tiny = ["bench", "--json", "--batch-size", "6", "--window", "50", "--steps", "3", "--warmup", "1"];
    let report = parse(&bench.succeed(&[&tiny[..], &["--slices", "2", "--precision", "bf16"]].concat()));
    for key in
        KEYS_OF_PEERS.iter().chain(&["compile_seconds", "startup_seconds", "cpu_ms_per_window", "gflops"])
    {
        assert!(!report[key].is_null(), "{key} is missing in {report}");
    }
    let mut steps: Vec<f64> =
        report["step_seconds"].as_array().unwrap().iter().map(|step| step.as_f64().unwrap()).collect();
    steps.sort_by(f64::total_cmp);
    assert_eq!((steps.len(), report["batch"].as_u64(), report["slices"].as_u64()), (3, Some(6), Some(2)));
    for (key, seconds) in [("windows_per_second", steps[0]), ("median_windows_per_second", steps[1])] {
        let rate = report[key].as_f64().unwrap() * seconds;
        assert!((rate - 6.0).abs() < 1e-6, "{key} is not 6 windows in {seconds} s: {report}");
    }
    let share = report["gflops"].as_f64().unwrap() / report["matmul_gflops"].as_f64().unwrap();
    assert!((share - report["matmul_share"].as_f64().unwrap()).abs() < 1e-9, "{report}");
    assert!(report["startup_seconds"].as_f64().unwrap() > report["compile_seconds"].as_f64().unwrap());
}

#[test]
fn data_preparing_and_growth_are_measured_too() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let prepared = parse(&bench.succeed(&["bench", "--prepare", "recordings", "--json"]));
    // 30 recordings of 1 s at 8 kHz, two channels of 16 bits.
    assert_eq!(
        (prepared["recordings"].as_u64(), prepared["shard_bytes"].as_u64()),
        (Some(30), Some(960_000))
    );
    bench.succeed(&["prepare", "--data", "recordings", "--prepared", "shards"]);
    let input =
        ["bench", "--input", "shards", "--json", "--batch-size", "8", "--window", "100", "--steps", "5"];
    for more in [&["--cache", "host"][..], &["--steps-per-execution", "2", "--cache", "device"]] {
        let report = parse(&bench.succeed(&[&input[..], more].concat()));
        let share = report["waiting_share"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share), "{report}");
    }
    let growth = ["bench", "--growth", "--json", "--batch-size", "4", "--window", "80", "--steps", "1"];
    let growth = parse(&bench.succeed(&[&growth[..], &["--warmup", "1"]].concat()));
    let sizes = |grows: &str, size: &str| -> Vec<u64> {
        growth[grows].as_array().unwrap().iter().map(|report| report[size].as_u64().unwrap()).collect()
    };
    assert_eq!(sizes("batch", "batch"), [1, 2, 4, 8, 16]);
    assert_eq!(sizes("window", "window"), [10, 20, 40, 80, 160, 320, 640]);
    assert_eq!(sizes("slices", "slices"), [1, 2, 4]);
    let refused = bench.run(&["bench", "--cache", "host"]);
    assert_eq!(refused.status.code(), Some(2), "a cache of nothing was accepted");
}

/// Trains for some steps of two epochs, the last batch of each partial; the model's bytes.
fn trained(bench: &Bench, more: &[&str]) -> Vec<u8> {
    let settings = ["--epochs", "2", "--steps", "15", "--dropout", "0.5"];
    bench.succeed(&quick(&["train"], &[&settings[..], more].concat()));
    std::fs::read(bench.path("model.keras")).unwrap()
}

#[test]
fn every_cache_trains_the_same_model() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    for slices in ["1", "2"] {
        let train = |cache, at_once| {
            trained(&bench, &["--slices", slices, "--cache", cache, "--steps-per-execution", at_once])
        };
        let plain = train("none", "1");
        for cache in ["host", "device"] {
            assert!(plain == train(cache, "1"), "{slices} slices, cache {cache}: another model");
        }
    }
}

/// One step on each of `batches`, at most `at_once` in one execution; the losses and the first kernel.
fn steps(runtime_replicas: usize, at_once: usize, steps: u32) -> Option<(Vec<f64>, Vec<f32>)> {
    let platform = PlatformArgs {
        platform: PlatformRequest::Only(Platform::Cpu),
        plugin: None,
        slices: Some(runtime_replicas),
        devices_per_slice: None,
    };
    support::runtime(1)?;
    let session = Session::start(&platform, Some(8), None).unwrap();
    let model =
        ModelConfig { conv_filters: [8, 8], lstm_units: 8, dense_units: 8, ..ModelConfig::new(64, 2, 3) };
    let config = StepConfig {
        optimizer: Adam::new(LearningRate::Constant(1e-3)),
        replicas: session.mesh.replicas(),
        rows: session.rows,
        batch_norm: BatchNormScope::Synced,
        precision: Precision::F32,
        samples: ElementType::S16,
        seed: 3,
        forms: Forms::CPU,
        model,
    };
    let execution = Execution { steps: at_once, held: None };
    let program = session.compile(train_steps(&config, &execution).unwrap()).unwrap();
    let weights = initialize::initial(&config.model, 5);
    let trainer = Trainer::new(&session, &config, program, &weights, None).unwrap();
    let mut trainer = trainer.with_execution(execution, None);
    let batches: Vec<_> = (0..steps).map(|step| trainer.upload(&batch(step)).unwrap()).collect();
    let mut losses = Vec::new();
    for together in batches.chunks(at_once) {
        let outcomes = trainer.launch(together, false).unwrap().wait().unwrap();
        losses.extend(outcomes.iter().map(|outcome| outcome.totals.loss()));
    }
    assert_eq!((losses.len(), trainer.iteration()), (steps as usize, steps.into()));
    Some((losses, trainer.fetch().unwrap().0[0].values.clone()))
}

/// Eight windows, the last two of them padding.
fn batch(step: u32) -> Batch {
    let sample = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 20) as i16) - 2048;
    Batch {
        samples: Samples::I16((0..8 * 64 * 2).map(|i| sample(i + 1000 * step)).collect()),
        places: Vec::new(),
        minimum: vec![-2048.0; 16],
        range: vec![4095.0; 16],
        labels: (0..8).map(|row| row % 3).collect(),
        weights: [[1.0; 6].as_slice(), &[0.0; 2]].concat(),
        real_rows: 6,
    }
}

#[test]
fn steps_in_one_execution_are_the_same_steps_up_to_rounding() {
    for replicas in [1, 2] {
        let Some((losses, kernel)) = steps(replicas, 1, 7) else { return };
        let (four_losses, four_kernel) = steps(replicas, 4, 7).unwrap();
        for (step, (one, four)) in losses.iter().zip(&four_losses).enumerate() {
            assert!((one - four).abs() < 1e-4, "step {step}: loss {one}, in one execution {four}");
        }
        let away = kernel.iter().zip(&four_kernel).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(away < 1e-4, "{replicas} replicas: the first kernel is {away} away");
        // How many steps an execution could take does not matter, only that there is a loop.
        assert_eq!((four_losses, four_kernel), steps(replicas, 3, 7).unwrap());
    }
}

#[test]
fn a_loss_that_is_no_number_names_its_step() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let diverging = |more: &[&'static str]| {
        bench.fail(1, &quick(&["train"], &[&["--learning-rate", "1e30", "--epochs", "2"], more].concat()))
    };
    let said = diverging(&[]);
    assert!(
        said.contains("the loss is no longer a number after step 2 (epoch 1); model.keras is as it was"),
        "{said}"
    );
    assert_eq!(said, diverging(&["--steps-per-execution", "4"]), "steps at once hide which one it was");
    let weights = ["--learning-rate", "1e38", "--epochs", "1", "--steps", "1"];
    let said = bench.fail(1, &quick(&["train"], &weights));
    assert!(said.contains("the loss of the validation windows is no longer a number after step 1"), "{said}");
    assert!(!bench.path("model.keras").exists(), "a model that is no model was saved");
    let said = bench.fail(1, &quick(&["train"], &["--steps-per-execution", "500"]));
    assert!(said.contains("--steps-per-execution 500 is more than the"), "{said}");
}

#[test]
fn an_interrupted_run_ends_soon_and_keeps_the_model_of_the_step_it_names() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let mut args =
        quick(&["train"], &["--epochs", "100000", "--steps-per-execution", "2", "--val-fraction", "0"]);
    args.extend(["--test-fraction", "0"]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_tpu-train"))
        .args(&args)
        .current_dir(bench.path(""))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !bench.path("model.keras").exists() {
        assert!(began.elapsed() < Duration::from_secs(300), "no epoch came to its end");
        std::thread::sleep(Duration::from_millis(50));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{errors}");
    let saved = tpu_train::model::files::read_model(&bench.path("model.keras")).unwrap();
    let step = saved.optimizer.unwrap().iteration;
    assert!(errors.contains(&format!("stopped after step {step};")), "step {step} was saved:\n{errors}");
}
