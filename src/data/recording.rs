//! One recording, whatever file it is in: its channels streamed into one compact, interleaved buffer.
//!
//! A channel's float64 values never exist as a whole: each chunk becomes int16 `q = value · 2048` as it comes. The first
//! value that is not on that grid turns the whole recording to float32.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use tpu_train::data::recording::Recording;
//! let recording = Recording::open_file("ECGPCG0003.mat".as_ref())?;
//! let signals = recording.read(&["ECG", "PCG"], &AtomicBool::new(false))?;
//! println!("{} samples at {} Hz", signals.samples, signals.sampling_rate);
//! # Ok::<(), tpu_train::data::DataError>(())
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::mat5::{MatFile, Sink};
use super::mat73::{Mat73File, is_hdf5};
use super::wfdb::Record;
use super::{ChannelEntry, DataError, GRID, Samples};

/// The variable with the sampling rate in `.mat` files.
const SAMPLING_RATE: &str = "fs";

/// An opened recording.
#[derive(Debug)]
pub struct Recording {
    /// Stem of its file.
    pub name: String,
    path: PathBuf,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Mat5(MatFile),
    Mat73(Mat73File),
    Wfdb(Record),
}

/// A recording's channels in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Signals {
    /// In Hz.
    pub sampling_rate: f64,
    /// Time points.
    pub samples: u64,
    /// Names and ranges, in the order asked for.
    pub channels: Vec<ChannelEntry>,
    /// Interleaved `[samples, channels]`.
    pub data: Samples,
}

impl Recording {
    /// The file a recording is read from: `root/MAT/NAME.mat`, or `root/WFDB/NAME.hea` where there is none.
    pub fn find(root: &Path, name: &str) -> Option<PathBuf> {
        let candidates =
            [root.join("MAT").join(format!("{name}.mat")), root.join("WFDB").join(format!("{name}.hea"))];
        candidates.into_iter().find(|path| path.is_file())
    }

    /// Opens a `.mat` (either kind) or `.hea` file.
    ///
    /// # Errors
    /// When it is missing, of another kind, or damaged.
    pub fn open_file(path: &Path) -> Result<Self, DataError> {
        let extension = path.extension().map(|e| e.to_ascii_lowercase());
        let format = match extension.as_ref().and_then(|e| e.to_str()) {
            Some("hea") => Format::Wfdb(Record::open(path)?),
            Some("dat") => {
                return Err(DataError::Malformed {
                    path: path.into(),
                    place: "file name".into(),
                    offset: 0,
                    expected: "a .mat file or a WFDB header, .hea".into(),
                    found: ".dat, the samples of a WFDB record".into(),
                });
            }
            _ if is_hdf5(path)? => Format::Mat73(Mat73File::open(path)?),
            _ => Format::Mat5(MatFile::open(path)?),
        };
        let name = path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        Ok(Self { name, path: path.into(), format })
    }

    /// The files it is made of.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.path.clone()];
        if let Format::Wfdb(record) = &self.format {
            files.extend(record.data_files());
        }
        files
    }

    /// Names of its signals (in `.mat` files: of all variables).
    ///
    /// # Errors
    /// When an HDF5 file is damaged.
    pub fn channel_names(&self) -> Result<Vec<String>, DataError> {
        Ok(match &self.format {
            Format::Mat5(file) => file.variables().iter().map(|v| v.name.clone()).collect(),
            Format::Mat73(file) => file.variables()?,
            Format::Wfdb(record) => record.signals.iter().map(|s| s.name.clone()).collect(),
        })
    }

    /// In Hz.
    ///
    /// # Errors
    /// When it is missing or not a positive number.
    pub fn sampling_rate(&self) -> Result<f64, DataError> {
        if let Format::Wfdb(record) = &self.format {
            return Ok(record.sampling_rate);
        }
        let names = self.channel_names()?;
        let mut found = "no such variable".to_owned();
        if names.iter().any(|n| n == SAMPLING_RATE) {
            let mut all: Vec<f64> = Vec::new();
            let count = self.values(SAMPLING_RATE, &mut |values| {
                all.extend(values.first());
                Ok(())
            })?;
            match (count, all.first()) {
                (1, Some(&rate)) if rate.is_finite() && rate > 0.0 => return Ok(rate),
                (1, Some(rate)) => found = rate.to_string(),
                _ => found = format!("{count} values"),
            }
        }
        Err(DataError::Malformed {
            path: self.path.clone(),
            place: format!("variable {SAMPLING_RATE}"),
            offset: 0,
            expected: "the sampling rate, one positive number".into(),
            found,
        })
    }

    /// Reads these channels. `stop` is looked at between chunks.
    ///
    /// # Errors
    /// When one is missing, they differ in length, a sample is not finite, the file is damaged, or `stop` was set.
    pub fn read(&self, channels: &[&str], stop: &AtomicBool) -> Result<Signals, DataError> {
        let found = self.channel_names()?;
        if let Some(channel) = channels.iter().find(|c| !found.iter().any(|f| f == *c)) {
            return Err(DataError::MissingChannel {
                recording: self.name.clone(),
                path: self.path.clone(),
                channel: (*channel).into(),
                found,
            });
        }
        let sampling_rate = self.sampling_rate()?;
        let samples = self.common_length(channels)?;
        let mut buffer = Interleaver::new(channels.len(), samples)
            .ok_or_else(|| self.too_large(samples, channels.len()))?;
        let mut entries = Vec::new();
        for channel in channels {
            buffer.start();
            self.values(channel, &mut |values| {
                if stop.load(Ordering::Relaxed) {
                    return Err(DataError::Interrupted);
                }
                buffer.push(values).map_err(|refused| match refused {
                    Refused::Sample(position, value) => DataError::BadSample {
                        recording: self.name.clone(),
                        channel: (*channel).into(),
                        position,
                        value,
                    },
                    Refused::Memory => self.too_large(samples, channels.len()),
                })
            })?;
            let (minimum, maximum) = buffer.range();
            entries.push(ChannelEntry { name: (*channel).into(), minimum, maximum });
            buffer.column += 1;
        }
        if let (Samples::F32(_), Some(channel)) = (&buffer.data, entries.iter().find(|c| !c.scalable())) {
            return Err(DataError::Unscalable {
                recording: self.name.clone(),
                channel: channel.name.clone(),
                minimum: channel.minimum,
                maximum: channel.maximum,
            });
        }
        Ok(Signals { sampling_rate, samples, channels: entries, data: buffer.data })
    }

    fn common_length(&self, channels: &[&str]) -> Result<u64, DataError> {
        let mut common = None;
        for channel in channels {
            let found = self.length(channel)?;
            let expected = *common.get_or_insert(found);
            if found != expected {
                return Err(DataError::ChannelLength {
                    recording: self.name.clone(),
                    channel: (*channel).into(),
                    first: channels[0].into(),
                    expected,
                    found,
                });
            }
        }
        Ok(common.unwrap_or(0))
    }

    fn too_large(&self, samples: u64, channels: usize) -> DataError {
        DataError::Malformed {
            path: self.path.clone(),
            place: "signals".into(),
            offset: 0,
            expected: "signals that fit in memory".into(),
            found: format!("{samples} samples of {channels} channels"),
        }
    }

    fn length(&self, channel: &str) -> Result<u64, DataError> {
        match &self.format {
            Format::Mat5(file) => file.length(channel),
            Format::Mat73(file) => file.length(channel),
            Format::Wfdb(record) => record.length(channel),
        }
    }

    fn values(&self, channel: &str, sink: &mut Sink<'_>) -> Result<u64, DataError> {
        match &self.format {
            Format::Mat5(file) => file.values(channel, sink),
            Format::Mat73(file) => file.values(channel, sink),
            Format::Wfdb(record) => record.values(channel, sink),
        }
    }
}

/// Columns filled one after the other, in the most compact type that holds every value so far.
struct Interleaver {
    columns: usize,
    column: usize,
    /// Next row of the current column.
    row: usize,
    data: Samples,
    /// The current column's range, in values.
    minimum: f64,
    maximum: f64,
    grid: Vec<i16>,
}

impl Interleaver {
    /// None if the memory cannot be had.
    fn new(columns: usize, rows: u64) -> Option<Self> {
        let mut data: Vec<i16> = Vec::new();
        data.try_reserve_exact(usize::try_from(rows).ok()?.checked_mul(columns)?).ok()?;
        let data = Samples::I16(data);
        Some(Self { columns, column: 0, row: 0, data, minimum: 0.0, maximum: 0.0, grid: Vec::new() })
    }

    fn start(&mut self) {
        self.row = 0;
        (self.minimum, self.maximum) = (f64::INFINITY, f64::NEG_INFINITY);
    }

    fn range(&self) -> (f64, f64) {
        (self.minimum, self.maximum)
    }

    /// Appends to the current column.
    fn push(&mut self, values: &[f64]) -> Result<(), Refused> {
        if matches!(self.data, Samples::I16(_)) && !to_grid(values, &mut self.grid) {
            self.check_finite(values)?;
            self.data = widen(&self.data).ok_or(Refused::Memory)?;
        }
        match &mut self.data {
            Samples::I16(data) => {
                let low = self.grid.iter().copied().min().map_or(f64::INFINITY, f64::from);
                let high = self.grid.iter().copied().max().map_or(f64::NEG_INFINITY, f64::from);
                self.minimum = self.minimum.min(low / GRID);
                self.maximum = self.maximum.max(high / GRID);
                place(data, self.columns, self.column, self.row, self.grid.iter().copied(), 0);
            }
            Samples::F32(data) => {
                place(data, self.columns, self.column, self.row, values.iter().map(|v| *v as f32), 0.0);
                self.check_finite(values)?;
                self.minimum = values.iter().copied().fold(self.minimum, f64::min);
                self.maximum = values.iter().copied().fold(self.maximum, f64::max);
            }
        }
        self.row += values.len();
        Ok(())
    }

    /// A float64 too large for float32 counts as infinite.
    fn check_finite(&self, values: &[f64]) -> Result<(), Refused> {
        match values.iter().position(|v| !(*v as f32).is_finite()) {
            Some(at) => Err(Refused::Sample((self.row + at) as u64, values[at])),
            None => Ok(()),
        }
    }
}

/// Why values were not taken.
enum Refused {
    /// Position and value of the first sample that is not finite.
    Sample(u64, f64),
    /// They are too many as float32.
    Memory,
}

/// Writes a run of a column; rows that do not exist yet are made, with `zero` in the other columns.
fn place<T: Copy>(
    data: &mut Vec<T>,
    columns: usize,
    column: usize,
    row: usize,
    values: impl ExactSizeIterator<Item = T>,
    zero: T,
) {
    let end = (row + values.len()) * columns;
    if data.len() < end {
        data.resize(end, zero);
    }
    let rows = data[row * columns..end].chunks_exact_mut(columns);
    rows.zip(values).for_each(|(row, value)| row[column] = value);
}

/// Converts to `q = value · 2048`; false if some value is not exactly such an int16.
fn to_grid(values: &[f64], out: &mut Vec<i16>) -> bool {
    // Adding 1.5 · 2^52 rounds to an integer and leaves it in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    out.clear();
    out.resize(values.len(), 0);
    let mut exact = true;
    for (out, value) in out.iter_mut().zip(values) {
        let scaled = value * GRID;
        *out = (scaled + ROUND).to_bits() as i16;
        exact &= f64::from(*out) == scaled;
    }
    exact
}

/// The same values as float32, which holds every int16 `q / 2048` exactly; none if the memory cannot be had.
fn widen(data: &Samples) -> Option<Samples> {
    let Samples::I16(q) = data else { return Some(data.clone()) };
    let mut values: Vec<f32> = Vec::new();
    values.try_reserve_exact(q.capacity()).ok()?;
    values.extend(q.iter().map(|q| f32::from(*q) / GRID as f32));
    Some(Samples::F32(values))
}
