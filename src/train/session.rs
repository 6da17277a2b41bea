//! A plugin at work: its devices as a mesh, the batch cut over them, programs compiled for them.

use super::machine;
use crate::cli::PlatformArgs;
use crate::data::{Batch, Samples};
use crate::doctor;
use crate::model::NamedTensor;
use crate::model::forms::Forms;
use crate::model::step::{self, StepConfig};
use crate::pjrt::{Platform, plugin};
use crate::runtime::{HostTensor, Program, Replicated, Runtime, RuntimeError, RuntimeOptions};
use crate::topology::{Mesh, Share};
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
    /// What this process owns of the mesh.
    pub share: Share,
    dump: Option<PathBuf>,
}

impl Session {
    /// Starts the runtime that `args` ask for. On the CPU, where nothing is asked for, the batch is cut over as many
    /// virtual devices as there are processors, as far as it divides: replicas share no work, so none waits for
    /// another's part of each operation.
    ///
    /// # Errors
    /// When the machine is not fit for it, there is no such plugin, or the batch does not divide over the mesh.
    pub fn start(args: &PlatformArgs, batch_size: Option<usize>, dump: Option<PathBuf>) -> Result<Self> {
        let devices = match (args.slices, args.devices_per_slice) {
            (None, None) => replicas_for(batch_size.unwrap_or(BATCH_ON_CPU), machine::threads()),
            (_, devices) => devices.unwrap_or(1),
        };
        Self::open(args, devices, batch_size, dump)
    }

    /// As [`Self::start`], but where nothing is asked for with one device on the CPU: for a model whose replicas do not
    /// share their batch statistics.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_unspread(
        args: &PlatformArgs,
        batch_size: Option<usize>,
        dump: Option<PathBuf>,
    ) -> Result<Self> {
        Self::open(args, args.devices_per_slice.unwrap_or(1), batch_size, dump)
    }

    /// Refuses a batch that would not divide over the devices, as far as they are known before a plugin is started: on
    /// the CPU, where `args` number them.
    ///
    /// # Errors
    /// There is no such plugin, or the batch does not divide over the mesh.
    pub fn check_batch(args: &PlatformArgs, batch_size: Option<usize>) -> Result<()> {
        let on_cpu = plugin::platform(args.platform, args.plugin.as_deref())? == Platform::Cpu;
        let numbered = args.slices.is_some() || args.devices_per_slice.is_some();
        if let (true, Some(batch)) = (on_cpu && numbered, batch_size) {
            Mesh::new(args.slices.unwrap_or(1), args.devices_per_slice.unwrap_or(1))?.rows(batch)?;
        }
        Ok(())
    }

    fn open(
        args: &PlatformArgs,
        cpu_devices_per_slice: usize,
        batch_size: Option<usize>,
        dump: Option<PathBuf>,
    ) -> Result<Self> {
        for warning in doctor::before_run(args)? {
            eprintln!("warning: {}", warning.sentence());
        }
        let virtual_mesh = Mesh::new(args.slices.unwrap_or(1), cpu_devices_per_slice)?;
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
            if runtime.slices() > 1 && args.slices.is_some_and(|slices| slices != runtime.slices()) {
                bail!(
                    "--slices must be the {} TPU slices of this Multislice job, or left out",
                    runtime.slices()
                );
            }
            Mesh::over(runtime.all_devices().len(), args.slices.unwrap_or(runtime.slices()))?
        };
        let default =
            if on_cpu { BATCH_ON_CPU.next_multiple_of(mesh.replicas()) } else { BATCH_ON_ACCELERATOR };
        let batch_size = batch_size.unwrap_or(default);
        let rows = mesh.rows(batch_size)?;
        let share = runtime.share(mesh.replicas())?;
        Ok(Self { runtime, mesh, batch_size, rows, share, dump })
    }

    /// One line on where the program runs.
    pub fn describe(&self) -> String {
        let hosts = match self.share.processes {
            1 => String::new(),
            processes => format!(" of {processes} hosts"),
        };
        let (runtime, mesh) = (self.runtime.describe(), self.mesh);
        format!("{runtime}, {mesh}{hosts}, batch {}, {} on each device", self.batch_size, self.rows)
    }

    /// How programs are laid out for the platform.
    pub fn forms(&self) -> Forms {
        match self.runtime.platform() {
            Platform::Cpu => Forms::CPU,
            Platform::Tpu | Platform::Cuda => Forms::ACCELERATOR,
        }
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

    /// A tensor on every replica.
    ///
    /// # Errors
    /// When a device has no room.
    pub fn replicate_one(&self, tensor: &HostTensor) -> Result<Replicated> {
        Ok(self.runtime.replicate(tensor, self.share.replicas.len())?)
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
                self.replicate_one(&host)
            })
            .collect()
    }

    /// Rows of the global batch that this process assembles.
    pub fn own_rows(&self) -> std::ops::Range<usize> {
        self.share.rows(self.rows)
    }

    /// This process's flag to stop, as a program's last parameter.
    ///
    /// # Errors
    /// When a device has no room.
    pub fn flag(&self, stop: bool) -> Result<Replicated> {
        self.replicate_one(&HostTensor::from_f32(&[f32::from(u8::from(stop))], &[1]))
    }

    /// This process's rows of a batch cut over its replicas, and no wish to stop: what a program takes behind the
    /// state.
    ///
    /// # Errors
    /// When a device has no room.
    pub fn upload(&self, batch: &Batch, config: &StepConfig) -> Result<Vec<Replicated>> {
        let mut uploaded = self.upload_rows(batch, config)?;
        uploaded.push(self.flag(false)?);
        Ok(uploaded)
    }

    /// This process's rows of a batch cut over its replicas: samples (or places), minimum, range,
    /// labels, weights.
    ///
    /// # Errors
    /// When a device has no room.
    pub fn upload_rows(&self, batch: &Batch, config: &StepConfig) -> Result<Vec<Replicated>> {
        let (rows, model) = (batch.rows(), &config.model);
        let windows = [rows, model.window, model.channels];
        let (runtime, replicas) = (&self.runtime, self.share.replicas.len());
        let first = match &batch.samples {
            // Every replica looks for all rows among the windows it holds.
            _ if !batch.places.is_empty() => {
                self.replicate_one(&HostTensor::from_i32(&batch.places, &[rows]))?
            }
            Samples::I16(samples) => runtime.shard_values(samples, &windows, replicas)?,
            Samples::F32(samples) => runtime.shard_values(samples, &windows, replicas)?,
        };
        let per_channel = [rows, model.channels];
        Ok(vec![
            first,
            runtime.shard_values(&batch.minimum, &per_channel, replicas)?,
            runtime.shard_values(&batch.range, &per_channel, replicas)?,
            runtime.shard_values(&batch.labels, &[rows], replicas)?,
            runtime.shard_values(&batch.weights, &[rows], replicas)?,
        ])
    }
}

/// The most replicas, at most `processors`, that a batch divides over.
fn replicas_for(batch: usize, processors: usize) -> usize {
    (1..=processors.max(1)).rev().find(|&replicas| batch.is_multiple_of(replicas)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::replicas_for;

    #[test]
    fn a_batch_is_cut_over_as_many_processors_as_it_divides() {
        let cut = |batch, processors| replicas_for(batch, processors);
        assert_eq!([cut(32, 2), cut(32, 6), cut(7, 6), cut(1, 8), cut(8, 0)], [2, 4, 1, 1, 1]);
    }
}
