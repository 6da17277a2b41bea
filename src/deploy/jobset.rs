//! The GKE JobSet: `replicas` = slices, `parallelism` = hosts of a slice.

use super::accelerator::Slice;
use super::template::{fill, yaml};
use super::{DeployArgs, DeployError, training_arguments};

const TEMPLATE: &str = include_str!("../../deploy/templates/jobset.yaml");

/// The hosts of one slice as GKE nodes.
struct Pool {
    machine_type: String,
    chips_per_host: usize,
    hosts: usize,
}

fn offered(slice: &Slice) -> Result<(&'static str, &'static str), DeployError> {
    slice.gke().ok_or_else(|| DeployError::NotOffered {
        accelerator: slice.name(),
        target: "jobset",
        instead: "queued-resource or tpu-vm",
    })
}

pub(super) fn render(args: &DeployArgs, slice: &Slice) -> Result<String, DeployError> {
    let (gke_accelerator, machine) = offered(slice)?;
    let image = args.image.as_deref().ok_or(DeployError::Missing {
        option: "--image",
        target: "jobset",
        example: "REGION-docker.pkg.dev/PROJECT/REPOSITORY/tpu-train:0.1",
    })?;
    let pool = pool(args, slice, machine)?;
    let bucket = args.bucket.as_deref().unwrap_or_default();
    let data = args.data.as_ref().map(|path| format!("/bucket/{}", path.trim_matches('/')));
    let arguments: Vec<String> = training_arguments(args, data)
        .iter()
        .map(|argument| format!("{:20}- {}", "", yaml(argument)))
        .collect();
    let flags = [
        ("bucket", args.bucket.is_some()),
        ("no_bucket", args.bucket.is_none()),
        ("spot", args.spot),
        ("single_host_multislice", pool.hosts == 1 && args.slices > 1),
    ];
    let values = [
        ("SUMMARY", summary(args, slice, &pool)),
        ("NAME", args.name.clone()),
        ("NAMESPACE", args.namespace.clone()),
        ("SERVICE_ACCOUNT", args.service_account.clone()),
        ("MACHINE_TYPE", pool.machine_type.clone()),
        ("POOL_FLAGS", pool_flags(args, slice, &pool)),
        ("HOSTS", pool.hosts.to_string()),
        ("CHIPS_PER_HOST", pool.chips_per_host.to_string()),
        ("SLICES", args.slices.to_string()),
        ("MAX_RESTARTS", args.max_restarts.to_string()),
        ("GRACE_SECONDS", args.grace_seconds.to_string()),
        ("GKE_ACCELERATOR", gke_accelerator.to_owned()),
        ("TOPOLOGY", slice.topology()),
        ("IMAGE", yaml(image)),
        ("ARGUMENTS", arguments.join("\n")),
        ("BUCKET", yaml(bucket)),
        ("KEEP", yaml(&format!("/bucket/{}", args.name))),
    ];
    Ok(fill(TEMPLATE, &flags, &values))
}

fn summary(args: &DeployArgs, slice: &Slice, pool: &Pool) -> String {
    format!(
        "tpu-train on {} x {} ({}, {} chips): {} hosts of {} chips each, {} chips in all",
        args.slices,
        slice.name(),
        slice.topology(),
        slice.chips(),
        args.slices as usize * pool.hosts,
        pool.chips_per_host,
        args.slices as usize * slice.chips(),
    )
}

fn pool_flags(args: &DeployArgs, slice: &Slice, pool: &Pool) -> String {
    let topology =
        if pool.hosts > 1 { format!(" --tpu-topology {}", slice.topology()) } else { String::new() };
    format!("{topology}{}", if args.spot { " --spot" } else { "" })
}

/// A machine type ends in its number of chips and a `t`: `ct5lp-hightpu-4t`.
fn pool(args: &DeployArgs, slice: &Slice, machine: &str) -> Result<Pool, DeployError> {
    let usual = slice.gke_chips_per_host();
    let Some(machine_type) = args.machine_type.clone() else {
        let machine_type = format!("{machine}-{usual}t");
        return Ok(Pool { machine_type, chips_per_host: usual, hosts: slice.gke_hosts() });
    };
    let chips_per_host = machine_type
        .strip_prefix(machine)
        .and_then(|rest| rest.strip_prefix('-')?.strip_suffix('t')?.parse::<usize>().ok())
        .filter(|chips| [1, 4, 8].contains(chips) && slice.chips().is_multiple_of(*chips))
        .ok_or_else(|| DeployError::Invalid {
            option: "--machine-type",
            expected: "a machine type of this accelerator whose chips divide the slice",
            found: machine_type.clone(),
        })?;
    Ok(Pool { machine_type, chips_per_host, hosts: slice.chips() / chips_per_host })
}
