//! Topologies by the names that people type, opened in libtpu.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Result, bail};

use crate::cli::CompileArgs;
use crate::deploy::accelerator::Slice;
use crate::pjrt::{Error, ErrorCode, OptionValue, Plugin, PluginFile, Topology};

/// The attribute in which libtpu says what a program may use of a device's memory.
const MEMORY: &str = "device_memory_bytes_limit";

/// Devices to compile for.
pub(super) struct Target {
    /// libtpu's name of one slice.
    pub(super) name: String,
    /// Slices.
    pub(super) slices: usize,
    pub(super) topology: Topology,
    /// The devices in the order of the device list, which is the order of the replicas.
    pub(super) device_ids: Vec<i32>,
    /// Processes, one a host.
    pub(super) processes: usize,
    /// The devices' kind.
    pub(super) kind: String,
    /// Bytes of memory that a program may use on one device.
    pub(super) memory: Option<u64>,
    /// The platform's version.
    pub(super) version: String,
}

impl Target {
    /// # Errors
    /// The plugin cannot be loaded or is not libtpu, or there is no such topology.
    pub(super) fn open(file: &PluginFile, args: &CompileArgs) -> Result<Self> {
        let plugin = Plugin::load(file)?;
        let slice: Option<Slice> = args.topology.parse().ok();
        let name = slice.as_ref().map_or_else(|| args.topology.trim().to_owned(), Slice::libtpu_name);
        let mut options = Vec::new();
        if args.num_slices > 1 {
            options.push(("num_slices", OptionValue::Int(args.num_slices as i64)));
        }
        if let Some(chips) = slice.as_ref().and_then(Slice::chips_of_wide_host) {
            options.push(("chips_per_host_bounds", OptionValue::IntList(chips.to_vec())));
        }
        if args.megacore {
            options.push(("chip_config_name", OptionValue::Text("megacore".into())));
        }
        let topology = match plugin.topology(&name, &options) {
            Ok(topology) => topology,
            Err(Error::Call(error)) if error.code == ErrorCode::Unimplemented => {
                bail!("the plugin {} has no topologies to compile for: it is not libtpu", file.path.display())
            }
            Err(error) if args.megacore && slice.is_some() => {
                bail!("--megacore is for v4, not for {}: {}", args.topology, first_line(&error.to_string()))
            }
            Err(error) => bail!(unknown(&args.topology, &error.to_string())),
        };
        let devices = topology.devices()?;
        let processes: BTreeSet<i32> = devices.iter().map(|device| device.process_index).collect();
        let memory = topology.attributes()?.into_iter().find(|(name, _)| name == MEMORY);
        let memory =
            memory.or_else(|| devices.first()?.attributes.iter().find(|(name, _)| name == MEMORY).cloned());
        Ok(Self {
            name,
            slices: args.num_slices,
            device_ids: devices.iter().map(|device| device.id).collect(),
            processes: processes.len(),
            kind: devices.first().map(|device| device.kind.clone()).unwrap_or_default(),
            memory: match memory {
                Some((_, OptionValue::Int(bytes))) => u64::try_from(bytes).ok(),
                _ => None,
            },
            version: topology.platform_version()?,
            topology,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (devices, name, kind) = (self.device_ids.len() / self.slices.max(1), &self.name, &self.kind);
        let plural = if self.slices == 1 { "" } else { "s" };
        write!(f, "{} slice{plural} of {name}, {devices} x {kind} each", self.slices)
    }
}

/// One sentence on what there is; libtpu's own reason where the name has its form.
fn unknown(typed: &str, reason: &str) -> String {
    let reason = if typed.contains(':') { format!(" ({})", first_line(reason)) } else { String::new() };
    format!(
        "--topology {typed}: libtpu knows no such TPU slice{reason}; there are {}, and others by chips, such as \
         v5e:2x4 or v5p:2x2x4",
        Slice::range_of_names()
    )
}

/// What libtpu says, without the function that failed.
fn first_line(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default();
    line.split_once(": ").map_or(line, |(_, reason)| reason)
}
