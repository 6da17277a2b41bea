//! `--batch-norm-statistics precise`: what evaluation normalises with is what Keras finds in all training windows.

use crate::run::{Bench, quick};
use crate::support::{self, judge};
use serde_json::Value;

const PRECISE: [&str; 3] = ["--batch-norm-statistics", "precise", "--json"];

/// How far the saved statistics are from those of the layers' outputs on all windows of the recordings, in float64:
/// means in standard deviations, variances in variances; features that are constant are left out.
const DISTANCES_IN_KERAS: &str = r#"
import json, sys, keras
model = keras.saving.load_model(sys.argv[1])
batch = windows(sys.argv[4:], int(sys.argv[2]), int(sys.argv[3]))
place = next(i for i, layer in enumerate(model.layers) if isinstance(layer, keras.layers.BatchNormalization))
front = keras.Sequential(model.layers[:place])
outputs = front.predict(batch, verbose=0).astype(numpy.float64)
mean, variance = outputs.mean((0, 1)), outputs.var((0, 1))
live = variance > 1e-9
norm = model.layers[place]
off = [
    abs(norm.moving_mean.numpy() - mean)[live] / numpy.sqrt(variance[live]),
    abs(norm.moving_variance.numpy() - variance)[live] / variance[live],
]
print(json.dumps({"windows": len(batch), "live": int(live.sum()), "off": [float(v.max()) for v in off]}))
"#;

#[test]
fn precise_statistics_are_those_of_all_training_windows_in_keras() {
    if support::runtime(1).is_none() {
        return;
    }
    let Some(judge) = judge::python() else { return };
    let bench = Bench::new();
    bench.simulate();
    let all = ["--val-fraction", "0", "--test-fraction", "0", "--slices", "2", "--steps", "5"];
    bench.succeed(&quick(&["train"], &[&PRECISE[..], &all].concat()));
    let mut args = vec![bench.path("model.keras").display().to_string(), "500".into(), "1000".into()];
    let recordings = bench.path("recordings/MAT").read_dir().unwrap();
    args.extend(recordings.map(|entry| entry.unwrap().path().display().to_string()));
    let said: Value =
        serde_json::from_str(judge.run(&[judge::WINDOWS, DISTANCES_IN_KERAS].concat(), &args).trim())
            .unwrap();
    assert_eq!(said["windows"], 240);
    assert!(said["live"].as_u64().unwrap() > 64, "{said}");
    for off in said["off"].as_array().unwrap() {
        assert!(off.as_f64().unwrap() < 1e-5, "{said}");
    }
}

#[test]
fn a_run_with_precise_statistics_is_gone_on_with_bit_for_bit() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let train = |more: &[&str]| bench.succeed(&quick(&["train"], &[&PRECISE[..], more].concat()));
    train(&["--steps", "15", "--out", "whole.keras"]);
    train(&["--steps", "5", "--out", "parts.keras"]);
    train(&["--steps", "15", "--out", "parts.keras", "--resume"]);
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert!(read("whole.keras") == read("parts.keras"), "another model");
    let moving = quick(&["train"], &["--steps", "15", "--out", "parts.keras", "--resume"]);
    let said = bench.fail(1, &moving);
    assert!(said.contains(r#"batch_norm_statistics "precise", this one "moving""#), "{said}");
}
