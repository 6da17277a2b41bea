//! Hugepages, disk and memory.

use super::view::View;
use super::{Asked, Finding, Level};
use crate::cache;
use crate::pjrt::Platform;
use crate::runtime::memory_available_under;
use std::path::Path;

const HUGEPAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// A model and its logs.
const LEAST_DISK: u64 = 100 << 20;
/// The real data set prepared, and the CPU plugin.
const USUAL_DISK: u64 = 4 << 30;
/// A small step on the CPU, beside the plugin.
const LEAST_MEMORY: u64 = 1 << 30;

/// Transparent hugepages, without which a TPU starts slowly.
pub(super) fn hugepages(view: &View, asked: &Asked) -> Finding {
    let subject = "hugepages";
    let Some(text) = view.read(HUGEPAGES) else {
        return Finding::ok(subject, format!("this kernel has no {HUGEPAGES}"));
    };
    let chosen = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    let chosen = chosen.unwrap_or("unknown");
    if asked.platform != Platform::Tpu || chosen == "always" {
        return Finding::ok(subject, format!("transparent hugepages: {chosen}"));
    }
    Finding::new(
        Level::Warning,
        subject,
        format!("transparent hugepages are \"{chosen}\": a TPU starts slowly, and so do large transfers"),
        format!("echo always | sudo tee {HUGEPAGES}"),
    )
}

/// Room for the model and its logs, and for what is kept in the user's cache folder.
pub(super) fn disks(out: &Path) -> Vec<Finding> {
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cache = cache::folder();
    let kept = cache.as_deref().map(|cache| ("prepared recordings and plugins", cache, 0));
    let places = [("the model", folder, LEAST_DISK)].into_iter().chain(kept);
    places.map(|(what, folder, least)| disk(what, folder, free(folder), least)).collect()
}

/// Bytes free for this user in the file system of a folder, or of the nearest folder above it that exists.
fn free(folder: &Path) -> Option<u64> {
    let absolute = std::path::absolute(folder).ok()?;
    let existing = absolute.ancestors().find(|folder| folder.is_dir())?;
    let system = rustix::fs::statvfs(existing).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

fn disk(what: &str, folder: &Path, free: Option<u64>, least: u64) -> Finding {
    let (subject, folder) = ("disk", folder.display());
    let Some(free) = free else {
        return Finding::ok(subject, format!("{folder}, for {what}: its free space cannot be told"));
    };
    let text = format!("{:.1} GB free in {folder}, for {what}", free as f64 / 1e9);
    if free < least {
        Finding::new(
            Level::Fatal,
            subject,
            text,
            "free space there, or name another place with --out and --logdir",
        )
    } else if free < USUAL_DISK {
        let remedy = "EPHNOGRAM prepared takes 2.6 GB, a plugin up to 0.5: free space, or name other places with \
                      --prepared, --out and XDG_CACHE_HOME";
        Finding::new(Level::Warning, subject, text, remedy)
    } else {
        Finding::ok(subject, text)
    }
}

/// Host memory that a run may take.
pub(super) fn memory(view: &View) -> Finding {
    let subject = "memory";
    let Some(free) = memory_available_under(view.root()) else {
        return Finding::ok(subject, "what is free cannot be told");
    };
    let text = format!("{:.1} GB available", free as f64 / 1e9);
    if free >= LEAST_MEMORY {
        return Finding::ok(subject, text);
    }
    Finding::new(Level::Warning, subject, text, "end other programs, or raise the container's limit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_stops_a_run_and_a_nearly_full_one_warns() {
        let level = |free, least| disk("the model", Path::new("/x"), Some(free), least).level;
        assert_eq!(level(LEAST_DISK - 1, LEAST_DISK), Level::Fatal);
        assert_eq!(level(LEAST_DISK, LEAST_DISK), Level::Warning);
        assert_eq!(level(USUAL_DISK, LEAST_DISK), Level::Ok);
        assert_eq!(level(0, 0), Level::Warning);
        assert!(
            free(Path::new("not/there/at/all")).is_some_and(|bytes| bytes > 0),
            "the folder above is asked"
        );
    }
}
