//! How fast training is here: the subcommand `bench`.
//!
//! A measurement runs the training step itself, the program that `train` runs, on windows made in the program. A
//! step's time is that from a batch in host memory to its metrics in host memory.

mod process;
mod product;
mod report;
mod synthetic;

use super::memory;
use super::session::Session;
use super::stop::Stop;
use super::trainer::Trainer;
use crate::cli::BenchArgs;
use crate::model::network::BatchNormScope;
use crate::model::optimizer::{Adam, LearningRate};
use crate::model::step::StepConfig;
use crate::model::{ModelConfig, flops, initialize};
use anyhow::{Result, bail};
use report::Report;
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
/// One sentence on what is wrong with the settings, the platform or its memory.
pub fn run(args: &BenchArgs, stop: &Stop) -> Result<()> {
    let report = measure(args, stop)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

fn measure(args: &BenchArgs, stop: &Stop) -> Result<Report> {
    let session = Session::start(&args.platform, args.batch_size, args.xla_dump.clone())?;
    let config = step_config(args, &session)?;
    eprintln!("platform       {}", session.describe());

    let began = Instant::now();
    let program = memory::compile_step(&session, &config)?;
    let compile_seconds = program.compile_seconds();
    let planned = program.memory();
    let weights = initialize::initial(&config.model, SEED);
    let mut trainer = Trainer::new(&session, &config, program, &weights, None)?;
    let batches: Vec<_> =
        (0..BATCHES).map(|number| synthetic::batch(&config.model, session.batch_size, number)).collect();
    let mut turns = batches.iter().cycle();
    let mut step = || -> Result<f64> {
        let Some(batch) = turns.next().filter(|_| !stop.requested()) else {
            bail!("stopped before the last step; nothing was measured");
        };
        let began = Instant::now();
        trainer.step(batch)?;
        Ok(began.elapsed().as_secs_f64())
    };
    step()?;
    let first_step_seconds = began.elapsed().as_secs_f64();
    let startup_seconds = process::age_seconds();
    for _ in 1..args.warmup {
        step()?;
    }
    let cpu_before = process::cpu_seconds();
    let step_seconds = (0..args.steps).map(|_| step()).collect::<Result<Vec<f64>>>()?;
    let cpu = process::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    let peak_mib = process::peak_mib();
    let matmul_flops = product::rate(&session, config.precision)?;

    let windows = (args.steps * session.batch_size) as f64;
    let mut report = Report {
        peer: "tpu-train".into(),
        platform: session.runtime.platform().to_string(),
        slices: session.mesh.slices,
        devices_per_slice: session.mesh.devices_per_slice,
        batch: session.batch_size,
        window: config.model.window,
        precision: config.precision,
        compile_seconds,
        first_step_seconds,
        startup_seconds,
        step_seconds,
        cpu_ms_per_window: cpu.map(|seconds| 1e3 * seconds / windows),
        peak_rss_mb: peak_mib,
        planned_mb: planned.map(|memory| memory.total() as f64 / f64::from(1 << 20)),
        matmul_gflops: matmul_flops / 1e9,
        ..Report::default()
    };
    report.summarize(flops::training_flops(&config.model, session.batch_size));
    Ok(report)
}

fn step_config(args: &BenchArgs, session: &Session) -> Result<StepConfig> {
    let model = ModelConfig::new(args.window, CHANNELS, CLASSES);
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
        samples: ElementType::S16,
        seed: SEED,
    })
}
