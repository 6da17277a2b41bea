//! Recordings and their spreadsheet in, batches of windows out. Never sees a device.
//!
//! The stream: a download [`catalog`] names the files; [`spreadsheet`] the subjects and labels; [`recording`]
//! streams one channel at a time out of `.mat` v5 ([`mat5`]), `.mat` v7.3 ([`mat73`]) or WFDB ([`wfdb`]) files;
//! [`prepare()`] writes one *shard* per recording, samples interleaved `[N, channels]`, beside a manifest;
//! [`Prepared`] maps the shards; a [`WindowTable`] cuts them into labelled windows, which are views; [`Split`] deals
//! windows to training, validation and test; a [`Plan`] orders them; a [`Loader`] assembles [`Batch`]es ahead.
//!
//! Invariants: int16 shards hold `q = value · 2048` and lose nothing (anything else is stored as float32); a shard or
//! manifest is complete the moment it has its name; a batch is a pure function of (seed, step).
//!
//! ```no_run
//! use std::sync::Arc;
//! use tpu_train::data::*;
//! let options = PrepareOptions::new(Some("physionet.org/files/ephnogram/1.0.0".into()));
//! let prepared = Arc::new(prepare(&options, &|_| {})?);
//! let rule = LabelRule::Scenario;
//! let table = Arc::new(WindowTable::new(&prepared, 10_000, 10_000, &rule, RecordingOrder::Spreadsheet)?);
//! let split = Split::new(&table, &SplitOptions::default())?;
//! let plan = Plan::new(split.train, 32, 7, true)?;
//! let steps = plan.steps(0, 100);
//! for batch in Loader::start(prepared, table, plan.batch_size(), steps) {
//!     println!("{} windows", batch?.real_rows);
//! }
//! # Ok::<(), DataError>(())
//! ```

mod batch;
pub mod catalog;
pub mod checksums;
mod error;
mod folder;
mod labels;
mod manifest;
mod mapped;
pub mod mat5;
pub mod mat73;
mod mt19937;
mod order;
mod prepare;
mod prepared;
pub mod recording;
pub mod simulate;
mod source;
mod source_order;
mod split;
pub mod spreadsheet;
pub mod wfdb;
mod windows;

pub use batch::{Batch, Loader, Samples, batch, fill_batch, fill_batch_from, scaled_f64};
pub use error::DataError;
pub use labels::{LabelRule, SCENARIOS, Scenario};
pub use manifest::{ChannelEntry, InputFile, Manifest, RecordingEntry, SampleType, ShardEntry};
pub use mt19937::{Mt19937, permutation};
pub use order::{Plan, Shuffle, epoch_order};
pub use prepare::{PrepareEvent, PrepareOptions, load_files, prepare};
pub use prepared::{Prepared, ShardView};
pub use source::{Places, SampleSource, WindowStore, gather, window_bytes};
pub use source_order::SOURCE_ORDER;
pub use split::{Split, SplitBy, SplitOptions};
pub use windows::{RecordingOrder, Window, WindowTable};

/// Steps of the int16 grid per unit of value: `q = value · 2048`.
pub const GRID: f64 = 2048.0;

/// The channels a window has, in this order.
pub const CHANNELS: [&str; 2] = ["ECG", "PCG"];

/// Samples of a window in the source, and its stride: 1.25 s at 8 kHz.
pub const DEFAULT_WINDOW: usize = 10_000;
