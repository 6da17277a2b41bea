//! How fast the devices multiply matrices: what a step's own speed is held against.

use crate::model::network::Precision;
use crate::runtime::{Arg, HostTensor, Replicated};
use crate::train::session::Session;
use anyhow::Result;
use std::time::Instant;
use tpu_train_hlo::{ElementType, Graph, Shape, lower};

/// Rows and columns of both factors.
pub(super) const SIZE: usize = 2048;
/// Times the rate is taken; the best counts.
const TRIALS: usize = 5;
/// Length of a trial, about.
const TRIAL_SECONDS: f64 = 0.2;
/// Products in a trial, at most.
const LONGEST: usize = 64;

/// Floating-point operations a second, over all replicas at once, of a square product at the step's precision,
/// compiled by the same plugin.
pub(super) fn rate(session: &Session, precision: Precision) -> Result<f64> {
    let mut graph = Graph::new("product");
    let g = &mut graph;
    g.set_precision(precision.into());
    let factor = Shape::new(ElementType::F32, &[SIZE, SIZE]);
    let (a, b) = (g.parameter("a", factor.clone()), g.parameter("b", factor));
    let product = g.matmul(a, b);
    let replicas = session.mesh.replicas();
    let program = session.runtime.compile(&lower(g, &[product], &[])?, replicas, None)?;

    let values: Vec<f32> = (0..SIZE * SIZE).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
    let factor = session.runtime.replicate(&HostTensor::from_f32(&values, &[SIZE, SIZE]), replicas)?;
    let multiply = |times: usize| -> Result<f64> {
        let began = Instant::now();
        let mut last = Vec::new();
        for _ in 0..times {
            last = program.execute(vec![Arg::Borrow(&factor), Arg::Borrow(&factor)])?;
        }
        last.iter().try_for_each(Replicated::wait)?;
        Ok(began.elapsed().as_secs_f64() / times as f64)
    };
    multiply(1)?;
    let times = ((TRIAL_SECONDS / multiply(1)?) as usize).clamp(1, LONGEST);
    let mut best = f64::INFINITY;
    for _ in 0..TRIALS {
        best = best.min(multiply(times)?);
    }
    Ok(2.0 * (SIZE as f64).powi(3) * replicas as f64 / best)
}
