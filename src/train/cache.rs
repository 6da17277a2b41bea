//! Where the training windows are kept between epochs: `--cache`.

use super::dataset::Dataset;
use super::session::Session;
use crate::cli::CacheChoice;
use crate::data::{Places, SampleSource, Samples, WindowStore, gather, window_bytes};
use crate::pjrt::Platform;
use crate::runtime::{Replicated, memory_available};
use anyhow::{Result, bail};
use std::sync::Arc;

/// Share of the free memory, one in so many, that `auto` fills with windows.
const SHARE_OF_DEVICE: u64 = 4;
const SHARE_OF_HOST: u64 = 2;

/// Where the training windows will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Each replica holds so many.
    Devices { windows: usize },
    /// In host memory.
    Host,
    /// In the shards.
    Shards,
}

/// The training windows where they are kept.
pub(super) struct Cache {
    /// For the loader.
    pub(super) source: SampleSource,
    /// For the trainer.
    pub(super) held: Option<Replicated>,
}

impl Place {
    /// What `choice` comes to for these windows; and why, for the run header.
    ///
    /// # Errors
    /// When the devices cannot hold them.
    pub(super) fn choose(
        choice: CacheChoice,
        session: &Session,
        dataset: &Dataset,
    ) -> Result<(Self, String)> {
        let windows = dataset.split.train.len();
        let on_each = windows.div_ceil(session.mesh.replicas());
        let bytes = |windows| window_bytes(&dataset.table, windows);
        let (all, each) = (bytes(windows), bytes(on_each));
        let gb = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
        let devices = Self::Devices { windows: on_each };
        let alone = session.share.is_whole();
        Ok(match choice {
            CacheChoice::None => (Self::Shards, "the shards".into()),
            CacheChoice::Host => (Self::Host, format!("host memory, {}", gb(all))),
            CacheChoice::Device if !alone => {
                bail!(
                    "--cache device: the windows of one batch can only be exchanged within one host; use host"
                )
            }
            CacheChoice::Device => (devices, format!("device memory, {} on each", gb(each))),
            CacheChoice::Auto if session.runtime.platform() == Platform::Cpu => {
                (Self::Shards, "the shards, which lie in the same memory as the device's".into())
            }
            CacheChoice::Auto if alone && fits(each, session.runtime.free_memory(), SHARE_OF_DEVICE) => {
                (devices, format!("device memory, {} on each", gb(each)))
            }
            CacheChoice::Auto if fits(all, memory_available(), SHARE_OF_HOST) => {
                (Self::Host, format!("host memory, {}; the devices have no room to spare", gb(all)))
            }
            CacheChoice::Auto => (Self::Shards, format!("the shards; {} are too much to hold", gb(all))),
        })
    }

    /// Windows that each replica holds.
    pub(super) fn held(self) -> Option<usize> {
        match self {
            Self::Devices { windows } => Some(windows),
            Self::Host | Self::Shards => None,
        }
    }

    /// Puts the training windows there.
    ///
    /// # Errors
    /// When a device has no room.
    pub(super) fn fill(self, session: &Session, dataset: &Dataset) -> Result<Cache> {
        let (prepared, table, train) = (&dataset.prepared, &dataset.table, &dataset.split.train);
        Ok(match self {
            Self::Shards => Cache { source: SampleSource::Shards, held: None },
            Self::Host => {
                let store = WindowStore::new(prepared, table, train)?;
                Cache { source: SampleSource::Memory(Arc::new(store)), held: None }
            }
            Self::Devices { windows } => {
                let replicas = session.mesh.replicas();
                let dims = [windows * replicas, table.window * table.channels];
                let held = match gather(prepared, table, train, dims[0]) {
                    Samples::I16(samples) => session.runtime.shard_values(&samples, &dims, replicas)?,
                    Samples::F32(samples) => session.runtime.shard_values(&samples, &dims, replicas)?,
                };
                let places = Arc::new(Places::new(table, train)?);
                Cache { source: SampleSource::Devices(places), held: Some(held) }
            }
        })
    }
}

/// Whether `bytes` are at most one part in `share` of what is free; not where that is unknown.
fn fits(bytes: u64, free: Option<u64>, share: u64) -> bool {
    free.is_some_and(|free| bytes <= free / share)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn what_is_unknown_does_not_fit() {
        assert!(fits(10, Some(40), 4) && !fits(11, Some(40), 4) && !fits(1, None, 4));
    }
}
