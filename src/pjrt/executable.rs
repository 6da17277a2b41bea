//! Executables: compiled programs, to inspect and, once loaded on devices, to run.

use std::ptr::{NonNull, null_mut};
use std::sync::PoisonError;

use super::api::{self, Api, filled};
use super::buffer::Buffer;
use super::client::Client;
use super::error::{Error, Result};
use super::named::{self, OptionValue};
use super::sys::{self, Header, Oversized};

/// The format of the programs this room compiles: a serialized `HloModuleProto`.
const HLO_FORMAT: &str = "hlo";

/// What an executable keeps alive.
pub(super) enum Owner {
    Client { _client: Client },
    Topology { _topology: super::Topology },
}

/// A compiled program, whether or not devices for it are here.
pub struct Executable {
    api: &'static Api,
    raw: NonNull<sys::Executable>,
    _owner: Owner,
}

// SAFETY: PJRT executables are thread-safe.
unsafe impl Send for Executable {}
// SAFETY: PJRT executables are thread-safe.
unsafe impl Sync for Executable {}

impl Drop for Executable {
    fn drop(&mut self) {
        // SAFETY: `self` owns the executable.
        unsafe { self.api.destroy(sys::ExecutableDestroy { executable: self.raw(), ..Default::default() }) }
    }
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executable").field("name", &self.name().ok()).finish_non_exhaustive()
    }
}

/// Memory a program needs on each device, in bytes, as its compiler planned it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompiledMemory {
    /// All inputs.
    pub arguments: u64,
    /// All outputs, those that reuse an input included.
    pub outputs: u64,
    /// The part of the outputs that reuses donated inputs.
    pub aliased: u64,
    /// What the program needs besides, while it runs.
    pub temporaries: u64,
    /// The program itself.
    pub generated_code: u64,
    /// The peak as the compiler estimates it; 0 where it does not.
    pub peak: u64,
}

impl CompiledMemory {
    /// Bytes in use on a device while the program runs: inputs, outputs that are not inputs, temporaries, code.
    pub fn total(&self) -> u64 {
        (self.arguments + self.outputs + self.temporaries + self.generated_code).saturating_sub(self.aliased)
    }
}

/// A compiled program as its compiler left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptimizedProgram {
    /// The plugin's name of the format: `hlo_with_config` is a serialized `HloModuleProtoWithConfig`.
    pub format: String,
    /// The program.
    pub bytes: Vec<u8>,
}

impl Executable {
    /// Takes over an executable that nobody else destroys.
    pub(super) fn from_raw(api: &'static Api, raw: NonNull<sys::Executable>, owner: Owner) -> Self {
        Self { api, raw, _owner: owner }
    }

    fn raw(&self) -> *mut sys::Executable {
        self.raw.as_ptr()
    }

    /// The module's name.
    ///
    /// # Errors
    /// The call fails.
    pub fn name(&self) -> Result<String> {
        let args = sys::ExecutableName { executable: self.raw(), ..Default::default() };
        // SAFETY: the executable is alive.
        let args = unsafe { self.api.call(args) }?;
        // SAFETY: the name lives as long as the executable.
        Ok(unsafe { api::string(args.name, args.name_size) })
    }

    /// How many outputs each device gives; a root tuple counts its elements.
    ///
    /// # Errors
    /// The call fails.
    pub fn output_count(&self) -> Result<usize> {
        let args = sys::ExecutableNumOutputs { executable: self.raw(), ..Default::default() };
        // SAFETY: the executable is alive.
        Ok(unsafe { self.api.call(args) }?.num_outputs)
    }

    /// The memory each device needs.
    ///
    /// # Errors
    /// The plugin does not say.
    pub fn memory(&self) -> Result<CompiledMemory> {
        let args = sys::ExecutableMemoryStats { executable: self.raw(), ..Default::default() };
        // SAFETY: the executable is alive.
        let stats = unsafe { self.api.call(args) }?;
        let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        Ok(CompiledMemory {
            arguments: bytes(stats.arguments),
            outputs: bytes(stats.outputs),
            aliased: bytes(stats.aliased),
            temporaries: bytes(stats.temporaries),
            generated_code: bytes(stats.generated_code),
            peak: bytes(stats.peak),
        })
    }

    /// A string that differs between different programs.
    ///
    /// # Errors
    /// The plugin gives none.
    pub fn fingerprint(&self) -> Result<String> {
        let args = sys::ExecutableFingerprint { executable: self.raw(), ..Default::default() };
        // SAFETY: the executable is alive.
        let args = unsafe { self.api.call(args) }?;
        // SAFETY: the fingerprint lives as long as the executable.
        Ok(unsafe { api::string(args.fingerprint, args.fingerprint_size) })
    }

    /// What the compiler says the program costs. Loop bodies count once: no measure of a whole step.
    ///
    /// # Errors
    /// The plugin does not say.
    pub fn cost_analysis(&self) -> Result<Vec<(String, OptionValue)>> {
        let args = sys::ExecutableGetCostAnalysis { executable: self.raw(), ..Default::default() };
        // SAFETY: the executable is alive.
        let args = unsafe { self.api.call(args) }?;
        // SAFETY: the properties live as long as the executable.
        Ok(unsafe { named::from_raw(args.properties, args.num_properties) })
    }

    /// The program after optimization.
    ///
    /// # Errors
    /// The plugin does not give it.
    pub fn optimized_program(&self) -> Result<OptimizedProgram> {
        let header = Header::sized(Oversized::<sys::Program>::SIZE);
        let mut program = Oversized::new(sys::Program {
            header,
            code: null_mut(),
            code_size: 0,
            format: std::ptr::null(),
            format_size: 0,
        });
        let args = |program: &mut Oversized<sys::Program>| sys::ExecutableOptimizedProgram {
            executable: self.raw(),
            program: program.as_ptr(),
            ..Default::default()
        };
        // SAFETY: the executable and `program` are alive; without code the call only states its size.
        unsafe { self.api.call(args(&mut program)) }?;
        let mut bytes = vec![0_u8; program.inner.code_size];
        program.inner.code = bytes.as_mut_ptr().cast();
        // SAFETY: as above; `bytes` has the size the first call stated.
        unsafe { self.api.call(args(&mut program)) }?;
        // SAFETY: the plugin owns the format's name, which lives at least as long as the executable.
        let format = unsafe { api::string(program.inner.format, program.inner.format_size) };
        Ok(OptimizedProgram { format, bytes })
    }

    /// The executable as bytes that [`Client::load_executable`] takes, on the same build of the plugin.
    ///
    /// # Errors
    /// The plugin cannot serialize it.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        let args = sys::ExecutableSerialize { executable: self.raw(), ..Default::default() };
        // SAFETY: the executable is alive.
        let args = unsafe { self.api.call(args) }?;
        // SAFETY: the bytes live until their deleter runs, below.
        let bytes = unsafe { api::slice(args.bytes.cast::<u8>(), args.bytes_size) }.to_vec();
        if let Some(deleter) = args.deleter {
            // SAFETY: the plugin's own deleter for its own object, called once.
            unsafe { deleter(args.serialized) };
        }
        Ok(bytes)
    }
}

/// One input of one device.
#[derive(Debug)]
pub enum Argument<'a> {
    /// The program may read it; it stays as it is.
    Borrow(&'a Buffer),
    /// The program may write an output over it; it is gone after the call, whether or not that succeeds.
    Donate(Buffer),
}

impl Argument<'_> {
    fn raw(&self) -> *mut sys::Buffer {
        match self {
            Self::Borrow(buffer) => buffer.raw(),
            Self::Donate(buffer) => buffer.raw(),
        }
    }

    fn is_borrowed(&self) -> bool {
        matches!(self, Self::Borrow(_))
    }
}

/// A program on the devices it was compiled for.
pub struct LoadedExecutable {
    executable: Executable,
    client: Client,
    raw: NonNull<sys::LoadedExecutable>,
    device_ids: Vec<i32>,
    output_count: usize,
}

// SAFETY: PJRT executables are thread-safe.
unsafe impl Send for LoadedExecutable {}
// SAFETY: PJRT executables are thread-safe.
unsafe impl Sync for LoadedExecutable {}

impl std::fmt::Debug for LoadedExecutable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedExecutable").field("device_ids", &self.device_ids).finish_non_exhaustive()
    }
}

/// Destroys a loaded executable.
struct Unload<'a>(&'a Client, NonNull<sys::LoadedExecutable>);

impl Drop for Unload<'_> {
    fn drop(&mut self) {
        let args = sys::LoadedExecutableDestroy { executable: self.1.as_ptr(), ..Default::default() };
        // SAFETY: the owner of the executable drops; programs that still run hold it inside the plugin.
        unsafe { self.0.api().destroy(args) }
    }
}

impl Drop for LoadedExecutable {
    fn drop(&mut self) {
        drop(Unload(&self.client, self.raw));
    }
}

impl LoadedExecutable {
    /// Takes over an executable of `client` that nobody else destroys.
    pub(super) fn from_raw(client: &Client, raw: NonNull<sys::LoadedExecutable>) -> Result<Self> {
        let unload = Unload(client, raw);
        let args =
            sys::LoadedExecutableGetExecutable { loaded_executable: raw.as_ptr(), ..Default::default() };
        // SAFETY: the loaded executable is alive.
        let args = unsafe { client.api().call(args) }?;
        let executable = filled::<sys::LoadedExecutableGetExecutable, _>(args.executable)?;
        let owner = Owner::Client { _client: client.clone() };
        let executable = Executable::from_raw(client.api(), executable, owner);
        let args = sys::LoadedExecutableAddressableDevices { executable: raw.as_ptr(), ..Default::default() };
        // SAFETY: the loaded executable is alive.
        let args = unsafe { client.api().call(args) }?;
        // SAFETY: the array lives as long as the loaded executable.
        let device_ids = client.device_ids(unsafe { api::slice(args.devices, args.num_devices) })?;
        let output_count = executable.output_count()?;
        std::mem::forget(unload);
        Ok(Self { executable, client: client.clone(), raw, device_ids, output_count })
    }

    /// The compiled program, to inspect.
    pub fn executable(&self) -> &Executable {
        &self.executable
    }

    /// Ids of this process's devices that run the program, in the order of [`Self::execute`]'s lists.
    pub fn device_ids(&self) -> &[i32] {
        &self.device_ids
    }

    /// How many outputs each device gives.
    pub fn output_count(&self) -> usize {
        self.output_count
    }

    /// Starts the program once on all its devices of this process. It runs in the background where the plugin has
    /// one: its outputs are there when they have been waited for, and so is its failure, if it fails.
    ///
    /// `arguments[device][argument]`, each list in the order of the program's parameters; an argument is donated
    /// on all devices or on none. Gives `[device][output]`. Donated buffers are gone afterwards, on failure too:
    /// a caller that wants to go on after an error must have kept copies.
    ///
    /// The caller holds number and shapes of the arguments against the program's parameters: with several devices
    /// the CPU plugin waits for ever for those that refused theirs.
    ///
    /// # Errors
    /// Lists that do not fit together, or a program that cannot be started.
    pub fn execute(&self, arguments: Vec<Vec<Argument<'_>>>) -> Result<Vec<Vec<Buffer>>> {
        let borrowed = borrowed_indices(&arguments, self.device_ids.len())?;
        let lists: Vec<Vec<*mut sys::Buffer>> =
            arguments.iter().map(|list| list.iter().map(Argument::raw).collect()).collect();
        let list_pointers: Vec<_> = lists.iter().map(|list| list.as_ptr()).collect();
        let mut outputs = vec![vec![null_mut::<sys::Buffer>(); self.output_count]; lists.len()];
        let output_pointers: Vec<_> = outputs.iter_mut().map(|list| list.as_mut_ptr()).collect();
        let mut options = Oversized::new(execute_options(&borrowed));
        let args = sys::LoadedExecutableExecute {
            executable: self.raw.as_ptr(),
            options: options.as_ptr(),
            argument_lists: list_pointers.as_ptr(),
            num_devices: lists.len(),
            num_args: lists.first().map_or(0, Vec::len),
            output_lists: output_pointers.as_ptr(),
            // The outputs tell when they are there.
            device_complete_events: null_mut(),
            ..Default::default()
        };
        let launching = self.client.0.launch.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: every list has the length stated and lives until the call returns; the buffers live in
        // `arguments` past it, and the plugin holds those that the running program needs; borrowed ones are named
        // as not to be donated; no events are asked for.
        unsafe { self.client.api().call(args) }?;
        drop(launching);
        drop(arguments);
        // SAFETY: the call succeeded, so the outputs are its own, null or alive, for this function to free.
        unsafe { self.take_outputs(outputs) }
    }

    /// # Safety
    /// The pointers are null or buffers of this client that nobody else destroys.
    unsafe fn take_outputs(&self, outputs: Vec<Vec<*mut sys::Buffer>>) -> Result<Vec<Vec<Buffer>>> {
        // Collected before any null is reported, so that every buffer has an owner.
        let taken: Vec<Vec<Option<Buffer>>> = outputs
            .into_iter()
            .map(|list| {
                list.into_iter()
                    .map(|raw| NonNull::new(raw).map(|raw| Buffer::from_raw(&self.client, raw)))
                    .collect()
            })
            .collect();
        taken
            .into_iter()
            .map(|list| list.into_iter().collect::<Option<Vec<_>>>())
            .collect::<Option<_>>()
            .ok_or_else(|| Error::Unexpected {
                function: "PJRT_LoadedExecutable_Execute",
                found: "a null output".into(),
                expected: format!("{} outputs on each device", self.output_count),
            })
    }
}

fn execute_options(borrowed: &[i64]) -> sys::ExecuteOptions {
    sys::ExecuteOptions {
        header: Header::sized(Oversized::<sys::ExecuteOptions>::SIZE),
        send_callbacks: null_mut(),
        recv_callbacks: null_mut(),
        num_send_ops: 0,
        num_recv_ops: 0,
        launch_id: 0,
        non_donatable_input_indices: borrowed.as_ptr(),
        num_non_donatable_input_indices: borrowed.len(),
    }
}

/// Indices of the arguments that are borrowed, the same on every device.
fn borrowed_indices(arguments: &[Vec<Argument<'_>>], devices: usize) -> Result<Vec<i64>> {
    if arguments.len() != devices {
        return Err(Error::Argument {
            what: "argument lists of an execution",
            expected: format!("{devices}, one for each device"),
            found: arguments.len().to_string(),
        });
    }
    let pattern = |list: &[Argument<'_>]| list.iter().map(Argument::is_borrowed).collect::<Vec<_>>();
    let first = arguments.first().map(|list| pattern(list)).unwrap_or_default();
    if let Some(device) = arguments.iter().position(|list| pattern(list) != first) {
        return Err(Error::Argument {
            what: "arguments of an execution",
            expected: "the same number and the same donations on every device".into(),
            found: format!("device {device} differs from device 0"),
        });
    }
    Ok((0..).zip(first).filter_map(|(index, borrowed)| borrowed.then_some(index)).collect())
}

/// Calls `compile` with a program description of `code`, a serialized `HloModuleProto`.
pub(super) fn with_program<R>(code: &[u8], compile: impl FnOnce(*const sys::Program) -> R) -> R {
    let mut program = Oversized::new(sys::Program {
        header: Header::sized(Oversized::<sys::Program>::SIZE),
        code: code.as_ptr().cast_mut().cast(),
        code_size: code.len(),
        format: HLO_FORMAT.as_ptr().cast(),
        format_size: HLO_FORMAT.len(),
    });
    compile(program.as_ptr())
}
