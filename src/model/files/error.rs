//! What can be wrong with a model file.

use std::fmt;
use std::path::{Path, PathBuf};

/// A model file that cannot be read or written: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {problem}", path.display())]
pub struct FilesError {
    /// The file.
    pub path: PathBuf,
    /// What was tried.
    pub action: Action,
    /// What stood in the way.
    pub problem: Box<Problem>,
}

/// What was tried with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reading it.
    Read,
    /// Writing it.
    Write,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

impl Action {
    /// Ties a problem to a file.
    pub(super) fn on(self, path: &Path) -> impl FnOnce(Problem) -> FilesError {
        let path = path.to_owned();
        move |problem| FilesError { path, action: self, problem: Box::new(problem) }
    }
}

/// Why a model file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The operating system refused.
    #[error("{}", describe(.0))]
    Io(#[from] std::io::Error),
    /// A file name whose ending names no format.
    #[error("the name ends in {found}, expected .keras, .weights.h5, .h5 or .safetensors")]
    Extension {
        /// The ending found.
        found: String,
    },
    /// Bytes of no known format.
    #[error("this is no model file: expected a .keras archive, HDF5 or safetensors, found {found}")]
    Unrecognised {
        /// What the file looks like.
        found: String,
    },
    /// More bytes than a model of this kind can have.
    #[error("{object} has {found} bytes or more, expected at most {limit}")]
    TooLarge {
        /// The file or the part of it.
        object: String,
        /// Its size.
        found: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A broken archive, HDF5 file, safetensors header or JSON text.
    #[error("{object} is damaged ({reason}); copy or save the file again")]
    Damaged {
        /// The file or the part of it.
        object: String,
        /// What the parser said.
        reason: String,
    },
    /// A part that must be there and is not.
    #[error("{object} is missing; {hint}")]
    Missing {
        /// The part.
        object: String,
        /// What to do about it.
        hint: String,
    },
    /// A layer set otherwise than this program computes.
    #[error("layer {layer:?} has {setting} = {found}, expected {expected}")]
    Setting {
        /// The layer's name in the file.
        layer: String,
        /// The setting's name in Keras.
        setting: String,
        /// The values that can be computed.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// Another sequence of layers.
    #[error("the layers do not fit: expected {expected}, found {found}")]
    Structure {
        /// What the network needs.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A tensor of other dimensions.
    #[error("{variable} needs shape {expected:?}, found {found:?} in {layer}")]
    Shape {
        /// The variable that needs values.
        variable: String,
        /// The place in the file.
        layer: String,
        /// The dimensions it needs.
        expected: Vec<usize>,
        /// The dimensions in the file.
        found: Vec<usize>,
    },
    /// A tensor of values that are no floating-point numbers.
    #[error("{object} holds {found}, expected floating-point numbers of 16, 32 or 64 bits")]
    ElementType {
        /// The place in the file.
        object: String,
        /// The element type found.
        found: String,
    },
    /// Infinities or not-a-number among the values.
    #[error(
        "{object} holds {count} values that are no finite float32; train again from an earlier checkpoint"
    )]
    NotFinite {
        /// The place in the file.
        object: String,
        /// How many.
        count: usize,
    },
    /// Weights without the network they belong to.
    #[error(
        "the file holds weights but no description of the network; give a .keras file or a whole-model .h5"
    )]
    WeightsOnly,
}

impl Problem {
    pub(super) fn damaged(object: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Damaged { object: object.into(), reason: reason.to_string() }
    }

    pub(super) fn missing(object: impl Into<String>, hint: &str) -> Self {
        Self::Missing { object: object.into(), hint: hint.to_owned() }
    }
}

fn describe(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::StorageFull => "the disk is full; free some space and try again".to_owned(),
        std::io::ErrorKind::NotFound => "no such file or folder".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
