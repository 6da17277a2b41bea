//! A prepared set opened for reading: its manifest, and its shards mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use flate2::Crc;
use memmap2::Mmap;

use super::mapped::map;
use super::{DataError, Manifest, RecordingEntry, SampleType, ShardEntry};

/// Recordings ready to be cut into windows. Cheap to share: shards are mapped, not read.
pub struct Prepared {
    folder: Option<PathBuf>,
    columns: Vec<String>,
    recordings: Vec<RecordingEntry>,
    /// The spreadsheet's other rows.
    left_out: Vec<BTreeMap<String, String>>,
    shards: Vec<Bytes>,
    warnings: Vec<String>,
}

/// A shard's bytes.
pub(crate) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("folder", &self.folder)
            .field("recordings", &self.recordings.len())
            .finish()
    }
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// One recording's samples, interleaved `[samples, channels]`.
#[derive(Clone, Copy, Debug)]
pub struct ShardView<'a> {
    bytes: &'a [u8],
    sample_type: SampleType,
    channels: usize,
}

impl Prepared {
    /// Opens a prepared folder: the manifest is parsed and every shard's length checked. The sources need not exist.
    ///
    /// # Errors
    /// When the manifest is missing or broken, or a shard is missing or has another length.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let manifest = Manifest::read(dir)?;
        let open = |entry: &RecordingEntry| open_shard(dir, &entry.shard).map(Bytes::Mapped);
        let shards = manifest.recordings.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let warnings = recording_warnings(&manifest.recordings);
        if manifest.recordings.is_empty() {
            let reason = format!("the prepared set {} is empty", dir.display());
            return Err(DataError::NoRecordings { reason });
        }
        let (columns, recordings) = (manifest.columns, manifest.recordings);
        let left_out = manifest.left_out;
        Ok(Self { folder: Some(dir.into()), columns, recordings, left_out, shards, warnings })
    }

    /// A set that lives in memory; the entries' inputs and shard files mean nothing.
    pub(crate) fn in_memory(recordings: Vec<(RecordingEntry, Vec<u8>)>) -> Self {
        let (recordings, shards): (Vec<_>, Vec<_>) =
            recordings.into_iter().map(|(entry, bytes)| (entry, Bytes::Owned(bytes))).unzip();
        let warnings = recording_warnings(&recordings);
        Self { folder: None, columns: Vec::new(), recordings, left_out: Vec::new(), shards, warnings }
    }

    pub(crate) fn with_warnings(mut self, mut first: Vec<String>) -> Self {
        first.append(&mut self.warnings);
        self.warnings = first;
        self
    }

    /// The rows of the spreadsheet that have no shard here.
    pub(crate) fn left_out(&self) -> &[BTreeMap<String, String>] {
        &self.left_out
    }

    /// The folder; none if the set lives in memory.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The spreadsheet's named columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The recordings, in spreadsheet order.
    pub fn recordings(&self) -> &[RecordingEntry] {
        &self.recordings
    }

    /// What the user should know: recordings missing, in no class, constant channels; one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Bytes of all shards.
    pub fn bytes(&self) -> u64 {
        self.recordings.iter().map(|r| r.shard.bytes).sum()
    }

    /// The samples of one recording.
    pub fn shard(&self, recording: usize) -> ShardView<'_> {
        let entry = &self.recordings[recording].shard;
        let bytes = self.shards[recording].get();
        ShardView { bytes, sample_type: entry.sample_type, channels: entry.channels.len() }
    }

    /// Reads every shard and compares its CRC-32 and its ranges with the manifest's.
    ///
    /// # Errors
    /// [`DataError::Prepared`] naming the first shard that differs.
    pub fn verify(&self) -> Result<(), DataError> {
        for (entry, shard) in self.recordings.iter().zip(&self.shards) {
            check_content(self.folder.as_deref().unwrap_or(Path::new("")), &entry.shard, shard.get())?;
        }
        Ok(())
    }
}

/// Opens one shard and checks its length.
fn open_shard(dir: &Path, entry: &ShardEntry) -> Result<Mmap, DataError> {
    let path = dir.join(&entry.file);
    let problem = |problem: String| DataError::Prepared { path: path.clone(), problem };
    let file = File::open(&path).map_err(|e| problem(format!("the shard cannot be opened: {e}")))?;
    let found = file.metadata().map_err(|e| DataError::io("read", &path, e))?.len();
    if found != entry.bytes {
        return Err(problem(format!("the shard has {found} bytes, expected {}", entry.bytes)));
    }
    map(&file).map_err(|e| DataError::io("map", &path, e))
}

/// Whether a shard's file is there with the right length, and, if `thorough`, the right content.
pub(crate) fn shard_is_whole(dir: &Path, entry: &ShardEntry, thorough: bool) -> bool {
    match open_shard(dir, entry) {
        Ok(bytes) => !thorough || check_content(dir, entry, &bytes).is_ok(),
        Err(_) => false,
    }
}

/// Compares a shard's bytes with its CRC-32, and its samples with the ranges they are scaled by.
fn check_content(dir: &Path, entry: &ShardEntry, bytes: &[u8]) -> Result<(), DataError> {
    let fail = |problem: String| Err(DataError::Prepared { path: dir.join(&entry.file), problem });
    let mut crc = Crc::new();
    crc.update(bytes);
    if crc.sum() != entry.crc32 {
        return fail(format!("the shard's CRC-32 is {:08x}, expected {:08x}", crc.sum(), entry.crc32));
    }
    let view = ShardView { bytes, sample_type: entry.sample_type, channels: entry.channels.len() };
    let stored = |value: f64| match entry.sample_type {
        SampleType::Int16 => value,
        SampleType::Float32 => f64::from(value as f32),
    };
    for (index, channel) in entry.channels.iter().enumerate() {
        let around = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let found = view.channel(index).fold((f64::INFINITY, f64::NEG_INFINITY), around);
        let expected = (stored(channel.minimum), stored(channel.maximum));
        if found != expected {
            return fail(format!("channel {} spans {found:?}, expected {expected:?}", channel.name));
        }
    }
    Ok(())
}

fn recording_warnings(recordings: &[RecordingEntry]) -> Vec<String> {
    let mut warnings = Vec::new();
    for shard in recordings.iter().map(|r| &r.shard) {
        for channel in shard.channels.iter().filter(|c| c.constant()) {
            warnings.push(format!(
                "recording {} channel {} is constant ({}): it scales to zeros",
                shard.name, channel.name, channel.minimum
            ));
        }
    }
    let rounded = |r: &&RecordingEntry| r.shard.sample_type == SampleType::Float32;
    if let Some(first) = recordings.iter().find(rounded) {
        warnings.push(format!(
            "{} of {} recordings hold samples beside the grid of 1/2048 (the first: {}) and are kept rounded to float32",
            recordings.iter().filter(rounded).count(),
            recordings.len(),
            first.shard.name
        ));
    }
    let rate = |r: &RecordingEntry| r.shard.sampling_rate;
    if let Some(other) = recordings.iter().find(|r| rate(r) != rate(&recordings[0])) {
        warnings.push(format!(
            "recordings differ in sampling rate: {} has {} Hz, {} has {} Hz; windows count samples, not seconds",
            recordings[0].shard.name,
            rate(&recordings[0]),
            other.shard.name,
            rate(other)
        ));
    }
    warnings
}

impl<'a> ShardView<'a> {
    /// How samples are stored.
    pub fn sample_type(&self) -> SampleType {
        self.sample_type
    }

    /// Time points.
    pub fn len(&self) -> usize {
        self.bytes.len() / (self.channels * self.sample_type.bytes())
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of time points `start..start + count`; panics outside the shard.
    fn rows(&self, start: usize, count: usize) -> &'a [u8] {
        let row = self.channels * self.sample_type.bytes();
        &self.bytes[start * row..(start + count) * row]
    }

    /// Copies the rows of `q` starting at `start` into `out`; false, and nothing copied, if samples are float32.
    pub(crate) fn copy_i16(&self, start: usize, out: &mut [i16]) -> bool {
        if self.sample_type != SampleType::Int16 {
            return false;
        }
        let rows = self.rows(start, out.len() / self.channels);
        for (out, bytes) in out.iter_mut().zip(rows.chunks_exact(2)) {
            *out = i16::from_le_bytes([bytes[0], bytes[1]]);
        }
        true
    }

    /// Copies values (int16 samples divided by 2048, which is exact) starting at `start` into `out`.
    pub(crate) fn copy_f32(&self, start: usize, out: &mut [f32]) {
        let rows = self.rows(start, out.len() / self.channels);
        match self.sample_type {
            SampleType::Int16 => {
                for (out, bytes) in out.iter_mut().zip(rows.chunks_exact(2)) {
                    *out = f32::from(i16::from_le_bytes([bytes[0], bytes[1]])) / super::GRID as f32;
                }
            }
            SampleType::Float32 => {
                for (out, bytes) in out.iter_mut().zip(rows.chunks_exact(4)) {
                    *out = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                }
            }
        }
    }

    /// All values of one channel, as the recording has them (float32 shards: rounded to float32).
    pub fn channel(&self, channel: usize) -> impl Iterator<Item = f64> + use<'a> {
        let size = self.sample_type.bytes();
        let sample_type = self.sample_type;
        self.bytes.chunks_exact(size).skip(channel).step_by(self.channels).map(move |b| match sample_type {
            SampleType::Int16 => f64::from(i16::from_le_bytes([b[0], b[1]])) / super::GRID,
            SampleType::Float32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        })
    }
}
