//! One training run: its programs, its logs, its model.

use super::dataset::Dataset;
use super::evaluate::{Evaluation, Evaluator};
use super::memory;
use super::session::Session;
use super::stop::Stop;
use super::trainer::{Totals, Trainer};
use crate::config::TrainConfig;
use crate::data::{CHANNELS, Loader, Plan};
use crate::events::{EvaluationMetrics, KerasLog, TrainMetrics, run_name};
use crate::model::files::{self, ModelDetails, SavedModel};
use crate::model::optimizer::Adam;
use crate::model::step::StepConfig;
use crate::model::{ModelConfig, initialize};
use crate::report::progress::Progress;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A run under way.
pub(super) struct Run<'a> {
    config: &'a TrainConfig,
    dataset: &'a Dataset,
    session: &'a Session,
    step: StepConfig,
    stop: &'a Stop,
    trainer: Trainer<'a>,
    evaluator: Evaluator<'a>,
    plan: Plan,
    log: KerasLog,
    /// Steps taken in this run.
    steps: u64,
    last: Totals,
    validation: Option<EvaluationMetrics>,
    history: Vec<serde_json::Value>,
    progress: Option<Progress>,
    waiting: Duration,
    training: Duration,
    stopped: bool,
}
