//! Where batches get their samples: from the shards, from windows copied into memory before, or not at all where the
//! devices hold the windows and a batch only names their places.

use std::sync::Arc;

use rayon::prelude::*;

use super::{DataError, Prepared, SampleType, Samples, WindowTable};

/// Where batches get their samples.
#[derive(Clone, Debug, Default)]
pub enum SampleSource {
    /// From the mapped shards.
    #[default]
    Shards,
    /// From windows in memory.
    Memory(Arc<WindowStore>),
    /// Nowhere: the devices hold the windows. Batches have places instead.
    Devices(Arc<Places>),
}

/// Where each window of a table stands in a list of some of them.
#[derive(Clone, Debug)]
pub struct Places {
    /// Of each window of the table; negative where it is not in the list.
    of_window: Vec<i32>,
}

/// The place of a row that holds no window.
const NOWHERE: i32 = -1;

impl Places {
    /// The places of a table's windows in `list`.
    ///
    /// # Errors
    /// When the list holds a window that the table does not have, or more windows than places can be counted.
    pub fn new(table: &WindowTable, list: &[u32]) -> Result<Self, DataError> {
        let mut of_window = vec![NOWHERE; table.len()];
        for (place, &window) in list.iter().enumerate() {
            let slot = of_window.get_mut(window as usize).zip(i32::try_from(place).ok());
            let Some((slot, place)) = slot else {
                let problem = format!("window {window} of {} at place {place}", table.len());
                return Err(DataError::Batch { problem });
            };
            *slot = place;
        }
        Ok(Self { of_window })
    }

    /// The place of a window.
    ///
    /// # Errors
    /// When it is not in the list.
    pub fn of(&self, window: u32) -> Result<i32, DataError> {
        let place = self.of_window.get(window as usize).copied().filter(|&place| place >= 0);
        place.ok_or_else(|| DataError::Batch {
            problem: format!("window {window} is not among those in memory"),
        })
    }

    /// The places of a batch's windows, and of the padding behind them.
    pub(super) fn of_rows(&self, windows: &[u32], rows: usize) -> Result<Vec<i32>, DataError> {
        let mut places = windows.iter().map(|&window| self.of(window)).collect::<Result<Vec<_>, _>>()?;
        places.resize(rows, NOWHERE);
        Ok(places)
    }
}

/// Windows copied out of the shards, one after another.
#[derive(Debug)]
pub struct WindowStore {
    places: Places,
    /// Values of a window.
    row: usize,
    samples: Samples,
}

impl WindowStore {
    /// Copies the windows `list` of a table.
    ///
    /// # Errors
    /// As [`Places::new`].
    pub fn new(prepared: &Prepared, table: &WindowTable, list: &[u32]) -> Result<Self, DataError> {
        let places = Places::new(table, list)?;
        Ok(Self { places, row: row(table), samples: gather(prepared, table, list, list.len()) })
    }

    /// Copies one window of an int16 table, whose windows are all int16, into `out`, which has its length.
    pub(super) fn copy_i16(&self, window: u32, out: &mut [i16]) -> Result<(), DataError> {
        let place = self.places.of(window)? as usize;
        if let Samples::I16(samples) = &self.samples {
            out.copy_from_slice(&samples[place * self.row..(place + 1) * self.row]);
        }
        Ok(())
    }

    /// As [`Self::copy_i16`], of a float32 table, whose windows are all float32.
    pub(super) fn copy_f32(&self, window: u32, out: &mut [f32]) -> Result<(), DataError> {
        let place = self.places.of(window)? as usize;
        if let Samples::F32(samples) = &self.samples {
            out.copy_from_slice(&samples[place * self.row..(place + 1) * self.row]);
        }
        Ok(())
    }
}

/// Values of a window.
fn row(table: &WindowTable) -> usize {
    table.window * table.channels
}

/// Bytes that `windows` windows of a table take.
pub fn window_bytes(table: &WindowTable, windows: usize) -> u64 {
    (windows * row(table) * table.sample_type.bytes()) as u64
}

/// The windows `list` of a table side by side, `[rows, window, channels]`; zeros behind them.
///
/// # Panics
/// When a window is not the table's, or there are more than `rows`.
pub fn gather(prepared: &Prepared, table: &WindowTable, list: &[u32], rows: usize) -> Samples {
    assert!(list.len() <= rows, "{} windows in {rows} rows", list.len());
    let row = row(table);
    let window = |index: &u32| {
        let window = table.windows[*index as usize];
        (prepared.shard(window.recording as usize), window.start as usize)
    };
    match table.sample_type {
        SampleType::Int16 => {
            let mut samples = vec![0; rows * row];
            samples.par_chunks_exact_mut(row).zip(list).for_each(|(out, index)| {
                let (shard, start) = window(index);
                let copied = shard.copy_i16(start, out);
                debug_assert!(copied, "an int16 table has int16 recordings only");
            });
            Samples::I16(samples)
        }
        SampleType::Float32 => {
            let mut samples = vec![0.0; rows * row];
            samples.par_chunks_exact_mut(row).zip(list).for_each(|(out, index)| {
                let (shard, start) = window(index);
                shard.copy_f32(start, out);
            });
            Samples::F32(samples)
        }
    }
}
