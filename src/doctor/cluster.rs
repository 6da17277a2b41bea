//! The variables by which hosts and slices find each other.

use super::view::View;
use super::{Asked, Finding, Level, devices};
use crate::deploy::accelerator::Slice;
use crate::pjrt::Platform;
use std::collections::BTreeSet;

const NUM_SLICES: &str = "MEGASCALE_NUM_SLICES";
const SLICE_ID: &str = "MEGASCALE_SLICE_ID";
const COORDINATOR: &str = "MEGASCALE_COORDINATOR_ADDRESS";
const UNSET: &str = "unset MEGASCALE_NUM_SLICES MEGASCALE_SLICE_ID MEGASCALE_COORDINATOR_ADDRESS";
const HOSTNAMES: &str = "TPU_WORKER_HOSTNAMES";
const ADDRESSES: &str = "TPU_PROCESS_ADDRESSES";
const WORKER_ID: &str = "TPU_WORKER_ID";
const TYPE: &str = "TPU_ACCELERATOR_TYPE";
const TOPOLOGY: &str = "TPU_TOPOLOGY";
/// Most chips that any host has.
const MOST_CHIPS: usize = 8;
/// Most devices that any chip has.
const MOST_DEVICES_A_CHIP: usize = 2;

/// Slices of the Multislice job that the variables describe; 1 where they describe none.
pub(super) fn slices(view: &View) -> usize {
    view.variable(NUM_SLICES).and_then(|value| value.parse().ok()).unwrap_or(1)
}

/// The Multislice variables, and `--slices` against them.
pub(super) fn multislice(view: &View, asked: &Asked) -> Vec<Finding> {
    let subject = "Multislice";
    let set = view.variables("MEGASCALE_");
    let fatal = |text: String, remedy: &str| vec![Finding::new(Level::Fatal, subject, text, remedy)];
    if set.is_empty() {
        return vec![logical(view, asked)];
    }
    if asked.platform != Platform::Tpu {
        let text = format!(
            "{} is set, but the run is on {}: left over from an earlier job, or this host has lost its TPU",
            set.join(" "),
            asked.platform
        );
        return vec![Finding::new(Level::Warning, subject, text, UNSET)];
    }
    let Some(value) = view.variable(NUM_SLICES) else {
        let text = format!("{NUM_SLICES} is not set, though {} is", set.join(" "));
        let remedy =
            format!("set it to the number of TPU slices of the job, or outside of a Multislice job: {UNSET}");
        return fatal(text, &remedy);
    };
    let slices = match value.parse::<usize>() {
        Ok(slices) if slices > 0 => slices,
        _ => {
            let text = format!("{NUM_SLICES}={value} is not a number of slices");
            return fatal(
                text,
                &format!("set it to the number of TPU slices, or outside of a Multislice job: {UNSET}"),
            );
        }
    };
    if asked.slices.is_some_and(|asked| asked != slices) {
        let asked = asked.slices.unwrap_or_default();
        let text = format!("--slices {asked} differs from {NUM_SLICES}={slices}");
        let remedy = format!(
            "in a Multislice job of {slices} TPU slices use --slices {slices}; outside of one the variable is left \
             over: {UNSET}"
        );
        return fatal(text, &remedy);
    }
    if slices == 1 {
        return vec![Finding::ok(subject, format!("{NUM_SLICES}=1: one TPU slice"))];
    }
    several_slices(view, slices)
}

/// The rest of the variables, in a job of `slices` TPU slices.
fn several_slices(view: &View, slices: usize) -> Vec<Finding> {
    let subject = "Multislice";
    for name in [SLICE_ID, COORDINATOR] {
        if view.variable(name).is_none() {
            let text = format!(
                "{NUM_SLICES}={slices}, but {name} is not set: the job is described in part, or is over"
            );
            let remedy = format!(
                "start through GKE, a queued resource or xpk, which set it; outside of a Multislice job: {UNSET}"
            );
            return vec![Finding::new(Level::Fatal, subject, text, remedy)];
        }
    }
    let (id, coordinator) =
        (view.variable(SLICE_ID).unwrap_or_default(), view.variable(COORDINATOR).unwrap_or_default());
    if id.parse::<usize>().map_or(true, |id| id >= slices) {
        let text = format!(
            "{SLICE_ID}={id} is not one of the slices 0 to {} that {NUM_SLICES}={slices} has",
            slices - 1
        );
        return vec![Finding::new(
            Level::Fatal,
            subject,
            text,
            format!("correct the one that is left over, or {UNSET}"),
        )];
    }
    let mut found = vec![Finding::ok(subject, format!("slice {id} of {slices}, coordinator {coordinator}"))];
    let host = coordinator.rsplit_once(':').map_or(coordinator, |(host, _)| host);
    // A host may be named with port and address behind it, host:port:address.
    let hosts: Vec<&str> = view.list(HOSTNAMES).iter().filter_map(|entry| entry.split(':').next()).collect();
    if id == "0" && !hosts.is_empty() && !hosts.contains(&host) {
        let text =
            format!("this is slice 0, but the coordinator {host} is none of its hosts {}", hosts.join(", "));
        found.push(Finding::new(
            Level::Warning,
            subject,
            text,
            format!("if {COORDINATOR} is of an earlier job, the slices wait for ever: {UNSET}, or set it to slice 0's first host"),
        ));
    }
    found
}

/// `--slices` where no Multislice variable is set: slices of the devices that there are.
fn logical(view: &View, asked: &Asked) -> Finding {
    let subject = "Multislice";
    let chips = devices::chips(view) * view.list(HOSTNAMES).len().max(1);
    let most = chips * MOST_DEVICES_A_CHIP;
    match asked.slices {
        Some(slices) if asked.platform == Platform::Tpu && chips > 0 && slices > most => Finding::new(
            Level::Fatal,
            subject,
            format!(
                "--slices {slices}, but {NUM_SLICES} is not set, and this one TPU slice has at most {most} devices to cut"
            ),
            "start a Multislice job (tpu-train deploy), or use fewer --slices",
        ),
        _ => Finding::ok(subject, format!("no {NUM_SLICES}: not a Multislice job")),
    }
}

/// The hosts of this TPU slice.
pub(super) fn workers(view: &View, asked: &Asked) -> Vec<Finding> {
    if asked.platform != Platform::Tpu {
        return Vec::new();
    }
    let subject = "hosts";
    let hosts = view.list(HOSTNAMES);
    let problem =
        worker_id(view, &hosts).or_else(|| addresses(view, &hosts)).or_else(|| too_few(view, &hosts));
    if let Some(problem) = problem {
        return vec![problem];
    }
    let text = match hosts.len() {
        0 => format!("{HOSTNAMES} is not set: libtpu asks the Cloud TPU VM's metadata server"),
        1 => "one host".to_owned(),
        count => format!(
            "host {} of {count}: the run waits until tpu-train runs on each of {}",
            view.variable(WORKER_ID).unwrap_or_default(),
            hosts.join(", ")
        ),
    };
    vec![Finding::ok(subject, text)]
}

fn fatal(text: String, remedy: impl Into<String>) -> Option<Finding> {
    Some(Finding::new(Level::Fatal, "hosts", text, remedy))
}

fn worker_id(view: &View, hosts: &[&str]) -> Option<Finding> {
    let several = hosts.len() > 1;
    let Some(id) = view.variable(WORKER_ID) else {
        let text = format!(
            "{HOSTNAMES} names {} hosts, but {WORKER_ID} does not say which this one is",
            hosts.len()
        );
        let remedy = format!("set {WORKER_ID} to 0 on the first host, 1 on the second, and so on");
        return several.then(|| fatal(text, remedy)).flatten();
    };
    let Ok(number) = id.parse::<usize>() else {
        return fatal(
            format!("{WORKER_ID}={id} is not a number"),
            "set it to this host's place in the slice, from 0",
        );
    };
    let unique: BTreeSet<&str> = hosts.iter().copied().collect();
    if unique.len() < hosts.len() {
        let text = format!("{HOSTNAMES}={} names a host twice", hosts.join(","));
        return fatal(text, "name each host of the slice once");
    }
    let outside = !hosts.is_empty() && number >= hosts.len();
    let text = format!("{WORKER_ID}={number}, but {HOSTNAMES} names {} hosts, counted from 0", hosts.len());
    outside.then(|| fatal(text, "one of the two is of another job: set both to this slice's")).flatten()
}

/// One address a process: as many on each host.
fn addresses(view: &View, hosts: &[&str]) -> Option<Finding> {
    let addresses = view.list(ADDRESSES).len();
    let fits = addresses == 0 || hosts.is_empty() || addresses.is_multiple_of(hosts.len());
    let text = format!("{ADDRESSES} has {addresses} processes, {HOSTNAMES} {} hosts", hosts.len());
    (!fits).then(|| fatal(text, "one of the two is of another job: set both to this slice's")).flatten()
}

/// Fewer hosts than the topology needs.
fn too_few(view: &View, hosts: &[&str]) -> Option<Finding> {
    let (needed, because) = needed_hosts(view)?;
    let start =
        "start tpu-train on every host of the slice, with the variables that the Cloud TPU VM or GKE sets";
    if hosts.is_empty() {
        let alone =
            needed > 1 && view.list(ADDRESSES).is_empty() && view.variable("TPU_SKIP_MDS_QUERY") == Some("1");
        let text = format!(
            "{because}: {needed} hosts, but {HOSTNAMES} is not set and TPU_SKIP_MDS_QUERY=1 keeps libtpu from asking"
        );
        return alone
            .then(|| fatal(text, "set TPU_WORKER_HOSTNAMES and TPU_WORKER_ID, or unset TPU_SKIP_MDS_QUERY"))
            .flatten();
    }
    let text = format!(
        "fewer hosts than the topology needs: {because}, at least {needed} hosts; {HOSTNAMES} names {}",
        hosts.len()
    );
    (hosts.len() < needed).then(|| fatal(text, start)).flatten()
}

/// Hosts that the variables' topology has at least, and what says so.
fn needed_hosts(view: &View) -> Option<(usize, String)> {
    for name in ["TPU_PROCESS_BOUNDS", "TPU_HOST_BOUNDS"] {
        if let Some(bounds) = view.variable(name) {
            // A process may have a part of a host: this says nothing of hosts beyond their number at most.
            let per_host =
                view.list(ADDRESSES).len().checked_div(view.list(HOSTNAMES).len()).unwrap_or(1).max(1);
            return Some((product(bounds, ',')?.div_ceil(per_host), format!("{name}={bounds}")));
        }
    }
    let (chips, because) = slice_chips(view)?;
    let bounds = view.variable("TPU_CHIPS_PER_HOST_BOUNDS").and_then(|bounds| product(bounds, ','));
    let here = Some(devices::chips(view)).filter(|&chips| chips > 0);
    let a_host = bounds.or(here).unwrap_or(MOST_CHIPS);
    Some((chips.div_ceil(a_host.max(1)), format!("{because} has {chips} chips, {a_host} a host")))
}

/// Chips of the TPU slice, and what says so.
fn slice_chips(view: &View) -> Option<(usize, String)> {
    if let Some(topology) = view.variable(TOPOLOGY) {
        return Some((product(topology, 'x')?, format!("{TOPOLOGY}={topology}")));
    }
    let name = view.variable(TYPE)?;
    Some((name.parse::<Slice>().ok()?.chips(), format!("{TYPE}={name}")))
}

/// The product of numbers such as `2,2,1` or `4x4`.
fn product(bounds: &str, between: char) -> Option<usize> {
    let mut sides =
        bounds.split(between).map(|side| side.trim().parse::<usize>().ok().filter(|&side| side > 0));
    sides.try_fold(1_usize, |all, side| all.checked_mul(side?))
}
