//! `tpu-train doctor` and what a run looks at first, through the program, in poisoned environments.

use crate::support;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tpu_train::pjrt::{Platform, Plugin, PluginFile, tpu_device_files_under};

/// Runs the program with these variables beside its own, in a folder without data.
fn run(args: &[&str], variables: &[(&str, &str)]) -> (Output, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tpu-train"));
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("MEGASCALE") || name.starts_with("TPU_"))
    {
        command.env_remove(name);
    }
    let output =
        command.args(args).envs(variables.iter().copied()).current_dir(folder.path()).output().unwrap();
    (output, start.elapsed())
}

fn errors(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn has_tpu() -> bool {
    !tpu_device_files_under(Path::new("/")).is_empty()
}

const JOB: [(&str, &str); 3] = [
    ("MEGASCALE_NUM_SLICES", "4"),
    ("MEGASCALE_SLICE_ID", "0"),
    ("MEGASCALE_COORDINATOR_ADDRESS", "gone.example:8080"),
];

#[test]
fn this_machine_is_fit_for_the_cpu() {
    if support::runtime(1).is_none() {
        return;
    }
    let (output, _) = run(&["doctor", "--platform", "cpu", "--json"], &[]);
    assert!(output.status.success(), "{output:?}");
    let report = report(&output);
    assert_eq!((report["platform"].as_str(), report["ready"].as_bool()), (Some("cpu"), Some(true)));
    let subjects: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|finding| finding["subject"].as_str())
        .collect();
    for subject in ["Multislice", "TPU devices", "hugepages", "disk", "memory", "plugin"] {
        assert!(subjects.contains(&subject), "{subject} is missing of {subjects:?}");
    }
    let (output, _) = run(&["doctor", "--platform", "cpu"], &JOB);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && said.contains("warning") && said.contains("→ unset MEGASCALE"),
        "{said}"
    );
}

#[test]
fn slices_of_another_job_are_refused_before_any_device_is_touched() {
    for (slices, variables, named) in [
        ("8", &JOB[..], "MEGASCALE_NUM_SLICES=4"),
        ("4", &JOB[1..], "MEGASCALE_NUM_SLICES is not set"),
        ("4", &JOB[..1], "MEGASCALE_SLICE_ID is not set"),
    ] {
        let args = ["--platform", "tpu", "--slices", slices];
        let (output, time) = run(&[&["train"][..], &args].concat(), variables);
        let said = errors(&output);
        assert_eq!((output.status.code(), said.len()), (Some(1), 1), "{said:?}");
        assert!(said[0].starts_with("error: ") && said[0].contains(named), "{said:?}");
        assert!(time < Duration::from_secs(2), "{time:?}");

        let (output, _) = run(&[&["doctor", "--json"][..], &args].concat(), variables);
        assert_eq!(output.status.code(), Some(1));
        let report = report(&output);
        assert_eq!(report["ready"], false);
        let first = &report["findings"][0];
        assert_eq!((first["subject"].as_str(), first["level"].as_str()), (Some("Multislice"), Some("fatal")));
        assert!(first["text"].as_str().unwrap().contains(named) && first["remedy"].is_string(), "{first}");
    }
}

#[test]
fn no_tpu_is_said_within_two_seconds_whatever_the_environment_says() {
    if has_tpu() {
        return eprintln!("skipped: this machine has a TPU");
    }
    let poisoned = [
        ("TPU_SKIP_MDS_QUERY", "0"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-16"),
        ("TPU_WORKER_ID", "7"),
        ("TPU_WORKER_HOSTNAMES", "gone.example"),
        ("TPU_PROCESS_ADDRESSES", "gone.example:8471"),
    ];
    for variables in [&[][..], &poisoned[..]] {
        for command in [&["train"][..], &["eval", "--model", "m.keras"], &["doctor"]] {
            let (output, time) = run(&[command, &["--platform", "tpu"]].concat(), variables);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(time < Duration::from_secs(2), "{command:?} took {time:?}");
        }
        let (output, _) = run(&["train", "--platform", "tpu"], variables);
        let said = errors(&output);
        assert!(said.len() == 1 && said[0].contains("no TPU device files"), "{said:?}");
    }
    // A TPU plugin that is named does not make `auto` mean a TPU, but that it is passed by is said.
    let library = tempfile::NamedTempFile::new().unwrap();
    let variables = [("TPU_LIBRARY_PATH", library.path().to_str().unwrap()), ("TPU_SKIP_MDS_QUERY", "0")];
    let (output, time) = run(&["doctor", "--json"], &variables);
    let report = report(&output);
    let devices =
        report["findings"].as_array().unwrap().iter().find(|f| f["subject"] == "TPU devices").unwrap();
    assert_eq!((&report["platform"], &devices["level"]), (&"cpu".into(), &"warning".into()), "{report}");
    assert!(devices["text"].as_str().unwrap().starts_with("TPU_LIBRARY_PATH is set, but"), "{devices}");
    assert!(time < Duration::from_secs(2), "{time:?}");
}

/// A library that says of itself that it is a plugin of this version with so many functions; none can be called.
fn pretended_plugin(folder: &Path, major: i32, minor: i32, functions: usize) -> Option<PathBuf> {
    // A library stays loaded in this process: none may be written over.
    let (source, library) = (folder.join("plugin.c"), folder.join(format!("plugin-{major}-{minor}.so")));
    let text = format!(
        "#include <stddef.h>\n\
         static struct {{ size_t size; void *extensions; struct {{ size_t size; void *extensions; int major, minor; }} version;\n\
         void *functions[{functions}]; }} api = {{ sizeof api, 0, {{ 24, 0, {major}, {minor} }}, {{ 0 }} }};\n\
         const void *GetPjrtApi(void) {{ return &api; }}\n"
    );
    std::fs::write(&source, text).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    match compiled {
        Ok(status) if status.success() => Some(library),
        other => {
            eprintln!("skipped: no C compiler: {other:?}");
            None
        }
    }
}

#[test]
fn plugins_of_other_versions_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (major, minor, functions, expected) in [
        (0, 20, 60, "speaks PJRT C API 0.20 and has 60 functions, expected at least 71: it is too old"),
        (1, 2, 143, "speaks PJRT C API 1.2, expected 0.x"),
    ] {
        let Some(library) = pretended_plugin(folder.path(), major, minor, functions) else { return };
        let library = library.to_str().unwrap();
        let (output, _) = run(&["doctor", "--platform", "cpu", "--plugin", library, "--json"], &[]);
        assert_eq!(output.status.code(), Some(1));
        let report = report(&output);
        let plugin = report["findings"].as_array().unwrap().last().unwrap();
        assert_eq!((plugin["subject"].as_str(), plugin["level"].as_str()), (Some("plugin"), Some("fatal")));
        assert!(plugin["text"].as_str().unwrap().contains(expected), "{plugin}");
        let file = PluginFile { platform: Platform::Cpu, path: library.into(), origin: "the test".into() };
        let error = Plugin::load(&file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let Some(library) = pretended_plugin(folder.path(), 0, 900, 300) else { return };
    let (output, _) = run(&["doctor", "--platform", "cpu", "--plugin", library.to_str().unwrap()], &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("PJRT C API 0.900: newer than 0.117"), "{said}");
}
