//! Programs on devices, and the values they take and give.

use tpu_train_proto::xla::HloModuleProto;

use super::element::{from_pjrt, primitive_to_pjrt};
use super::{HostTensor, RuntimeError};
use crate::pjrt::{self, Argument, Buffer, CompiledMemory, LoadedExecutable};

/// One buffer on each replica of this process.
#[derive(Debug)]
pub struct Replicated {
    pub(super) buffers: Vec<Buffer>,
}

impl Replicated {
    /// Number of replicas.
    pub fn replicas(&self) -> usize {
        self.buffers.len()
    }

    /// The buffers, one for each replica.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// Blocks until every replica's array is there.
    ///
    /// # Errors
    /// What makes a buffer failed.
    pub fn wait(&self) -> Result<(), RuntimeError> {
        Ok(self.buffers.iter().try_for_each(Buffer::wait)?)
    }

    /// Whether every replica's array is there, or what makes it has failed.
    ///
    /// # Errors
    /// The plugin does not say.
    pub fn is_ready(&self) -> Result<bool, RuntimeError> {
        for buffer in &self.buffers {
            if !buffer.is_ready()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies one replica's array to the host.
    ///
    /// # Errors
    /// There is no such replica, or what makes the buffer failed.
    pub fn fetch(&self, replica: usize) -> Result<HostTensor, RuntimeError> {
        let buffer = self.buffers.get(replica).ok_or_else(|| pjrt::Error::Argument {
            what: "replica to fetch",
            expected: format!("less than {}", self.buffers.len()),
            found: replica.to_string(),
        })?;
        HostTensor::new(from_pjrt(buffer.element_type()?)?, &buffer.dims()?, buffer.to_host()?)
    }

    /// Copies every replica's array to the host.
    ///
    /// # Errors
    /// What makes a buffer failed.
    pub fn fetch_all(&self) -> Result<Vec<HostTensor>, RuntimeError> {
        (0..self.replicas()).map(|replica| self.fetch(replica)).collect()
    }

    /// Copies every replica's array to the host and joins them along the first dimension: undoes
    /// [`Runtime::shard`](super::Runtime::shard).
    ///
    /// # Errors
    /// The arrays have no first dimension, or what makes a buffer failed.
    pub fn fetch_rows(&self) -> Result<HostTensor, RuntimeError> {
        let parts = self.fetch_all()?;
        let mut dims = parts.first().map(|part| part.dims.clone()).unwrap_or_default();
        let rows = |part: &HostTensor| part.dims.first().copied();
        let Some(total) = parts.iter().map(rows).sum::<Option<usize>>().filter(|_| !dims.is_empty()) else {
            return Err(RuntimeError::Tensor { expected: "rows to join".into(), found: "scalars".into() });
        };
        dims[0] = total;
        HostTensor::new(
            parts[0].element_type,
            &dims,
            parts.iter().flat_map(|part| &part.bytes).copied().collect(),
        )
    }
}

/// One input of a program, on all replicas.
#[derive(Debug)]
pub enum Arg<'a> {
    /// Taken; the program may write an output over it. Gone after the call, whether or not that succeeds.
    Donate(Replicated),
    /// Read only.
    Borrow(&'a Replicated),
}

impl Arg<'_> {
    fn value(&self) -> &Replicated {
        match self {
            Self::Donate(value) => value,
            Self::Borrow(value) => value,
        }
    }
}

/// A compiled module on its devices.
#[derive(Debug)]
pub struct Program {
    pub(super) executable: LoadedExecutable,
    pub(super) parameters: Vec<Parameter>,
    pub(super) compile_seconds: f64,
    pub(super) memory: Option<CompiledMemory>,
}

impl Program {
    /// Replicas in this process.
    pub fn replicas(&self) -> usize {
        self.executable.device_ids().len()
    }

    /// Outputs of each replica.
    pub fn output_count(&self) -> usize {
        self.executable.output_count()
    }

    /// Wall time of the compilation, in seconds.
    pub fn compile_seconds(&self) -> f64 {
        self.compile_seconds
    }

    /// Memory each replica needs, in bytes; `None` where the plugin does not say.
    pub fn memory(&self) -> Option<CompiledMemory> {
        self.memory
    }

    /// The loaded executable, for what this room does not wrap.
    pub fn executable(&self) -> &LoadedExecutable {
        &self.executable
    }

    /// Starts the program once on every replica; one [`Replicated`] for each output. Fetching an output, or
    /// [`Replicated::wait`], waits for it; what takes it as an argument need not.
    ///
    /// # Errors
    /// The arguments are not those of the program, in number, shape or replicas; or it cannot
    /// be started. Donated arguments are gone then as well.
    pub fn execute(&self, arguments: Vec<Arg<'_>>) -> Result<Vec<Replicated>, RuntimeError> {
        self.check(&arguments)?;
        let replicas = self.replicas();
        let mut lists: Vec<Vec<Argument<'_>>> =
            (0..replicas).map(|_| Vec::with_capacity(arguments.len())).collect();
        for argument in arguments {
            match argument {
                Arg::Donate(value) => {
                    let buffers = value.buffers.into_iter().map(Argument::Donate);
                    lists.iter_mut().zip(buffers).for_each(|(list, buffer)| list.push(buffer));
                }
                Arg::Borrow(value) => {
                    let buffers = value.buffers.iter().map(Argument::Borrow);
                    lists.iter_mut().zip(buffers).for_each(|(list, buffer)| list.push(buffer));
                }
            }
        }
        let mut outputs: Vec<Replicated> =
            (0..self.output_count()).map(|_| Replicated { buffers: Vec::with_capacity(replicas) }).collect();
        for list in self.executable.execute(lists)? {
            outputs.iter_mut().zip(list).for_each(|(output, buffer)| output.buffers.push(buffer));
        }
        Ok(outputs)
    }

    /// Holds the arguments against the parameters before they reach the plugin: XLA:CPU waits for ever for
    /// replicas that refused theirs.
    fn check(&self, arguments: &[Arg<'_>]) -> Result<(), RuntimeError> {
        let (expected, found) = (self.parameters.len(), arguments.len());
        if expected != found {
            return Err(RuntimeError::ArgumentCount { expected, found });
        }
        for (argument, (value, parameter)) in
            arguments.iter().map(Arg::value).zip(&self.parameters).enumerate()
        {
            let (expected, found) = (self.replicas(), value.replicas());
            if expected != found {
                return Err(RuntimeError::ArgumentReplicas { argument, expected, found });
            }
            // All replicas of a value have the same shape, however it was made.
            let Some(buffer) = value.buffers.first() else { continue };
            let found = (buffer.element_type()?, buffer.dims()?);
            if found != (parameter.element_type, parameter.dims.clone()) {
                return Err(RuntimeError::ArgumentShape {
                    argument,
                    name: parameter.name.clone(),
                    expected: format!("{:?}{:?}", parameter.element_type, parameter.dims),
                    found: format!("{:?}{:?}", found.0, found.1),
                });
            }
        }
        Ok(())
    }
}

/// What a program takes at one position.
#[derive(Debug)]
pub(super) struct Parameter {
    name: String,
    element_type: pjrt::ElementType,
    dims: Vec<usize>,
}

impl Parameter {
    /// The parameters of a module that a plugin has accepted.
    pub(super) fn all_of(module: &HloModuleProto) -> Vec<Self> {
        let Some(shape) = &module.host_program_shape else { return Vec::new() };
        let names = shape.parameter_names.iter().cloned().chain(std::iter::repeat(String::new()));
        let parameters = shape.parameters.iter().zip(names);
        parameters
            .filter_map(|(shape, name)| {
                let element_type = primitive_to_pjrt(shape.element_type())?;
                Some(Self {
                    name,
                    element_type,
                    dims: shape.dimensions.iter().map(|&dim| dim as usize).collect(),
                })
            })
            .collect()
    }
}
