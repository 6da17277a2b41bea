//! Where the two streams meet: modules become programs on devices, host tensors become buffers.
//!
//! A **replica** is a copy of the program on one device; a [`Replicated`] is one buffer on each replica, equal on
//! all of them ([`Runtime::replicate`]) or each with its own rows ([`Runtime::shard`]). Invariants: replica `i` of
//! this process runs on addressable device `i`; a donated value is taken, so it cannot be used again; device ids
//! come from the device list and are never assumed to count from 0.
//!
//! ```no_run
//! # use tpu_train::runtime::*;
//! # fn example(module: &tpu_train_proto::xla::HloModuleProto) -> Result<(), RuntimeError> {
//! let runtime = Runtime::start(&RuntimeOptions { cpu_devices: 8, ..Default::default() })?;
//! let program = runtime.compile(module, 8, None)?;
//! let state = runtime.replicate(&HostTensor::scalar_f32(0.0), 8)?;
//! let batch = runtime.shard(&HostTensor::from_f32(&[0.0; 16], &[16]), 8)?;
//! let outputs = program.execute(vec![Arg::Donate(state), Arg::Borrow(&batch)])?;
//! println!("{}", outputs[0].fetch(0)?.item_f32()?);
//! # Ok(())
//! # }
//! ```

mod compile;
mod element;
mod error;
mod executable_file;
mod host_tensor;
mod memory;
mod program;

use std::path::{Path, PathBuf};
use std::time::Instant;

use prost::Message;
use tpu_train_proto::xla::HloModuleProto;

use crate::pjrt::{
    self, Buffer, Client, Device, DeviceDescription, LoadedExecutable, Number, OptionValue, Platform,
    PlatformRequest, Plugin, PluginFile, bytes_of, plugin,
};
use crate::topology::{Cluster, Place, Share};
use element::to_pjrt;
use program::Parameter;

pub use compile::{compile_options, optimized_module};
pub use error::RuntimeError;
pub use executable_file::ExecutableHeader;
pub use host_tensor::HostTensor;
pub use memory::{memory_available, memory_available_under};
pub use program::{Arg, Program, Replicated};

/// What [`Runtime::start`] needs to know.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// The platform asked for.
    pub platform: PlatformRequest,
    /// A plugin named by the user.
    pub plugin: Option<PathBuf>,
    /// Virtual devices of the CPU platform; others have the devices they have.
    pub cpu_devices: usize,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self { platform: PlatformRequest::Auto, plugin: None, cpu_devices: 1 }
    }
}

/// A plugin's client and its devices.
#[derive(Debug)]
pub struct Runtime {
    client: Client,
    platform: Platform,
    plugin: PluginFile,
    /// Of this process, in the order of its replicas.
    devices: Vec<Device>,
    /// Of each of them, the number by which the client knows it.
    numbers: Vec<usize>,
    /// Devices of the whole job, this process's among them, in the order of their replicas.
    all_devices: Vec<Device>,
    slices: usize,
    share: Share,
}

impl Runtime {
    /// Finds (and, for the CPU, installs) the plugin, and creates its client.
    ///
    /// # Errors
    /// The platform asked for is not there, its plugin is not, or the plugin belongs to another platform.
    pub fn start(options: &RuntimeOptions) -> Result<Self, RuntimeError> {
        if let PlatformRequest::Only(platform) = options.platform {
            plugin::require_devices(platform)?;
        }
        let file = plugin::discover(options.platform, options.plugin.as_deref())?;
        let create: &[_] = match file.platform {
            Platform::Cpu => &[("cpu_device_count", OptionValue::Int(options.cpu_devices as i64))],
            _ => &[],
        };
        let client = Plugin::load(&file)?.client(create)?;
        let platform = actual_platform(&client, &file, options.platform)?;
        let listed = client.devices()?;
        let places: Vec<Place> = listed.iter().map(place_of).collect();
        let cluster = Cluster::new(&places);
        let all_devices: Vec<Device> = cluster.order().iter().map(|&at| listed[at].clone()).collect();
        let (share, numbers) = own_devices(&cluster, &all_devices, &client.addressable_devices()?)?;
        let devices = all_devices[share.replicas.clone()].to_vec();
        let slices = cluster.slices();
        Ok(Self { client, platform, plugin: file, devices, numbers, all_devices, slices, share })
    }

    /// The platform in use.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// The plugin in use.
    pub fn plugin(&self) -> &PluginFile {
        &self.plugin
    }

    /// The client, for what this room does not wrap.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The devices of this process; replica `i` runs on device `i`.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The devices of the whole job; replica `i` of the job runs on device `i`.
    pub fn all_devices(&self) -> &[Device] {
        &self.all_devices
    }

    /// TPU slices of the job, as its devices report them; 1 elsewhere.
    pub fn slices(&self) -> usize {
        self.slices
    }

    /// What this process owns of a program of `replicas` replicas.
    ///
    /// # Errors
    /// More replicas than devices; or, in a job of several processes, fewer: some would have nothing to run.
    pub fn share(&self, replicas: usize) -> Result<Share, RuntimeError> {
        let present = self.all_devices.len();
        if replicas == 0 || replicas > present || (!self.share.is_whole() && replicas < present) {
            return Err(RuntimeError::Replicas { asked: replicas, platform: self.platform, present });
        }
        Ok(if self.share.is_whole() { Share::whole(replicas) } else { self.share.clone() })
    }

    /// One line for the run header: platform, devices, plugin, its C API version.
    pub fn describe(&self) -> String {
        let (major, minor) = self.client.api_version();
        let kind = self.devices.first().map_or("no device", |device| device.kind());
        format!(
            "{}, {} x {kind}, {} (PJRT C API {major}.{minor})",
            self.platform,
            self.all_devices.len(),
            self.plugin.origin
        )
    }

    /// Compiles a module for `replicas` devices of the job: the first ones.
    ///
    /// With `dump`, a folder and a name, leaves `<name>.before.{pb,txt}` and `<name>.after.{pb,txt}` there, the
    /// module before and after optimization, beside the compiler's own dumps.
    ///
    /// # Errors
    /// There are fewer devices, the compiler refuses the module, or a dump cannot be written.
    pub fn compile(
        &self,
        module: &HloModuleProto,
        replicas: usize,
        dump: Option<(&Path, &str)>,
    ) -> Result<Program, RuntimeError> {
        let (share, device_ids) = (self.share(replicas)?, self.assignment(replicas)?);
        if let Some((folder, name)) = dump {
            std::fs::create_dir_all(folder)
                .map_err(|source| RuntimeError::Dump { path: folder.to_owned(), source })?;
            compile::dump_module(folder, name, "before", module)?;
        }
        let options = compile_options(&device_ids, dump.map(|(folder, _)| folder));
        let start = Instant::now();
        let executable = self.client.compile(&module.encode_to_vec(), &options)?;
        let compile_seconds = start.elapsed().as_secs_f64();
        if let Some((folder, name)) = dump {
            compile::dump_module(folder, name, "after", &optimized_module(executable.executable())?)?;
        }
        self.program(executable, Parameter::all_of(module), compile_seconds, share.replicas.len())
    }

    /// Loads an executable that was compiled ahead of time from this very module, instead of compiling it.
    ///
    /// # Errors
    /// The file is damaged; it was made by another build of the plugin, for other devices or from another module; or
    /// the plugin refuses it.
    pub fn load(
        &self,
        module: &HloModuleProto,
        replicas: usize,
        file: &[u8],
    ) -> Result<Program, RuntimeError> {
        let start = Instant::now();
        let ours = self.executable_header(module, replicas)?;
        let (theirs, payload) = ExecutableHeader::read(file)?;
        if let Some(reason) = theirs.difference(&ours) {
            return Err(RuntimeError::ExecutableFile { reason });
        }
        let executable = self.client.load_executable(payload)?;
        let seconds = start.elapsed().as_secs_f64();
        self.program(executable, Parameter::all_of(module), seconds, self.share(replicas)?.replicas.len())
    }

    /// Ids of the devices of the job that run `replicas` replicas, in their order.
    fn assignment(&self, replicas: usize) -> Result<Vec<i32>, RuntimeError> {
        self.share(replicas)?;
        Ok(self.all_devices[..replicas].iter().map(Device::id).collect())
    }

    /// What an executable of this module for `replicas` replicas must have been made of to be loaded here.
    ///
    /// # Errors
    /// There are fewer devices, or the plugin does not tell its version.
    pub fn executable_header(
        &self,
        module: &HloModuleProto,
        replicas: usize,
    ) -> Result<ExecutableHeader, RuntimeError> {
        let version = self.client.platform_version()?;
        let kind = self.devices.first().map_or("", |device| device.kind());
        let device_ids = self.assignment(replicas)?;
        Ok(ExecutableHeader::new(&version, kind, &module.encode_to_vec(), &device_ids))
    }

    fn program(
        &self,
        executable: LoadedExecutable,
        parameters: Vec<Parameter>,
        compile_seconds: f64,
        replicas: usize,
    ) -> Result<Program, RuntimeError> {
        let found = executable.device_ids();
        let expected: Vec<i32> = self.devices[..replicas].iter().map(Device::id).collect();
        if found != expected {
            return Err(RuntimeError::DeviceOrder { expected, found: found.to_vec() });
        }
        let memory = executable.executable().memory().ok();
        Ok(Program { executable, parameters, compile_seconds, memory })
    }

    /// Copies a tensor to device `device` of this process.
    ///
    /// # Errors
    /// The tensor's bytes are not those of its dims, there is no such device, or its memory is full.
    pub fn upload(&self, tensor: &HostTensor, device: usize) -> Result<Buffer, RuntimeError> {
        self.put(&tensor.bytes, to_pjrt(tensor.element_type), &tensor.dims, device)
    }

    /// Copies a tensor to each of this process's first `replicas` devices.
    ///
    /// # Errors
    /// As for [`Self::upload`].
    pub fn replicate(&self, tensor: &HostTensor, replicas: usize) -> Result<Replicated, RuntimeError> {
        let buffers = (0..replicas).map(|device| self.upload(tensor, device)).collect::<Result<_, _>>()?;
        Ok(Replicated { buffers })
    }

    /// Cuts a tensor's rows (its first dimension) into `replicas` equal contiguous parts, one for each of this
    /// process's first devices.
    ///
    /// # Errors
    /// The rows do not divide; otherwise as for [`Self::upload`].
    pub fn shard(&self, tensor: &HostTensor, replicas: usize) -> Result<Replicated, RuntimeError> {
        tensor.check()?;
        self.cut(&tensor.bytes, to_pjrt(tensor.element_type), &tensor.dims, replicas)
    }

    /// As [`Self::shard`], of an array that need not be copied first: `values` in row-major order.
    ///
    /// # Errors
    /// The number of values is not that of `dims`; otherwise as for [`Self::shard`].
    pub fn shard_values<T: Number>(
        &self,
        values: &[T],
        dims: &[usize],
        replicas: usize,
    ) -> Result<Replicated, RuntimeError> {
        self.cut(bytes_of(values), T::TYPE, dims, replicas)
    }

    fn cut(
        &self,
        bytes: &[u8],
        element_type: pjrt::ElementType,
        dims: &[usize],
        replicas: usize,
    ) -> Result<Replicated, RuntimeError> {
        let rows = dims.first().copied().unwrap_or(0);
        if replicas == 0 || rows == 0 || rows % replicas != 0 {
            return Err(RuntimeError::Rows { rows, replicas });
        }
        let mut dims = dims.to_vec();
        dims[0] = rows / replicas;
        let part = bytes.len() / replicas;
        let put =
            |device: usize| self.put(&bytes[device * part..(device + 1) * part], element_type, &dims, device);
        Ok(Replicated { buffers: (0..replicas).map(put).collect::<Result<_, _>>()? })
    }

    fn put(
        &self,
        bytes: &[u8],
        element_type: pjrt::ElementType,
        dims: &[usize],
        device: usize,
    ) -> Result<Buffer, RuntimeError> {
        // A device beyond this process's own is left to the client to refuse.
        let number = self.numbers.get(device).copied().unwrap_or(device);
        Ok(self.client.buffer_from_host(bytes, element_type, dims, number)?)
    }

    /// Compares what `program` needs with what is free now. Call it before the program's inputs are uploaded.
    ///
    /// Virtual CPU devices share the host's memory, so there the replicas of this process count together.
    pub fn memory_check(&self, program: &Program) -> MemoryCheck {
        let sharing = if self.platform == Platform::Cpu { program.replicas() as u64 } else { 1 };
        MemoryCheck {
            needed: program.memory.map(|memory| memory.total() * sharing),
            free: self.free_memory(),
        }
    }

    /// Bytes free: of the host on the CPU platform, of the fullest of this process's devices elsewhere.
    pub fn free_memory(&self) -> Option<u64> {
        match self.platform {
            Platform::Cpu => memory_available(),
            _ => self
                .devices
                .iter()
                .filter_map(Device::memory)
                .filter_map(|memory| memory.limit.map(|limit| limit.saturating_sub(memory.in_use)))
                .min(),
        }
    }
}

/// The memory a program needs against the memory that is free, in bytes; `None` where a plugin does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryCheck {
    /// Needed by all replicas that share one memory.
    pub needed: Option<u64>,
    /// Free in that memory.
    pub free: Option<u64>,
}

impl MemoryCheck {
    /// Whether the program fits, as far as is known.
    pub fn fits(&self) -> bool {
        match (self.needed, self.free) {
            (Some(needed), Some(free)) => needed <= free,
            _ => true,
        }
    }
}

fn place_of(device: &Device) -> Place {
    place(device.description())
}

/// Where in its job a device is, by what it says of itself.
pub fn place(device: &DeviceDescription) -> Place {
    Place { slice: device.int_attribute("slice_index").unwrap_or(0), process: device.process_index }
}

/// This process's share of the cluster, and the number by which the client knows each of its devices.
fn own_devices(
    cluster: &Cluster,
    all_devices: &[Device],
    addressable: &[Device],
) -> Result<(Share, Vec<usize>), RuntimeError> {
    let ids: Vec<i32> = addressable.iter().map(Device::id).collect();
    let wrong = || RuntimeError::Process { addressable: ids.clone() };
    let own = addressable.first().ok_or_else(wrong)?;
    let share = cluster.share(place_of(own)).ok_or_else(wrong)?;
    let number = |device: &Device| ids.iter().position(|&id| id == device.id());
    let numbers: Option<Vec<usize>> = all_devices[share.replicas.clone()].iter().map(number).collect();
    match numbers {
        Some(numbers) if numbers.len() == ids.len() => Ok((share, numbers)),
        _ => Err(wrong()),
    }
}

fn actual_platform(
    client: &Client,
    file: &PluginFile,
    request: PlatformRequest,
) -> Result<Platform, RuntimeError> {
    let found = client.platform_name()?;
    let actual = Platform::from_plugin_name(&found);
    let expected = match request {
        PlatformRequest::Only(platform) => platform,
        PlatformRequest::Auto => actual.unwrap_or(file.platform),
    };
    if actual != Some(expected) {
        return Err(pjrt::Error::WrongPlatform { path: file.path.clone(), found, expected }.into());
    }
    Ok(expected)
}
