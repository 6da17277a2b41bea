//! A saved model, opened to be evaluated or to predict with.

use super::session::Session;
use crate::cli::EvalArgs;
use crate::config::TrainConfig;
use crate::model::files::{self, SavedModel};
use crate::model::network::{BatchNormScope, Precision};
use crate::model::optimizer::{Adam, LearningRate};
use crate::model::step::StepConfig;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use tpu_train_hlo::ElementType;

/// Reads a whole model, and says what in its file could not be taken over.
///
/// # Errors
/// When the file is missing or damaged, or holds weights without their network.
pub(super) fn open(path: &Path) -> Result<SavedModel> {
    let model = files::read_model(path)?;
    for note in &model.notes {
        eprintln!("note: {note}");
    }
    Ok(model)
}

/// What the run that the model comes from wrote down of itself.
pub(super) fn run(model: &SavedModel) -> Option<&Value> {
    model.details.as_ref().map(|details| &details.run).filter(|run| run.is_object())
}

/// What the model's products were trained in; float32 for a model of another program.
pub(super) fn precision(model: &SavedModel) -> Precision {
    let saved = run(model).and_then(|run| run.get("precision"));
    saved.and_then(|saved| Precision::deserialize(saved).ok()).unwrap_or_default()
}

/// The run that the model comes from, as far as it decides which windows are in which part, with what was
/// typed over it. A model of another program is taken for one of the plain recipe.
///
/// # Errors
/// When a setting makes no sense, or another window was typed than the model has.
pub(super) fn config(model: &SavedModel, args: &EvalArgs) -> Result<TrainConfig> {
    let mut config: TrainConfig = match run(model) {
        Some(run) => serde_json::from_value(run.clone()).context("the settings saved with the model")?,
        None => TrainConfig::readme(),
    };
    if args.window.is_some_and(|window| window != model.config.window) {
        bail!(
            "the model takes windows of {} samples; --window must be that or left out",
            model.config.window
        );
    }
    config.window = model.config.window;
    config.stride =
        args.stride.unwrap_or(if model.details.is_some() { config.stride } else { config.window });
    if let Some(column) = &args.data.label_column {
        config.label_column = Some(column.clone());
    }
    config.validate()?;
    Ok(config)
}

/// How the model is evaluated on a session's replicas.
///
/// # Errors
/// When the model takes another number of channels than recordings have.
pub(super) fn step_config(model: &SavedModel, session: &Session, samples: ElementType) -> Result<StepConfig> {
    let channels = crate::data::CHANNELS.len();
    if model.config.channels != channels {
        bail!("the model takes {} channels, the recordings have {channels}", model.config.channels);
    }
    Ok(StepConfig {
        model: model.config.clone(),
        optimizer: Adam::new(LearningRate::Constant(1e-3)),
        replicas: session.mesh.replicas(),
        rows: session.rows,
        batch_norm: BatchNormScope::Synced,
        precision: precision(model),
        samples,
        seed: 0,
        forms: session.forms(),
    })
}
