//! The network on labelled windows: loss, accuracy, confusion; the subcommand `eval`.

use super::dataset::{self, Dataset};
use super::saved;
use super::session::Session;
use super::stop::Stop;
use crate::cli::{EvalArgs, Part};
use crate::data::{Loader, Plan, Prepared, WindowTable};
use crate::model::step::{self, EVALUATION_SUMS, StepConfig};
use crate::report::Confusion;
use crate::runtime::{Arg, Program, Replicated};
use anyhow::{Result, bail};
use serde_json::json;
use std::sync::Arc;

/// The evaluation program, compiled.
pub struct Evaluator<'a> {
    session: &'a Session,
    config: StepConfig,
    program: Program,
}

/// What the network makes of a list of labelled windows, the same in every process.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// `counts[label][predicted]`: how often each class was taken for each, the first where several are equally
    /// probable.
    pub counts: Vec<Vec<u64>>,
    /// Mean loss of a window, penalty included.
    pub loss: f64,
}

/// What the devices said of one batch.
struct Outputs<'a> {
    /// Softmax probabilities of this process's rows, `[rows, classes]` on each replica.
    probabilities: &'a Replicated,
    /// Sums over the whole batch, see [`step::evaluate`].
    sums: Vec<f32>,
    /// Windows among this process's rows.
    real_rows: usize,
}

impl<'a> Evaluator<'a> {
    /// Compiles the evaluation.
    ///
    /// # Errors
    /// When the compiler refuses it.
    pub fn new(session: &'a Session, config: &StepConfig) -> Result<Self> {
        Ok(Self { session, config: config.clone(), program: session.compile(step::evaluate(config)?)? })
    }

    /// The network with `variables` on the windows `indices` of the table. `None` when `stop` was requested of any
    /// process.
    ///
    /// # Errors
    /// When a window cannot be read or the devices fail.
    pub fn run(
        &self,
        variables: &[Replicated],
        prepared: &Arc<Prepared>,
        table: &Arc<WindowTable>,
        indices: &[u32],
        stop: &Stop,
    ) -> Result<Option<Evaluation>> {
        let mut sums = vec![0.0; EVALUATION_SUMS + self.config.model.classes.pow(2)];
        let finished = self.batches(variables, prepared, table, indices, stop, |outputs| {
            sums.iter_mut().zip(&outputs.sums).for_each(|(sum, &more)| *sum += f64::from(more));
            Ok(())
        })?;
        let (sums, counts) = sums.split_at(EVALUATION_SUMS);
        let counts = counts.chunks(self.config.model.classes);
        Ok(finished.then(|| Evaluation {
            counts: counts.map(|row| row.iter().map(|&count| count.round() as u64).collect()).collect(),
            loss: sums[0] / sums[1],
        }))
    }

    /// Softmax probabilities of the windows `indices`, row-major `[windows, classes]`, in a job of one process. `None`
    /// when `stop` was requested.
    ///
    /// # Errors
    /// As [`Self::run`]; or there are several processes, of which none has all rows.
    pub fn probabilities(
        &self,
        variables: &[Replicated],
        prepared: &Arc<Prepared>,
        table: &Arc<WindowTable>,
        indices: &[u32],
        stop: &Stop,
    ) -> Result<Option<Vec<f32>>> {
        if !self.session.share.is_whole() {
            let processes = self.session.share.processes;
            bail!(
                "this job has {processes} processes, and windows are predicted by one: use a slice of one host"
            );
        }
        let mut all = Vec::with_capacity(indices.len() * self.config.model.classes);
        let finished = self.batches(variables, prepared, table, indices, stop, |outputs| {
            let rows = outputs.probabilities.fetch_rows()?.to_f32()?;
            all.extend_from_slice(&rows[..outputs.real_rows * self.config.model.classes]);
            Ok(())
        })?;
        Ok(finished.then_some(all))
    }

    /// Runs the program on each batch; whether it came to the end.
    fn batches(
        &self,
        variables: &[Replicated],
        prepared: &Arc<Prepared>,
        table: &Arc<WindowTable>,
        indices: &[u32],
        stop: &Stop,
        mut each: impl FnMut(Outputs<'_>) -> Result<()>,
    ) -> Result<bool> {
        let own = self.session.own_rows();
        let plan = Plan::new(indices.to_vec(), self.session.batch_size, 0, false)?;
        let steps = plan.steps_of(own.clone(), 0, plan.steps_per_epoch());
        let mut loader = Loader::start(Arc::clone(prepared), Arc::clone(table), own.len(), steps);
        while let Some(batch) = loader.next() {
            let batch = batch?;
            let mut uploaded = self.session.upload_rows(&batch, &self.config)?;
            uploaded.push(self.session.flag(stop.requested())?);
            let arguments = variables.iter().chain(&uploaded).map(Arg::Borrow).collect();
            let outputs = self.program.execute(arguments)?;
            let [probabilities, sums] = &outputs[..] else {
                bail!("the evaluation gave {} outputs, expected 2", outputs.len());
            };
            let sums = sums.fetch(0)?.to_f32()?;
            let stopped = sums.get(EVALUATION_SUMS - 1).is_some_and(|&flags| flags > 0.0);
            each(Outputs { probabilities, sums, real_rows: batch.real_rows })?;
            loader.recycle(batch);
            if stopped || self.session.share.is_whole() && stop.requested() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Evaluation {
    /// Share of windows classified right.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = self.counts.iter().enumerate().map(|(class, row)| row[class]).sum();
        let all: u64 = self.counts.iter().flatten().sum();
        right as f64 / all.max(1) as f64
    }

    /// True classes against predicted ones.
    ///
    /// # Errors
    /// When the classes are not as many as the model's.
    pub fn confusion(&self, classes: &[String]) -> Result<Confusion> {
        Ok(Confusion::from_counts(classes.to_vec(), self.counts.clone())?)
    }
}

/// The place of the largest value, the first where several are.
pub(super) fn most_probable(probabilities: &[f32]) -> usize {
    let mut best = 0;
    for (class, &probability) in probabilities.iter().enumerate() {
        if probability > probabilities[best] {
            best = class;
        }
    }
    best
}

/// All figures of an evaluation, to print.
pub(super) fn report(confusion: &Confusion, loss: f64) -> String {
    format!("loss {loss:.4}\n{}", confusion.metrics())
}

/// The subcommand `eval`.
///
/// # Errors
/// One sentence on what is wrong with the model, the data or the platform.
pub fn run(args: &EvalArgs, stop: &Stop) -> Result<()> {
    let model = saved::open(&args.model)?;
    let config = saved::config(&model, args)?;
    Session::check_batch(&args.platform, args.batch_size)?;
    let dataset = Dataset::open(&args.data, &config, stop)?;
    let Dataset { prepared, table, split } = dataset;
    let table = match &model.details {
        Some(details) => Arc::new(WindowTable::clone(&table).with_classes(&details.class_names)?),
        None => table,
    };
    let windows = match args.part {
        Part::Train => split.train,
        Part::Validation => split.validation,
        Part::Test => split.test,
        Part::All => (0..table.len() as u32).collect(),
    };
    if table.classes.len() != model.config.classes {
        let (data, model) = (table.classes.len(), model.config.classes);
        bail!(
            "the data has {data} classes, the model {model}; --label-column names what the model has learnt"
        );
    }
    let session = Session::start(&args.platform, args.batch_size, None)?;
    if session.share.writes() {
        eprintln!("platform  {}\nmodel     {}", session.describe(), args.model.display());
    }
    let step = saved::step_config(&model, &session, dataset::element_type(&table))?;
    let variables = session.replicate(&model.weights)?;
    let evaluator = Evaluator::new(&session, &step)?;
    let Some(evaluation) = evaluator.run(&variables, &prepared, &table, &windows, stop)? else {
        bail!("stopped before all {} windows were evaluated", windows.len());
    };
    let confusion = evaluation.confusion(&table.classes)?;
    if !session.share.writes() {
        return Ok(());
    }
    if args.json {
        println!("{}", json!({ "loss": evaluation.loss, "metrics": confusion.metrics() }));
    } else {
        println!("{}", report(&confusion, evaluation.loss));
    }
    Ok(())
}
