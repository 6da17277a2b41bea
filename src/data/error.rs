//! Everything that can go wrong between a file and a batch, one sentence each.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the data room. Messages name what, where, expected and found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder could not be read, written or named.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done: `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk is full.
    #[error(
        "no space left to write {}: free about {needed_mib} MiB there, or choose another folder; nothing half-written was left",
        path.display()
    )]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
        /// Its size in MiB, rounded up.
        needed_mib: u64,
    },
    /// The folder is no download root and no prepared set.
    #[error("{} holds no recordings: expected {expected}; {hint}", path.display())]
    NotADataset {
        /// The folder given, or tried by default.
        path: PathBuf,
        /// What was looked for.
        expected: String,
        /// What to do.
        hint: String,
    },
    /// The spreadsheet cannot be used.
    #[error("spreadsheet {}: {problem}", path.display())]
    Spreadsheet {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line where there is one.
        problem: String,
    },
    /// A column the run needs is not in the spreadsheet.
    #[error("{place} has no column \"{column}\": found {}", list(found))]
    MissingColumn {
        /// The file or prepared set.
        place: String,
        /// The column wanted.
        column: String,
        /// The columns there are.
        found: Vec<String>,
    },
    /// A recording's file says something that cannot be.
    #[error("{}: {place} at byte {offset}: expected {expected}, found {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The variable, header line or part being read.
        place: String,
        /// Byte offset in the file where reading stopped.
        offset: u64,
        /// What the format asks for.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A wanted channel is not in a recording.
    #[error("recording {recording} ({}) has no channel \"{channel}\": found {}", path.display(), list(found))]
    MissingChannel {
        /// The record's name.
        recording: String,
        /// Its file.
        path: PathBuf,
        /// The channel wanted.
        channel: String,
        /// The channels there are.
        found: Vec<String>,
    },
    /// A sample is NaN or infinite.
    #[error(
        "recording {recording} channel {channel}: sample {position} is {value:e}, expected a number that float32 can hold"
    )]
    BadSample {
        /// The record's name.
        recording: String,
        /// The channel.
        channel: String,
        /// Index of the sample, from 0.
        position: u64,
        /// `NaN`, `inf` or `-inf`.
        value: f64,
    },
    /// Samples that are finite, but of which float32 leaves nothing to scale by.
    #[error(
        "recording {recording} channel {channel}: float32 cannot tell its samples apart, or reach from {minimum:e} to {maximum:e}; rescale the signal"
    )]
    Unscalable {
        /// The record's name.
        recording: String,
        /// The channel.
        channel: String,
        /// Its smallest sample.
        minimum: f64,
        /// Its largest.
        maximum: f64,
    },
    /// Two channels of one recording differ in length.
    #[error(
        "recording {recording}: channel {channel} has {found} samples, expected {expected} as in channel {first}"
    )]
    ChannelLength {
        /// The record's name.
        recording: String,
        /// The channel that differs.
        channel: String,
        /// The first channel.
        first: String,
        /// Samples in the first channel.
        expected: u64,
        /// Samples in this one.
        found: u64,
    },
    /// A file differs from its line in the published checksums.
    #[error(
        "{} does not match SHA256SUMS.txt: expected {expected}, found {found}; download the file again (or, if you changed it on purpose, delete its line from SHA256SUMS.txt)",
        path.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The published SHA-256.
        expected: String,
        /// The file's SHA-256.
        found: String,
    },
    /// `SHA256SUMS.txt` itself cannot be read.
    #[error("{} line {line}: expected 64 hexadecimal digits and a file name, found \"{found}\"", path.display())]
    ChecksumList {
        /// The list.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Its text.
        found: String,
    },
    /// Nothing to train on.
    #[error("no recording left: {reason}")]
    NoRecordings {
        /// How the recordings were lost, and what to do.
        reason: String,
    },
    /// A prepared set cannot be trusted.
    #[error("prepared set {}: {problem}; prepare it again", path.display())]
    Prepared {
        /// The folder or the file in it.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Window or stride make no sense for these recordings.
    #[error("window settings: {problem}")]
    Window {
        /// What is wrong and what would do.
        problem: String,
    },
    /// Labels do not fit.
    #[error("labels: {problem}")]
    Labels {
        /// What is wrong and what would do.
        problem: String,
    },
    /// The split cannot be made.
    #[error("split: {problem}")]
    Split {
        /// What is wrong and what would do.
        problem: String,
    },
    /// A batch was asked for that cannot be.
    #[error("batch: {problem}")]
    Batch {
        /// What is wrong.
        problem: String,
    },
    /// The stop flag was set (Ctrl-C).
    #[error("interrupted; finished shards are kept and used by the next run")]
    Interrupted,
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    const SHOWN: usize = 20;
    const WIDTH: usize = 60;
    let shown =
        names.iter().take(SHOWN).map(|n| format!("\"{}\"", n.chars().take(WIDTH).collect::<String>()));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

impl DataError {
    /// Wraps an [`io::Error`]; a full disk becomes [`DataError::DiskFull`] when `needed` bytes were to be written.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn write(path: &Path, needed: u64, source: io::Error) -> Self {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full {
            return Self::DiskFull { path: path.into(), needed_mib: needed.div_ceil(1 << 20) };
        }
        Self::Io { action: "write", path: path.into(), source }
    }
}
