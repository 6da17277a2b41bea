//! Device files: the TPU's and who holds them, the GPU's.

use super::view::{Process, View};
use super::{Asked, Finding, Level};
use crate::pjrt::{Platform, has_gpu_device_file_under, tpu_device_files_under};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::linux::fs::MetadataExt;

/// The file that libtpu locks while it has the TPU.
const LOCK: &str = "/tmp/libtpu_lockfile";
/// Variables that let several processes share a host's chips, each with its own.
const SHARING: [&str; 3] =
    ["ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_VISIBLE_CHIPS"];

/// Variables of which the first that is set lets one expect a TPU.
const EXPECTED: [&str; 4] =
    ["TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "TPU_LIBRARY_PATH"];

/// The TPU's device files as the machine knows them.
fn device_files(view: &View) -> Vec<String> {
    let files = tpu_device_files_under(view.root());
    let inside = files.iter().filter_map(|file| file.strip_prefix(view.root()).ok());
    inside.map(|file| format!("/{}", file.display())).collect()
}

/// Chips of this host: one device file each.
pub(super) fn chips(view: &View) -> usize {
    device_files(view).len()
}

/// Whether there is a TPU.
pub(super) fn files(view: &View, asked: &Asked) -> Option<Finding> {
    let subject = "TPU devices";
    let files = device_files(view);
    if let (Some(first), Some(last)) = (files.first(), files.last()) {
        let text = match files.len() {
            1 => format!("1 device file, {first}"),
            count => format!("{count} device files, {first} to {last}"),
        };
        return Some(Finding::ok(subject, text));
    }
    let none = "this machine has no TPU device files (/dev/accel0 or /dev/vfio/0)";
    let expected = EXPECTED.iter().find(|name| view.variable(name).is_some());
    Some(match (asked.platform, expected) {
        (Platform::Tpu, _) => Finding::new(
            Level::Fatal,
            subject,
            format!("platform tpu was asked for, but {none}"),
            "run on a Cloud TPU VM, give the container the host's devices (docker run --privileged; GKE: \
             google.com/tpu), or use --platform cpu",
        ),
        (chosen, Some(name)) if asked.auto => Finding::new(
            Level::Warning,
            subject,
            format!("{name} is set, but {none}, so this runs on {chosen}"),
            format!("--platform tpu would be an error here; --platform {chosen} says that it is meant"),
        ),
        _ => Finding::ok(subject, none),
    })
}

/// Whether there is a GPU that is left idle.
pub(super) fn gpu(view: &View, asked: &Asked) -> Option<Finding> {
    let idle = asked.auto && asked.platform == Platform::Cpu && has_gpu_device_file_under(view.root());
    idle.then(|| {
        Finding::new(
            Level::Warning,
            "GPU",
            "this machine has an NVIDIA GPU (/dev/nvidia0) and no plugin for it, so this runs on cpu",
            "run `tpu-train plugin install cuda`, name one with --plugin FILE, or use --platform cpu",
        )
    })
}

/// Whether another process has the TPU.
pub(super) fn holders(view: &View, asked: &Asked) -> Vec<Finding> {
    if asked.platform != Platform::Tpu || chips(view) == 0 {
        return Vec::new();
    }
    let shared = SHARING.iter().find(|name| view.variable(name).is_some());
    let mut found = vec![lock_file(view)];
    let users = view.processes_with(&device_files(view));
    if found[0].level != Level::Fatal && !users.is_empty() {
        found.push(in_use(&users, "has a device file open", "TPU users"));
    }
    if let Some(name) = shared {
        for finding in found.iter_mut().filter(|finding| finding.level == Level::Fatal) {
            finding.level = Level::Warning;
            finding.text += &format!(" ({name} is set: each process may have chips of its own)");
        }
    }
    found
}

fn in_use(users: &[Process], how: &str, subject: &'static str) -> Finding {
    let names: Vec<String> = users.iter().map(Process::to_string).collect();
    let ids: Vec<String> = users.iter().map(|user| user.id.to_string()).collect();
    let text = format!("the TPU is in use: {} {how}", names.join(", "));
    Finding::new(Level::Fatal, subject, text, format!("wait for its end, or end it: kill {}", ids.join(" ")))
}

fn lock_file(view: &View) -> Finding {
    let subject = "TPU lock file";
    let path = view.path(LOCK);
    let Ok(metadata) = path.metadata() else { return Finding::ok(subject, format!("no {LOCK}")) };
    let mut holders = lock_holders(view, metadata.st_dev(), metadata.st_ino());
    if holders.is_empty() && is_locked(&path) {
        holders = view.processes_with(&[LOCK.to_owned()]);
        if holders.is_empty() {
            let text =
                format!("the TPU is in use: a process that is not visible from here has locked {LOCK}");
            let remedy = format!("find it from the host, as root: sudo fuser -v {LOCK}");
            return Finding::new(Level::Fatal, subject, text, remedy);
        }
    }
    if !holders.is_empty() {
        return in_use(&holders, &format!("holds {LOCK}"), subject);
    }
    if let Err(error) = OpenOptions::new().write(true).open(&path) {
        let text = format!("nobody holds {LOCK}, but it cannot be opened ({error}), and libtpu must lock it");
        return Finding::new(Level::Fatal, subject, text, format!("sudo rm -rf {LOCK}"));
    }
    let text = format!("{LOCK} was left behind: no process holds it");
    Finding::new(Level::Note, subject, text, format!("it does no harm; rm {LOCK} tidies up"))
}

/// Whether somebody holds a lock of `flock`, which the list of locks hides where it is another container's.
fn is_locked(path: &std::path::Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Processes that hold a lock on this file, by the kernel's list.
fn lock_holders(view: &View, device: u64, inode: u64) -> Vec<Process> {
    // Linux's encoding: 12 bits of major and 20 of minor number, spread.
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & !0xff);
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = view.read("proc/locks").unwrap_or_default();
    let holder = |line: &str| -> Option<u32> {
        // "1: FLOCK ADVISORY WRITE 1234 08:01:5678 0 EOF"; one that waits has "->" behind the number.
        let fields: Vec<&str> = line.split_whitespace().collect();
        (*fields.get(5)? == file).then(|| fields[4].parse().ok())?
    };
    let mut ids: Vec<u32> = locks.lines().filter_map(holder).filter(|&id| id > 0).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| view.process(id)).collect()
}
