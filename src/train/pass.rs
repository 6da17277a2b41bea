//! A program over a list of windows, batch by batch: what evaluation, prediction and precise statistics share.

use super::session::Session;
use super::stop::Stop;
use crate::data::{Loader, Plan, Prepared, WindowTable};
use crate::model::step::StepConfig;
use crate::runtime::{Arg, Program, Replicated};
use anyhow::Result;
use std::sync::Arc;

/// Windows of a table, by their places in it.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    /// The shards.
    pub prepared: &'a Arc<Prepared>,
    /// The windows in them.
    pub table: &'a Arc<WindowTable>,
    /// Which of them, in order.
    pub indices: &'a [u32],
}

/// A program whose parameters are the variables, a batch and the flag to stop.
pub(super) struct Pass<'a> {
    session: &'a Session,
    config: StepConfig,
    program: Program,
}

impl<'a> Pass<'a> {
    /// A program that was compiled for this configuration.
    pub(super) fn new(session: &'a Session, config: &StepConfig, program: Program) -> Self {
        Self { session, config: config.clone(), program }
    }

    /// Processes of the job.
    pub(super) fn processes(&self) -> usize {
        self.session.share.processes
    }

    /// Runs the program on the windows, in their order. `each` gets the outputs and how many windows are among this
    /// process's rows, and gives the sum of the flags to stop. Whether it came to the end, which is the same in every
    /// process if `each` gives what the devices say.
    ///
    /// # Errors
    /// When a window cannot be read or the devices fail; and those of `each`.
    pub(super) fn run(
        &self,
        variables: &[Replicated],
        windows: Windows<'_>,
        stop: &Stop,
        mut each: impl FnMut(&[Replicated], usize) -> Result<f32>,
    ) -> Result<bool> {
        let Windows { prepared, table, indices } = windows;
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
            let stopped = each(&outputs, batch.real_rows)? > 0.0;
            loader.recycle(batch);
            if stopped || self.session.share.is_whole() && stop.requested() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
