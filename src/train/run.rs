//! One training run: its programs, its logs, its model.

use super::agreement::Agreement;
use super::cache::Place;
use super::dataset::{self, Dataset};
use super::evaluate::{Evaluation, Evaluator};
use super::machine::Machine;
use super::memory;
use super::pipeline::{Clock, Pipeline};
use super::reporter::Reporter;
use super::session::Session;
use super::start::{Record, Start};
use super::statistics::Statistics;
use super::stop::Stop;
use super::trainer::{Totals, Trainer};
use super::watchdog::{Phase, Watchdog};
use crate::cli::TrainArgs;
use crate::config::{BatchNormStatistics, TrainConfig};
use crate::data::{CHANNELS, Loader, Plan, SampleSource};
use crate::events::{EvaluationMetrics, TrainMetrics};
use crate::model::ModelConfig;
use crate::model::execution::Execution;
use crate::model::files::{self, ModelDetails, SavedModel};
use crate::model::optimizer::Adam;
use crate::model::step::{self, StepConfig};
use anyhow::{Context, Result, bail};
use prost::Message;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// A run under way.
pub(super) struct Run<'a> {
    config: &'a TrainConfig,
    dataset: &'a Dataset,
    session: &'a Session,
    machine: Machine,
    step: StepConfig,
    stop: &'a Stop,
    /// Whether a step or an evaluation has said that a process was asked to stop.
    stopped: bool,
    watchdog: &'a Watchdog,
    trainer: Trainer<'a>,
    evaluator: Evaluator<'a>,
    /// Where precise statistics are asked for.
    statistics: Option<Statistics<'a>>,
    plan: Plan,
    /// Of the training windows' samples.
    source: SampleSource,
    /// In the one process that writes.
    reporter: Option<Reporter>,
    /// Of the epoch in hand.
    training: Totals,
    /// Whether the run was stopped before that epoch's evaluation.
    unevaluated: bool,
    /// [`Dataset::fingerprint`].
    fingerprint: String,
    validation: Option<EvaluationMetrics>,
    /// A line for each epoch, for `--json`.
    history: Vec<Value>,
    clock: Clock,
}

impl<'a> Run<'a> {
    /// Compiles the programs, has the processes of the job agree on what they do, puts the initial state on the
    /// devices, prints the header.
    ///
    /// # Errors
    /// When a setting does not fit the data, a step does not fit into memory, the processes differ, or nothing can be
    /// written.
    pub(super) fn start(
        args: &TrainArgs,
        config: &'a TrainConfig,
        dataset: &'a Dataset,
        session: &'a Session,
        stop: &'a Stop,
        watchdog: &'a Watchdog,
    ) -> Result<Self> {
        if session.share.writes() {
            check_out(&config.out)?;
        }
        let machine = Machine::of(session)?;
        let start = Start::of(args, config, dataset, &machine)?;
        let step = step_config(config, &start.model, dataset, session);
        let plan =
            Plan::new(dataset.split.train.clone(), session.batch_size, config.seed.into(), config.shuffle)?;
        if config.steps_per_execution as u64 > plan.steps_per_epoch() {
            bail!(
                "--steps-per-execution {} is more than the {} steps of an epoch",
                config.steps_per_execution,
                plan.steps_per_epoch()
            );
        }
        let reporter = Reporter::of(session, config, &step.model)?;
        if let Some(reporter) = &reporter {
            eprintln!("platform       {}\nmachine        {machine}", session.describe());
            eprintln!("data           {}\n{config}", dataset.describe());
            eprintln!("logs           {}", reporter.folder().display());
            eprintln!("model          {}\nweights        {}", config.out.display(), start.origin);
        }

        let (place, kept) = Place::choose(args.cache, session, dataset)?;
        let execution = Execution { steps: config.steps_per_execution, held: place.held() };
        let compiling = watchdog.enter(Phase::Compile);
        let program = memory::compile_step(session, &step, &execution, args.executable.as_deref())?;
        let seconds = program.compile_seconds();
        let memory = program.memory().map_or(0, |memory| memory.total()) as f64 / 1e9;
        let evaluator = Evaluator::new(session, &step)?;
        let statistics = match config.batch_norm_statistics {
            BatchNormStatistics::Moving => None,
            BatchNormStatistics::Precise => Some(Statistics::new(session, &step)?),
        };
        drop(compiling);
        let agreeing = watchdog.enter(Phase::FirstStep);
        agree(session, config, dataset, &step)?;
        let start = start.of_first(session, &step.optimizer)?;
        drop(agreeing);
        let cache = place.fill(session, dataset)?;
        let trainer = Trainer::new(session, &step, program, &start.weights, start.optimizer.as_ref())?
            .with_execution(execution, cache.held);
        if reporter.is_some() {
            eprintln!("windows kept   in {kept}");
            eprintln!("compiled       in {seconds:.1} s; a step needs {memory:.2} GB a replica");
        }
        Ok(Self {
            config,
            dataset,
            session,
            machine,
            step,
            stop,
            stopped: false,
            watchdog,
            trainer,
            evaluator,
            statistics,
            plan,
            source: cache.source,
            reporter,
            training: start.epoch_so_far,
            unevaluated: start.unevaluated,
            fingerprint: dataset.fingerprint(),
            validation: None,
            history: Vec::new(),
            clock: Clock::default(),
        })
    }

    /// What follows the steps of an epoch that was trained to its end when the run was stopped, before its evaluation.
    ///
    /// # Errors
    /// As [`Self::end_epoch`].
    pub(super) fn end_stopped_epoch(&mut self) -> Result<()> {
        let (taken, steps) = (self.trainer.iteration(), self.plan.steps_per_epoch());
        if !self.unevaluated || taken == 0 || !taken.is_multiple_of(steps) {
            return Ok(());
        }
        let epoch = taken / steps - 1;
        if let Some(reporter) = &mut self.reporter {
            reporter.begin_epoch(epoch, self.config.epochs, steps);
        }
        self.end_epoch(epoch)
    }

    /// The epoch that the next step belongs to; none where all steps asked for are taken, or the run was stopped.
    pub(super) fn next_epoch(&self) -> Option<u64> {
        let epoch = self.trainer.iteration() / self.plan.steps_per_epoch();
        (epoch < self.config.epochs && !self.is_over()).then_some(epoch)
    }

    fn is_over(&self) -> bool {
        self.is_stopped() || self.config.steps.is_some_and(|steps| self.trainer.iteration() >= steps)
    }

    /// Whether the run ends here, the same in every process: several processes go by what a step has told all of them.
    fn is_stopped(&self) -> bool {
        self.stopped || self.session.share.is_whole() && self.stop.requested()
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
        let last = self.config.steps.map_or(last, |steps| last.min(steps));
        let own = self.session.own_rows();
        let loader = Loader::start_from(
            self.source.clone(),
            prepared,
            table,
            own.len(),
            self.plan.steps_of(own.clone(), first, last),
        );
        if let Some(reporter) = &mut self.reporter {
            reporter.begin_epoch(epoch, self.config.epochs, steps);
        }
        let mut windows = 0;
        let mut pipeline = Pipeline::new(&mut self.trainer, loader, last.saturating_sub(first));
        let mut phase = if self.clock.total.is_zero() { Phase::FirstStep } else { Phase::Step };
        loop {
            // Steps that ended together with the one before take no time.
            let watched = (!pipeline.has_outcome()).then(|| self.watchdog.enter(phase));
            let Some((step, outcome)) = pipeline.next(self.stop.requested())? else { break };
            drop(watched);
            phase = Phase::Step;
            self.stopped |= outcome.stopped;
            self.training.add(&outcome.totals);
            windows += outcome.totals.windows();
            if !self.training.loss().is_finite() {
                bail!(diverged(self.config, !self.history.is_empty(), "the loss", step, epoch));
            }
            if let Some(reporter) = &mut self.reporter {
                let (accuracy, loss) = (self.training.accuracy(), self.training.loss());
                reporter.step(step - epoch * steps, windows, accuracy, loss);
            }
        }
        self.clock.add(pipeline.take_clock());
        Ok(())
    }

    /// What follows an epoch's steps: statistics, where they are to be precise, validation, and the model on disk.
    ///
    /// # Errors
    /// As [`Self::train`]; and when the model cannot be written.
    pub(super) fn end_epoch(&mut self, epoch: u64) -> Result<()> {
        self.take_statistics()?;
        self.validate(epoch)?;
        self.unevaluated = self.is_stopped();
        self.save()
    }

    /// Batch normalisation's statistics anew, where precise ones are asked for and the run was not stopped.
    ///
    /// # Errors
    /// As [`Self::train`].
    fn take_statistics(&mut self) -> Result<()> {
        let Some(statistics) = self.statistics.as_ref().filter(|_| !self.is_stopped()) else { return Ok(()) };
        let windows = self.dataset.select(&self.dataset.split.train);
        let batches = windows.indices.len().div_ceil(self.session.batch_size) as u64;
        let _watched = self.watchdog.enter(Phase::Evaluate { batches });
        match statistics.run(self.trainer.variables(), windows, self.stop)? {
            Some(statistics) => self.trainer.set_moving_statistics(&statistics)?,
            None => self.stopped = true,
        }
        Ok(())
    }

    /// The validation windows, and the epoch's lines in progress bar and event files.
    ///
    /// # Errors
    /// As [`Self::train`].
    fn validate(&mut self, epoch: u64) -> Result<()> {
        self.validation = None;
        if !self.is_stopped() {
            let validated = self.evaluate(&self.dataset.split.validation)?;
            if validated.as_ref().is_some_and(|evaluation| !evaluation.loss.is_finite()) {
                let (what, step) = ("the loss of the validation windows", self.trainer.iteration());
                bail!(diverged(self.config, !self.history.is_empty(), what, step, epoch));
            }
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
        let mut entry = json!({ "epoch": epoch, "loss": train.loss, "accuracy": train.accuracy });
        if let Some(validation) = &self.validation {
            entry["val_loss"] = validation.loss.into();
            entry["val_accuracy"] = validation.accuracy.into();
        }
        self.history.push(entry);
        if let Some(reporter) = &mut self.reporter {
            reporter.end_epoch(epoch, self.trainer.iteration(), &train, self.validation.as_ref())?;
        }
        Ok(())
    }

    /// The evaluation of a part; `None` where the part is empty or the run was stopped meanwhile.
    fn evaluate(&mut self, windows: &[u32]) -> Result<Option<Evaluation>> {
        if windows.is_empty() {
            return Ok(None);
        }
        let batches = windows.len().div_ceil(self.session.batch_size) as u64;
        let _watched = self.watchdog.enter(Phase::Evaluate { batches });
        let windows = self.dataset.select(windows);
        let evaluation = self.evaluator.run(self.trainer.variables(), windows, self.stop)?;
        self.stopped |= evaluation.is_none();
        Ok(evaluation)
    }

    /// The model as it is now, whole on disk or not at all; written by one process.
    ///
    /// # Errors
    /// When the file cannot be written.
    fn save(&self) -> Result<()> {
        if !self.session.share.writes() {
            return Ok(());
        }
        let _watched = self.watchdog.enter(Phase::Save);
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
                fingerprint: &self.fingerprint,
                machine: &self.machine,
                epoch_so_far: self.training,
                unevaluated: self.unevaluated,
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
        if self.is_stopped() && self.history.is_empty() {
            bail!("stopped before the first step; {out} is as it was");
        }
        if self.is_stopped() {
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
        let Some(mut reporter) = self.reporter.take() else { return Ok(()) };
        let confusion = evaluation.confusion(&self.dataset.table.classes)?;
        reporter.confusion(part, steps, &confusion)?;
        eprintln!("waited for data {:.1} % of the steps' time", 100.0 * self.clock.waiting_share());
        if let Some(note) = self.config.moving_statistics_note(steps) {
            eprintln!("note: {note}");
        }
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
                "logs": reporter.folder(),
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

/// What to say where `what` is no longer a number; `saved` where this run has saved an epoch.
fn diverged(config: &TrainConfig, saved: bool, what: &str, step: u64, epoch: u64) -> String {
    let (out, epoch) = (config.out.display(), epoch + 1);
    let kept = match saved {
        true => format!("the model of the epoch before is in {out}"),
        false => format!("{out} is as it was"),
    };
    format!(
        "{what} is no longer a number after step {step} (epoch {epoch}); {kept}; try a smaller --learning-rate"
    )
}

/// Refuses a job whose processes would not train the same model.
fn agree(session: &Session, config: &TrainConfig, dataset: &Dataset, step: &StepConfig) -> Result<()> {
    if session.share.is_whole() {
        return Ok(());
    }
    let programs = [step::train_step(step)?.module, step::evaluate(step)?.module];
    let programs: Vec<u8> = programs.iter().flat_map(Message::encode_to_vec).collect();
    Agreement::default()
        .on("the number of processes", &session.share.processes.to_le_bytes())
        .on("the settings", &serde_json::to_vec(config)?)
        .on("the windows", dataset.fingerprint().as_bytes())
        .on("the programs (HLO)", &programs)
        .check(session)
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
        forms: session.forms(),
    }
}

/// Refuses a place where the model could not be saved, before any time is spent on training it.
fn check_out(out: &Path) -> Result<()> {
    files::Format::of_name(out).with_context(|| format!("--out {}", out.display()))?;
    if out.is_dir() {
        bail!("--out {} is a folder; name a file in it", out.display());
    }
    let folder = dataset::parent(out);
    std::fs::create_dir_all(&folder)
        .and_then(|()| tempfile::tempfile_in(&folder).map(drop))
        .with_context(|| format!("--out {}: nothing can be written to {}", out.display(), folder.display()))
}
