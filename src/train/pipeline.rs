//! Steps that follow each other without a gap: while the devices work, the next batches are read, copied to the
//! devices and put in line; on CPU they are read and copied.
//!
//! Invariant: in a job of several processes which steps are launched depends on the outcomes handed out so far
//! alone, so that all processes launch the same ones.

use super::trainer::{Launched, Outcome, Trainer, Uploaded};
use crate::data::Loader;
use crate::pjrt::Platform;
use anyhow::{Result, bail};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Launches before the outcome of the first is asked for: one that runs, one that waits in line.
pub const IN_FLIGHT: usize = 2;
/// On CPU none waits: it would gain nothing, since the devices' work is the host's, and XLA:CPU takes the memory of an
/// execution's temporaries when it is launched.
const IN_FLIGHT_ON_CPU: usize = 1;

/// Where the time of the steps goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// The devices stood still because no batch was there.
    pub waiting: Duration,
    /// All of it.
    pub total: Duration,
}

impl Clock {
    /// Adds another stretch.
    pub fn add(&mut self, other: Self) {
        self.waiting += other.waiting;
        self.total += other.total;
    }

    /// Share of the time that the devices waited for data.
    pub fn waiting_share(&self) -> f64 {
        self.waiting.as_secs_f64() / self.total.as_secs_f64().max(1e-9)
    }
}

/// A stretch of steps, one batch of a loader each.
pub struct Pipeline<'r, 's> {
    trainer: &'r mut Trainer<'s>,
    loader: Loader,
    clock: Clock,
    /// Launches at most at once.
    in_flight: usize,
    /// The batches of the next launch, on the devices.
    ready: Option<Vec<Uploaded>>,
    /// Steps not yet launched.
    left: u64,
    launched: VecDeque<Launched>,
    /// Of the steps that came to their end together, those not yet handed out, with their numbers.
    outcomes: VecDeque<(u64, Outcome)>,
}

impl<'r, 's> Pipeline<'r, 's> {
    /// The next `steps` steps, on the batches of `loader`.
    pub fn new(trainer: &'r mut Trainer<'s>, loader: Loader, steps: u64) -> Self {
        let in_flight = if trainer.platform() == Platform::Cpu { IN_FLIGHT_ON_CPU } else { IN_FLIGHT };
        let (clock, launched, outcomes) = (Clock::default(), VecDeque::new(), VecDeque::new());
        Self { trainer, loader, clock, in_flight, ready: None, left: steps, launched, outcomes }
    }

    /// Whether the next outcome is there already, having come together with the last.
    pub fn has_outcome(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Where the time went since the last call.
    pub fn take_clock(&mut self) -> Clock {
        std::mem::take(&mut self.clock)
    }

    /// The outcome of the next step and its number, with further ones on their way; none after the last. Once this
    /// process or another is asked to stop no more are launched, and those on their way come to their end.
    ///
    /// # Errors
    /// When a batch cannot be read or the devices fail.
    pub fn next(&mut self, stop: bool) -> Result<Option<(u64, Outcome)>> {
        if self.outcomes.is_empty() {
            let began = Instant::now();
            self.advance(stop)?;
            self.clock.total += began.elapsed();
        }
        let next = self.outcomes.pop_front();
        if next.is_some_and(|(_, outcome)| outcome.stopped) {
            self.left = 0;
        }
        Ok(next)
    }

    /// Launches what is due and waits for the oldest launch.
    fn advance(&mut self, stop: bool) -> Result<()> {
        if stop && self.trainer.is_alone() {
            self.left = 0;
        }
        while self.left > 0 && self.launched.len() < self.in_flight {
            self.launch(stop)?;
        }
        if self.left > 0 && self.ready.is_none() {
            self.ready = Some(self.upload_next()?);
        }
        if let Some(oldest) = self.launched.pop_front() {
            let first = oldest.first();
            self.outcomes.extend((first..).zip(oldest.wait()?));
        }
        Ok(())
    }

    fn launch(&mut self, stop: bool) -> Result<()> {
        let uploaded = match self.ready.take() {
            Some(uploaded) => uploaded,
            None => self.upload_next()?,
        };
        self.launched.push_back(self.trainer.launch(&uploaded, stop)?);
        self.left -= uploaded.len() as u64;
        Ok(())
    }

    /// The batches of the next launch.
    fn upload_next(&mut self) -> Result<Vec<Uploaded>> {
        let began = Instant::now();
        let steps = self.left.min(self.trainer.steps_at_once() as u64);
        let uploaded = (0..steps).map(|_| self.upload()).collect::<Result<Vec<_>>>()?;
        // With a step still at work nothing was lost.
        if self.launched.back().map_or(Ok(true), Launched::is_done)? {
            self.clock.waiting += began.elapsed();
        }
        Ok(uploaded)
    }

    fn upload(&mut self) -> Result<Uploaded> {
        let Some(batch) = self.loader.next() else { bail!("no batch came, {} are missing", self.left) };
        let batch = batch?;
        let uploaded = self.trainer.upload(&batch)?;
        self.loader.recycle(batch);
        Ok(uploaded)
    }
}
