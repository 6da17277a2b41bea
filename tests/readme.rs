//! Every command of the README runs, on simulated recordings and with settings that make it quick.

use crate::support;
use std::path::Path;
use std::process::Command;

/// Added to commands that train, so that they end in seconds.
const QUICK: &str = " --steps 2 --window 500 --stride 4000 --batch-size 16 --batch-norm-momentum 0.9";

/// Added to commands that measure.
const QUICK_BENCH: &str = " --batch-size 8 --window 80 --steps 1 --warmup 1 --no-product";

/// What runs elsewhere, and where.
fn run_elsewhere(command: &str) -> Option<&'static str> {
    [
        ("cargo run --release -- --demo", "by CI"),
        ("cargo test", "by CI: it runs this test"),
        ("wget", "nowhere: the data set's server is not asked"),
        ("pip install tensorboard", "by the judges' own installation"),
        ("tensorboard", "by the tests of events, through its reader"),
        ("tpu-train bench --growth", "by the tests of bench"),
        ("python3 tests/bench/compare", "by hand, on a machine that does nothing else"),
        ("tpu-train compile", "by the tests of aot, where libtpu is installed"),
        ("tpu-train plugin install", "by the tests of pjrt, into folders of their own"),
    ]
    .into_iter()
    .find(|(start, _)| command.starts_with(start))
    .map(|(_, place)| place)
}

/// The lines of the README's shell blocks, without their comments.
fn commands(readme: &str) -> Vec<String> {
    let mut inside = false;
    let mut commands = Vec::new();
    for line in readme.lines() {
        match (inside, line) {
            (false, "```sh") => inside = true,
            (true, "```") => inside = false,
            (true, line) => {
                let command = line.split(" #").next().unwrap_or_default().trim();
                commands.extend(Some(command.to_owned()).filter(|command| !command.is_empty()));
            }
            _ => {}
        }
    }
    commands
}

#[test]
fn every_command_of_the_readme_runs() {
    if support::runtime(1).is_none() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commands = commands(&std::fs::read_to_string(root.join("README.md")).unwrap());
    assert!(commands.len() >= 12, "only {} commands found", commands.len());
    let folder = tempfile::tempdir().unwrap();
    let recordings = folder.path().join("physionet.org/files/ephnogram/1.0.0");
    let program = env!("CARGO_BIN_EXE_tpu-train");
    let simulate = format!("{program} simulate --out {} --subjects 5 --seconds 1", recordings.display());
    run(&simulate, folder.path());
    for command in commands {
        if let Some(place) = run_elsewhere(&command) {
            eprintln!("skipped here: `{command}` runs {place}");
            continue;
        }
        let trains =
            ["-- train", "tpu-train train", "tpu-train --"].iter().any(|start| command.contains(start));
        let quick = match command.contains("tpu-train bench") {
            true => QUICK_BENCH,
            false if trains => QUICK,
            false => "",
        };
        let settings = command
            .replace("tpu-train ", &format!("{program} "))
            .replace("cargo run --release --", program)
            .replace("simulate --out DIR", "simulate --out OTHER")
            .replace("--data DIR", &format!("--data {}", recordings.display()))
            .replace("--input DIR", &format!("--input {}", recordings.display()))
            .replace("--prepare DIR", &format!("--prepare {}", recordings.display()))
            .replace("DIR/MAT", &format!("{}/MAT", recordings.display()));
        run(&format!("{settings}{quick}"), folder.path());
    }
}

fn run(command: &str, folder: &Path) {
    let output = Command::new("sh").args(["-c", command]).current_dir(folder).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}` failed:\n{errors}");
}
