//! Batch normalisation's statistics of all training windows under the weights as they are, in place of the moving ones.
//!
//! Moving averages lag behind weights that move fast, and take many steps to forget what they began with: an evaluation
//! is then of another network than the one that was trained (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm",
//! §3). Training itself never looks at either.

use super::pass::{Pass, Windows};
use super::session::Session;
use super::stop::Stop;
use crate::model::step::{self, STATISTICS_SUMS, StepConfig};
use crate::runtime::Replicated;
use anyhow::{Result, bail};

/// The program that takes a batch's statistics, compiled.
pub struct Statistics<'a> {
    pass: Pass<'a>,
}

impl<'a> Statistics<'a> {
    /// Compiles the program.
    ///
    /// # Errors
    /// When the compiler refuses it.
    pub fn new(session: &'a Session, config: &StepConfig) -> Result<Self> {
        let program = session.compile(step::batch_statistics(config)?)?;
        Ok(Self { pass: Pass::new(session, config, program) })
    }

    /// Mean and biased variance of each feature over these windows, `[F]` each, the same in every process. `None` when `stop` was requested of any process.
    ///
    /// # Errors
    /// When a window cannot be read or the devices fail.
    pub fn run(
        &self,
        variables: &[Replicated],
        windows: Windows<'_>,
        stop: &Stop,
    ) -> Result<Option<[Vec<f32>; 2]>> {
        let mut features = Vec::new();
        let finished = self.pass.run(variables, windows, stop, |outputs, _| {
            let outputs: Vec<Vec<f32>> =
                outputs.iter().map(|output| Ok(output.fetch(0)?.to_f32()?)).collect::<Result<_>>()?;
            let [means, variances, sums] = &outputs[..] else {
                bail!("the statistics came as {} outputs, expected 3", outputs.len());
            };
            features.resize(means.len(), Moments::default());
            for ((feature, &mean), &variance) in features.iter_mut().zip(means).zip(variances) {
                feature.add(sums[0].into(), mean.into(), variance.into());
            }
            Ok(sums[STATISTICS_SUMS - 1])
        })?;
        let mean = features.iter().map(|feature| feature.mean as f32).collect();
        let variance = features.iter().map(|feature| (feature.squares / feature.weight) as f32).collect();
        Ok(finished.then_some([mean, variance]))
    }
}

/// What is known of a feature's values.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    weight: f64,
    mean: f64,
    /// Sum of the squared deviations from the mean.
    squares: f64,
}

impl Moments {
    /// Takes in as many values of this mean and biased variance (Chan, Golub and LeVeque 1983, "Algorithms for computing
    /// the sample variance").
    fn add(&mut self, weight: f64, mean: f64, variance: f64) {
        let off = mean - self.mean;
        let all = self.weight + weight;
        self.squares += weight * variance + off * off * self.weight * weight / all;
        self.mean += off * weight / all;
        self.weight = all;
    }
}
