//! What can go wrong between graphs and devices.

use std::path::PathBuf;

use crate::pjrt::{self, Platform};

/// Errors of this room.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The plugin cannot be had, or refused something.
    #[error(transparent)]
    Pjrt(#[from] pjrt::Error),
    /// A host tensor is not what it should be.
    #[error("host tensor: expected {expected}, found {found}")]
    Tensor {
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// More replicas than devices.
    #[error("{asked} replicas were asked for, but the platform {platform} has {present} devices")]
    Replicas {
        /// Replicas asked for.
        asked: usize,
        /// The platform.
        platform: Platform,
        /// Its devices.
        present: usize,
    },
    /// The plugin's lists of devices contradict each other.
    #[error(
        "the plugin gives this process the devices {addressable:?}, which are not those of one process of the job's \
         device list"
    )]
    Process {
        /// Ids of the devices it can reach.
        addressable: Vec<i32>,
    },
    /// The plugin runs the replicas of this process in another order than the devices.
    #[error("the program runs on devices {found:?}, expected {expected:?} in this order")]
    DeviceOrder {
        /// Ids of the first addressable devices.
        expected: Vec<i32>,
        /// Ids of the program's devices.
        found: Vec<i32>,
    },
    /// Rows that cannot be cut evenly.
    #[error("{rows} rows cannot be cut over {replicas} replicas")]
    Rows {
        /// Rows of the tensor.
        rows: usize,
        /// Replicas.
        replicas: usize,
    },
    /// An argument has another number of replicas than the program.
    #[error("argument {argument} of the program has {found} replicas, expected {expected}")]
    ArgumentReplicas {
        /// Position of the argument.
        argument: usize,
        /// Replicas of the program in this process.
        expected: usize,
        /// Replicas of the argument.
        found: usize,
    },
    /// The number of arguments is not that of the program's parameters.
    #[error("the program takes {expected} arguments, found {found}")]
    ArgumentCount {
        /// Parameters of the program.
        expected: usize,
        /// Arguments.
        found: usize,
    },
    /// An argument has another shape than the program's parameter.
    #[error("argument {argument} of the program, \"{name}\": expected {expected}, found {found}")]
    ArgumentShape {
        /// Position of the argument.
        argument: usize,
        /// Name of the parameter.
        name: String,
        /// The parameter's shape.
        expected: String,
        /// The argument's shape.
        found: String,
    },
    /// The optimized program cannot be read.
    #[error("the optimized program in format \"{format}\" cannot be read: {reason}")]
    OptimizedProgram {
        /// The plugin's name of the format.
        format: String,
        /// Why not.
        reason: String,
    },
    /// A saved executable is damaged, or of another plugin, program or set of devices.
    #[error("the executable cannot be used: {reason}")]
    ExecutableFile {
        /// Why not.
        reason: String,
    },
    /// A dump cannot be written.
    #[error("cannot write the dump {}: {source}", path.display())]
    Dump {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}
