//! How fast training is here: the subcommand `bench`.
//!
//! A measurement runs the training step itself, the program that `train` runs, on windows made in the program. A
//! step's time is that from the metrics of the one before in host memory to its own; the next batch is copied to the
//! devices meanwhile, as in training.

mod growth;
mod preparing;
mod process;
mod product;
mod report;
mod synthetic;

use super::cache::Place;
use super::dataset::{self, Dataset};
use super::memory;
use super::pipeline::{IN_FLIGHT, Pipeline};
use super::session::Session;
use super::stop::Stop;
use super::trainer::Trainer;
use crate::cli::{BenchArgs, DataArgs};
use crate::config::TrainConfig;
use crate::data::{Loader, Plan, SampleSource};
use crate::model::execution::Execution;
use crate::model::network::BatchNormScope;
use crate::model::optimizer::{Adam, LearningRate};
use crate::model::step::StepConfig;
use crate::model::{ModelConfig, flops, initialize};
use anyhow::{Result, bail};
use report::Report;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tpu_train_hlo::ElementType;

/// Signals and classes of the synthetic windows, as the data set has them.
const CHANNELS: usize = 2;
const CLASSES: usize = 6;
/// Batches that the steps take in turn.
const BATCHES: u32 = 2;
const SEED: u32 = 42;

/// The subcommand `bench`.
///
/// # Errors
/// One sentence on what is wrong with the settings, the data, the platform or its memory.
pub fn run(args: &BenchArgs, stop: &Stop) -> Result<()> {
    if args.growth {
        return growth::run(args, stop);
    }
    let (json, text) = match &args.prepare {
        Some(root) => in_both_forms(&preparing::measure(root, stop)?)?,
        None => in_both_forms(&measure(args, stop)?)?,
    };
    println!("{}", if args.json { json } else { text });
    Ok(())
}

fn in_both_forms<T: serde::Serialize + std::fmt::Display>(report: &T) -> Result<(String, String)> {
    Ok((serde_json::to_string(report)?, report.to_string()))
}

/// How long the steps took.
struct Timing {
    /// From before the compilation to the first step's end.
    first_seconds: f64,
    /// From the process's beginning to the first step's end.
    startup_seconds: Option<f64>,
    step_seconds: Vec<f64>,
    cpu_seconds: Option<f64>,
}

fn measure(args: &BenchArgs, stop: &Stop) -> Result<Report> {
    Session::check_batch(&args.platform, args.batch_size)?;
    let data = args.input.as_deref().map(|folder| open(folder, args, stop)).transpose()?;
    let session = Session::start(&args.platform, args.batch_size, args.xla_dump.clone())?;
    let config = step_config(args, &session, data.as_ref())?;
    eprintln!("platform       {}", session.describe());

    let place = match &data {
        Some(data) => {
            let (place, kept) = Place::choose(args.cache, &session, data)?;
            eprintln!("windows kept   in {kept}");
            place
        }
        None => Place::Shards,
    };
    let execution = Execution { steps: args.steps_per_execution, held: place.held() };
    let began = Instant::now();
    let program = memory::compile_step(&session, &config, &execution, None)?;
    let (compile_seconds, planned) = (program.compile_seconds(), program.memory());
    let weights = initialize::initial(&config.model, SEED);
    let mut trainer = Trainer::new(&session, &config, program, &weights, None)?;
    let mut waiting_share = None;
    let timing = match &data {
        None => on_synthetic_windows(args, &session, &config, &mut trainer, began, stop)?,
        Some(data) => {
            let cache = place.fill(&session, data)?;
            trainer = trainer.with_execution(execution, cache.held);
            let (timing, share) = on_data(args, &session, data, cache.source, &mut trainer, began, stop)?;
            waiting_share = Some(share);
            timing
        }
    };
    let peak_mib = process::peak_mib();
    let matmul_flops = match args.no_product {
        true => None,
        false => Some(product::rate(&session, config.precision)?),
    };

    let timed = timing.step_seconds.len() * args.steps_per_execution * session.batch_size;
    let mut report = Report {
        peer: "tpu-train".into(),
        platform: session.runtime.platform().to_string(),
        slices: session.mesh.slices,
        devices_per_slice: session.mesh.devices_per_slice,
        batch: session.batch_size,
        window: config.model.window,
        precision: config.precision,
        compile_seconds,
        first_step_seconds: timing.first_seconds,
        startup_seconds: timing.startup_seconds,
        step_seconds: timing.step_seconds,
        waiting_share,
        cpu_ms_per_window: timing.cpu_seconds.map(|seconds| 1e3 * seconds / timed as f64),
        peak_rss_mb: peak_mib,
        planned_mb: planned.map(|memory| memory.total() as f64 / f64::from(1 << 20)),
        matmul_gflops: matmul_flops.map(|flops| flops / 1e9),
        ..Report::default()
    };
    report.summarize(flops::training_flops(&config.model, session.batch_size));
    Ok(report)
}

/// Steps on batches that are in host memory already.
fn on_synthetic_windows(
    args: &BenchArgs,
    session: &Session,
    config: &StepConfig,
    trainer: &mut Trainer<'_>,
    began: Instant,
    stop: &Stop,
) -> Result<Timing> {
    let batches: Vec<_> = (0..BATCHES)
        .map(|number| synthetic::batch(&config.model, session.own_rows().len(), number))
        .collect();
    let mut turns = batches.iter().cycle();
    let mut upload = |trainer: &Trainer<'_>| match turns.next() {
        Some(batch) if !stop.requested() => trainer.upload(batch),
        _ => bail!("stopped before the last step"),
    };
    let mut next = upload(trainer)?;
    time(args, 1, began, || {
        let launched = trainer.launch(std::slice::from_ref(&next), false)?;
        next = upload(trainer)?;
        launched.wait().map(drop)
    })
}

/// Steps as `train` takes them, from the shards to the metrics; and the share of the time that they waited for data.
fn on_data(
    args: &BenchArgs,
    session: &Session,
    data: &Dataset,
    source: SampleSource,
    trainer: &mut Trainer<'_>,
    began: Instant,
    stop: &Stop,
) -> Result<(Timing, f64)> {
    let plan = Plan::new(data.split.train.clone(), session.batch_size, SEED.into(), true)?;
    // More launches than are timed, so that the last of those has another one behind it as well.
    let at_once = args.steps_per_execution;
    let steps = ((args.warmup + calls(args, at_once) + IN_FLIGHT) * at_once) as u64;
    let own = session.own_rows();
    let (prepared, table) = (Arc::clone(&data.prepared), Arc::clone(&data.table));
    let batches = plan.steps_of(own.clone(), 0, steps);
    let loader = Loader::start_from(source, prepared, table, own.len(), batches);
    let mut pipeline = Pipeline::new(trainer, loader, steps);
    let mut launches = 0;
    let timing = time(args, at_once, began, || {
        for _ in 0..at_once {
            if pipeline.next(stop.requested())?.is_none() {
                bail!("stopped before the last step");
            }
        }
        launches += 1;
        if launches == args.warmup {
            pipeline.take_clock();
        }
        Ok(())
    })?;
    Ok((timing, pipeline.take_clock().waiting_share()))
}

/// Times `advance`, which takes `at_once` steps, after as many calls as the warm-up asks for.
fn time(
    args: &BenchArgs,
    at_once: usize,
    began: Instant,
    mut advance: impl FnMut() -> Result<()>,
) -> Result<Timing> {
    advance()?;
    let (first_seconds, startup_seconds) = (began.elapsed().as_secs_f64(), process::age_seconds());
    for _ in 1..args.warmup {
        advance()?;
    }
    let cpu_before = process::cpu_seconds();
    let mut step_seconds = Vec::with_capacity(calls(args, at_once));
    for _ in 0..calls(args, at_once) {
        let began = Instant::now();
        advance()?;
        step_seconds.push(began.elapsed().as_secs_f64() / at_once as f64);
    }
    let cpu_seconds = process::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    Ok(Timing { first_seconds, startup_seconds, step_seconds, cpu_seconds })
}

/// Calls that take the steps asked for, `at_once` each.
fn calls(args: &BenchArgs, at_once: usize) -> usize {
    args.steps.div_ceil(at_once)
}

/// All labelled windows of a prepared set or a download.
fn open(folder: &Path, args: &BenchArgs, stop: &Stop) -> Result<Dataset> {
    let config = TrainConfig {
        window: args.window,
        stride: args.window,
        val_fraction: 0.0,
        test_fraction: 0.0,
        ..TrainConfig::readme()
    };
    let data = DataArgs { data: Some(folder.to_owned()), prepared: None, label_column: None };
    Dataset::open(&data, &config, stop)
}

fn step_config(args: &BenchArgs, session: &Session, data: Option<&Dataset>) -> Result<StepConfig> {
    let (channels, classes, samples) = data.map_or((CHANNELS, CLASSES, ElementType::S16), |data| {
        (data.table.channels, data.table.classes.len(), dataset::element_type(&data.table))
    });
    let model = ModelConfig::new(args.window, channels, classes);
    if model.lstm_steps() == 0 {
        bail!("--window {} is too short: at least {} samples", args.window, model.shortest_window());
    }
    Ok(StepConfig {
        model,
        optimizer: Adam::new(LearningRate::Constant(1e-3)),
        replicas: session.mesh.replicas(),
        rows: session.rows,
        batch_norm: BatchNormScope::Synced,
        precision: args.precision,
        samples,
        seed: SEED,
        forms: session.forms(),
    })
}
