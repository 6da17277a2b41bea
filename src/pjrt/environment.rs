//! The process environment that plugins read once, when they are loaded; and what the machine says of its devices.

use std::env;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::plugin::Platform;

/// Set on top of the user's `XLA_FLAGS`, each unless the user names it. XLA:CPU ends the process when replicas
/// wait for one another longer than its limit, which slow machines reach without being stuck.
const XLA_FLAGS: [(&str, u32); 2] = [
    ("--xla_cpu_collective_call_warn_stuck_timeout_seconds", 600),
    ("--xla_cpu_collective_call_terminate_timeout_seconds", 86_400),
];

/// PCI vendor id of TPU chips.
const TPU_PCI_VENDOR: &str = "0x1ae0";

/// Sets what plugins read when they are loaded; what the user set stays, and is appended to.
///
/// Call it first in `main`: before a plugin is loaded and before the program starts a thread. With TPU device files
/// present it leaves `XLA_FLAGS` and the metadata query alone, which concern machines without a TPU. A file that would
/// grow over the process's limit becomes an error of the write, as a full disk is, in place of a signal that ends the
/// process.
pub fn prepare_environment() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let tpu = !tpu_device_files().is_empty();
    for (name, value) in settings(tpu, |name| env::var(name).ok()) {
        // SAFETY: documented to run before any other thread exists, so nothing reads the environment meanwhile.
        unsafe { env::set_var(name, value) };
    }
}

/// The variables to set, given which are set.
fn settings(tpu: bool, current: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if current("TF_CPP_MIN_LOG_LEVEL").is_none() {
        settings.push(("TF_CPP_MIN_LOG_LEVEL", "2".to_owned()));
    }
    if tpu {
        return settings;
    }
    if current("TPU_SKIP_MDS_QUERY").is_none() {
        settings.push(("TPU_SKIP_MDS_QUERY", "1".to_owned()));
    }
    let flags = current("XLA_FLAGS").unwrap_or_default();
    let missing = XLA_FLAGS.iter().filter(|(name, _)| !flags.contains(name));
    let mut all: Vec<String> = missing.map(|(name, value)| format!("{name}={value}")).collect();
    if !all.is_empty() {
        if !flags.trim().is_empty() {
            all.insert(0, flags.trim().to_owned());
        }
        settings.push(("XLA_FLAGS", all.join(" ")));
    }
    settings
}

/// The device files of this machine's TPU chips; empty without a TPU.
pub(super) fn tpu_device_files() -> Vec<PathBuf> {
    tpu_device_files_under(Path::new("/"))
}

/// The device files of the TPU chips of the machine whose `/` is `root`; empty without a TPU.
///
/// `/dev/accel0`, …; or, on newer hosts, `/dev/vfio/0`, … if the machine has a PCI device of the TPU's vendor.
pub fn tpu_device_files_under(root: &Path) -> Vec<PathBuf> {
    let mut files = numbered_files(&root.join("dev"), "accel");
    if files.is_empty() && has_tpu_on_pci(&root.join("sys/bus/pci/devices")) {
        files = numbered_files(&root.join("dev/vfio"), "");
    }
    files
}

/// Entries of `folder` named `prefix` and a number, in that order.
fn numbered_files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let mut files: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    files.sort();
    files.into_iter().map(|(_, path)| path).collect()
}

fn has_tpu_on_pci(devices: &Path) -> bool {
    let Ok(entries) = devices.read_dir() else { return false };
    entries.flatten().any(|entry| {
        std::fs::read_to_string(entry.path().join("vendor"))
            .is_ok_and(|vendor| vendor.trim() == TPU_PCI_VENDOR)
    })
}

/// Whether this machine has an NVIDIA GPU.
pub(super) fn has_gpu_device_file() -> bool {
    has_gpu_device_file_under(Path::new("/"))
}

/// Whether the machine whose `/` is `root` has an NVIDIA GPU.
pub fn has_gpu_device_file_under(root: &Path) -> bool {
    root.join("dev/nvidia0").exists()
}

/// # Errors
/// [`Error::NoDevice`] if this machine has no TPU.
pub(super) fn require_tpu_device_files() -> Result<()> {
    if !tpu_device_files().is_empty() {
        return Ok(());
    }
    Err(Error::NoDevice {
        platform: Platform::Tpu,
        reason: "this machine has no TPU device files (/dev/accel0 or /dev/vfio/0)".into(),
        hint: "run on a Cloud TPU VM, or use --platform cpu".into(),
    })
}

/// # Errors
/// [`Error::NoDevice`] if the machine has no device of this platform.
pub(super) fn require_devices(platform: Platform) -> Result<()> {
    match platform {
        Platform::Cpu => Ok(()),
        Platform::Tpu => require_tpu_device_files(),
        Platform::Cuda if has_gpu_device_file() => Ok(()),
        Platform::Cuda => Err(Error::NoDevice {
            platform,
            reason: "this machine has no NVIDIA device file (/dev/nvidia0)".into(),
            hint: "run on a machine with an NVIDIA GPU and its driver, or use --platform cpu".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)], tpu: bool) -> Vec<(&'static str, String)> {
        settings(tpu, |name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn user_flags_stay_and_are_appended_to() {
        let ours = "--xla_cpu_collective_call_terminate_timeout_seconds";
        let flags = |pairs: &[(&str, &str)]| {
            set(pairs, false).into_iter().find(|(name, _)| *name == "XLA_FLAGS").map(|(_, value)| value)
        };
        assert!(flags(&[]).unwrap().contains(ours));
        let appended = flags(&[("XLA_FLAGS", "--xla_dump_to=/x")]).unwrap();
        assert!(appended.starts_with("--xla_dump_to=/x --xla_cpu") && appended.contains(ours));
        let user = format!("{ours}=7");
        let appended = flags(&[("XLA_FLAGS", &user)]).unwrap();
        assert_eq!(appended.matches(ours).count(), 1, "{appended}");
        let both = format!("{user} --xla_cpu_collective_call_warn_stuck_timeout_seconds=3");
        assert_eq!(flags(&[("XLA_FLAGS", &both)]), None);
    }

    #[test]
    fn the_rest_is_set_only_where_it_is_unset_and_no_tpu_is_there() {
        assert!(set(&[], false).contains(&("TPU_SKIP_MDS_QUERY", "1".into())));
        assert_eq!(set(&[], true), [("TF_CPP_MIN_LOG_LEVEL", "2".into())]);
        let user = [("TF_CPP_MIN_LOG_LEVEL", "0"), ("TPU_SKIP_MDS_QUERY", "0")];
        assert!(set(&user, false).iter().all(|(name, _)| *name == "XLA_FLAGS"));
    }

    #[test]
    fn only_real_tpu_files_count() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        make("dev/vfio/vfio", "");
        make("dev/vfio/0", "");
        make("dev/accel/accel0", "");
        make("sys/bus/pci/devices/0000:00:01.0/vendor", "0x8086\n");
        assert!(tpu_device_files_under(root.path()).is_empty());
        make("sys/bus/pci/devices/0000:00:02.0/vendor", "0x1ae0\n");
        assert_eq!(tpu_device_files_under(root.path()), [root.path().join("dev/vfio/0")]);
        make("dev/accel10", "");
        make("dev/accel2", "");
        let files = tpu_device_files_under(root.path());
        assert_eq!(files, [root.path().join("dev/accel2"), root.path().join("dev/accel10")]);
    }
}
