//! `supervise.sh` around a program that plays tpu-train, and around the real one.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cloud::{Cloud, printed, until};
use super::root;
use crate::run::{Bench, quick};
use crate::support;

/// The real program under the supervisor, in one pod after the other: the second goes on where the first ended.
#[test]
fn a_run_moves_from_pod_to_pod() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let program = Path::new(env!("CARGO_BIN_EXE_tpu-train")).parent().unwrap();
    let pod = |out: &str, steps: &str| {
        let output = Command::new("bash")
            .arg(root().join("deploy/scripts/supervise.sh"))
            .args(quick(&["train"], &["--steps", steps]))
            .env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").unwrap()))
            // libtpu, which other tests load into this process, sets it.
            .env_remove("TPU_WORKER_ID")
            .env("TPU_TRAIN_OUT", bench.path(out))
            .env("TPU_TRAIN_KEEP", bench.path("bucket"))
            .current_dir(bench.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", printed(&output));
        printed(&output)
    };
    assert!(pod("first", "2").contains("drawn with seed"));
    let second = pod("second", "4");
    assert!(second.contains("after 2 steps"), "{second}");
    let read = |name: &str| fs::read(bench.path(name)).unwrap();
    assert!(read("bucket/model.keras") == read("second/model.keras"));
    bench.succeed(&quick(&["train"], &["--steps", "4", "--out", "whole.keras"]));
    assert!(read("bucket/model.keras") == read("whole.keras"), "not the model of one run");
}

#[test]
fn the_supervisor_keeps_resumes_and_reports() {
    let cloud = Cloud::new();
    let supervise = root().join("deploy/scripts/supervise.sh");
    let run = |out: &str, keep: &str, settings: &[(&str, &str)]| {
        let _ = fs::remove_file(cloud.path("arguments"));
        let mut command = cloud.command(&supervise);
        command.args(["--demo"]).env("HOME", cloud.folder.path()).env("TPU_TRAIN_OUT", cloud.path(out));
        let output = command.env("TPU_TRAIN_KEEP", keep).envs(settings.iter().copied()).output().unwrap();
        (output.status.code(), cloud.read("arguments"), printed(&output))
    };
    let folder = cloud.path("bucket/my run");
    let keep = folder.to_str().unwrap();
    let (code, arguments, _) = run("out", keep, &[("HOST", "first")]);
    assert_eq!(code, Some(0));
    assert!(arguments.contains("/out/model.keras\n") && !arguments.contains("--resume"), "{arguments}");
    assert_eq!(cloud.read("bucket/my run/model.keras"), "of first\n");

    // Another pod: nothing on its disk.
    fs::create_dir_all(cloud.path("other/logs/fit")).unwrap();
    fs::write(cloud.path("other/logs/fit/events"), "x").unwrap();
    let (code, arguments, _) = run("other", keep, &[("HOST", "second"), ("STATUS", "3")]);
    assert_eq!(code, Some(3), "the program's own status comes back");
    assert!(arguments.ends_with("--resume\n"), "{arguments}");
    assert!(folder.join("logs/fit/events").is_file(), "logs are kept after a failure too");

    // A host that is not the first copies nothing, unless it is told to.
    for (settings, copies) in [
        (&[("TPU_WORKER_ID", "1")][..], false),
        (&[("MEGASCALE_SLICE_ID", "1"), ("TPU_WORKER_ID", "0")], false),
        (&[("MEGASCALE_SLICE_ID", "0"), ("TPU_WORKER_ID", "0")], true),
        (&[("TPU_WORKER_ID", "1"), ("TPU_TRAIN_LEADER", "1")], true),
    ] {
        let name = format!(
            "of {}",
            settings.iter().map(|(name, value)| format!("{name}{value}")).collect::<String>()
        );
        let kept = cloud.path("others").join(&name);
        let (code, _, said) = run(&name, kept.to_str().unwrap(), settings);
        assert_eq!((code, kept.join("model.keras").exists()), (Some(0), copies), "{settings:?}: {said}");
    }

    // The same with a bucket that is not mounted.
    fs::write(cloud.path("model.keras"), "of the bucket").unwrap();
    let (code, arguments, said) = run("third", "gs://b/run", &[]);
    assert!(code == Some(0) && arguments.ends_with("--resume\n"), "{arguments}{said}");
    assert!(cloud.read("storage").contains("cp gs://b/run/model.keras"));
    let (code, arguments, said) = run("fourth", "gs://b/run", &[("BROKEN", "1")]);
    assert_eq!(
        (code, arguments.as_str()),
        (Some(1), ""),
        "nothing is trained over a model that cannot be seen"
    );
    assert!(said.contains("cannot look for gs://b/run/model.keras: ERROR"), "{said}");

    let mut child = cloud
        .command(&supervise)
        .env("HOME", cloud.folder.path())
        .env("TPU_TRAIN_OUT", cloud.path("out2"))
        .env("LONG", "1")
        .spawn()
        .unwrap();
    until("it runs", || cloud.read("arguments").contains("out2"));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(
        child.wait().unwrap().code(),
        Some(143),
        "a stopped run is not a finished one, though it exits with 0"
    );
}
