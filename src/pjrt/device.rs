//! Devices and what they say of themselves.

use std::ptr::NonNull;

use super::api::{self, Api, filled};
use super::client::Client;
use super::error::Result;
use super::named::{self, OptionValue};
use super::sys;

/// What a device is, whether it is here or only described by a topology.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceDescription {
    /// The id a device assignment uses; unique in the job, not necessarily from 0.
    pub id: i32,
    /// The process the device belongs to.
    pub process_index: i32,
    /// The vendor's name of the kind, such as `TPU v5 lite`.
    pub kind: String,
    /// One line for people.
    pub debug_string: String,
    /// Platform-specific attributes, such as `coords`, `core_on_chip` and `slice_index`.
    pub attributes: Vec<(String, OptionValue)>,
}

impl DeviceDescription {
    /// The integer attribute of this name.
    pub fn int_attribute(&self, name: &str) -> Option<i64> {
        self.attributes.iter().find_map(|(known, value)| match value {
            OptionValue::Int(value) if known == name => Some(*value),
            _ => None,
        })
    }

    /// # Safety
    /// `raw` is a live description of `api`.
    pub(super) unsafe fn from_raw(api: &Api, raw: *mut sys::DeviceDescription) -> Result<Self> {
        // SAFETY: the caller's promise holds for every call below; strings and attributes live as long as `raw`
        // and are copied at once.
        unsafe {
            let id = api.call(sys::DeviceDescriptionId { description: raw, ..Default::default() })?.id;
            let process =
                api.call(sys::DeviceDescriptionProcessIndex { description: raw, ..Default::default() })?;
            let kind = api.call(sys::DeviceDescriptionKind { description: raw, ..Default::default() })?;
            let debug =
                api.call(sys::DeviceDescriptionDebugString { description: raw, ..Default::default() })?;
            let attributes =
                api.call(sys::DeviceDescriptionAttributes { description: raw, ..Default::default() })?;
            Ok(Self {
                id,
                process_index: process.process_index,
                kind: api::string(kind.kind, kind.kind_size),
                debug_string: api::string(debug.debug_string, debug.debug_string_size),
                attributes: named::from_raw(attributes.attributes, attributes.num_attributes),
            })
        }
    }
}

/// A device of a client.
#[derive(Clone, Debug)]
pub struct Device {
    client: Client,
    raw: NonNull<sys::Device>,
    description: DeviceDescription,
}

// SAFETY: a device belongs to its client, which is thread-safe and kept alive here.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// A device's memory as its allocator sees it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In use now.
    pub in_use: u64,
    /// The most that was in use, if the plugin keeps count.
    pub peak: Option<u64>,
    /// The allocator's limit, if it has one.
    pub limit: Option<u64>,
}

impl Device {
    pub(super) fn from_raw(client: &Client, raw: *mut sys::Device) -> Result<Self> {
        let raw = filled::<sys::ClientDevices, _>(raw)?;
        let description = description_of(client, raw.as_ptr())?;
        // SAFETY: the description belongs to a device of `client`, which is alive.
        let description = unsafe { DeviceDescription::from_raw(client.api(), description) }?;
        Ok(Self { client: client.clone(), raw, description })
    }

    /// What the device is.
    pub fn description(&self) -> &DeviceDescription {
        &self.description
    }

    /// The id a device assignment uses.
    pub fn id(&self) -> i32 {
        self.description.id
    }

    /// The vendor's name of the kind, such as `TPU v5 lite`.
    pub fn kind(&self) -> &str {
        &self.description.kind
    }

    /// The process the device belongs to.
    pub fn process_index(&self) -> i32 {
        self.description.process_index
    }

    /// The device's number on its host, if the plugin gives one (-1 otherwise).
    ///
    /// # Errors
    /// The call fails.
    pub fn local_hardware_id(&self) -> Result<i32> {
        let args = sys::DeviceLocalHardwareId { device: self.raw.as_ptr(), ..Default::default() };
        // SAFETY: the device lives as long as its client, which `self` keeps.
        Ok(unsafe { self.client.api().call(args) }?.local_hardware_id)
    }

    /// The device's memory; `None` where the plugin does not say (the CPU plugin).
    pub fn memory(&self) -> Option<DeviceMemory> {
        let args = sys::DeviceMemoryStats { device: self.raw.as_ptr(), ..Default::default() };
        // SAFETY: the device lives as long as its client, which `self` keeps.
        let stats = unsafe { self.client.api().call(args) }.ok()?;
        let optional = |bytes: sys::OptionalBytes| {
            if bytes.is_set { u64::try_from(bytes.value).ok() } else { None }
        };
        Some(DeviceMemory {
            in_use: u64::try_from(stats.bytes_in_use).ok()?,
            peak: optional(stats.peak_bytes_in_use),
            limit: optional(stats.bytes_limit),
        })
    }
}

fn description_of(client: &Client, raw: *mut sys::Device) -> Result<*mut sys::DeviceDescription> {
    let args = sys::DeviceGetDescription { device: raw, ..Default::default() };
    // SAFETY: `raw` is a device of `client`, which is alive.
    let args = unsafe { client.api().call(args) }?;
    Ok(filled::<sys::DeviceGetDescription, _>(args.description)?.as_ptr())
}

/// Id of a raw device of `client`.
pub(super) fn id_of(client: &Client, raw: *mut sys::Device) -> Result<i32> {
    let description = description_of(client, raw)?;
    // SAFETY: the description belongs to a device of `client`, which is alive.
    let args = unsafe { client.api().call(sys::DeviceDescriptionId { description, ..Default::default() }) }?;
    Ok(args.id)
}
