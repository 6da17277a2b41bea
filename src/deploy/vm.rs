//! The scripts around gcloud: a queued resource of one or more slices, or a single TPU VM slice.

use super::accelerator::Slice;
use super::template::{fill, shell};
use super::{DeployArgs, DeployError, Target, training_arguments};

const TEMPLATE: &str = include_str!("../../deploy/templates/vm.sh");
const HOST_SCRIPT: &str = include_str!("../../deploy/scripts/host.sh");
const SUPERVISE_SCRIPT: &str = include_str!("../../deploy/scripts/supervise.sh");

pub(super) fn render(args: &DeployArgs, slice: &Slice) -> Result<String, DeployError> {
    let target = args.target.name();
    let runtime = slice.runtime_version().ok_or_else(|| DeployError::NotOffered {
        accelerator: slice.name(),
        target,
        instead: "jobset",
    })?;
    let missing = |option, example| DeployError::Missing { option, target, example };
    let project = args.project.as_deref().ok_or_else(|| missing("--project", "my-project"))?;
    let zone = args.zone.as_deref().ok_or_else(|| missing("--zone", "us-central2-b"))?;
    let runtime = args.runtime_version.as_deref().unwrap_or(runtime);
    let queued = args.target == Target::QueuedResource;
    let bucket =
        |path: &str| args.bucket.as_ref().map(|name| format!("gs://{name}/{}", path.trim_matches('/')));
    let data = args.data.as_deref().and_then(bucket).unwrap_or_default();
    let arguments = training_arguments(args, args.data.is_some().then(|| "data".to_owned()));
    let flags = [("queued", queued), ("not_queued", !queued)];
    let values = [
        ("SUMMARY", summary(args, slice)),
        ("TARGET", target.to_owned()),
        ("NAME", shell(&args.name)),
        ("PROJECT", shell(project)),
        ("ZONE", shell(zone)),
        ("BINARY", shell(&args.binary.to_string_lossy())),
        ("KEEP", shell(&bucket(&args.name).unwrap_or_default())),
        ("DATA", shell(&data)),
        ("ARGUMENTS", lines(&arguments)),
        ("CREATE_FLAGS", create_flags(args, slice, runtime)),
        ("HOST_SCRIPT", HOST_SCRIPT.to_owned()),
        ("SUPERVISE_SCRIPT", SUPERVISE_SCRIPT.to_owned()),
    ];
    Ok(fill(TEMPLATE, &flags, &values))
}

fn lines(arguments: &[String]) -> String {
    arguments.iter().map(|argument| format!("  {}", shell(argument))).collect::<Vec<_>>().join("\n")
}

fn summary(args: &DeployArgs, slice: &Slice) -> String {
    let (slices, logical) = match args.target {
        Target::TpuVm => (1, args.slices),
        _ => (args.slices as usize, 1),
    };
    let logical = if logical > 1 { format!(", cut into {logical} logical slices") } else { String::new() };
    let (name, topology) = (slice.name(), slice.topology());
    let hosts = slices * slice.vm_hosts();
    format!(
        "tpu-train on {slices} x {name} ({topology}, {} chips): {hosts} hosts in all{logical}",
        slice.chips()
    )
}

fn create_flags(args: &DeployArgs, slice: &Slice, runtime: &str) -> String {
    let mut flags = match slice.unusual_topology() {
        Some((generation, topology)) => {
            vec![format!("--type={generation}"), format!("--topology={topology}")]
        }
        None => vec![format!("--accelerator-type={}", slice.name())],
    };
    match args.target {
        Target::QueuedResource => flags.push(format!("--runtime-version={}", shell(runtime))),
        _ => flags.push(format!("--version={}", shell(runtime))),
    }
    match (args.target, args.slices) {
        (Target::QueuedResource, 1) => flags.push(format!("--node-id={}", args.name)),
        (Target::QueuedResource, count) => {
            flags.extend([format!("--node-count={count}"), format!("--node-prefix={}", args.name)]);
        }
        _ => {}
    }
    if args.spot {
        flags.push("--spot".to_owned());
    }
    flags.join(" ")
}
