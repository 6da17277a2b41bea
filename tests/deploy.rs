//! `tpu-train deploy`: what it prints is held against published schemas, shellcheck and hadolint, and the scripts
//! are run with a gcloud of our own that plays every host. No cloud, no cluster and no image is touched.
#![allow(clippy::unwrap_used)] // a helper outside of #[test] may panic as well

mod cloud;
mod files;
mod manifests;
mod settings;
mod supervisor;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use tpu_train::deploy::{DeployArgs, render};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    deploy: DeployArgs,
}

/// Names here, in the documentation of the clouds, and in nobody's.
const ACCELERATORS: &[&str] = &[
    "v5litepod-8",
    "v5litepod-1",
    "v5e:4x8",
    "v6e-4",
    "v6e-16",
    "v6e-256",
    "v4-8",
    "v4-32",
    "v5p-8",
    "v5p-32",
    "v5p-384",
    "v5p:4x4x12",
    "tpu7x-16",
    "tpu7x-2x2x1",
];

/// Arguments that break what is not quoted.
const NASTY: &[&str] =
    &["--epochs", "50", "--label-column", "it's \"a\" $HOME `id` @NAME@ \\ x", "-v", "", "#y: z"];

fn print(words: &[&str]) -> Result<String, String> {
    let cli = Cli::try_parse_from([&["deploy"], words].concat()).map_err(|error| error.to_string())?;
    render(&cli.deploy).map_err(|error| error.to_string())
}

fn jobset(words: &[&str]) -> Result<String, String> {
    print(&[&["jobset", "--image", "europe-docker.pkg.dev/p/r/tpu-train:0.1"], words].concat())
}

fn vm(target: &str, words: &[&str]) -> Result<String, String> {
    print(&[&[target, "--project", "p", "--zone", "us-central2-b"], words].concat())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Every target × accelerator × slices that there is, with and without the optional parts: file name → text.
fn launches() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (i, accelerator) in ACCELERATORS.iter().enumerate() {
        for slices in ["1", "2", "3", "8", "16"] {
            let mut words = vec!["--accelerator", accelerator, "--slices", slices];
            if i % 2 == 0 {
                words.extend(["--bucket", "my-bucket", "--data", "prepared windows/a b"]);
            }
            if i % 3 == 0 {
                words.push("--spot");
            }
            words.push("--");
            words.extend(NASTY);
            let name = format!("{}-{slices}", accelerator.replace(':', "_"));
            all.insert(format!("{name}.yaml"), jobset(&words).unwrap());
            if !accelerator.starts_with("tpu7x") && ["1", "8"].contains(&slices) {
                for target in ["queued-resource", "tpu-vm"] {
                    all.insert(format!("{name}-{target}.sh"), vm(target, &words).unwrap());
                }
            }
        }
    }
    all
}
