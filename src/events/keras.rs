//! The event files that Keras's TensorBoard callback leaves: the same folders, tags, steps and order.

use std::fs::{create_dir, create_dir_all};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{EventError, EventWriter};

const SUFFIX: &str = ".v2";

/// An epoch's figures on the training windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainMetrics {
    /// Share of windows classified right, in 0..=1.
    pub accuracy: f64,
    /// Mean loss, penalties included.
    pub loss: f64,
    /// Learning rate at the end of the epoch.
    pub learning_rate: f64,
}

/// An epoch's figures on the validation windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluationMetrics {
    /// Share of windows classified right, in 0..=1.
    pub accuracy: f64,
    /// Mean loss, penalties included.
    pub loss: f64,
}

/// The logs of one run: `<logdir>/<run>/train`, and `<logdir>/<run>/validation` from the first validation on.
///
/// ```
/// use tpu_train::events::{EvaluationMetrics, KerasLog, TrainMetrics};
/// let folder = tempfile::tempdir().unwrap();
/// let mut log = KerasLog::create(folder.path(), "run", None).unwrap();
/// log.validation(42, &EvaluationMetrics { accuracy: 0.5, loss: 1.2 }).unwrap();
/// let train = TrainMetrics { accuracy: 0.6, loss: 1.1, learning_rate: 1e-3 };
/// log.epoch(0, &train, Some(&EvaluationMetrics { accuracy: 0.5, loss: 1.2 })).unwrap();
/// ```
#[derive(Debug)]
pub struct KerasLog {
    train: EventWriter,
    validation: Option<EventWriter>,
    folder: PathBuf,
}

impl KerasLog {
    /// Starts the logs of a run in the folder `run` of `logdir`, or in `run-2`, … where that is another run's already;
    /// with the model's JSON (as Keras's `to_json` gives it) as their first value.
    ///
    /// # Errors
    /// As [`EventWriter::create`].
    pub fn create(logdir: &Path, run: &str, model_json: Option<&str>) -> Result<Self, EventError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| EventError::Create { path, source }
        };
        create_dir_all(logdir).map_err(fail(logdir))?;
        let (mut folder, mut number) = (logdir.join(run), 1);
        while let Err(error) = create_dir(&folder) {
            if error.kind() != ErrorKind::AlreadyExists {
                return Err(fail(&folder)(error));
            }
            number += 1;
            folder = logdir.join(format!("{run}-{number}"));
        }
        let mut train = EventWriter::create(&folder.join("train"), SUFFIX)?;
        if let Some(json) = model_json {
            train.keras_model(json)?;
        }
        Ok(Self { train, validation: None, folder })
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The writer of the training run, for pictures, texts and histograms beside Keras's own values.
    pub fn train_writer(&mut self) -> &mut EventWriter {
        &mut self.train
    }

    /// The writer of the validation run, made on first use.
    ///
    /// # Errors
    /// As [`EventWriter::create`].
    pub fn validation_writer(&mut self) -> Result<&mut EventWriter, EventError> {
        match &mut self.validation {
            Some(writer) => Ok(writer),
            empty => Ok(empty.insert(EventWriter::create(&self.folder.join("validation"), SUFFIX)?)),
        }
    }

    /// A validation has ended; `iterations` is the number of optimizer steps so far. Comes before the
    /// [`KerasLog::epoch`] it belongs to.
    ///
    /// # Errors
    /// [`EventError::Create`] or [`EventError::Write`].
    pub fn validation(&mut self, iterations: u64, metrics: &EvaluationMetrics) -> Result<(), EventError> {
        let writer = self.validation_writer()?;
        writer.scalar("evaluation_accuracy_vs_iterations", iterations, metrics.accuracy as f32)?;
        writer.scalar("evaluation_loss_vs_iterations", iterations, metrics.loss as f32)
    }

    /// An epoch has ended. Epochs count from 0.
    ///
    /// # Errors
    /// [`EventError::Create`] or [`EventError::Write`].
    pub fn epoch(
        &mut self,
        epoch: u64,
        train: &TrainMetrics,
        validation: Option<&EvaluationMetrics>,
    ) -> Result<(), EventError> {
        self.train.scalar("epoch_accuracy", epoch, train.accuracy as f32)?;
        self.train.scalar("epoch_loss", epoch, train.loss as f32)?;
        self.train.scalar("epoch_learning_rate", epoch, train.learning_rate as f32)?;
        if let Some(metrics) = validation {
            let writer = self.validation_writer()?;
            writer.scalar("epoch_accuracy", epoch, metrics.accuracy as f32)?;
            writer.scalar("epoch_loss", epoch, metrics.loss as f32)?;
        }
        Ok(())
    }
}
