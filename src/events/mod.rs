//! Event files: what TensorBoard reads.
//!
//! An event file is a sequence of **records** (a framed run of bytes, see [`record`]), each an encoded
//! **event**: a wall time, a **step**, and mostly a **summary**, which is a value under a **tag**. A **run** is
//! a folder with event files in it. All values are written the way TensorFlow 2 and Keras write them, as tensors
//! with the metadata of the plugin that shows them.
//!
//! Invariant: a file only grows, by whole records, and each call's record is with the operating system when
//! the call returns; a record that could not be written whole is cut off again.
//!
//! ```
//! use tpu_train::events::{read_events, EventWriter};
//! let folder = tempfile::tempdir().unwrap();
//! let mut writer = EventWriter::create(folder.path(), ".v2").unwrap();
//! writer.scalar("epoch_loss", 0, 1.5).unwrap();
//! assert_eq!(read_events(writer.path()).unwrap().len(), 2); // the version record comes first
//! ```

use std::io;
use std::path::PathBuf;

mod crc32c;
mod font;
pub mod image;
mod keras;
mod png;
pub mod record;
pub mod summary;
mod time;
mod writer;

pub use crc32c::{crc32c, masked_crc32c};
pub use keras::{EvaluationMetrics, KerasLog, TrainMetrics};
pub use time::run_name;
pub use writer::{EventWriter, read_events};

/// What can go wrong with an event file.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The folder or the file could not be made.
    #[error("cannot make {} for event logs: {source}; choose another folder with --logdir", path.display())]
    Create {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record could not be appended; the file ends with the record before it.
    #[error("cannot append to the event file {}: {source}; free space there or choose another --logdir", path.display())]
    Write {
        /// The event file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be read.
    #[error("cannot read the event file {}: {source}", path.display())]
    Read {
        /// The event file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record is damaged.
    #[error("the event file {} is damaged: {source}", path.display())]
    Record {
        /// The event file.
        path: PathBuf,
        /// Which record, and how.
        source: record::RecordError,
    },
    /// A whole record holds something that is not an event.
    #[error("record {index} of {} is not an event: {source}", path.display())]
    Decode {
        /// The event file.
        path: PathBuf,
        /// Position of the record, from 0.
        index: usize,
        /// Why.
        source: prost::DecodeError,
    },
}
