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
    let missing = quick(&["train"], &["--resume", "--out", "none.keras"]);
    assert!(bench.fail(1, &missing).contains("none.keras"));
}
