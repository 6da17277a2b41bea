//! The network on labelled windows: loss, accuracy, confusion; the subcommand `eval`.

use super::dataset::{self, Dataset};
use super::saved;
use super::session::Session;
use super::stop::Stop;
use crate::cli::{EvalArgs, Part};
use crate::data::{Loader, Plan, Prepared, WindowTable};
use crate::model::step::{self, StepConfig};
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

/// What the network says of a list of windows, in their order.
#[derive(Debug, Default)]
pub struct Evaluation {
    /// Softmax probabilities, row-major `[windows, classes]`.
    pub probabilities: Vec<f32>,
    /// True classes.
    pub labels: Vec<usize>,
    /// Mean loss of a window, penalty included.
    pub loss: f64,
}

impl<'a> Evaluator<'a> {
    /// Compiles the evaluation.
    ///
    /// # Errors
    /// When the compiler refuses it.
    pub fn new(session: &'a Session, config: &StepConfig) -> Result<Self> {
        Ok(Self { session, config: config.clone(), program: session.compile(step::evaluate(config)?)? })
    }

    /// The network with `variables` on the windows `indices` of the table. `None` when `stop` was requested.
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
        let mut evaluation = Evaluation::default();
        let plan = Plan::new(indices.to_vec(), self.session.batch_size, 0, false)?;
        let steps = plan.steps(0, plan.steps_per_epoch());
        let mut loader =
            Loader::start(Arc::clone(prepared), Arc::clone(table), self.session.batch_size, steps);
        while let Some(batch) = loader.next() {
            let batch = batch?;
            let uploaded = self.session.upload(&batch, &self.config)?;
            let arguments = variables.iter().chain(&uploaded).map(Arg::Borrow).collect();
            let outputs = self.program.execute(arguments)?;
            self.collect(&mut evaluation, &outputs, batch.real_rows)?;
            evaluation.labels.extend(batch.labels[..batch.real_rows].iter().map(|&label| label as usize));
            loader.recycle(batch);
            if stop.requested() {
                return Ok(None);
            }
        }
        evaluation.loss /= indices.len() as f64;
        Ok(Some(evaluation))
    }

    /// Adds one batch's probabilities, and its losses to the sum in `loss`.
    fn collect(&self, evaluation: &mut Evaluation, outputs: &[Replicated], real_rows: usize) -> Result<()> {
        let [probabilities, losses, penalty] = outputs else {
            bail!("the evaluation gave {} outputs, expected 3", outputs.len());
        };
        let penalty = fetch(penalty, 0)?[0];
        for replica in 0..self.session.mesh.replicas() {
            let first = replica * self.session.rows;
            let real = real_rows.saturating_sub(first).min(self.session.rows);
            let rows = fetch(probabilities, replica)?;
            evaluation.probabilities.extend_from_slice(&rows[..real * self.config.model.classes]);
            let losses = fetch(losses, replica)?;
            evaluation.loss += losses[..real].iter().map(|&loss| f64::from(loss + penalty)).sum::<f64>();
        }
        Ok(())
    }
}

impl Evaluation {
    /// The most probable class of each window, the first where several are.
    pub fn predicted(&self, classes: usize) -> Vec<usize> {
        self.probabilities.chunks(classes).map(most_probable).collect()
    }

    /// Share of windows classified right.
    pub fn accuracy(&self) -> f64 {
        let classes = self.probabilities.len() / self.labels.len().max(1);
        let right = self.predicted(classes).iter().zip(&self.labels).filter(|(a, b)| a == b).count();
        right as f64 / self.labels.len().max(1) as f64
    }

    /// True classes against predicted ones.
    ///
    /// # Errors
    /// When a label is not one of the classes.
    pub fn confusion(&self, classes: &[String]) -> Result<Confusion> {
        let mut confusion = Confusion::new(classes.to_vec());
        for (&label, predicted) in self.labels.iter().zip(self.predicted(classes.len())) {
            confusion.record(label, predicted)?;
        }
        Ok(confusion)
    }
}

fn fetch(tensor: &Replicated, replica: usize) -> Result<Vec<f32>> {
    Ok(tensor.fetch(replica)?.to_f32()?)
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
    let session = Session::start(&args.platform, args.batch_size, None)?;
    eprintln!("platform  {}\nmodel     {}", session.describe(), args.model.display());
    let step = saved::step_config(&model, &session, dataset::element_type(&table))?;
    let variables = session.replicate(&model.weights)?;
    let evaluator = Evaluator::new(&session, &step)?;
    let Some(evaluation) = evaluator.run(&variables, &prepared, &table, &windows, stop)? else {
        bail!("stopped before all {} windows were evaluated", windows.len());
    };
    let confusion = evaluation.confusion(&table.classes)?;
    if args.json {
        println!("{}", json!({ "loss": evaluation.loss, "metrics": confusion.metrics() }));
    } else {
        println!("{}", report(&confusion, evaluation.loss));
    }
    Ok(())
}
