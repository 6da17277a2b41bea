//! `tpu-train deploy`: prints what launches a run on Cloud TPUs.
//!
//! Three targets: a GKE *JobSet* (one Job a slice, restarted as a unit), a *queued resource* (the Cloud TPU API's
//! waiting line; needed for Multislice) and a plain *TPU VM*. The text comes from `deploy/templates`, the scripts
//! that run on the hosts from `deploy/scripts`; both are part of the binary. Nothing is started here: no call of
//! gcloud or kubectl, no network.
//!
//! ```
//! use clap::Parser;
//! use tpu_train::deploy::{DeployArgs, render};
//!
//! #[derive(Parser)]
//! struct Cli {
//!     #[command(flatten)]
//!     deploy: DeployArgs,
//! }
//! let cli = Cli::parse_from("deploy jobset --accelerator v5litepod-8 --slices 8 --image IMAGE".split(' '));
//! assert!(render(&cli.deploy).unwrap().contains("replicas: 8"));
//! ```

pub mod accelerator;
mod jobset;
mod template;
mod vm;

use std::io::Write;
use std::path::PathBuf;

use accelerator::Slice;
use thiserror::Error;

const EXAMPLES: &str = "\
Examples:
  tpu-train deploy jobset --accelerator v5litepod-8 --slices 8 \\
      --image REGION-docker.pkg.dev/PROJECT/REPOSITORY/tpu-train:0.1 \\
      --bucket BUCKET --data prepared -- --epochs 50 > jobset.yaml
  kubectl apply -f jobset.yaml

  tpu-train deploy queued-resource --accelerator v6e-16 --slices 2 \\
      --project PROJECT --zone ZONE --bucket BUCKET --data prepared --spot > launch.sh
  bash launch.sh

  tpu-train deploy tpu-vm --accelerator v3-8 --slices 8 --project PROJECT --zone ZONE > launch.sh

What stands behind -- goes to tpu-train as it is. deploy/RUNBOOK.md leads from a project with quota to TensorBoard.";

/// What the printed text launches on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// A JobSet for Google Kubernetes Engine
    #[value(alias = "gke", alias = "gke-jobset")]
    Jobset,
    /// A bash script around `gcloud compute tpus queued-resources`
    #[value(alias = "queued-resources")]
    QueuedResource,
    /// A bash script around `gcloud compute tpus tpu-vm`
    TpuVm,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Jobset => "jobset",
            Self::QueuedResource => "queued-resource",
            Self::TpuVm => "tpu-vm",
        }
    }
}

/// Print a launch on Cloud TPUs: a GKE JobSet, or a script for a queued resource or a TPU VM
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DeployArgs {
    /// What to launch on
    #[arg(value_enum)]
    pub target: Target,
    /// The slice: a Cloud TPU name (v5litepod-8, v5p-32, v6e-16, v4-32) or a topology in chips (v5e:2x4, v5p:4x4x8)
    #[arg(long, value_name = "NAME", default_value = "v5litepod-8")]
    pub accelerator: String,
    /// TPU slices; more than one is a Multislice job, on tpu-vm they are logical slices of the one TPU slice
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub slices: u32,
    /// The name of the JobSet, queued resource or TPU VM
    #[arg(long, default_value = "tpu-train")]
    pub name: String,
    /// Container image made from deploy/Dockerfile (jobset)
    #[arg(long)]
    pub image: Option<String>,
    /// Google Cloud project (queued-resource, tpu-vm)
    #[arg(long)]
    pub project: Option<String>,
    /// Google Cloud zone (queued-resource, tpu-vm)
    #[arg(long)]
    pub zone: Option<String>,
    /// Cloud Storage bucket, without gs://, for data in and logs and model out
    #[arg(long)]
    pub bucket: Option<String>,
    /// Folder of the data within the bucket, best in its prepared form; without it the run is --demo
    #[arg(long, value_name = "PATH", requires = "bucket")]
    pub data: Option<String>,
    /// The program to copy to the hosts (queued-resource, tpu-vm)
    #[arg(long, value_name = "FILE", default_value = "target/release/tpu-train")]
    pub binary: PathBuf,
    /// Take spot capacity
    #[arg(long)]
    pub spot: bool,
    /// Times the whole set is started again after a failure; maintenance and preemption do not count (jobset)
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub max_restarts: u32,
    /// Seconds between SIGTERM and SIGKILL: one step, the model and its copy must fit (jobset)
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub grace_seconds: u32,
    /// Kubernetes namespace (jobset)
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// Kubernetes service account that may use the bucket (jobset)
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub service_account: String,
    /// GKE machine type, such as ct5lp-hightpu-8t; its last number is the chips a host has (jobset)
    #[arg(long, value_name = "TYPE")]
    pub machine_type: Option<String>,
    /// TPU software version; by default the one for the generation (queued-resource, tpu-vm)
    #[arg(long, value_name = "VERSION")]
    pub runtime_version: Option<String>,
    /// Arguments for tpu-train
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<String>,
}

/// Why nothing was printed.
#[derive(Debug, Error)]
pub enum DeployError {
    /// No such TPU slice.
    #[error("--accelerator: expected the name of a TPU slice, found `{found}`; the nearest are {nearest}")]
    UnknownAccelerator {
        /// What was typed.
        found: String,
        /// Up to three names, separated by commas.
        nearest: String,
    },
    /// The target does not have this generation.
    #[error("--accelerator: {accelerator} is not to be had through {target}; use {instead}")]
    NotOffered {
        /// The slice's name.
        accelerator: String,
        /// Where it was looked for.
        target: &'static str,
        /// The targets that have it.
        instead: &'static str,
    },
    /// An option that this target cannot do without.
    #[error("{option}: {target} needs it; for example `{option} {example}`")]
    Missing {
        /// The option, with its dashes.
        option: &'static str,
        /// The target.
        target: &'static str,
        /// A value.
        example: &'static str,
    },
    /// A value that Google Cloud or Kubernetes would refuse.
    #[error("{option}: expected {expected}, found `{found}`")]
    Invalid {
        /// The option, with its dashes.
        option: &'static str,
        /// What may stand there.
        expected: &'static str,
        /// What stood there.
        found: String,
    },
    /// An argument for tpu-train that the launch sets itself.
    #[error("-- {argument}: the launch sets this itself{hint}")]
    Reserved {
        /// The argument.
        argument: String,
        /// What to do instead, or empty.
        hint: &'static str,
    },
    /// The text could not be written.
    #[error("cannot write the launch to standard output: {source}")]
    Output {
        /// What went wrong.
        source: std::io::Error,
    },
}

/// Prints the launch on standard output.
///
/// # Errors
/// Settings that cannot work, or a closed standard output.
pub fn run(args: &DeployArgs) -> Result<(), DeployError> {
    let text = render(args)?;
    std::io::stdout().write_all(text.as_bytes()).map_err(|source| DeployError::Output { source })
}

/// The text of the launch: YAML for [`Target::Jobset`], else a bash script.
///
/// # Errors
/// Settings that cannot work: each error names the option and what would do.
pub fn render(args: &DeployArgs) -> Result<String, DeployError> {
    let slice: Slice = args.accelerator.parse()?;
    check(args)?;
    match args.target {
        Target::Jobset => jobset::render(args, &slice),
        Target::QueuedResource | Target::TpuVm => vm::render(args, &slice),
    }
}

fn check(args: &DeployArgs) -> Result<(), DeployError> {
    dns_label("--name", &args.name, 40)?;
    dns_label("--namespace", &args.namespace, 63)?;
    dns_label("--service-account", &args.service_account, 63)?;
    if args.slices == 0 || args.slices > 1024 {
        return Err(invalid("--slices", "a number from 1 to 1024", &args.slices.to_string()));
    }
    let words = [
        ("--image", &args.image),
        ("--project", &args.project),
        ("--zone", &args.zone),
        ("--machine-type", &args.machine_type),
        ("--runtime-version", &args.runtime_version),
    ];
    for (option, value) in words {
        if let Some(value) = value {
            word(option, value, "letters, digits and -_./:@")?;
        }
    }
    if let Some(bucket) = &args.bucket {
        word("--bucket", bucket, "a bucket's name without gs:// or path")?;
        if bucket.contains(['/', ':', '@']) {
            return Err(invalid("--bucket", "a bucket's name without gs:// or path", bucket));
        }
    }
    reserved(args)
}

fn invalid(option: &'static str, expected: &'static str, found: &str) -> DeployError {
    DeployError::Invalid { option, expected, found: found.to_owned() }
}

fn dns_label(option: &'static str, value: &str, most: usize) -> Result<(), DeployError> {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = value.starts_with(|c: char| c.is_ascii_lowercase())
        && !value.ends_with('-')
        && value.len() <= most
        && value.chars().all(inside);
    let expected = "lower-case letters, digits and dashes, a letter first, at most 40 characters";
    if good { Ok(()) } else { Err(invalid(option, expected, value)) }
}

fn word(option: &'static str, value: &str, expected: &'static str) -> Result<(), DeployError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    let begins = value.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && value.chars().all(good) { Ok(()) } else { Err(invalid(option, expected, value)) }
}

/// The arguments behind `--` must not set what the launch sets.
fn reserved(args: &DeployArgs) -> Result<(), DeployError> {
    let set = [
        ("--slices", "; give it before the --"),
        ("--platform", ""),
        ("--logdir", ""),
        ("--out", ""),
        ("--resume", ": a run that finds its model goes on with it"),
        ("--data", "; give it before the --, with --bucket"),
    ];
    for argument in &args.arguments {
        let name = argument.split('=').next().unwrap_or_default();
        if let Some((_, hint)) = set.iter().find(|(reserved, _)| *reserved == name) {
            return Err(DeployError::Reserved { argument: argument.clone(), hint });
        }
    }
    Ok(())
}

/// What tpu-train is called with, but for the folders that `supervise.sh` adds. `data`: the folder on the host.
fn training_arguments(args: &DeployArgs, data: Option<String>) -> Vec<String> {
    let mut all = vec!["--platform".to_owned(), "tpu".to_owned()];
    if args.slices > 1 {
        all.extend(["--slices".to_owned(), args.slices.to_string()]);
    }
    match data {
        Some(folder) => all.extend(["--data".to_owned(), folder]),
        None if !args.arguments.iter().any(|argument| argument == "--demo") => all.push("--demo".to_owned()),
        None => {}
    }
    all.extend(args.arguments.iter().cloned());
    all
}
