//! `bench --prepare`: recordings to shards.

use super::process;
use crate::data::{self, PrepareOptions};
use crate::train::stop::Stop;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::Instant;

/// What preparing took.
#[derive(Debug, Serialize)]
pub(super) struct Preparing {
    peer: &'static str,
    recordings: usize,
    /// Bytes of the recordings as they are on disk.
    source_bytes: u64,
    shard_bytes: u64,
    seconds: f64,
    /// Million bytes of shards a second.
    shard_mb_per_second: f64,
    source_mb_per_second: f64,
    cpu_seconds: Option<f64>,
    /// MiB.
    peak_rss_mb: Option<f64>,
}

/// Prepares a download into a folder that is removed again.
pub(super) fn measure(root: &Path, stop: &Stop) -> Result<Preparing> {
    let folder = tempfile::tempdir().context("no folder for the shards can be made")?;
    let mut options = PrepareOptions::new(Some(root.to_owned()));
    options.out = Some(folder.path().join("shards"));
    options.stop = stop.flag();
    let (began, cpu_before) = (Instant::now(), process::cpu_seconds());
    let prepared = data::prepare(&options, &|_| {})?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = process::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    let inputs = prepared.recordings().iter().flat_map(|recording| &recording.shard.inputs);
    let sources: HashMap<&str, u64> = inputs.map(|input| (input.path.as_str(), input.bytes)).collect();
    let (source_bytes, shard_bytes) = (sources.values().sum(), prepared.bytes());
    Ok(Preparing {
        peer: "tpu-train",
        recordings: prepared.recordings().len(),
        source_bytes,
        shard_bytes,
        seconds,
        shard_mb_per_second: shard_bytes as f64 / 1e6 / seconds,
        source_mb_per_second: source_bytes as f64 / 1e6 / seconds,
        cpu_seconds,
        peak_rss_mb: process::peak_mib(),
    })
}

impl fmt::Display for Preparing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        writeln!(
            f,
            "prepared       {} recordings, {:.1} MB, to shards of {:.1} MB in {:.2} s",
            self.recordings,
            mb(self.source_bytes),
            mb(self.shard_bytes),
            self.seconds
        )?;
        writeln!(
            f,
            "speed          {:.0} MB/s of recordings, {:.0} MB/s of shards",
            self.source_mb_per_second, self.shard_mb_per_second
        )?;
        let cpu = super::report::or_unknown(self.cpu_seconds, |s| format!("{s:.2} s"));
        let peak = super::report::or_unknown(self.peak_rss_mb, |mb| format!("{mb:.0} MiB"));
        write!(f, "used           {cpu} of CPU time, peak memory {peak}")
    }
}
