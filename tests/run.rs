//! The program itself: a simulated data set from recordings to a model that Keras opens, and what it says to
//! those who use it wrongly.

use crate::support::{self, judge};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder for one test, with a cache of prepared shards of its own but the user's own plugins.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tpu-train"));
        command.args(args).current_dir(self.folder.path()).env("NO_COLOR", "1");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs, expects success, gives standard output.
    pub(crate) fn succeed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?} failed:\n{errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs, expects this exit code and one line of error, gives the line.
    pub(crate) fn fail(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}:\n{errors}");
        let said: Vec<&str> = errors.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(said.len(), 1, "one sentence expected of {args:?}:\n{errors}");
        said[0].to_owned()
    }

    /// A few seconds of recordings of a few persons.
    pub(crate) fn simulate(&self) {
        self.succeed(&["simulate", "--out", "recordings", "--subjects", "5", "--seconds", "1"]);
    }
}

/// Quick settings: 25 ms windows of the simulated recordings.
const QUICK: [&str; 12] = [
    "--data",
    "recordings",
    "--prepared",
    "shards",
    "--window",
    "500",
    "--stride",
    "1000",
    "--batch-size",
    "16",
    "--batch-norm-momentum",
    "0.9",
];

pub(crate) fn quick<'a>(first: &[&'a str], last: &[&'a str]) -> Vec<&'a str> {
    first.iter().chain(&QUICK).chain(last).copied().collect()
}

/// Opens a model in Keras and predicts the windows of recordings; prints probabilities.
const PREDICT_IN_KERAS: &str = r#"
import json, sys, keras
model = keras.saving.load_model(sys.argv[1])
batch = windows(sys.argv[4:], int(sys.argv[2]), int(sys.argv[3]))
probabilities = model.predict(batch, verbose=0).tolist()
print(json.dumps({"probabilities": probabilities, "iterations": int(model.optimizer.iterations.numpy())}))
"#;

#[test]
fn from_recordings_to_a_model_that_keras_opens() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let said = bench.succeed(&quick(&["train"], &["--epochs", "2", "--slices", "2", "--json"]));
    let summary: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((summary["replicas"].as_u64(), summary["part"].as_str()), (Some(2), Some("test")));
    let first = summary["epochs"][0]["loss"].as_f64().unwrap();
    let last = summary["epochs"][1]["loss"].as_f64().unwrap();
    assert!(last < first, "the loss does not fall: {first}, then {last}");

    // What the run reported, `eval` finds again in the saved model, on another number of slices.
    let eval = [
        "eval",
        "--model",
        "model.keras",
        "--data",
        "recordings",
        "--prepared",
        "shards",
        "--part",
        "test",
        "--json",
    ];
    let evaluated: Value = serde_json::from_str(&bench.succeed(&eval)).unwrap();
    assert_eq!(evaluated["metrics"]["confusion"], summary["metrics"]["confusion"]);
    let difference = evaluated["loss"].as_f64().unwrap() - summary["loss"].as_f64().unwrap();
    assert!(difference.abs() < 1e-5, "losses are {difference} apart");

    let recordings = ["recordings/MAT/ECGPCG0001.mat", "recordings/MAT/ECGPCG0007.mat"];
    let predict: Vec<&str> =
        ["predict", "--model", "model.keras", "--json"].into_iter().chain(recordings).collect();
    let predicted: Value = serde_json::from_str(&bench.succeed(&predict)).unwrap();
    let windows = predicted["windows"].as_array().unwrap();
    assert_eq!(windows.len(), 16, "two recordings of 8,000 samples, a window of 500 every 1,000");
    assert_eq!(
        (windows[9]["recording"].as_str(), windows[9]["start"].as_u64()),
        (Some("ECGPCG0007"), Some(1000))
    );

    let Some(judge) = judge::python() else { return };
    let model = bench.path("model.keras");
    let mut args = vec![model.to_str().unwrap().to_owned(), "500".into(), "1000".into()];
    args.extend(recordings.iter().map(|name| bench.path(name).to_str().unwrap().to_owned()));
    let keras: Value =
        serde_json::from_str(judge.run(&[judge::WINDOWS, PREDICT_IN_KERAS].concat(), &args).trim()).unwrap();
    assert_eq!(keras["iterations"].as_u64(), summary["steps"].as_u64());
    for (ours, theirs) in windows.iter().zip(keras["probabilities"].as_array().unwrap()) {
        let pairs = ours["probabilities"].as_array().unwrap().iter().zip(theirs.as_array().unwrap());
        for (ours, theirs) in pairs {
            let difference = ours.as_f64().unwrap() - theirs.as_f64().unwrap();
            assert!(difference.abs() < 1e-5, "{ours} here, {theirs} in Keras");
        }
    }
    check_logs(&judge, Path::new(summary["logs"].as_str().unwrap()), &bench);
}

/// Prints every scalar tag with its steps, through TensorBoard's own reader.
const READ_LOGS: &str = r#"
import json, sys
from tensorboard.backend.event_processing import event_accumulator
out = {}
for part in ("train", "validation"):
    events = event_accumulator.EventAccumulator(sys.argv[1] + "/" + part).Reload()
    tags = events.Tags()["tensors"]
    out[part] = {tag: [event.step for event in events.Tensors(tag)] for tag in tags}
print(json.dumps(out))
"#;

fn check_logs(judge: &judge::Judge, logs: &Path, bench: &Bench) {
    let folder = bench.folder.path().join(logs);
    let tags: Value = serde_json::from_str(judge.run(READ_LOGS, &[folder.as_os_str()]).trim()).unwrap();
    for tag in ["epoch_accuracy", "epoch_loss", "epoch_learning_rate"] {
        assert_eq!(tags["train"][tag], serde_json::json!([0, 1]), "{tag} in {tags}");
    }
    assert_eq!(tags["train"]["keras"], serde_json::json!([0]), "{tags}");
    for tag in ["epoch_accuracy", "epoch_loss"] {
        assert_eq!(tags["validation"][tag], serde_json::json!([0, 1]), "{tag} in {tags}");
    }
    assert!(tags["validation"]["evaluation_loss_vs_iterations"].is_array(), "{tags}");
}

#[test]
fn the_same_seed_gives_the_same_model_and_the_dump_shows_its_programs() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    for (out, logs) in [("a.keras", "a"), ("b.keras", "b")] {
        let settings = ["--epochs", "2", "--steps", "12", "--dropout", "0.5", "--out", out, "--logdir", logs];
        bench.succeed(&quick(&["train"], &[&settings[..], &["--xla-dump", "dump"]].concat()));
    }
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert!(read("a.keras") == read("b.keras"), "two runs of the same seed left different models");
    let (first, second) = (logged(&bench.path("a")), logged(&bench.path("b")));
    assert!(first.len() >= 15, "only {} values logged", first.len());
    assert_eq!(first, second, "two runs of the same seed logged different values");
    let saved = tpu_train::model::files::read_model(&bench.path("a.keras")).unwrap();
    let machine = &saved.details.unwrap().run["machine"];
    for known in ["plugin_build", "cpu", "threads", "slices"] {
        assert!(
            machine[known].is_u64() || machine[known].as_str().is_some_and(|s| !s.is_empty()),
            "{machine}"
        );
    }
    for name in ["train_step.before.txt", "train_step.after.txt", "evaluate.before.pb"] {
        let text = std::fs::read(bench.path("dump").join(name)).unwrap();
        assert!(text.len() > 1000, "{name} has {} bytes", text.len());
    }
    let optimized = std::fs::read_to_string(bench.path("dump/train_step.after.txt")).unwrap();
    assert!(optimized.contains("fusion"), "nothing was optimized");
}

/// Everything in the event files under a folder but the time it was written, bit by bit, file by file.
fn logged(folder: &Path) -> Vec<String> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let mut values = Vec::new();
    for path in entries {
        if path.is_dir() {
            values.extend(logged(&path));
            continue;
        }
        let events = tpu_train::events::read_events(&path).unwrap();
        values.extend(events.iter().map(|event| format!("{} {:?}", event.step, event.what)));
    }
    values
}

#[test]
fn the_header_prints_every_setting_of_the_sources_recipe() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let args = [
        "train",
        "--recipe",
        "source",
        "--data",
        "recordings",
        "--prepared",
        "shards",
        "--steps",
        "1",
        "--window",
        "100",
        "--stride",
        "250",
    ];
    let output = bench.run(&args);
    let header = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{header}");
    for line in [
        "recipe         source",
        "labels         Recording Scenario, by the source's exact match",
        "classes        5: ",
        "windows        100 samples every 250",
        "split          by random, validation on the test windows, test 0.1",
        "batch          512",
        "epochs         50, at most 1 steps",
        "order          as recorded",
        "seed           42",
        "learning rate  0.001, to 0.9 of it in 10000 steps",
        "dropout        0.5",
        "l2             0.01",
        "batch norm     local, momentum 0.99",
        "precision      f32",
        "machine        ",
        "weights        drawn with seed 42",
    ] {
        assert!(header.lines().any(|found| found.starts_with(line)), "{line:?} is missing:\n{header}");
    }
}

#[test]
fn wrong_use_gets_one_sentence_and_leaves_nothing_behind() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let train = |more: &[&'static str]| quick(&["train"], more);
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["train", "--data", "nowhere"], "no such folder"),
        (vec!["train", "--demo", "--data", "recordings"], "--demo"),
        (train(&["--epochs", "0"]), "--epochs"),
        (train(&["--label-column", "Shoe size"]), "Shoe size"),
        (train(&["--platform", "tpu"]), "TPU"),
        (train(&["--out", "model.txt"]), "model.txt"),
        (train(&["--plugin", "missing.so"]), "missing.so"),
        (train(&["--val-fraction", "0.95"]), "--val-fraction"),
        (vec!["eval", "--model", "none.keras", "--data", "recordings"], "none.keras"),
        (vec!["predict", "--model", "recordings/RECORDS", "x.mat"], "RECORDS"),
    ];
    for (args, expected) in cases {
        let said = bench.fail(1, &args);
        assert!(said.contains(expected), "{args:?} says: {said}");
        assert!(!bench.path("model.keras").exists(), "{args:?} left a model");
    }
    let output = bench.run(&["train", "--no-such-flag"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_file_over_the_process_s_limit_is_an_error_and_leaves_nothing() {
    let bench = Bench::new();
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 4; exec \"$0\" simulate --out recordings --subjects 5 --seconds 1"])
        .arg(env!("CARGO_BIN_EXE_tpu-train"))
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: ") && said.contains("File too large"), "{said}");
}

#[test]
fn a_batch_that_does_not_divide_is_refused_before_the_recordings_are_read() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    for more in [&["--slices", "3"][..], &["--devices-per-slice", "3"]] {
        let said = bench.fail(1, &quick(&["train"], more));
        assert!(said.contains("15, 18"), "{said}");
        assert!(!bench.path("shards").exists(), "{more:?}: recordings were prepared");
    }
}

#[test]
fn a_model_is_not_trained_that_could_not_be_saved() {
    let bench = Bench::new();
    bench.simulate();
    std::fs::create_dir(bench.path("folder.keras")).unwrap();
    let said = bench.fail(1, &quick(&["train"], &["--platform", "cpu", "--out", "folder.keras"]));
    assert!(said.contains("--out folder.keras is a folder"), "{said}");
}

#[test]
fn a_window_too_short_for_the_network_is_refused_with_the_shortest() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let args = ["train", "--data", "recordings", "--prepared", "shards", "--window", "9"];
    assert!(bench.fail(1, &args).contains("at least 10 samples"));
}

#[test]
fn a_batch_that_does_not_fit_into_memory_is_refused_with_the_largest_that_does() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let args = [
        "train",
        "--data",
        "recordings",
        "--prepared",
        "shards",
        "--window",
        "8000",
        "--batch-size",
        "65536",
    ];
    let said = bench.fail(1, &args);
    let (_, fits) = said.rsplit_once("--batch-size ").unwrap_or_else(|| panic!("{said}"));
    let fits: usize = fits.trim().parse().unwrap_or_else(|_| panic!("{said}"));
    assert!((1..65_536).contains(&fits), "{said}");
}

#[test]
fn the_two_real_recordings_are_learnt() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/ephnogram");
    if !data.is_dir() {
        eprintln!("skipped: {} is not there", data.display());
        return;
    }
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    // The first quarter of each window: the whole ones take four times as long.
    let args = [
        "train",
        "--data",
        data.to_str().unwrap(),
        "--prepared",
        "shards",
        "--label-column",
        "Subject ID",
        "--split",
        "random",
        "--epochs",
        "25",
        "--batch-size",
        "8",
        "--window",
        "2500",
        "--stride",
        "10000",
        "--batch-norm-momentum",
        "0.9",
        "--json",
    ];
    let summary: Value = serde_json::from_str(&bench.succeed(&args)).unwrap();
    let epochs = summary["epochs"].as_array().unwrap().iter();
    let accuracy = epochs.map(|epoch| epoch["accuracy"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!(accuracy >= 0.9, "training accuracy {accuracy}");
}
