//! One training run: its programs, its logs, its model.

use super::dataset::{self, Dataset};
use super::evaluate::{Evaluation, Evaluator};
use super::machine::Machine;
use super::memory;
use super::session::Session;
use super::start::{Record, Start};
use super::stop::Stop;
use super::trainer::{Totals, Trainer};
use crate::cli::TrainArgs;
use crate::config::TrainConfig;
use crate::data::{CHANNELS, Loader, Plan};
use crate::events::{EvaluationMetrics, KerasLog, TrainMetrics, image, run_name};
use crate::model::ModelConfig;
use crate::model::files::{self, ModelDetails, SavedModel};
use crate::model::optimizer::Adam;
use crate::model::step::StepConfig;
use crate::report::progress::Progress;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::Stderr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A run under way.
pub(super) struct Run<'a> {
    config: &'a TrainConfig,
    dataset: &'a Dataset,
    session: &'a Session,
    machine: Machine,
    step: StepConfig,
    stop: &'a Stop,
    trainer: Trainer<'a>,
    evaluator: Evaluator<'a>,
    plan: Plan,
    log: KerasLog,
    progress: Progress<Stderr>,
    /// Of the epoch in hand.
    training: Totals,
    validation: Option<EvaluationMetrics>,
    /// A line for each epoch, for `--json`.
    history: Vec<Value>,
    clock: Clock,
}

/// Where the time of the steps goes.
#[derive(Default)]
struct Clock {
    /// Waiting for a batch to be assembled.
    waiting: Duration,
    /// All of it.
    total: Duration,
}

impl<'a> Run<'a> {
    /// Compiles the programs, puts the initial state on the devices, prints the header.
    ///
    /// # Errors
    /// When a setting does not fit the data, a step does not fit into memory, or nothing can be written.
    pub(super) fn start(
        args: &TrainArgs,
        config: &'a TrainConfig,
        dataset: &'a Dataset,
        session: &'a Session,
        stop: &'a Stop,
    ) -> Result<Self> {
        check_out(&config.out)?;
        let machine = Machine::of(session)?;
        let start = Start::of(args, config, dataset, &machine)?;
        let step = step_config(config, &start.model, dataset, session);
        let plan =
            Plan::new(dataset.split.train.clone(), session.batch_size, config.seed.into(), config.shuffle)?;
        let log = KerasLog::create(
            &config.logdir,
            &run_name(SystemTime::now()),
            Some(&files::model_json(&step.model)),
        )?;
        eprintln!("platform       {}\nmachine        {machine}", session.describe());
        eprintln!("data           {}\n{config}", dataset.describe());
        eprintln!("logs           {}\nmodel          {}", log.folder().display(), config.out.display());
        eprintln!("weights        {}", start.origin);

        let program = memory::compile_step(session, &step, args.executable.as_deref())?;
        let compiling = program.compile_seconds();
        let memory = program.memory().map_or(0, |memory| memory.total()) as f64 / 1e9;
        let evaluator = Evaluator::new(session, &step)?;
        let trainer = Trainer::new(session, &step, program, &start.weights, start.optimizer.as_ref())?;
        eprintln!("compiled       in {compiling:.1} s; a step needs {memory:.2} GB a replica");
        Ok(Self {
            config,
            dataset,
            session,
            machine,
            step,
            stop,
            trainer,
            evaluator,
            plan,
            log,
            progress: Progress::stderr(),
            training: start.epoch_so_far,
            validation: None,
            history: Vec::new(),
            clock: Clock::default(),
        })
    }

    /// The epoch that the next step belongs to; none where all steps asked for are taken, or the run was stopped.
    pub(super) fn next_epoch(&self) -> Option<u64> {
        let epoch = self.trainer.iteration() / self.plan.steps_per_epoch();
        (epoch < self.config.epochs && !self.is_over()).then_some(epoch)
    }

    fn is_over(&self) -> bool {
        self.stop.requested() || self.config.steps.is_some_and(|steps| self.trainer.iteration() >= steps)
    }

    /// One pass over the training windows, or what a stopped run has left of it.
    ///
    /// # Errors
    /// When a batch cannot be read, the devices fail, or the loss is no longer a number.
    pub(super) fn train(&mut self, epoch: u64) -> Result<()> {
        let steps = self.plan.steps_per_epoch();
        let (first, last) = (self.trainer.iteration(), (epoch + 1) * steps);
        let taken = first - epoch * steps;
        if taken == 0 {
            self.training = Totals::default();
        }
        let (prepared, table) = (Arc::clone(&self.dataset.prepared), Arc::clone(&self.dataset.table));
        let batches = self.plan.steps(first, last);
        let mut loader = Loader::start(prepared, table, self.session.batch_size, batches);
        self.progress.begin_epoch(epoch + 1, self.config.epochs, steps);
        let mut windows = 0;
        for step in taken + 1..=steps {
            let started = Instant::now();
            let Some(batch) = loader.next() else { bail!("no batch came for step {step} of {steps}") };
            let batch = batch?;
            self.clock.waiting += started.elapsed();
            self.training.add(&self.trainer.step(&batch)?);
            self.clock.total += started.elapsed();
            windows += batch.real_rows as u64;
            loader.recycle(batch);
            if !self.training.loss().is_finite() {
                bail!(
                    "the loss is no longer a number after step {} (epoch {}); the model of the epoch before \
                     is in {}; try a smaller --learning-rate",
                    self.trainer.iteration(),
                    epoch + 1,
                    self.config.out.display()
                );
            }
            let metrics = [("accuracy", self.training.accuracy()), ("loss", self.training.loss())];
            self.progress.step(step, windows, &metrics);
            if self.is_over() {
                break;
            }
        }
        Ok(())
    }

    /// The validation windows, and the epoch's lines in progress bar and event files.
    ///
    /// # Errors
    /// As [`Self::train`].
    pub(super) fn validate(&mut self, epoch: u64) -> Result<()> {
        self.validation = None;
        if !self.stop.requested() {
            let validated = self.evaluate(&self.dataset.split.validation)?;
            self.validation = validated.map(|evaluation| EvaluationMetrics {
                accuracy: evaluation.accuracy(),
                loss: evaluation.loss,
            });
        }
        let train = TrainMetrics {
            accuracy: self.training.accuracy(),
            loss: self.training.loss(),
            // Keras logs the rate that the next step will take.
            learning_rate: self.config.learning_rate.at(self.trainer.iteration()),
        };
        let mut line = vec![("accuracy", train.accuracy), ("loss", train.loss)];
        let mut entry = json!({ "epoch": epoch, "loss": train.loss, "accuracy": train.accuracy });
        if let Some(validation) = &self.validation {
            line.extend([("val_accuracy", validation.accuracy), ("val_loss", validation.loss)]);
            entry["val_loss"] = validation.loss.into();
            entry["val_accuracy"] = validation.accuracy.into();
            self.log.validation(self.trainer.iteration(), validation)?;
        }
        self.log.epoch(epoch, &train, self.validation.as_ref())?;
        self.progress.end_epoch(&line);
        self.history.push(entry);
        Ok(())
    }

    /// The evaluation of a part; `None` where the part is empty or the run was stopped meanwhile.
    fn evaluate(&self, windows: &[u32]) -> Result<Option<Evaluation>> {
        if windows.is_empty() {
            return Ok(None);
        }
        let Dataset { prepared, table, .. } = self.dataset;
        self.evaluator.run(self.trainer.variables(), prepared, table, windows, self.stop)
    }

    /// The model as it is now, whole on disk or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn save(&self) -> Result<()> {
        let (weights, optimizer) = self.trainer.fetch()?;
        let details = ModelDetails {
            class_names: self.dataset.table.classes.clone(),
            channel_names: CHANNELS.map(str::to_owned).to_vec(),
            window: self.config.window,
            stride: self.config.stride,
            sampling_frequency: self.dataset.sampling_frequency(),
            run: serde_json::to_value(Record {
                config: self.config,
                windows: self.dataset.windows(),
                machine: &self.machine,
                epoch_so_far: self.training,
            })?,
        };
        let model = SavedModel {
            config: self.step.model.clone(),
            weights,
            optimizer: Some(optimizer),
            details: Some(details),
            notes: Vec::new(),
        };
        Ok(files::write_any(&self.config.out, &model)?)
    }

    /// The report on the held-out windows.
    ///
    /// # Errors
    /// As [`Self::train`].
    pub(super) fn finish(mut self, as_json: bool) -> Result<()> {
        let (out, steps) = (self.config.out.display(), self.trainer.iteration());
        if self.stop.requested() && self.history.is_empty() {
            bail!("stopped before the first step; {out} is as it was");
        }
        if self.stop.requested() {
            bail!("stopped after step {steps}; {out} holds the model of that step");
        }
        let split = &self.dataset.split;
        let (part, windows) = match (split.test.is_empty(), split.validation.is_empty()) {
            (false, _) => ("test", &split.test),
            (true, false) => ("validation", &split.validation),
            (true, true) => ("training", &split.train),
        };
        let Some(evaluation) = self.evaluate(windows)? else {
            bail!("stopped before the last evaluation; {out} holds the model of step {steps}");
        };
        let confusion = evaluation.confusion(&self.dataset.table.classes)?;
        let picture = image::confusion_matrix(confusion.counts());
        self.log.train_writer().image(&format!("confusion_matrix_{part}"), steps, &picture)?;
        let share = self.clock.waiting.as_secs_f64() / self.clock.total.as_secs_f64().max(1e-9);
        eprintln!("waited for data {:.1} % of the steps' time", 100.0 * share);
        if as_json {
            let summary = json!({
                "platform": self.session.runtime.platform().to_string(),
                "replicas": self.session.mesh.replicas(),
                "batch_size": self.session.batch_size,
                "steps": steps,
                "epochs": self.history,
                "part": part,
                "loss": evaluation.loss,
                "metrics": confusion.metrics(),
                "model": self.config.out,
                "logs": self.log.folder(),
                "settings": self.config,
                "machine": self.machine,
            });
            println!("{summary}");
        } else {
            println!("\n{part} windows\n{}", super::evaluate::report(&confusion, evaluation.loss));
        }
        Ok(())
    }
}

fn step_config(
    config: &TrainConfig,
    model: &ModelConfig,
    dataset: &Dataset,
    session: &Session,
) -> StepConfig {
    StepConfig {
        model: model.clone(),
        optimizer: Adam::new(config.learning_rate),
        replicas: session.mesh.replicas(),
        rows: session.rows,
        batch_norm: config.batch_norm,
        precision: config.precision,
        samples: dataset.element_type(),
        seed: config.seed,
    }
}

/// Refuses a place where the model could not be saved, before any time is spent on training it.
fn check_out(out: &Path) -> Result<()> {
    files::Format::of_name(out).with_context(|| format!("--out {}", out.display()))?;
    let folder = dataset::parent(out);
    std::fs::create_dir_all(&folder)
        .and_then(|()| tempfile::tempfile_in(&folder).map(drop))
        .with_context(|| format!("--out {}: nothing can be written to {}", out.display(), folder.display()))
}
