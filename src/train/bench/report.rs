//! The figures of a measurement, as JSON and as lines.

use super::product;
use crate::model::network::Precision;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A measurement of one configuration. The keys are those of the peers' own benches where they have them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) peer: String,
    pub(super) platform: String,
    pub(super) slices: usize,
    pub(super) devices_per_slice: usize,
    /// Windows in a step, over all replicas.
    pub(super) batch: usize,
    /// Samples in a window.
    pub(super) window: usize,
    pub(super) precision: Precision,
    pub(super) compile_seconds: f64,
    /// Compilation and the first step.
    pub(super) first_step_seconds: f64,
    /// From the process's beginning to the end of the first step.
    pub(super) startup_seconds: Option<f64>,
    /// After the warm-up.
    pub(super) step_seconds: Vec<f64>,
    pub(super) best_step_seconds: f64,
    pub(super) median_step_seconds: f64,
    /// Of the best step.
    pub(super) windows_per_second: f64,
    pub(super) median_windows_per_second: f64,
    /// Share of the steps' time in which the devices waited for data; without `--input` all of it is at hand.
    pub(super) waiting_share: Option<f64>,
    /// Of all threads.
    pub(super) cpu_ms_per_window: Option<f64>,
    /// MiB, up to the last step.
    pub(super) peak_rss_mb: Option<f64>,
    /// MiB that the compiler plans for each replica.
    pub(super) planned_mb: Option<f64>,
    /// Of the median step, by the network's products alone.
    pub(super) gflops: f64,
    /// Of a square product in the same process.
    pub(super) matmul_gflops: Option<f64>,
    pub(super) matmul_share: Option<f64>,
}

impl Report {
    /// What follows from the steps' times; `flops` are those of one step.
    pub(super) fn summarize(&mut self, flops: f64) {
        let mut sorted = self.step_seconds.clone();
        sorted.sort_by(f64::total_cmp);
        // The upper of the two middle ones, as the peers take it.
        let (Some(&best), Some(&median)) = (sorted.first(), sorted.get(sorted.len() / 2)) else { return };
        let batch = self.batch as f64;
        (self.best_step_seconds, self.median_step_seconds) = (best, median);
        (self.windows_per_second, self.median_windows_per_second) = (batch / best, batch / median);
        self.gflops = flops / median / 1e9;
        self.matmul_share = self.matmul_gflops.map(|product| self.gflops / product);
    }
}

/// A figure that some systems do not tell.
pub(super) fn or_unknown(value: Option<f64>, format: impl Fn(f64) -> String) -> String {
    value.map_or("unknown".into(), format)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |seconds: f64| format!("{:.1} ms", 1e3 * seconds);
        writeln!(
            f,
            "step           median {}, best {}, of {}",
            ms(self.median_step_seconds),
            ms(self.best_step_seconds),
            self.step_seconds.len()
        )?;
        writeln!(
            f,
            "windows/s      median {:.1}, best {:.1}",
            self.median_windows_per_second, self.windows_per_second
        )?;
        if let Some(share) = self.waiting_share {
            writeln!(f, "waiting        {:.1} % of the time for data", 100.0 * share)?;
        }
        let cpu = or_unknown(self.cpu_ms_per_window, |ms| format!("{ms:.1} ms a window"));
        writeln!(f, "CPU time       {cpu}")?;
        let peak = or_unknown(self.peak_rss_mb, |mb| format!("{mb:.0} MiB"));
        let planned = or_unknown(self.planned_mb, |mb| format!("{mb:.0} MiB"));
        writeln!(f, "memory         peak {peak}; the compiler plans {planned} a replica")?;
        write!(f, "work           {:.1} GFLOP/s", self.gflops)?;
        if let (Some(product), Some(share)) = (self.matmul_gflops, self.matmul_share) {
            let (share, size) = (100.0 * share, product::SIZE);
            write!(f, ", {share:.0} % of the {product:.0} of a product of {size} x {size}")?;
        }
        writeln!(f)?;
        let startup = or_unknown(self.startup_seconds, |s| format!("{s:.1} s after the process began"));
        write!(f, "start          compiled in {:.1} s; the first step ended {startup}", self.compile_seconds)
    }
}
