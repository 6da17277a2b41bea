//! The network on labelled windows: loss, accuracy, confusion; the subcommand `eval`.

use super::dataset::Dataset;
use super::session::Session;
use super::stop::Stop;
use crate::cli::{EvalArgs, Part};
use crate::data::{Loader, Plan, SampleType, WindowTable};
use crate::data::Prepared;
use crate::model::step::{self, StepConfig};
use crate::report::Confusion;
use crate::runtime::{Arg, HostTensor, Program, Replicated};
use anyhow::{Result, bail};
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
            let outputs = self.session.runtime.execute(&self.program, arguments)?;
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
        let penalty = self.fetch(penalty, 0)?[0];
        for replica in 0..self.session.mesh.replicas() {
            let first = replica * self.session.rows;
            let real = real_rows.saturating_sub(first).min(self.session.rows);
            let rows = self.fetch(probabilities, replica)?;
            evaluation.probabilities.extend_from_slice(&rows[..real * self.config.model.classes]);
            let losses = self.fetch(losses, replica)?;
            evaluation.loss += losses[..real].iter().map(|&loss| f64::from(loss + penalty)).sum::<f64>();
        }
        Ok(())
    }

    fn fetch(&self, tensor: &Replicated, replica: usize) -> Result<Vec<f32>> {
        Ok(self.session.runtime.fetch(tensor, replica)?.to_f32()?)
    }
}

impl Evaluation {
    /// The most probable class of each window, the first where several are.
    pub fn predicted(&self, classes: usize) -> Vec<usize> {
        self.probabilities.chunks(classes).map(most_probable).collect()
    }

    /// True classes against predicted ones.
    pub fn confusion(&self, classes: &[String]) -> Confusion {
        let mut confusion = Confusion::new(classes.to_vec());
        for (&label, predicted) in self.labels.iter().zip(self.predicted(classes.len())) {
            confusion.add(label, predicted);
        }
        confusion
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
