//! Ctrl-C and SIGTERM: the first asks the run to stop after the work in hand, the second ends it at once.

use anyhow::Context;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the run was asked to stop; cheap to clone and to ask.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether the run was asked to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for rooms that know nothing of signals.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// Listens for SIGINT, SIGTERM and SIGHUP.
///
/// # Errors
/// When the handler cannot be installed.
pub fn on_interrupt() -> anyhow::Result<Stop> {
    let stop = Stop::default();
    let flag = stop.flag();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after the work in hand; once more ends at once");
    })
    .context("the handler of Ctrl-C cannot be installed")?;
    Ok(stop)
}
