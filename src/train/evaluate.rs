//! The network on labelled windows: loss, accuracy, confusion; the subcommand `eval`.

use super::dataset::{self, Dataset};
use super::pass::{Pass, Windows};
use super::saved;
use super::session::Session;
use super::stop::Stop;
use crate::cli::{EvalArgs, Part};
use crate::data::WindowTable;
use crate::model::step::{self, EVALUATION_SUMS, StepConfig};
use crate::report::Confusion;
use crate::runtime::Replicated;
use anyhow::{Result, bail};
use serde_json::json;
use std::sync::Arc;

/// Places of the program's outputs, see [`step::evaluate`].
const PROBABILITIES: usize = 0;
const SUMS: usize = 1;

/// The evaluation program, compiled.
pub struct Evaluator<'a> {
    pass: Pass<'a>,
    classes: usize,
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

impl<'a> Evaluator<'a> {
    /// Compiles the evaluation.
    ///
    /// # Errors
    /// When the compiler refuses it.
    pub fn new(session: &'a Session, config: &StepConfig) -> Result<Self> {
        let program = session.compile(step::evaluate(config)?)?;
        Ok(Self { pass: Pass::new(session, config, program), classes: config.model.classes })
    }

    /// The network with `variables` on these windows. `None` when `stop` was requested of any process.
    ///
    /// # Errors
    /// When a window cannot be read or the devices fail.
    pub fn run(
        &self,
        variables: &[Replicated],
        windows: Windows<'_>,
        stop: &Stop,
    ) -> Result<Option<Evaluation>> {
        let mut sums = vec![0.0; EVALUATION_SUMS + self.classes.pow(2)];
        let finished = self.pass.run(variables, windows, stop, |outputs, _| {
            let of_batch = outputs[SUMS].fetch(0)?.to_f32()?;
            sums.iter_mut().zip(&of_batch).for_each(|(sum, &more)| *sum += f64::from(more));
            Ok(of_batch[EVALUATION_SUMS - 1])
        })?;
        let (sums, counts) = sums.split_at(EVALUATION_SUMS);
        let counts = counts.chunks(self.classes);
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
        windows: Windows<'_>,
        stop: &Stop,
    ) -> Result<Option<Vec<f32>>> {
        let processes = self.pass.processes();
        if processes > 1 {
            bail!(
                "this job has {processes} processes, and windows are predicted by one: use a slice of one host"
            );
        }
        let mut all = Vec::with_capacity(windows.indices.len() * self.classes);
        let finished = self.pass.run(variables, windows, stop, |outputs, real_rows| {
            let rows = outputs[PROBABILITIES].fetch_rows()?.to_f32()?;
            all.extend_from_slice(&rows[..real_rows * self.classes]);
            Ok(0.0)
        })?;
        Ok(finished.then_some(all))
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
    let indices = match args.part {
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
    let windows = Windows { prepared: &prepared, table: &table, indices: &indices };
    let Some(evaluation) = evaluator.run(&variables, windows, stop)? else {
        bail!("stopped before all {} windows were evaluated", indices.len());
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
