//! What a prepared folder says about itself: `manifest.json`, and one small file beside each shard.
//!
//! The manifest is written last and renamed into place, so a folder with a manifest is complete. The file beside a
//! shard lets a later `prepare` use what an interrupted one finished.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{DataError, GRID};

/// The manifest's file name; a folder that has it is a prepared set.
pub(crate) const MANIFEST_FILE: &str = "manifest.json";

/// Says what the file is.
pub(crate) const FORMAT: &str = "tpu-train prepared";

/// Raised when shards or manifest change their meaning.
pub(crate) const VERSION: u32 = 1;

/// A whole prepared set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `tpu-train prepared`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// The download root it was made from.
    pub root: String,
    /// The spreadsheet as it was read.
    pub spreadsheet: InputFile,
    /// The spreadsheet's named columns, in its order.
    pub columns: Vec<String>,
    /// In spreadsheet order.
    pub recordings: Vec<RecordingEntry>,
    /// The spreadsheet's other rows: without a file, or without a class when the set was made.
    #[serde(default)]
    pub left_out: Vec<BTreeMap<String, String>>,
}

/// One recording: its row in the spreadsheet, and its shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingEntry {
    /// Every named column's text as written in the spreadsheet.
    pub fields: BTreeMap<String, String>,
    /// The signals.
    #[serde(flatten)]
    pub shard: ShardEntry,
}

/// A shard and what it was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Version of the format.
    pub shard_version: u32,
    /// The recording's name.
    pub name: String,
    /// How samples are stored.
    pub sample_type: SampleType,
    /// Time points, N.
    pub samples: u64,
    /// In Hz.
    pub sampling_rate: f64,
    /// In the order of the shard's columns.
    pub channels: Vec<ChannelEntry>,
    /// The files it was made from.
    pub inputs: Vec<InputFile>,
    /// The shard's file name in the prepared folder.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32 of its bytes.
    pub crc32: u32,
}

/// How a shard stores a sample, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleType {
    /// `value · 2048`, exact.
    Int16,
    /// The value, rounded to float32: some sample was not on the 1/2048 grid.
    Float32,
}

impl SampleType {
    /// Bytes of one sample.
    pub fn bytes(self) -> usize {
        match self {
            Self::Int16 => 2,
            Self::Float32 => 4,
        }
    }
}

/// One channel's range over its whole recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelEntry {
    /// `ECG` or `PCG`.
    pub name: String,
    /// Smallest value, exact.
    pub minimum: f64,
    /// Largest value, exact.
    pub maximum: f64,
}

impl ChannelEntry {
    /// Whether all samples are equal; such a channel scales to zeros.
    pub fn constant(&self) -> bool {
        self.minimum == self.maximum
    }

    /// Whether float32 samples of this range scale to more than one value.
    pub fn scalable(&self) -> bool {
        let (_, range) = self.span(SampleType::Float32);
        self.constant() || range > 0.0 && range.is_finite()
    }

    /// `(minimum, range)` as float32 in the units a device sees: `q` for int16 samples, else values.
    /// A constant channel has range 1.
    pub fn scale(&self, units: SampleType) -> (f32, f32) {
        let (minimum, range) = self.span(units);
        (minimum, if range == 0.0 { 1.0 } else { range })
    }

    /// As [`Self::scale`], but a constant channel has range 0.
    fn span(&self, units: SampleType) -> (f32, f32) {
        let (minimum, maximum) = match units {
            SampleType::Int16 => (self.minimum * GRID, self.maximum * GRID),
            SampleType::Float32 => (f64::from(self.minimum as f32), f64::from(self.maximum as f32)),
        };
        (minimum as f32, (maximum - minimum) as f32)
    }
}

/// A file something was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Time of the last change, in ns since 1970.
    pub modified_ns: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads and checks `dir/manifest.json`.
    ///
    /// # Errors
    /// When it cannot be read, or is not a manifest of this version.
    pub fn read(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(MANIFEST_FILE);
        let text = std::fs::read(&path).map_err(|e| DataError::io("read", &path, e))?;
        let fail = |problem: String| DataError::Prepared { path: path.clone(), problem };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| fail(format!("the manifest cannot be parsed: {e}")))?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        if value.get("format").and_then(serde_json::Value::as_str) != Some(FORMAT) {
            return Err(fail(format!("the manifest's format is not \"{FORMAT}\"")));
        }
        if version != Some(u64::from(VERSION)) {
            let found = version.map_or("none".into(), |version| version.to_string());
            return Err(fail(format!("expected format version {VERSION}, found {found}")));
        }
        let manifest: Self =
            serde_json::from_value(value).map_err(|e| fail(format!("the manifest cannot be parsed: {e}")))?;
        for recording in &manifest.recordings {
            recording.shard.check().map_err(fail)?;
        }
        Ok(manifest)
    }
}

impl ShardEntry {
    /// Whether the numbers agree with each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if self.shard_version != VERSION {
            return Err(format!(
                "recording {name} has shard version {}, expected {VERSION}",
                self.shard_version
            ));
        }
        let plain = !self.file.is_empty() && !self.file.contains(['/', '\\']) && !self.file.starts_with('.');
        if !plain {
            return Err(format!(
                "recording {name} names the shard \"{}\", expected a plain file name",
                self.file
            ));
        }
        let row = (self.channels.len() * self.sample_type.bytes()) as u64;
        let expected = self.samples.checked_mul(row);
        if self.channels.is_empty() || self.samples == 0 || expected != Some(self.bytes) {
            return Err(format!(
                "recording {name} says {} samples of {} channels in {} bytes",
                self.samples,
                self.channels.len(),
                self.bytes
            ));
        }
        let ranges =
            self.channels.iter().all(|c| c.minimum <= c.maximum && (c.maximum - c.minimum).is_finite());
        let rate = self.sampling_rate.is_finite() && self.sampling_rate > 0.0;
        if !ranges || !rate {
            return Err(format!("recording {name} has a range or sampling rate that is no number"));
        }
        Ok(())
    }
}
