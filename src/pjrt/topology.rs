//! Topologies: devices described by name, to compile for without having them.

use std::ptr::NonNull;
use std::sync::Arc;

use super::api::{self, Api, filled};
use super::device::DeviceDescription;
use super::error::Result;
use super::executable::{Executable, Owner, with_program};
use super::named::{self, OptionValue};
use super::sys;

/// A described set of devices. Cheap to clone.
#[derive(Clone)]
pub struct Topology(Arc<Inner>);

struct Inner {
    api: &'static Api,
    raw: NonNull<sys::TopologyDescription>,
}

// SAFETY: a topology description does not change after it is made.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the last owner is gone; executables compiled from it were owners.
        unsafe {
            self.api.destroy(sys::TopologyDestroy { topology: self.raw.as_ptr(), ..Default::default() })
        }
    }
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topology").field("plugin", &self.0.api.path()).finish_non_exhaustive()
    }
}

impl Topology {
    pub(super) fn create(api: &'static Api, name: &str, options: &[(&str, OptionValue)]) -> Result<Self> {
        let options = named::to_raw(options);
        let args = sys::TopologyCreate {
            name: name.as_ptr().cast(),
            name_size: name.len(),
            create_options: options.as_ptr(),
            num_options: options.len(),
            ..Default::default()
        };
        // SAFETY: name and options live until the call returns.
        let args = unsafe { api.call(args) }?;
        Ok(Self(Arc::new(Inner { api, raw: filled::<sys::TopologyCreate, _>(args.topology)? })))
    }

    fn raw(&self) -> *mut sys::TopologyDescription {
        self.0.raw.as_ptr()
    }

    /// The platform as the plugin calls it.
    ///
    /// # Errors
    /// The call fails.
    pub fn platform_name(&self) -> Result<String> {
        let args = sys::TopologyPlatformName { topology: self.raw(), ..Default::default() };
        // SAFETY: the topology is alive.
        let args = unsafe { self.0.api.call(args) }?;
        // SAFETY: the name lives as long as the topology.
        Ok(unsafe { api::string(args.platform_name, args.platform_name_size) })
    }

    /// The platform's version, for people to read.
    ///
    /// # Errors
    /// The call fails.
    pub fn platform_version(&self) -> Result<String> {
        let args = sys::TopologyPlatformVersion { topology: self.raw(), ..Default::default() };
        // SAFETY: the topology is alive.
        let args = unsafe { self.0.api.call(args) }?;
        // SAFETY: the version lives as long as the topology.
        Ok(unsafe { api::string(args.platform_version, args.platform_version_size) })
    }

    /// The devices; a device assignment is made from their ids.
    ///
    /// # Errors
    /// A call fails.
    pub fn devices(&self) -> Result<Vec<DeviceDescription>> {
        let args = sys::TopologyDeviceDescriptions { topology: self.raw(), ..Default::default() };
        // SAFETY: the topology is alive.
        let args = unsafe { self.0.api.call(args) }?;
        // SAFETY: the array and the descriptions live as long as the topology.
        unsafe {
            let raw = api::slice(args.descriptions, args.num_descriptions);
            raw.iter().map(|&raw| DeviceDescription::from_raw(self.0.api, raw)).collect()
        }
    }

    /// What the plugin says of the topology as a whole.
    ///
    /// # Errors
    /// The call fails.
    pub fn attributes(&self) -> Result<Vec<(String, OptionValue)>> {
        let args = sys::TopologyAttributes { topology: self.raw(), ..Default::default() };
        // SAFETY: the topology is alive.
        let args = unsafe { self.0.api.call(args) }?;
        // SAFETY: the attributes live as long as the topology.
        Ok(unsafe { named::from_raw(args.attributes, args.num_attributes) })
    }

    /// Compiles a serialized `HloModuleProto` under a serialized `CompileOptionsProto` for these devices.
    ///
    /// # Errors
    /// The compiler refuses the program; a program too large for the devices' memory is
    /// [`super::ErrorCode::ResourceExhausted`].
    pub fn compile(&self, program: &[u8], options: &[u8]) -> Result<Executable> {
        with_program(program, |program| {
            let args = sys::TopologyCompile {
                topology: self.raw(),
                program,
                compile_options: options.as_ptr().cast(),
                compile_options_size: options.len(),
                ..Default::default()
            };
            // SAFETY: program and options live until the call returns; the topology is alive.
            let args = unsafe { self.0.api.call(args) }?;
            let raw = filled::<sys::TopologyCompile, _>(args.executable)?;
            Ok(Executable::from_raw(self.0.api, raw, Owner::Topology { _topology: self.clone() }))
        })
    }
}
