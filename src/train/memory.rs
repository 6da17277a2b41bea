//! Whether a training step fits into memory, asked before the first one runs.

use super::session::Session;
use crate::model::execution::{Execution, train_steps};
use crate::model::step::StepConfig;
use crate::pjrt::{self, ErrorCode};
use crate::runtime::{MemoryCheck, Program, RuntimeError};
use anyhow::{Context, Result, bail};
use std::path::Path;

/// What became of compiling the step for some number of rows.
enum Attempt {
    Fits(Program),
    TooLarge { needed: Option<u64>, free: Option<u64> },
}

/// Compiles the training step, or loads it where an executable compiled ahead of time is given and fits.
///
/// # Errors
/// When the step would not fit into the memory that is free, with the largest batch that would; when the file of the
/// executable cannot be read.
pub(super) fn compile_step(
    session: &Session,
    config: &StepConfig,
    execution: &Execution,
    executable: Option<&Path>,
) -> Result<Program> {
    if let Some(file) = executable
        && let Some(program) = load(session, config, execution, file)?
    {
        return Ok(program);
    }
    let (needed, free) = match attempt(session, config, execution, config.rows)? {
        Attempt::Fits(program) => return Ok(program),
        Attempt::TooLarge { needed, free } => (needed, free),
    };
    let batch = config.rows * config.replicas;
    let say = |bytes: Option<u64>| bytes.map_or("more".into(), |b| format!("{:.1} GB", b as f64 / 1e9));
    let problem =
        format!("a training step of batch {batch} needs {} of memory, {} is free", say(needed), say(free));
    match largest_that_fits(session, config, execution, needed)? {
        Some(rows) => {
            let fits = rows * config.replicas;
            bail!("{problem}; the largest batch that fits is {fits}: --batch-size {fits}")
        }
        None => {
            bail!("{problem}; not even one window a replica fits: shorten --window or use fewer --slices")
        }
    }
}

/// The training step from a file; nothing, and a note, where it is another program or does not fit.
fn load(
    session: &Session,
    config: &StepConfig,
    execution: &Execution,
    file: &Path,
) -> Result<Option<Program>> {
    let bytes = std::fs::read(file).with_context(|| format!("--executable {}", file.display()))?;
    let program = match session.load(&train_steps(config, execution)?, &bytes) {
        Ok(program) => program,
        Err(error) => {
            eprintln!("note: --executable {}: {error}; the step is compiled instead", file.display());
            return Ok(None);
        }
    };
    let fits = session.runtime.memory_check(&program).fits();
    if fits {
        eprintln!("executable     {}", file.display());
    }
    Ok(fits.then_some(program))
}

/// Halves the rows until they fit, then asks once more between there and what did not fit, where the
/// memory, all but linear in the rows, says the limit lies.
fn largest_that_fits(
    session: &Session,
    config: &StepConfig,
    execution: &Execution,
    needed: Option<u64>,
) -> Result<Option<usize>> {
    let (mut too_many, mut needed_there) = (config.rows, needed);
    while too_many > 1 {
        let rows = too_many / 2;
        match attempt(session, config, execution, rows)? {
            Attempt::TooLarge { needed, .. } => (too_many, needed_there) = (rows, needed),
            Attempt::Fits(program) => {
                let here = session.runtime.memory_check(&program);
                drop(program);
                let between = interpolate(rows, here, too_many, needed_there);
                let also = between > rows
                    && matches!(attempt(session, config, execution, between)?, Attempt::Fits(_));
                return Ok(Some(if also { between } else { rows }));
            }
        }
    }
    Ok(None)
}

/// The rows at which memory, linear through two points, reaches what is free; at most `above − 1`.
fn interpolate(below: usize, here: MemoryCheck, above: usize, needed_above: Option<u64>) -> usize {
    let (Some(needed), Some(free), Some(needed_above)) = (here.needed, here.free, needed_above) else {
        return below;
    };
    let a_row = needed_above.saturating_sub(needed) / (above - below) as u64;
    let room = free.saturating_sub(needed).checked_div(a_row).unwrap_or(0);
    (below + room as usize).min(above - 1)
}

fn attempt(session: &Session, config: &StepConfig, execution: &Execution, rows: usize) -> Result<Attempt> {
    let config = StepConfig { rows, ..config.clone() };
    let program = match session.compile(train_steps(&config, execution)?) {
        Ok(program) => program,
        Err(error) if out_of_memory(&error) => {
            return Ok(Attempt::TooLarge { needed: None, free: session.runtime.free_memory() });
        }
        Err(error) => return Err(error),
    };
    let check = session.runtime.memory_check(&program);
    Ok(if check.fits() {
        Attempt::Fits(program)
    } else {
        Attempt::TooLarge { needed: check.needed, free: check.free }
    })
}

/// A compiler that lays out the memory itself, as the TPU's does, refuses what does not fit.
fn out_of_memory(error: &anyhow::Error) -> bool {
    let pjrt_error = match error.downcast_ref::<RuntimeError>() {
        Some(RuntimeError::Pjrt(error)) => Some(error),
        _ => error.downcast_ref::<pjrt::Error>(),
    };
    pjrt_error.and_then(pjrt::Error::code) == Some(ErrorCode::ResourceExhausted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_interpolated_and_stays_below_what_did_not_fit() {
        let here = MemoryCheck { needed: Some(100), free: Some(160) };
        assert_eq!(interpolate(4, here, 8, Some(200)), 6);
        assert_eq!(interpolate(4, here, 8, Some(161)), 7);
        assert_eq!(interpolate(4, here, 8, None), 4);
    }
}
