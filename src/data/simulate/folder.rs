//! The data set's folder: spreadsheet, `RECORDS`, checksums, and the journal that tells our own folders from others.

use std::fs::{self, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::scenario::Scenario;
use super::{SimulateError, SimulateOptions};

/// The journal's name.
pub(super) const JOURNAL: &str = "simulate.json";
/// Raised whenever the same settings give other bytes.
const GENERATION: u32 = 1;
/// The spreadsheet's named columns; [`EMPTY_COLUMNS`] nameless ones follow.
const COLUMNS: [&str; 13] = [
    "Record Name",
    "Subject ID",
    "Record Duration (min)",
    "Age (years)",
    "Gender",
    "Recording Scenario",
    "Num Channels",
    "ECG Notes",
    "PCG Notes",
    "PCG2 Notes",
    "AUX1 Notes",
    "AUX2 Notes",
    "Database Housekeeping",
];
const EMPTY_COLUMNS: usize = 32;

/// The settings that decide every byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    generation: u32,
    subjects: usize,
    seconds: f64,
    sampling_frequency: u32,
    seed: u64,
    five_channel_fraction: f64,
}

impl From<&SimulateOptions> for Settings {
    fn from(options: &SimulateOptions) -> Self {
        Self {
            generation: GENERATION,
            subjects: options.subjects,
            seconds: options.seconds,
            sampling_frequency: options.sampling_frequency,
            seed: options.seed,
            five_channel_fraction: options.five_channel_fraction,
        }
    }
}

/// Written first with no files, and again, last of all, with their names: a folder is finished when the journal
/// lists its files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) settings: Settings,
    /// Every file of a finished folder; empty while it is being written.
    pub(super) files: Vec<Written>,
}

impl Journal {
    /// True if all files stand there with the right length.
    pub(super) fn is_whole(&self, out: &Path) -> bool {
        let there = |file: &Written| fs::metadata(out.join(&file.path)).is_ok_and(|m| m.len() == file.bytes);
        !self.files.is_empty() && self.files.iter().all(there)
    }
}

/// A file of the data set: its path inside the folder, its length and its SHA-256 in hexadecimal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// What a folder holds before we write.
pub(super) enum Before {
    /// Nothing, or not even a folder.
    Empty,
    /// What the same settings left, whole or not.
    Ours(Journal),
}

/// Looks at the output folder.
///
/// # Errors
/// If it holds anything but the output of the same settings, or cannot be read.
pub(super) fn inspect(out: &Path, settings: &Settings) -> Result<Before, SimulateError> {
    let mut entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Before::Empty),
        Err(source) => return Err(SimulateError::Read { path: out.to_owned(), source }),
    };
    if entries.next().is_none() {
        return Ok(Before::Empty);
    }
    let not_ours = |found: &'static str| SimulateError::NotEmpty { path: out.to_owned(), found };
    let text = fs::read(out.join(JOURNAL)).map_err(|_| not_ours("files that simulate did not write"))?;
    let journal: Journal =
        serde_json::from_slice(&text).map_err(|_| not_ours("a simulate.json that cannot be read"))?;
    if journal.settings != *settings {
        return Err(not_ours("a data set simulated with other settings"));
    }
    Ok(Before::Ours(journal))
}

/// Hashes and counts what passes through to a file.
struct Tally<W> {
    inner: W,
    bytes: u64,
    sha256: Sha256,
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.bytes += count as u64;
        self.sha256.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes one file under a temporary name and renames it once it is whole.
///
/// # Errors
/// If the file cannot be written, naming it.
pub(super) fn write_file(
    out: &Path,
    path: &str,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Written, SimulateError> {
    let target = out.join(path);
    let write = || -> io::Result<Written> {
        let folder = target.parent().unwrap_or(out);
        let temporary = tempfile::Builder::new()
            .prefix(".partial-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        let mut tally = Tally { inner: BufWriter::new(temporary), bytes: 0, sha256: Sha256::new() };
        fill(&mut tally)?;
        let Tally { inner, bytes, sha256 } = tally;
        inner.into_inner()?.persist(&target)?;
        let sha256 = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Written { path: path.to_owned(), bytes, sha256 })
    };
    write().map_err(|source| SimulateError::Write { path: target.clone(), source })
}

/// Writes the journal, with the files or, at the start, without.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write_journal(out: &Path, journal: &Journal) -> Result<(), SimulateError> {
    write_file(out, JOURNAL, |file| {
        serde_json::to_writer_pretty(&mut *file, journal)?;
        file.write_all(b"\n")
    })
    .map(drop)
}

/// Creates the folder and its `MAT` folder.
///
/// # Errors
/// If they cannot be created.
pub(super) fn create(out: &Path) -> Result<(), SimulateError> {
    let path = out.join("MAT");
    fs::create_dir_all(&path).map_err(|source| SimulateError::Write { path, source })
}

/// Takes away what an interrupted or failed run wrote, as far as possible.
pub(super) fn clear(out: &Path, paths: impl Iterator<Item = PathBuf>) {
    // Best effort: the error that led here is the one to report, and the journal still says "unfinished".
    for path in paths {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_dir(out.join("MAT"));
    let _ = fs::remove_file(out.join(JOURNAL));
    let _ = fs::remove_dir(out);
}

/// One line of the spreadsheet.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) seconds: f64,
    pub(super) age: Option<u32>,
    pub(super) female: bool,
    pub(super) scenario: Scenario,
    pub(super) five_channels: bool,
    pub(super) ecg_saturated: bool,
    pub(super) pcg_saturated: bool,
}

impl Line {
    fn fields(&self) -> [String; 13] {
        const QUIET: &str = "Quantization noise level ";
        let saturated = |yes: bool| if yes { "Good; occasional saturation" } else { "Good" };
        let other = |note: &'static str| if self.five_channels { note } else { "NA" };
        [
            self.name.clone(),
            self.subject.clone(),
            minutes(self.seconds),
            self.age.map(|age| age.to_string()).unwrap_or_default(),
            if self.female { "Female" } else { "Male" }.to_owned(),
            self.scenario.text().to_owned(),
            if self.five_channels { "5" } else { "2" }.to_owned(),
            saturated(self.ecg_saturated).to_owned(),
            saturated(self.pcg_saturated).to_owned(),
            other(QUIET).to_owned(),
            other("Good").to_owned(),
            other(QUIET).to_owned(),
            String::new(),
        ]
    }
}

/// Seconds as minutes with up to four decimals, the last zeros dropped.
fn minutes(seconds: f64) -> String {
    let text = format!("{:.4}", seconds / 60.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The spreadsheet: its columns, one line a recording, and a last line with no value in it that ends in a bare line feed.
pub(super) fn spreadsheet(lines: &[Line]) -> String {
    let tail = ",".repeat(EMPTY_COLUMNS);
    let mut text = format!("{}{tail}\r\n", COLUMNS.join(","));
    for line in lines {
        // No field holds a comma or a quote, so nothing needs quoting.
        text.push_str(&format!("{}{tail}\r\n", line.fields().join(",")));
    }
    text.push_str(&format!("{}\n", ",".repeat(COLUMNS.len() + EMPTY_COLUMNS - 1)));
    text
}

/// `SHA256SUMS.txt`: digest, a blank, path.
pub(super) fn checksums(files: &[Written]) -> String {
    files.iter().map(|file| format!("{} {}\n", file.sha256, file.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_the_real_ones() {
        assert_eq!(
            [minutes(1800.0), minutes(30.0), minutes(10.0), minutes(60.0)],
            ["30", "0.5", "0.1667", "1"]
        );
    }
}
