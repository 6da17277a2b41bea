//! Batches: windows side by side as a device takes them, made ahead by a background thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::{DataError, Prepared, SampleSource, SampleType, WindowTable};

/// A batch's samples, row-major `[rows, window, channels]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// `q = value · 2048`.
    I16(Vec<i16>),
    /// Values. One float32 recording in a table makes all its batches float32.
    F32(Vec<f32>),
}

/// Windows side by side. Rows behind `real_rows` are padding: samples 0, range 1, label 0, weight 0.
///
/// A device scales by `(sample − minimum) / range`, a true division, which equals the source's float64 min–max
/// rounded to float32 for int16 samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[rows, window, channels]`; empty where the devices hold the windows.
    pub samples: Samples,
    /// `[rows]`: where the devices hold the windows, which of them each row is, negative for padding; else empty.
    pub places: Vec<i32>,
    /// `[rows, channels]`: the recording's smallest sample, in the samples' units.
    pub minimum: Vec<f32>,
    /// `[rows, channels]`: largest minus smallest; 1 for a constant channel.
    pub range: Vec<f32>,
    /// `[rows]`: classes.
    pub labels: Vec<i32>,
    /// `[rows]`: 1 for a real row, 0 for padding.
    pub weights: Vec<f32>,
    /// Rows that are windows.
    pub real_rows: usize,
}

impl Batch {
    /// A batch without rows, to be filled.
    pub fn empty() -> Self {
        Self {
            samples: Samples::I16(Vec::new()),
            places: Vec::new(),
            minimum: Vec::new(),
            range: Vec::new(),
            labels: Vec::new(),
            weights: Vec::new(),
            real_rows: 0,
        }
    }

    /// Rows, padding included.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }
}

/// The windows `indices` of the table in a batch of `rows` rows, padded at its end.
///
/// # Errors
/// When there are more indices than rows, or an index is outside the table.
pub fn batch(
    prepared: &Prepared,
    table: &WindowTable,
    indices: &[u32],
    rows: usize,
) -> Result<Batch, DataError> {
    let mut batch = Batch::empty();
    fill_batch(&mut batch, prepared, table, indices, rows)?;
    Ok(batch)
}

/// As [`batch`], into an existing batch whose memory is used again.
///
/// # Errors
/// As [`batch`].
pub fn fill_batch(
    batch: &mut Batch,
    prepared: &Prepared,
    table: &WindowTable,
    indices: &[u32],
    rows: usize,
) -> Result<(), DataError> {
    fill_batch_from(batch, &SampleSource::Shards, prepared, table, indices, rows)
}

/// As [`fill_batch`], with samples from `source`.
///
/// # Errors
/// As [`batch`]; or the source does not have a window.
pub fn fill_batch_from(
    batch: &mut Batch,
    source: &SampleSource,
    prepared: &Prepared,
    table: &WindowTable,
    indices: &[u32],
    rows: usize,
) -> Result<(), DataError> {
    check_indices(prepared, table, indices, rows)?;
    let channels = table.channels;
    batch.places.clear();
    match source {
        SampleSource::Devices(places) => batch.places = places.of_rows(indices, rows)?,
        _ => copy_samples(batch, source, prepared, table, indices, rows)?,
    }
    let real = indices.len();
    batch.real_rows = real;
    refill(&mut batch.minimum, rows * channels, 0.0);
    refill(&mut batch.range, rows * channels, 1.0);
    refill(&mut batch.labels, rows, 0);
    refill(&mut batch.weights, rows, 0.0);
    batch.weights[..real].fill(1.0);
    for (at, &index) in indices.iter().enumerate() {
        let window = table.windows[index as usize];
        batch.labels[at] = window.label as i32;
        let scales = &prepared.recordings()[window.recording as usize].shard.channels;
        for (channel, entry) in scales.iter().enumerate() {
            let (minimum, range) = entry.scale(table.sample_type);
            batch.minimum[at * channels + channel] = minimum;
            batch.range[at * channels + channel] = range;
        }
    }
    Ok(())
}

fn check_indices(
    prepared: &Prepared,
    table: &WindowTable,
    indices: &[u32],
    rows: usize,
) -> Result<(), DataError> {
    if indices.len() > rows {
        let problem = format!("{} windows do not fit into {rows} rows", indices.len());
        return Err(DataError::Batch { problem });
    }
    for &index in indices {
        let Some(window) = table.windows.get(index as usize) else {
            let problem = format!("window {index} of {}", table.len());
            return Err(DataError::Batch { problem });
        };
        let entry = prepared.recordings().get(window.recording as usize).map(|r| &r.shard);
        let fits = entry.is_some_and(|e| {
            e.channels.len() == table.channels && window.start + table.window as u64 <= e.samples
        });
        if !fits {
            let problem =
                format!("window {index} is not inside its recording: the table is of another prepared set");
            return Err(DataError::Batch { problem });
        }
    }
    Ok(())
}

fn copy_samples(
    batch: &mut Batch,
    source: &SampleSource,
    prepared: &Prepared,
    table: &WindowTable,
    indices: &[u32],
    rows: usize,
) -> Result<(), DataError> {
    let row = table.window * table.channels;
    let shard = |index: u32| {
        let window = table.windows[index as usize];
        (prepared.shard(window.recording as usize), window.start as usize)
    };
    let used = std::mem::replace(&mut batch.samples, Samples::I16(Vec::new()));
    match table.sample_type {
        SampleType::Int16 => {
            let mut samples = if let Samples::I16(samples) = used { samples } else { Vec::new() };
            samples.resize(rows * row, 0);
            for (out, &index) in samples.chunks_exact_mut(row).zip(indices) {
                match source {
                    SampleSource::Memory(store) => store.copy_i16(index, out)?,
                    _ => {
                        let copied = shard(index).0.copy_i16(shard(index).1, out);
                        debug_assert!(copied, "an int16 table has int16 recordings only");
                    }
                }
            }
            samples[indices.len() * row..].fill(0);
            batch.samples = Samples::I16(samples);
        }
        SampleType::Float32 => {
            let mut samples = if let Samples::F32(samples) = used { samples } else { Vec::new() };
            samples.resize(rows * row, 0.0);
            for (out, &index) in samples.chunks_exact_mut(row).zip(indices) {
                match source {
                    SampleSource::Memory(store) => store.copy_f32(index, out)?,
                    _ => shard(index).0.copy_f32(shard(index).1, out),
                }
            }
            samples[indices.len() * row..].fill(0.0);
            batch.samples = Samples::F32(samples);
        }
    }
    Ok(())
}

fn refill<T: Copy>(items: &mut Vec<T>, length: usize, value: T) {
    items.clear();
    items.resize(length, value);
}

/// The source's min–max of a whole channel, in float64: `(value − minimum) / (maximum − minimum)`; zeros if constant.
pub fn scaled_f64(prepared: &Prepared, recording: usize, channel: usize) -> Vec<f64> {
    let entry = &prepared.recordings()[recording].shard.channels[channel];
    let range = if entry.constant() { 1.0 } else { entry.maximum - entry.minimum };
    prepared.shard(recording).channel(channel).map(|value| (value - entry.minimum) / range).collect()
}

/// Batches waiting between the loader and the step loop.
const AHEAD: usize = 2;

/// Assembles batches ahead of their use. Dropping it stops the thread.
pub struct Loader {
    batches: Option<Receiver<Result<Batch, DataError>>>,
    spent: SyncSender<Batch>,
    worker: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts assembling one batch of `rows` rows for each index list of `plan`, in order, at most
    /// two batches ahead.
    pub fn start(
        prepared: Arc<Prepared>,
        table: Arc<WindowTable>,
        rows: usize,
        plan: impl Iterator<Item = Vec<u32>> + Send + 'static,
    ) -> Self {
        Self::start_from(SampleSource::Shards, prepared, table, rows, plan)
    }

    /// As [`Self::start`], with samples from `source`.
    pub fn start_from(
        source: SampleSource,
        prepared: Arc<Prepared>,
        table: Arc<WindowTable>,
        rows: usize,
        plan: impl Iterator<Item = Vec<u32>> + Send + 'static,
    ) -> Self {
        let (sender, batches) = sync_channel(AHEAD);
        let (spent, reuse) = sync_channel(AHEAD + 2);
        let worker = std::thread::spawn(move || {
            for indices in plan {
                let mut batch = reuse.try_recv().unwrap_or_else(|_| Batch::empty());
                let filled = fill_batch_from(&mut batch, &source, &prepared, &table, &indices, rows);
                let failed = filled.is_err();
                if sender.send(filled.map(|()| batch)).is_err() || failed {
                    return;
                }
            }
        });
        Self { batches: Some(batches), spent, worker: Some(worker) }
    }

    /// Gives a batch back once it is on the device, so that its memory is used again.
    pub fn recycle(&self, batch: Batch) {
        // A full or closed queue only means that the memory is freed instead.
        let _ = self.spent.try_send(batch);
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Ok(batch) = self.batches.as_ref()?.recv() {
            return Some(batch);
        }
        self.batches = None;
        let panicked = self.worker.take().is_some_and(|worker| worker.join().is_err());
        panicked.then(|| Err(DataError::Batch { problem: "the loader's thread panicked".into() }))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(worker) = self.worker.take() {
            // Its panic was already printed; there is nothing left to deliver.
            let _ = worker.join();
        }
    }
}
