//! What process 0 of a job shows and leaves behind while it trains: progress and event files. The other processes have
//! none, and stay quiet but for errors.

use super::session::Session;
use crate::config::TrainConfig;
use crate::events::{EvaluationMetrics, KerasLog, TrainMetrics, image, run_name};
use crate::model::ModelConfig;
use crate::model::files;
use crate::report::Confusion;
use crate::report::progress::Progress;
use anyhow::Result;
use std::io::Stderr;
use std::path::Path;
use std::time::SystemTime;

/// Progress bar and event files.
pub(super) struct Reporter {
    log: KerasLog,
    progress: Progress<Stderr>,
}

impl Reporter {
    /// For the process that writes, none for the others.
    ///
    /// # Errors
    /// When the event files cannot be made.
    pub(super) fn of(session: &Session, config: &TrainConfig, model: &ModelConfig) -> Result<Option<Self>> {
        if !session.share.writes() {
            return Ok(None);
        }
        let json = files::model_json(model);
        let log = KerasLog::create(&config.logdir, &run_name(SystemTime::now()), Some(&json))?;
        Ok(Some(Self { log, progress: Progress::stderr() }))
    }

    /// The run's folder of event files.
    pub(super) fn folder(&self) -> &Path {
        self.log.folder()
    }

    /// An epoch begins, counted from 0.
    pub(super) fn begin_epoch(&mut self, epoch: u64, epochs: u64, steps: u64) {
        self.progress.begin_epoch(epoch + 1, epochs, steps);
    }

    /// Step `step` of the epoch is done; the figures are the epoch's so far.
    pub(super) fn step(&mut self, step: u64, windows: u64, accuracy: f64, loss: f64) {
        self.progress.step(step, windows, &[("accuracy", accuracy), ("loss", loss)]);
    }

    /// An epoch is over, after `iteration` steps of the run.
    ///
    /// # Errors
    /// When the event files cannot be written.
    pub(super) fn end_epoch(
        &mut self,
        epoch: u64,
        iteration: u64,
        train: &TrainMetrics,
        validation: Option<&EvaluationMetrics>,
    ) -> Result<()> {
        let mut line = vec![("accuracy", train.accuracy), ("loss", train.loss)];
        if let Some(validation) = validation {
            line.extend([("val_accuracy", validation.accuracy), ("val_loss", validation.loss)]);
            self.log.validation(iteration, validation)?;
        }
        self.log.epoch(epoch, train, validation)?;
        self.progress.end_epoch(&line);
        Ok(())
    }

    /// The confusion matrix of a part, as a picture.
    ///
    /// # Errors
    /// When the event file cannot be written.
    pub(super) fn confusion(&mut self, part: &str, iteration: u64, confusion: &Confusion) -> Result<()> {
        let picture = image::confusion_matrix(confusion.counts());
        Ok(self.log.train_writer().image(&format!("confusion_matrix_{part}"), iteration, &picture)?)
    }
}
