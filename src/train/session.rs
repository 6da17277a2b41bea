//! A plugin at work: its devices as a mesh, the batch cut over them, programs compiled for them.

use crate::cli::PlatformArgs;
use crate::data::{Batch, Samples};
use crate::model::NamedTensor;
use crate::model::step::{self, StepConfig};
use crate::pjrt::Platform;
use crate::runtime::{HostTensor, Program, Replicated, Runtime, RuntimeError, RuntimeOptions};
use crate::topology::Mesh;
use anyhow::{Result, bail};
use std::path::PathBuf;

/// Windows in a step where nothing else is asked for: the source's own two.
const BATCH_ON_CPU: usize = 32;
const BATCH_ON_ACCELERATOR: usize = 512;

/// A started runtime and the mesh over its devices.
pub struct Session {
    /// The plugin's client.
    pub runtime: Runtime,
    /// Replicas.
    pub mesh: Mesh,
    /// Windows in a step, over all replicas.
    pub batch_size: usize,
    /// Windows in a step on each replica.
    pub rows: usize,
    dump: Option<PathBuf>,
}

impl Session {
    /// Starts the runtime that `args` ask for.
    ///
    /// # Errors
    /// When there is no such plugin, or the batch does not divide over the mesh.
    pub fn start(args: &PlatformArgs, batch_size: Option<usize>, dump: Option<PathBuf>) -> Result<Self> {
        let virtual_mesh = Mesh::new(args.slices.unwrap_or(1), args.devices_per_slice.unwrap_or(1))?;
        let runtime = Runtime::start(&RuntimeOptions {
            platform: args.platform,
            plugin: args.plugin.clone(),
            cpu_devices: virtual_mesh.replicas(),
        })?;
        let on_cpu = runtime.platform() == Platform::Cpu;
        let mesh = if on_cpu {
            virtual_mesh
        } else {
            if args.devices_per_slice.is_some() {
                bail!("--devices-per-slice makes virtual devices on CPU only; here the devices are real");
            }
            Mesh::over(runtime.devices().len(), args.slices.unwrap_or(1))?
        };
        let default =
            if on_cpu { BATCH_ON_CPU.next_multiple_of(mesh.replicas()) } else { BATCH_ON_ACCELERATOR };
        let batch_size = batch_size.unwrap_or(default);
        let rows = mesh.rows(batch_size)?;
        Ok(Self { runtime, mesh, batch_size, rows, dump })
    }

    /// One line on where the program runs.
    pub fn describe(&self) -> String {
        format!(
            "{}, {}, batch {}, {} on each device",
            self.runtime.describe(),
            self.mesh,
            self.batch_size,
            self.rows
        )
    }

    /// Compiles a program for the mesh.
    ///
    /// # Errors
    /// When the graph is wrong or the compiler refuses it.
    pub fn compile(&self, program: step::Program) -> Result<Program> {
        let dump = self.dump.as_deref().map(|folder| (folder, program.module.name.as_str()));
        Ok(self.runtime.compile(&program.module, self.mesh.replicas(), dump)?)
    }

    /// Loads a program that was compiled ahead of time, instead of compiling it.
    ///
    /// # Errors
    /// When the file is of another program, plugin or set of devices, or the plugin refuses it.
    pub fn load(&self, program: &step::Program, file: &[u8]) -> Result<Program, RuntimeError> {
        self.runtime.load(&program.module, self.mesh.replicas(), file)
    }

    /// Variables on every replica.
    ///
    /// # Errors
    /// When a device has no room.
    pub fn replicate(&self, tensors: &[NamedTensor]) -> Result<Vec<Replicated>> {
        tensors
            .iter()
            .map(|tensor| {
                let host = HostTensor::from_f32(&tensor.values, &tensor.dims);
                Ok(self.runtime.replicate(&host, self.mesh.replicas())?)
            })
            .collect()
    }

    /// A batch cut over the replicas: samples, minimum, range, labels, weights.
    ///
    /// # Errors
    /// When a device has no room.
    pub fn upload(&self, batch: &Batch, config: &StepConfig) -> Result<Vec<Replicated>> {
        let (rows, model) = (batch.rows(), &config.model);
        let windows = [rows, model.window, model.channels];
        let samples = match &batch.samples {
            Samples::I16(samples) => HostTensor::from_i16(samples, &windows),
            Samples::F32(samples) => HostTensor::from_f32(samples, &windows),
        };
        let per_channel = [rows, model.channels];
        let tensors = [
            samples,
            HostTensor::from_f32(&batch.minimum, &per_channel),
            HostTensor::from_f32(&batch.range, &per_channel),
            HostTensor::from_i32(&batch.labels, &[rows]),
            HostTensor::from_f32(&batch.weights, &[rows]),
        ];
        tensors.iter().map(|tensor| Ok(self.runtime.shard(tensor, self.mesh.replicas())?)).collect()
    }
}
