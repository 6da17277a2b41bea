//! Plugins and clients: from a file to devices that run programs.

use std::ffi::c_void;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock};

use super::api::{self, Api, filled};
use super::buffer::Buffer;
use super::device::{self, Device};
use super::element::ElementType;
use super::environment;
use super::error::{Error, Result};
use super::event::Event;
use super::executable::{LoadedExecutable, with_program};
use super::named::{self, OptionValue};
use super::plugin::{Platform, PluginFile};
use super::sys;
use super::topology::Topology;

/// A loaded plugin: makes clients (which need its devices) and topologies (which need none).
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    api: &'static Api,
    platform: Platform,
}

impl Plugin {
    /// Loads and initializes a plugin; a file is loaded once per process and stays loaded.
    ///
    /// # Errors
    /// The file is no plugin, or of another major version of the C API.
    pub fn load(file: &PluginFile) -> Result<Self> {
        Ok(Self { api: Api::load(&file.path)?, platform: file.platform })
    }

    /// Major and minor version of the plugin's C API.
    pub fn api_version(&self) -> (i32, i32) {
        self.api.version()
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        self.api.path()
    }

    /// How many functions the plugin's table holds.
    pub fn function_count(&self) -> usize {
        self.api.slots()
    }

    /// What the plugin says of itself, such as `xla_version`.
    ///
    /// # Errors
    /// The call fails.
    pub fn attributes(&self) -> Result<Vec<(String, OptionValue)>> {
        // SAFETY: the function takes no argument beyond the header.
        let args = unsafe { self.api.call(sys::PluginAttributes::default()) }?;
        // SAFETY: the attributes live as long as the process.
        Ok(unsafe { named::from_raw(args.attributes, args.num_attributes) })
    }

    /// Creates a client with these options (`cpu_device_count` for the CPU plugin).
    ///
    /// # Errors
    /// A TPU client without TPU device files is refused at once, since the plugin itself would search for minutes;
    /// otherwise the plugin's own failure.
    pub fn client(&self, options: &[(&str, OptionValue)]) -> Result<Client> {
        if self.platform == Platform::Tpu {
            environment::require_tpu_device_files()?;
        }
        let raw = named::to_raw(options);
        let args =
            sys::ClientCreate { create_options: raw.as_ptr(), num_options: raw.len(), ..Default::default() };
        // SAFETY: the options live until the call returns; no callbacks are passed.
        let args = unsafe { self.api.call(args) }?;
        let raw = filled::<sys::ClientCreate, _>(args.client)?;
        Ok(Client(Arc::new(Inner { api: self.api, raw, launch: Mutex::new(()), devices: OnceLock::new() })))
    }

    /// Describes a set of devices by name, without needing them, to compile for ahead of time.
    ///
    /// `name` is the plugin's own spelling, such as `v5e:2x4`; option `num_slices` (an integer) asks for several.
    ///
    /// # Errors
    /// The plugin does not know the name, or offers no topologies (the CPU plugin).
    pub fn topology(&self, name: &str, options: &[(&str, OptionValue)]) -> Result<Topology> {
        Topology::create(self.api, name, options)
    }
}

/// A plugin's runtime in this process. Cheap to clone; destroyed with the last object made from it.
#[derive(Clone)]
pub struct Client(pub(super) Arc<Inner>);

/// What the clones of a [`Client`] share.
pub(super) struct Inner {
    pub(super) api: &'static Api,
    pub(super) raw: NonNull<sys::Client>,
    /// Held while a program is started: two programs with collectives must start in the same order on every device.
    pub(super) launch: Mutex<()>,
    /// Addressable devices in the plugin's order; pointers owned by the client.
    devices: OnceLock<Vec<RawDevice>>,
}

#[derive(Clone, Copy)]
struct RawDevice(NonNull<sys::Device>);

// SAFETY: PJRT clients are thread-safe.
unsafe impl Send for Inner {}
// SAFETY: PJRT clients are thread-safe.
unsafe impl Sync for Inner {}
// SAFETY: a device belongs to its client, which is thread-safe.
unsafe impl Send for RawDevice {}
// SAFETY: a device belongs to its client, which is thread-safe.
unsafe impl Sync for RawDevice {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the last owner is gone, and every buffer and executable was an owner.
        unsafe { self.api.destroy(sys::ClientDestroy { client: self.raw.as_ptr(), ..Default::default() }) }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("plugin", &self.0.api.path()).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn api(&self) -> &'static Api {
        self.0.api
    }

    pub(super) fn raw(&self) -> *mut sys::Client {
        self.0.raw.as_ptr()
    }

    /// Major and minor version of the plugin's C API.
    pub fn api_version(&self) -> (i32, i32) {
        self.api().version()
    }

    /// The platform as the plugin calls it: `cpu`, `tpu`, `cuda`.
    ///
    /// # Errors
    /// The call fails.
    pub fn platform_name(&self) -> Result<String> {
        let args = sys::ClientPlatformName { client: self.raw(), ..Default::default() };
        // SAFETY: the client is alive.
        let args = unsafe { self.api().call(args) }?;
        // SAFETY: the name lives as long as the client.
        Ok(unsafe { api::string(args.platform_name, args.platform_name_size) })
    }

    /// The platform's version, for people to read; may have several lines.
    ///
    /// # Errors
    /// The call fails.
    pub fn platform_version(&self) -> Result<String> {
        let args = sys::ClientPlatformVersion { client: self.raw(), ..Default::default() };
        // SAFETY: the client is alive.
        let args = unsafe { self.api().call(args) }?;
        // SAFETY: the version lives as long as the client.
        Ok(unsafe { api::string(args.platform_version, args.platform_version_size) })
    }

    /// This process's index among the processes of the job; 0 if it is alone.
    ///
    /// # Errors
    /// The call fails.
    pub fn process_index(&self) -> Result<i32> {
        let args = sys::ClientProcessIndex { client: self.raw(), ..Default::default() };
        // SAFETY: the client is alive.
        Ok(unsafe { self.api().call(args) }?.process_index)
    }

    /// All devices of the job, those of other processes included.
    ///
    /// # Errors
    /// A call fails.
    pub fn devices(&self) -> Result<Vec<Device>> {
        let args = sys::ClientDevices { client: self.raw(), ..Default::default() };
        // SAFETY: the client is alive.
        let args = unsafe { self.api().call(args) }?;
        // SAFETY: the array lives as long as the client.
        let raw = unsafe { api::slice(args.devices, args.num_devices) };
        raw.iter().map(|&raw| Device::from_raw(self, raw)).collect()
    }

    /// The devices of this process, in the order that device indices count.
    ///
    /// # Errors
    /// A call fails.
    pub fn addressable_devices(&self) -> Result<Vec<Device>> {
        self.raw_devices()?.iter().map(|raw| Device::from_raw(self, raw.0.as_ptr())).collect()
    }

    fn raw_devices(&self) -> Result<&[RawDevice]> {
        if let Some(devices) = self.0.devices.get() {
            return Ok(devices);
        }
        let args = sys::ClientAddressableDevices { client: self.raw(), ..Default::default() };
        // SAFETY: the client is alive.
        let args = unsafe { self.api().call(args) }?;
        // SAFETY: the array lives as long as the client.
        let raw = unsafe { api::slice(args.devices, args.num_devices) };
        let devices = raw.iter().filter_map(|&raw| NonNull::new(raw).map(RawDevice)).collect();
        Ok(self.0.devices.get_or_init(|| devices))
    }

    /// Compiles a serialized `HloModuleProto` under a serialized `CompileOptionsProto`.
    ///
    /// # Errors
    /// The bytes are no such messages, or the compiler refuses the program.
    pub fn compile(&self, program: &[u8], options: &[u8]) -> Result<LoadedExecutable> {
        with_program(program, |program| {
            let args = sys::ClientCompile {
                client: self.raw(),
                program,
                compile_options: options.as_ptr().cast(),
                compile_options_size: options.len(),
                ..Default::default()
            };
            // SAFETY: program and options live until the call returns; the client is alive.
            let args = unsafe { self.api().call(args) }?;
            LoadedExecutable::from_raw(self, filled::<sys::ClientCompile, _>(args.executable)?)
        })
    }

    /// Loads what [`super::Executable::serialize`] gave, on the same platform and build of the plugin.
    ///
    /// # Errors
    /// The bytes come from another build, or the devices differ.
    pub fn load_executable(&self, serialized: &[u8]) -> Result<LoadedExecutable> {
        let args = sys::ExecutableDeserializeAndLoad {
            client: self.raw(),
            serialized: serialized.as_ptr().cast(),
            serialized_size: serialized.len(),
            ..Default::default()
        };
        // SAFETY: the bytes live until the call returns; the client is alive.
        let args = unsafe { self.api().call(args) }?;
        LoadedExecutable::from_raw(
            self,
            filled::<sys::ExecutableDeserializeAndLoad, _>(args.loaded_executable)?,
        )
    }

    /// Copies a dense row-major array to a device; `bytes` may be reused when this returns.
    ///
    /// `device` counts [`Self::addressable_devices`].
    ///
    /// # Errors
    /// The number of bytes does not match, there is no such device, or the device's memory is full.
    pub fn buffer_from_host(
        &self,
        bytes: &[u8],
        element_type: ElementType,
        dims: &[usize],
        device: usize,
    ) -> Result<Buffer> {
        // SAFETY: with these semantics the plugin reads `bytes` during the call only.
        let (buffer, _) =
            unsafe { self.transfer(bytes, element_type, dims, device, sys::IMMUTABLE_ONLY_DURING_CALL) }?;
        Ok(buffer)
    }

    /// As [`Self::buffer_from_host`] without waiting for a copy: `bytes` is moved in, read in the background and
    /// freed when the device has it.
    ///
    /// # Errors
    /// As for [`Self::buffer_from_host`].
    pub fn buffer_from_host_owned(
        &self,
        bytes: Vec<u8>,
        element_type: ElementType,
        dims: &[usize],
        device: usize,
    ) -> Result<Buffer> {
        let semantics = sys::IMMUTABLE_UNTIL_TRANSFER_COMPLETES;
        // SAFETY: `bytes` is neither changed nor freed before the transfer's event is ready: `keep_alive` holds it
        // (a `Vec`'s bytes do not move with it), and waits itself where it cannot.
        let (buffer, done) = unsafe { self.transfer(&bytes, element_type, dims, device, semantics) }?;
        if let Some(done) = done {
            done.keep_alive(Box::new(bytes))?;
        }
        Ok(buffer)
    }

    /// # Safety
    /// `bytes` stays as it is for as long as `semantics` asks.
    unsafe fn transfer(
        &self,
        bytes: &[u8],
        element_type: ElementType,
        dims: &[usize],
        device: usize,
        semantics: i32,
    ) -> Result<(Buffer, Option<Event>)> {
        check_size(bytes.len(), element_type, dims)?;
        let device = self.raw_device(device)?;
        let dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        let args = sys::BufferFromHostBuffer {
            client: self.raw(),
            data: bytes.as_ptr().cast::<c_void>(),
            element_type: element_type.code(),
            dims: dims.as_ptr(),
            num_dims: dims.len(),
            host_buffer_semantics: semantics,
            device,
            ..Default::default()
        };
        // SAFETY: `dims` lives until the call returns, `bytes` as long as the caller promises; no strides means
        // dense row-major, and the length was checked against it.
        let args = unsafe { self.api().call(args) }?;
        // SAFETY: the event is this call's own.
        let done = unsafe { Event::from_raw(self.api(), args.done_with_host_buffer) };
        let buffer = filled::<sys::BufferFromHostBuffer, _>(args.buffer)?;
        Ok((Buffer::from_raw(self, buffer), done))
    }

    fn raw_device(&self, index: usize) -> Result<*mut sys::Device> {
        let devices = self.raw_devices()?;
        devices.get(index).map(|raw| raw.0.as_ptr()).ok_or_else(|| Error::Argument {
            what: "device index",
            expected: format!("less than {}", devices.len()),
            found: index.to_string(),
        })
    }

    /// Ids of the devices behind raw pointers, which belong to this client.
    pub(super) fn device_ids(&self, raw: &[*mut sys::Device]) -> Result<Vec<i32>> {
        raw.iter().map(|&raw| device::id_of(self, raw)).collect()
    }
}

fn check_size(found: usize, element_type: ElementType, dims: &[usize]) -> Result<()> {
    let expected = dims.iter().try_fold(element_type.bytes(), |bytes, &dim| bytes.checked_mul(dim));
    if expected == Some(found) {
        return Ok(());
    }
    Err(Error::Argument {
        what: "bytes of a host array",
        expected: format!(
            "{} for {element_type:?}{dims:?}",
            expected.map_or("more than memory holds".into(), |n| n.to_string())
        ),
        found: found.to_string(),
    })
}
