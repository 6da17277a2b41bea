//! `tpu-train bench`, and the ways of feeding a step that it compares: however the windows come, and however many
//! steps an execution takes, the model is the same. No figure is asserted; benches print them.

use crate::run::{Bench, quick};
use crate::support;
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

/// Trains for 17 steps of three epochs, the last batch of each partial; the model's bytes.
fn trained(bench: &Bench, name: &str, more: &[&str]) -> Vec<u8> {
    let settings = ["--epochs", "3", "--steps", "26", "--dropout", "0.5", "--out", "model.keras"];
    bench.succeed(&quick(&["train"], &[&settings[..], more].concat()));
    let kept = bench.path(name);
    std::fs::rename(bench.path("model.keras"), &kept).unwrap();
    std::fs::read(kept).unwrap()
}

#[test]
fn every_cache_and_every_number_of_steps_at_once_trains_the_same_model() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    for slices in ["1", "2"] {
        let plain = trained(&bench, "plain.keras", &["--slices", slices, "--cache", "none"]);
        for (cache, at_once) in [("host", "1"), ("device", "1"), ("none", "4"), ("device", "3")] {
            let more = ["--slices", slices, "--cache", cache, "--steps-per-execution", at_once];
            let other = trained(&bench, "other.keras", &more);
            assert!(plain == other, "{slices} slices, cache {cache}, {at_once} steps at once: another model");
        }
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
    assert!(said.contains("the loss is no longer a number after step 2 (epoch 1)"), "{said}");
    assert_eq!(said, diverging(&["--steps-per-execution", "4"]), "steps at once hide which one it was");
    assert!(!bench.path("model.keras").exists(), "a model that is no model was saved");
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
