//! What a run's bits depend on beside its settings: the plugin's build, the processor, its threads, the mesh.
//!
//! The same seed gives the same bits on the same [`Machine`]; on another, the same model up to rounding.

use super::session::Session;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a run computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `cpu`, `tpu` or `cuda`.
    pub platform: String,
    /// Name and version of the plugin's package, or what named its file.
    pub plugin: String,
    /// Size of the plugin's library, which tells builds apart that call themselves the same.
    pub plugin_bytes: u64,
    /// What the plugin says of its own build.
    pub plugin_build: String,
    /// Version of the PJRT C API that the plugin was built with.
    pub api_version: (i32, i32),
    /// Kind of the devices.
    pub device: String,
    /// The host's processor.
    pub cpu: String,
    /// Threads that XLA's own pools have on the host.
    pub threads: usize,
    /// The outer data-parallel axis.
    pub slices: usize,
    /// Replicas in each slice.
    pub devices_per_slice: usize,
}

impl Machine {
    /// Where a session computes.
    ///
    /// # Errors
    /// When the plugin does not tell its version.
    pub fn of(session: &Session) -> Result<Self> {
        let runtime = &session.runtime;
        Ok(Self {
            platform: runtime.platform().to_string(),
            plugin: runtime.plugin().origin.clone(),
            plugin_bytes: std::fs::metadata(&runtime.plugin().path).map_or(0, |file| file.len()),
            plugin_build: runtime.client().platform_version()?.trim().replace('\n', ", "),
            api_version: runtime.client().api_version(),
            device: runtime.devices().first().map(|device| device.kind().to_owned()).unwrap_or_default(),
            cpu: cpu(),
            threads: threads(),
            slices: session.mesh.slices,
            devices_per_slice: session.mesh.devices_per_slice,
        })
    }

    fn build(&self) -> String {
        format!("{} of {} bytes", self.plugin_build, self.plugin_bytes)
    }

    /// What differs from another machine, first things first.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let pairs = |machine: &Self| {
            [
                ("platform", machine.platform.clone()),
                ("plugin", machine.plugin.clone()),
                ("plugin build", machine.build()),
                ("device", machine.device.clone()),
                ("processor", machine.cpu.clone()),
                ("number of threads", machine.threads.to_string()),
                ("number of slices", machine.slices.to_string()),
                ("number of devices per slice", machine.devices_per_slice.to_string()),
            ]
        };
        let (ours, theirs) = (pairs(self), pairs(other));
        let (ours, theirs) = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs)?;
        Some(format!("the {} was {}, is {}", ours.0, theirs.1, ours.1))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.threads == 1 { "" } else { "s" };
        write!(f, "{}, {} thread{plural}; {}, build {}", self.cpu, self.threads, self.plugin, self.build())
    }
}

/// The processor's name, family, model and stepping; its architecture where the system does not tell.
fn cpu() -> String {
    let file = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut fields = file.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    let Some(name) = field("model name") else { return std::env::consts::ARCH.to_owned() };
    match [field("cpu family"), field("model"), field("stepping")] {
        [Some(family), Some(model), Some(stepping)] => format!("{name} ({family}-{model}-{stepping})"),
        _ => name.to_owned(),
    }
}

/// As XLA counts them: `NPROC`, or the processors this process may run on.
pub(super) fn threads() -> usize {
    let asked = std::env::var("NPROC").ok().and_then(|count| count.parse().ok());
    asked.or_else(allowed).unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Processors in this process's affinity mask, on Linux.
fn allowed() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    count(list.trim())
}

/// How many numbers a list such as `0-3,8` names.
fn count(list: &str) -> Option<usize> {
    let range = |part: &str| -> Option<usize> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some((last + 1).saturating_sub(first))
    };
    list.split(',').map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn processors_are_counted_by_ranges() {
        assert_eq!(count("0-3,8,10-11"), Some(7));
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("none"), None);
    }
}
