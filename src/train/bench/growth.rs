//! `bench --growth`: what a window costs as the batch, the windows and the slices grow.
//!
//! Each row is a process of its own, so that its peak of memory is its own and a plugin starts with its devices.

use super::report::{Report, or_unknown};
use crate::cli::BenchArgs;
use crate::model::network::Precision;
use crate::report::table::{Align, Table};
use crate::train::stop::Stop;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// Windows in a step where the command line does not say.
const BATCH: usize = 32;
/// Sizes of batch and window as parts of the command line's, in quarters and in eighths.
const QUARTERS: [usize; 5] = [1, 2, 4, 8, 16];
const EIGHTHS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const SLICES: [usize; 4] = [1, 2, 4, 8];

/// One configuration.
struct Point {
    batch: usize,
    window: usize,
    slices: Option<usize>,
}

/// Measures every configuration, prints the table.
pub(super) fn run(args: &BenchArgs, stop: &Stop) -> Result<()> {
    let slices = args.platform.slices;
    let (batch, window) = (args.batch_size.unwrap_or(BATCH), args.window);
    let quarter = (batch / 4).max(1);
    let by_batch: Vec<Point> =
        QUARTERS.iter().map(|times| Point { batch: quarter * times, window, slices }).collect();
    let by_window: Vec<Point> =
        EIGHTHS.iter().map(|times| Point { batch: quarter, window: window * times / 8, slices }).collect();
    let dividing = SLICES.iter().filter(|&slices| batch.is_multiple_of(*slices));
    let by_slices: Vec<Point> =
        dividing.map(|&slices| Point { batch, window, slices: Some(slices) }).collect();
    let groups: [(&str, &[Point]); 3] =
        [("batch", &by_batch), ("window", &by_window), ("slices", &by_slices)];
    let names = ["batch", "window", "slices", "ms a window", "CPU ms a window", "windows/s", "peak MiB"];
    let columns: Vec<(&str, Align)> = names.into_iter().map(|name| (name, Align::Right)).collect();
    let mut table = Table::new(&columns);
    let mut all = serde_json::Map::new();
    for (place, (grows, points)) in groups.into_iter().enumerate() {
        if place > 0 {
            table.rule();
        }
        let mut reports = Vec::new();
        for point in points {
            if stop.requested() {
                bail!("stopped before the last configuration");
            }
            let report = measure(args, point)?;
            table.row(row(&report));
            reports.push(report);
        }
        all.insert(grows.to_owned(), json!(reports));
    }
    if args.json {
        println!("{}", Value::Object(all));
    } else {
        print!("{table}");
    }
    Ok(())
}

fn row(report: &Report) -> [String; 7] {
    let rounded = |value: f64| format!("{value:.0}");
    [
        report.batch.to_string(),
        report.window.to_string(),
        (report.slices * report.devices_per_slice).to_string(),
        format!("{:.2}", 1e3 * report.median_step_seconds / report.batch as f64),
        or_unknown(report.cpu_ms_per_window, |ms| format!("{ms:.1}")),
        format!("{:.1}", report.median_windows_per_second),
        or_unknown(report.peak_rss_mb, rounded),
    ]
}

fn measure(args: &BenchArgs, point: &Point) -> Result<Report> {
    let mut command = Command::new(std::env::current_exe().context("this program is nowhere to be found")?);
    command.args(["bench", "--json", "--no-product"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut number = |option: &str, value: usize| {
        command.arg(option).arg(value.to_string());
    };
    number("--batch-size", point.batch);
    number("--window", point.window);
    number("--steps", args.steps);
    number("--warmup", args.warmup);
    point.slices.into_iter().for_each(|slices| number("--slices", slices));
    args.platform.devices_per_slice.into_iter().for_each(|devices| number("--devices-per-slice", devices));
    command.arg("--platform").arg(args.platform.platform.to_string());
    command.arg("--precision").arg(name_of(args.precision));
    if let Some(plugin) = &args.platform.plugin {
        command.arg("--plugin").arg(plugin);
    }
    let output = command.output().context("the measurement of a configuration does not start")?;
    if !output.status.success() {
        let Point { batch, window, .. } = point;
        bail!("the measurement of batch {batch}, window {window} failed, see above");
    }
    serde_json::from_slice(&output.stdout).context("a measurement gave something else than its report")
}

fn name_of(precision: Precision) -> String {
    precision.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
