//! The largest batch that fits into memory, found by trying.

use std::fmt;
use std::time::Instant;

use anyhow::Result;
use prost::Message;

use super::attempt::{self, Attempt, Compiled};
use super::{Job, ProgramName};

/// Rows are tried in multiples of this: memory is laid out in tiles of as many.
const STEP: usize = 8;
/// The search ends where what fits and what does not are this near, as a share of the rows.
const NEAR: usize = 32;

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Largest {
    /// The largest batch that was seen to fit; `None` where not even one window a replica does.
    pub(super) fits: Option<usize>,
    /// The smallest that was seen not to.
    pub(super) too_large: Option<usize>,
    /// Replicas that a batch is cut over.
    replicas: usize,
    pub(super) tries: usize,
    pub(super) seconds: f64,
}

impl fmt::Display for Largest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effort = format!("{} tries, {:.0} s", self.tries, self.seconds);
        match (self.fits, self.too_large) {
            (Some(fits), Some(not)) => {
                write!(f, "the largest batch found to fit is {fits}, {not} does not ({effort})")
            }
            (Some(fits), None) => write!(f, "batch {fits} fits, and none larger was tried ({effort})"),
            (None, Some(not)) if not > self.replicas => {
                write!(f, "stopped before a batch was found that fits; {not} does not ({effort})")
            }
            (None, _) => write!(f, "not even one window a replica fits ({effort}): shorten --window"),
        }
    }
}

/// Memory of a program by its rows: what is known so far.
struct Known {
    /// Rows that fit, and the bytes they take.
    fits: Option<(usize, u64)>,
    /// Rows that do not, and the bytes they would take.
    too_large: Option<(usize, Option<u64>)>,
}

impl Known {
    /// The next number of rows to try; none where there is nothing left to learn.
    fn next(&self, available: Option<u64>) -> Option<usize> {
        let (below, above) = (self.fits.map_or(0, |fits| fits.0), self.too_large.map(|not| not.0));
        let Some(above) = above else {
            // Proportional to what is known, and a little more, to see the limit from both sides.
            let (rows, bytes) = self.fits?;
            let factor = available.map_or(2.0, |available| available as f64 / bytes.max(1) as f64);
            return Some(
                ((rows as f64 * factor.clamp(1.05, 64.0)) as usize).max(rows + 1).next_multiple_of(STEP),
            );
        };
        if above - below <= 1.max(below / NEAR) || (below >= STEP && above - below <= STEP) {
            return None;
        }
        let guess = self.interpolated(available).unwrap_or(below.midpoint(above));
        // Off the ends, so that a guess on the wrong side of the limit still shortens the interval.
        let least = if below >= STEP { below + STEP } else { below + 1 };
        let most = above - ((above - below) / NEAR).max(1);
        Some(round(guess.min(most)).max(least.min(above - 1)))
    }

    /// Where memory, linear between the two points, reaches what is available.
    fn interpolated(&self, available: Option<u64>) -> Option<usize> {
        let ((above, needed), available) = (self.too_large?, available?);
        let (below, taken) = self.fits.unwrap_or((0, 0));
        let slope = needed?.checked_sub(taken)? as f64 / (above - below) as f64;
        let room = available.saturating_sub(taken) as f64;
        (slope > 0.0).then(|| below + (room / slope) as usize)
    }
}

fn round(rows: usize) -> usize {
    if rows < STEP { rows } else { rows / STEP * STEP }
}

/// Searches upwards or downwards from the job's own batch, which `compiled` says fits.
///
/// # Errors
/// libtpu refuses a program for another reason than its size.
pub(super) fn search(job: &Job<'_>, program: ProgramName, compiled: Option<&Compiled>) -> Result<Largest> {
    let start = Instant::now();
    let mut known = Known { fits: None, too_large: None };
    match compiled {
        Some(compiled) => known.fits = Some((job.step.rows, compiled.memory.total())),
        None => known.too_large = Some((job.step.rows, None)),
    }
    let mut tries = 0;
    while let Some(rows) = known.next(job.target.memory).filter(|_| !(job.stopped)()) {
        eprintln!(
            "trying batch {} … (a compilation, which takes a minute where it fits)",
            rows * job.step.replicas
        );
        tries += 1;
        match attempt::compile(job.target, &job.module(program, rows)?.encode_to_vec())? {
            Attempt::Fits(compiled) => known.fits = Some((rows, compiled.memory.total())),
            Attempt::TooLarge(problem) => known.too_large = Some((rows, problem.needed)),
        }
    }
    let batch = |rows: usize| rows * job.step.replicas;
    Ok(Largest {
        fits: known.fits.map(|(rows, _)| batch(rows)),
        too_large: known.too_large.map(|(rows, _)| batch(rows)),
        replicas: job.step.replicas,
        tries,
        seconds: start.elapsed().as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches for a limit on a machine of `available` bytes, where rows take `base + slope · rows`.
    fn limit(from: usize, base: u64, slope: u64, available: u64) -> (Option<usize>, Option<usize>, usize) {
        let bytes = |rows: usize| base + slope * rows as u64;
        let mut known = Known { fits: None, too_large: None };
        let mut tried = from;
        for tries in 0..20 {
            if bytes(tried) <= available {
                known.fits = Some((tried, bytes(tried)));
            } else {
                known.too_large = Some((tried, Some(bytes(tried))));
            }
            match known.next(Some(available)) {
                Some(next) => tried = next,
                None => return (known.fits.map(|f| f.0), known.too_large.map(|n| n.0), tries),
            }
        }
        panic!("no end from {from} with {base} + {slope} of {available}");
    }

    #[test]
    fn the_limit_is_bracketed_from_below_and_from_above() {
        for (base, slope, available) in [(0, 10, 5000), (300, 7, 9000), (0, 1000, 5500), (10, 1, 100_000)] {
            let exact = ((available - base) / slope) as usize;
            for from in [1, 8, 64, exact, exact + 1, 40_000] {
                let (fits, not, tries) = limit(from, base, slope, available);
                let (fits, not) = (fits.unwrap(), not.unwrap());
                assert!(fits <= exact && exact < not, "{fits} {not} from {from}, exactly {exact}");
                assert!(not - fits <= STEP.max(fits / NEAR), "{fits} {not} from {from}");
                assert!(tries <= 12, "{tries} from {from}");
            }
        }
    }

    #[test]
    fn where_nothing_fits_the_search_ends() {
        let (fits, not, _) = limit(512, 100, 100, 50);
        assert_eq!((fits, not), (None, Some(1)));
    }
}
