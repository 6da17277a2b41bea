//! Training, evaluation and prediction: the subcommands that drive a plugin.
//!
//! A training run opens the data, starts the runtime, compiles the training step and the evaluation, and then
//! repeats: an epoch of steps, a validation, a line in the event files, the model on disk. All that a step
//! computes happens on the devices; the loop feeds batches and reads four numbers back.

pub mod agreement;
pub mod bench;
mod cache;
pub mod dataset;
pub mod evaluate;
pub mod export;
pub mod machine;
mod memory;
pub mod pass;
pub mod pipeline;
pub mod plugin;
pub mod predict;
mod reporter;
mod run;
mod saved;
pub mod session;
mod start;
pub mod statistics;
pub mod stop;
pub mod trainer;
pub mod watchdog;

use crate::cli::TrainArgs;
use crate::config::TrainConfig;
use crate::doctor;
use crate::model::network::BatchNormScope;
use anyhow::Result;
use dataset::Dataset;
use run::Run;
use session::Session;
use stop::Stop;
use watchdog::{Phase, Watchdog};

/// The subcommand `train`.
///
/// # Errors
/// One sentence on what is wrong with the settings, the data, the platform or the disk.
pub fn run(args: &TrainArgs, stop: &Stop) -> Result<()> {
    let mut config = TrainConfig::resolve(args)?;
    // Before any time is spent on the data; the session looks again.
    doctor::before_run(&args.platform)?;
    Session::check_batch(&args.platform, config.batch_size)?;
    let dataset = Dataset::for_training(args, &config, stop)?;
    let watchdog = Watchdog::start();
    let starting = watchdog.enter(Phase::Initialise);
    let start = match config.batch_norm {
        BatchNormScope::Synced => Session::start,
        BatchNormScope::Local => Session::start_unspread,
    };
    let session = start(&args.platform, config.batch_size, args.xla_dump.clone())?;
    drop(starting);
    config.batch_size = Some(session.batch_size);
    let mut run = Run::start(args, &config, &dataset, &session, stop, &watchdog)?;
    run.end_stopped_epoch()?;
    while let Some(epoch) = run.next_epoch() {
        run.train(epoch)?;
        run.end_epoch(epoch)?;
    }
    run.finish(args.json)
}
