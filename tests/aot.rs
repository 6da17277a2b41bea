//! `compile`: through the binary, with libtpu where it is there and without.

mod optimized;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tpu_train::deploy::accelerator::Slice;
use tpu_train::model::ModelConfig;
use tpu_train::model::forms::Forms;
use tpu_train::model::network::{BatchNormScope, Precision};
use tpu_train::model::optimizer::{Adam, LearningRate};
use tpu_train::model::step::{self, StepConfig};
use tpu_train::pjrt::install::InstallOptions;
use tpu_train::pjrt::{Platform, PluginFile, plugin};
use tpu_train_hlo::ElementType;

use crate::run::{Bench, quick};
use crate::support;

/// Bytes of all trainable variables: what the gradients' all-reduce must move, and nothing larger.
const GRADIENTS: u64 = 83_910 * 4;

fn compile(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tpu-train"));
    // libtpu sets variables of a job itself, in the process of the tests that load it.
    for (name, _) in std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))) {
        if name.starts_with("TPU_WORKER") || name.starts_with("MEGASCALE_") {
            command.env_remove(name);
        }
    }
    command.arg("compile").args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one object on stdout.
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// libtpu where it is installed, or may be downloaded (137 MB, 467 MB unpacked).
fn libtpu() -> Option<PluginFile> {
    support::prepare();
    let found = plugin::find(Platform::Tpu).unwrap();
    if found.is_none() && std::env::var_os("TPU_TRAIN_SLOW").is_none() && std::env::var_os("CI").is_none() {
        eprintln!("skipped: libtpu is not installed; TPU_TRAIN_SLOW=1 downloads it");
        return None;
    }
    found.or_else(|| {
        let file = plugin::install_file(Platform::Tpu, &InstallOptions::from_environment().unwrap());
        file.inspect_err(|error| eprintln!("skipped: {error}")).ok()
    })
}

/// Whether the compilations that take minutes are wanted.
fn slow() -> bool {
    let wanted = std::env::var_os("TPU_TRAIN_SLOW").is_some();
    if !wanted {
        eprintln!(
            "skipped: TPU_TRAIN_SLOW=1 compiles training steps for several slices, which takes minutes"
        );
    }
    wanted
}

#[test]
fn without_libtpu_one_sentence_says_what_to_do() {
    if Path::new("/lib/libtpu.so").exists() {
        eprintln!("skipped: this machine has a libtpu of its own");
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let output = compile(&["--topology", "v5litepod-8"])
        .env("XDG_CACHE_HOME", empty.path())
        .env_remove("TPU_LIBRARY_PATH")
        .env_remove("PJRT_NAMES_AND_LIBRARY_PATHS")
        .output()
        .unwrap();
    let errors = text(&output.stderr);
    assert_eq!((output.status.code(), errors.lines().count()), (Some(1), 1), "{errors}");
    assert!(errors.contains("tpu-train plugin install tpu"), "{errors}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_file_that_is_not_libtpu_is_named_as_such() {
    let Some(runtime) = support::runtime(1) else { return };
    let error = |plugin: &Path| {
        let output =
            compile(&["--topology", "v5e-8", "--plugin"]).arg(plugin).env_remove("TPU_LIBRARY_PATH").output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    let of_cpu = error(&runtime.plugin().path);
    assert!(of_cpu.contains("has no topologies to compile for: it is not libtpu"), "{of_cpu}");
    let no_library = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(no_library.path(), "no library").unwrap();
    let of_text = error(no_library.path());
    assert!(of_text.contains(": file too short") || of_text.contains("ELF"), "{of_text}");
}

#[test]
fn what_cannot_be_meant_is_refused_before_libtpu_is_asked() {
    let code = |arguments: &[&str]| {
        let output = compile(arguments).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (status, errors) = code(&["--topology", "v5e-8", "--program", "all", "--hlo-out", "x.hlo"]);
    assert!(status == Some(1) && errors.contains("--hlo-out takes one program"), "{errors}");
    let (status, errors) = code(&["--topology", "v5e-8", "--", "--no-such-setting"]);
    assert!(status == Some(2) && errors.contains("--no-such-setting"), "{errors}");
    let (status, errors) = code(&["--topology", "v5e-8", "--num-slices", "0"]);
    assert!(status == Some(1) && errors.contains("--num-slices"), "{errors}");
}

#[test]
fn names_that_people_type_become_libtpus() {
    for (typed, name) in [
        ("v2-8", "v2:2x2"),
        ("v3-8", "v3:2x2"),
        ("v3-32", "v3:4x4"),
        ("v4-8", "v4:2x2x1"),
        ("v4-32", "v4:2x2x4"),
        ("v4-128", "v4:4x4x4"),
        ("v5litepod-1", "v5e:1x1"),
        ("v5litepod-16", "v5e:4x4"),
        ("v5e-256", "v5e:16x16"),
        ("V5E:2x4", "v5e:2x4"),
        ("v5p-8", "v5p:2x2x1"),
        ("v5p-4x4x8", "v5p:4x4x8"),
        ("v6e-64", "v6e:8x8"),
        ("tpu7x-8", "tpu7x:2x2x1"),
    ] {
        assert_eq!(typed.parse::<Slice>().unwrap().libtpu_name(), name);
    }
    let wide = |typed: &str| typed.parse::<Slice>().unwrap().chips_of_wide_host();
    assert_eq!((wide("v6e-8"), wide("v5litepod-16"), wide("v4-16")), (Some([2, 4, 1]), None, None));
}

#[test]
fn every_generation_is_known_to_libtpu_by_its_sizes() {
    let Some(file) = libtpu() else { return };
    let plugin = tpu_train::pjrt::Plugin::load(&file).unwrap();
    for (typed, devices) in [
        ("v2-8", 8),
        ("v2-512", 512),
        ("v3-8", 8),
        ("v3-2048", 2048),
        ("v4-8", 8),
        ("v4-4096", 4096),
        ("v5litepod-1", 1),
        ("v5litepod-256", 256),
        ("v5p-8", 4),
        ("v5p-1024", 512),
        ("v6e-4", 4),
        ("v6e-128", 128),
        ("tpu7x-8", 8),
        ("tpu7x-512", 512),
    ] {
        let name = typed.parse::<Slice>().unwrap().libtpu_name();
        let topology = plugin.topology(&name, &[]).unwrap_or_else(|error| panic!("{typed}: {error}"));
        assert_eq!(topology.devices().unwrap().len(), devices, "{typed}");
    }
}

#[test]
fn a_poisoned_environment_ends_in_a_sentence_or_does_no_harm() {
    let Some(_) = libtpu() else { return };
    let unknown = compile(&["--topology", "v99-8"])
        .env("MEGASCALE_NUM_SLICES", "x")
        .env("MEGASCALE_COORDINATOR_ADDRESS", "nowhere")
        .env("TPU_CHIPS_PER_PROCESS_BOUNDS", "7,7")
        .env("TPU_WORKER_HOSTNAMES", "a,b,c")
        .env("XLA_FLAGS", "--nonsense")
        .output()
        .unwrap();
    let errors = text(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("takes no account of MEGASCALE_COORDINATOR_ADDRESS, MEGASCALE_NUM_SLICES"),
        "{errors}"
    );
    assert!(errors.contains("--topology v99-8: libtpu knows no such TPU slice; there are v2-8"), "{errors}");
    let flags =
        compile(&["--topology", "v5e-8"]).env("LIBTPU_INIT_ARGS", "--no_such_flag=1").output().unwrap();
    let errors = text(&flags.stderr);
    assert_eq!(flags.status.code(), Some(1), "{errors}");
    assert!(errors.contains("correct or unset LIBTPU_INIT_ARGS, which is \"--no_such_flag=1\""), "{errors}");
}

#[test]
fn a_program_is_compiled_for_a_tpu_that_is_not_there() {
    let Some(_) = libtpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (hlo, executable) = (folder.path().join("step.hlo"), folder.path().join("step.bin"));
    let output = compile(&["--topology", "v5litepod-1", "--program", "predict", "--window", "50"])
        .args(["--batch-size", "8", "--json", "--hlo-out"])
        .arg(&hlo)
        .arg("--executable-out")
        .arg(&executable)
        .env("MEGASCALE_NUM_SLICES", "3")
        .output()
        .unwrap();
    let summary = json(&output);
    assert_eq!((&summary["devices"], &summary["per_replica_batch"]), (&1.into(), &8.into()));
    let program = &summary["programs"][0];
    assert!(program["memory"]["total"].as_u64().unwrap() < summary["hbm_bytes"].as_u64().unwrap());
    assert_eq!(program["collectives"].as_array().unwrap().len(), 0);
    assert!(program["layers"].as_array().unwrap().iter().any(|layer| layer["layer"] == "lstm"));
    same_total_as_the_yardstick(&hlo, program);
    let file = std::fs::read(&executable).unwrap();
    assert!(file.starts_with(b"tpu-train executable 1\n"), "{:?}", &file[..30.min(file.len())]);
}

/// The script that the project's figures were taken with gives the same number of cycles, where it is there.
fn same_total_as_the_yardstick(hlo: &Path, program: &Value) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/peers/tpu_cycles.py");
    if !script.exists() {
        eprintln!("skipped: {} is not there to compare with", script.display());
        return;
    }
    let code = "import sys; sys.path.insert(0, sys.argv[1]); import tpu_cycles as t; \
                print(t.walk(t.read(sys.argv[2]))[0])";
    let peers = script.parent().unwrap();
    let output = Command::new("python3").arg("-B").args(["-c", code]).arg(peers).arg(hlo).output().unwrap();
    let total: u64 =
        text(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!(program["estimated_cycles"], total);
}

/// A training step through a file gives the very run that a compiled one gives; another step's file is left aside.
#[test]
fn a_run_takes_its_step_from_a_file_that_fits_and_from_no_other() {
    let Some(runtime) = support::runtime(1) else { return };
    let bench = Bench::new();
    bench.simulate();
    let step = StepConfig { forms: Forms::CPU, ..quick_step() };
    let module = step::train_step(&step).unwrap().module;
    let compiled = runtime.compile(&module, 1, None).unwrap();
    let payload = compiled.executable().executable().serialize().unwrap();
    let file = runtime.executable_header(&module, 1).unwrap().file(&payload).unwrap();
    std::fs::write(bench.path("step.bin"), file).unwrap();

    let train = |more: &[&'static str]| {
        let settings = [&["--steps", "3", "--json", "--platform", "cpu", "--slices", "1"], more].concat();
        let output = bench.run(&quick(&["train"], &settings));
        let mut summary = json(&output);
        summary.as_object_mut().unwrap().retain(|name, _| name != "model" && name != "logs");
        (summary, text(&output.stderr))
    };
    let (plain, _) = train(&["--out", "plain.keras"]);
    let (loaded, said) = train(&["--out", "loaded.keras", "--executable", "step.bin"]);
    assert!(said.contains("executable     step.bin") && !said.contains("note: --executable"), "{said}");
    assert_eq!(loaded, plain);
    assert!(
        std::fs::read(bench.path("loaded.keras")).unwrap()
            == std::fs::read(bench.path("plain.keras")).unwrap()
    );
    let (_, said) = train(&["--out", "other.keras", "--executable", "step.bin", "--learning-rate", "0.002"]);
    assert!(
        said.contains("note: --executable step.bin: the executable cannot be used: it is another program"),
        "{said}"
    );
    let missing = quick(&["train"], &["--executable", "missing.bin"]);
    assert!(bench.fail(1, &missing).contains("--executable missing.bin"));
}

/// The training step of [`quick`]'s settings on one CPU device.
fn quick_step() -> StepConfig {
    let mut model = ModelConfig::new(500, 2, 6);
    model.batch_norm_momentum = 0.9;
    StepConfig {
        model,
        optimizer: Adam::new(LearningRate::Constant(1e-3)),
        replicas: 1,
        rows: 16,
        batch_norm: BatchNormScope::Synced,
        precision: Precision::F32,
        samples: ElementType::S16,
        seed: 42,
        forms: Forms::ACCELERATOR,
    }
}

/// The training step on one slice and on several: sums inside a slice by XLA's operations, across slices by
/// Megascale's, and nothing as large as an activation in either.
///
/// Across slices libtpu cuts the sum of the gradients in three: a reduce-scatter inside each slice, an exchange of
/// the parts, an all-gather of the sums. That all-gather is the only one there may be.
#[test]
fn gradients_are_all_that_travels() {
    let Some(_) = libtpu() else { return };
    if !slow() {
        return;
    }
    for (topology, slices) in [("v5e:2x4", 1), ("v5e:2x4", 8), ("v4:2x2x1", 8), ("v6e:2x2", 3)] {
        let folder = tempfile::tempdir().unwrap();
        let hlo = folder.path().join("step.hlo");
        let rows = 8;
        let summary = json(
            &compile(&["--topology", topology, "--json", "--window", "500"])
                .args(["--num-slices", &slices.to_string()])
                .args(["--batch-size", &(devices_of(topology) * slices * rows).to_string(), "--hlo-out"])
                .arg(&hlo)
                .output()
                .unwrap(),
        );
        let program = &summary["programs"][0];
        same_total_as_the_yardstick(&hlo, program);
        assert_eq!(summary["devices"], devices_of(topology) * slices);
        if slices > 1 {
            assert_eq!(summary["device_ids"][0], 100_000);
        }
        let name = format!("{topology} x {slices}");
        check_collectives(&name, program, devices_of(topology), slices);
    }
}

fn devices_of(topology: &str) -> usize {
    match topology {
        "v6e:2x2" => 4,
        _ => 8,
    }
}

fn check_collectives(name: &str, program: &Value, devices_per_slice: usize, slices: usize) {
    // The smallest activation: what the second pool gives, of 8 windows.
    let activation = 8 * 124 * 128 * 4;
    let collectives = program["collectives"].as_array().unwrap();
    assert!(!collectives.is_empty(), "{name}");
    for each in collectives {
        let (operation, bytes) = (each["operation"].as_str().unwrap(), each["bytes"].as_u64().unwrap());
        let padded = GRADIENTS + 16 * 1024;
        assert!(bytes <= padded && bytes < activation, "{name}: {each}");
        let over = each["network"].as_str().unwrap();
        match operation {
            "all-reduce" | "reduce-scatter" => assert_eq!(over, "ici", "{name}"),
            "all-gather" => assert!(slices > 1 && over == "ici", "{name}: {each}"),
            "send" | "recv" => assert!(slices > 1 && over == "dcn", "{name}: {each}"),
            other => panic!("{name}: {other}"),
        }
        if let (Some(group), "ici") = (each["group_size"].as_u64(), over) {
            assert_eq!(group, devices_per_slice as u64, "{name}: {each}");
        }
        assert_eq!(each["runs"], 1, "{name}: no collective within a loop");
    }
    let has = |operation: &str| collectives.iter().any(|each| each["operation"] == operation);
    assert!(has("all-reduce"), "{name}");
    assert_eq!((has("send"), has("recv")), (slices > 1, slices > 1), "{name}");
    let (ici, dcn) = (program["ici_bytes"].as_u64().unwrap(), program["dcn_bytes"].as_u64().unwrap());
    assert!((GRADIENTS..4 * GRADIENTS).contains(&ici), "{name}: {ici}");
    assert_eq!(dcn > 0, slices > 1, "{name}");
}
