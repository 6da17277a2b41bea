//! What can go wrong in this room.

use std::fmt;
use std::path::PathBuf;

use super::plugin::Platform;

/// Result of this room.
pub type Result<T> = std::result::Result<T, Error>;

/// The code of a failed call, as in Abseil's status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The operation was cancelled.
    Cancelled,
    /// No better code is known, or a code this binding does not know.
    Unknown,
    /// The caller named something invalid.
    InvalidArgument,
    /// The time limit passed.
    DeadlineExceeded,
    /// Something asked for is not there.
    NotFound,
    /// Something to be created is there already.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// Memory or another resource is used up.
    ResourceExhausted,
    /// The system is not in the state the call needs.
    FailedPrecondition,
    /// The operation was aborted.
    Aborted,
    /// A value lies outside its range.
    OutOfRange,
    /// The plugin does not offer this function.
    Unimplemented,
    /// An invariant of the plugin broke.
    Internal,
    /// The device or service cannot be reached.
    Unavailable,
    /// Data were lost or corrupted.
    DataLoss,
    /// The caller is not known.
    Unauthenticated,
}

impl ErrorCode {
    pub(super) fn from_raw(code: i32) -> Self {
        use ErrorCode::*;
        match code {
            1 => Cancelled,
            3 => InvalidArgument,
            4 => DeadlineExceeded,
            5 => NotFound,
            6 => AlreadyExists,
            7 => PermissionDenied,
            8 => ResourceExhausted,
            9 => FailedPrecondition,
            10 => Aborted,
            11 => OutOfRange,
            12 => Unimplemented,
            13 => Internal,
            14 => Unavailable,
            15 => DataLoss,
            16 => Unauthenticated,
            _ => Unknown,
        }
    }

    /// The field's own spelling, such as `INVALID_ARGUMENT`.
    pub fn name(self) -> &'static str {
        use ErrorCode::*;
        match self {
            Cancelled => "CANCELLED",
            Unknown => "UNKNOWN",
            InvalidArgument => "INVALID_ARGUMENT",
            DeadlineExceeded => "DEADLINE_EXCEEDED",
            NotFound => "NOT_FOUND",
            AlreadyExists => "ALREADY_EXISTS",
            PermissionDenied => "PERMISSION_DENIED",
            ResourceExhausted => "RESOURCE_EXHAUSTED",
            FailedPrecondition => "FAILED_PRECONDITION",
            Aborted => "ABORTED",
            OutOfRange => "OUT_OF_RANGE",
            Unimplemented => "UNIMPLEMENTED",
            Internal => "INTERNAL",
            Unavailable => "UNAVAILABLE",
            DataLoss => "DATA_LOSS",
            Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A C function of a plugin failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{function} failed with {code}: {message}")]
pub struct PjrtError {
    /// The function's C name, such as `PJRT_Client_Compile`.
    pub function: &'static str,
    /// The plugin's code.
    pub code: ErrorCode,
    /// The plugin's message, whole.
    pub message: String,
}

/// Errors of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call into the plugin failed.
    #[error(transparent)]
    Call(#[from] PjrtError),
    /// The library could not be loaded.
    #[error("cannot load the plugin {}: {reason}", path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// The library is a plugin of another major version of the C API.
    #[error("the plugin {} speaks PJRT C API {found_major}.{found_minor}, expected {expected_major}.x", path.display())]
    Version {
        /// The library.
        path: PathBuf,
        /// Its major version.
        found_major: i32,
        /// Its minor version.
        found_minor: i32,
        /// The major version this program speaks.
        expected_major: i32,
    },
    /// The plugin is older than the functions that running a program takes.
    #[error(
        "the plugin {} speaks PJRT C API {major}.{minor} and has {functions} functions, expected at least {needed}: \
         it is too old", path.display()
    )]
    TooOld {
        /// The library.
        path: PathBuf,
        /// Its major version.
        major: i32,
        /// Its minor version.
        minor: i32,
        /// Functions in its table.
        functions: usize,
        /// Functions that are needed.
        needed: usize,
    },
    /// The plugin's table has no such function.
    #[error("the plugin {} (PJRT C API {major}.{minor}) does not offer {function}", path.display())]
    MissingFunction {
        /// The function's C name.
        function: &'static str,
        /// The library.
        path: PathBuf,
        /// The library's major version.
        major: i32,
        /// The library's minor version.
        minor: i32,
    },
    /// The plugin returned something this binding cannot use.
    #[error("{function} returned {found}, expected {expected}")]
    Unexpected {
        /// The function's C name.
        function: &'static str,
        /// What came back.
        found: String,
        /// What should have come back.
        expected: String,
    },
    /// A caller of this room passed arguments that do not fit together.
    #[error("{what}: expected {expected}, found {found}")]
    Argument {
        /// What was passed.
        what: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// An accelerator was asked for and is not there.
    #[error("platform {platform} was asked for, but {reason}; {hint}")]
    NoDevice {
        /// The platform asked for.
        platform: Platform,
        /// What is missing.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// No plugin file was found for a platform that is not installed by itself.
    #[error("no plugin for platform {platform} was found (looked at {looked_at}); {hint}")]
    NoPlugin {
        /// The platform asked for.
        platform: Platform,
        /// The places searched.
        looked_at: String,
        /// What to do.
        hint: String,
    },
    /// A plugin file named by the user does not exist.
    #[error("the plugin file {} named by {named_by} does not exist", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
        /// The option or variable that names it.
        named_by: String,
    },
    /// The plugin belongs to another platform than the one asked for.
    #[error("the plugin {} is for platform \"{found}\", expected {expected}", path.display())]
    WrongPlatform {
        /// The library.
        path: PathBuf,
        /// What the plugin calls itself.
        found: String,
        /// The platform asked for.
        expected: Platform,
    },
    /// A plugin could not be installed.
    #[error("cannot install {name} {version}: {reason}; {hint}")]
    Install {
        /// The package.
        name: &'static str,
        /// Its version.
        version: &'static str,
        /// What went wrong.
        reason: String,
        /// What to put where instead.
        hint: String,
    },
    /// No pinned plugin exists for this platform on this machine.
    #[error("there is no pinned {platform} plugin for {architecture}; name one with --plugin FILE")]
    NoPin {
        /// The platform.
        platform: Platform,
        /// This machine's architecture.
        architecture: &'static str,
    },
    /// A file of the plugin cache could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was attempted, such as "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl Error {
    /// The plugin's code, if this is a failed call.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Call(error) => Some(error.code),
            _ => None,
        }
    }
}
