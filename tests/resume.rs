//! `--resume`: a run that was stopped and gone on with is the run that was never stopped.

use crate::run::{Bench, quick};
use crate::support;
use serde_json::Value;

fn train(bench: &Bench, more: &[&str]) -> Value {
    let settings = ["--dropout", "0.5", "--lr-decay", "5:0.9", "--json"];
    let said = bench.succeed(&quick(&["train"], &[&settings[..], more].concat()));
    serde_json::from_str(&said).unwrap()
}

#[test]
fn a_run_stopped_within_an_epoch_and_resumed_equals_one_never_stopped() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let whole = train(&bench, &["--steps", "15", "--out", "whole.keras"]);
    train(&bench, &["--steps", "5", "--out", "parts.keras"]);
    let parts = train(&bench, &["--steps", "15", "--out", "parts.keras", "--resume"]);
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert!(read("whole.keras") == read("parts.keras"), "another model");
    assert_eq!(whole["epochs"].as_array().unwrap().len(), 2, "the steps lie in two epochs");
    for same in ["epochs", "steps", "loss", "metrics"] {
        assert_eq!(whole[same], parts[same], "{same}");
    }

    // A run that is complete is evaluated and left as it is.
    let again = train(&bench, &["--steps", "15", "--out", "parts.keras", "--resume"]);
    assert_eq!((&again["loss"], &again["steps"]), (&whole["loss"], &whole["steps"]));
    assert!(read("whole.keras") == read("parts.keras"), "a complete run was changed");

    let same = ["--dropout", "0.5", "--lr-decay", "5:0.9"];
    let resume = |more: &[&'static str]| {
        let settings = [&same[..], &["--resume", "--out", "parts.keras"], more].concat();
        bench.fail(1, &quick(&["train"], &settings))
    };
    assert!(resume(&["--seed", "43"]).contains("seed 42, this one 43"));
    assert!(resume(&["--precision", "bf16"]).contains(r#"precision "f32", this one "bf16""#));
    let said = resume(&["--test-fraction", "0.3"]);
    assert!(said.contains("test_fraction 0.1, this one 0.3"), "{said}");
    bench.succeed(&["simulate", "--out", "others", "--subjects", "5", "--seconds", "1", "--seed", "7"]);
    let others = quick(&["train"], &[&same[..], &["--resume", "--out", "parts.keras"]].concat())
        .into_iter()
        .map(|arg| match arg {
            "recordings" => "others",
            "shards" => "other-shards",
            arg => arg,
        });
    let said = bench.fail(1, &others.collect::<Vec<_>>());
    assert!(said.contains("learnt from other recordings"), "{said}");
    let missing = quick(&["train"], &["--resume", "--out", "none.keras"]);
    assert!(bench.fail(1, &missing).contains("none.keras"));
}

/// The model with this in what its run wrote down.
fn with_record(bench: &Bench, name: &str, key: &str, value: Value) {
    let model = std::fs::read(bench.path(name)).unwrap();
    let mut from = zip::ZipArchive::new(std::io::Cursor::new(model)).unwrap();
    let mut to = zip::ZipWriter::new(std::fs::File::create(bench.path(name)).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for place in 0..from.len() {
        let mut entry = from.by_index(place).unwrap();
        let (name, mut bytes) = (entry.name().unwrap().into_owned(), Vec::new());
        std::io::copy(&mut entry, &mut bytes).unwrap();
        if name == "tpu_train.json" {
            let mut json: Value = serde_json::from_slice(&bytes).unwrap();
            let run = json["details"]["run"].as_object_mut().unwrap();
            *run.get_mut(key).unwrap() = value.clone();
            bytes = serde_json::to_vec(&json).unwrap();
        }
        to.start_file(name, stored).unwrap();
        std::io::Write::write_all(&mut to, &bytes).unwrap();
    }
    to.finish().unwrap();
}

/// As a Ctrl-C between an epoch's last step and its validation leaves it.
#[test]
fn an_epoch_that_was_stopped_before_its_evaluation_is_evaluated_first() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let precise = ["--batch-norm-statistics", "precise", "--out"];
    let whole = train(&bench, &[&precise[..], &["whole.keras", "--epochs", "2"]].concat());
    train(&bench, &[&precise[..], &["parts.keras", "--epochs", "1"]].concat());
    with_record(&bench, "parts.keras", "unevaluated", true.into());
    let parts = train(&bench, &[&precise[..], &["parts.keras", "--epochs", "2", "--resume"]].concat());
    assert_eq!(whole["epochs"], parts["epochs"]);
    assert_eq!(parts["epochs"].as_array().unwrap().len(), 2);
    assert!(
        std::fs::read(bench.path("whole.keras")).unwrap()
            == std::fs::read(bench.path("parts.keras")).unwrap()
    );
}
