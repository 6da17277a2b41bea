//! One compilation: a program that fits, or one that is too large.

use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use tpu_train_proto::xla::HloModuleProto;

use super::print::gib;
use super::target::Target;
use crate::pjrt::{CompiledMemory, Error, ErrorCode, Executable};
use crate::runtime::{compile_options, optimized_module};

/// A program as libtpu compiled it.
#[derive(Clone)]
pub(super) struct Compiled {
    pub(super) executable: Rc<Executable>,
    pub(super) optimized: Rc<HloModuleProto>,
    pub(super) memory: CompiledMemory,
    pub(super) seconds: f64,
}

/// What became of compiling a program.
pub(super) enum Attempt {
    Fits(Compiled),
    TooLarge(TooLarge),
}

/// What libtpu says of a program that does not fit.
pub(super) struct TooLarge {
    /// Bytes it needs on a device, where libtpu says.
    pub(super) needed: Option<u64>,
    /// Bytes a device has.
    available: Option<u64>,
    message: String,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.needed, self.available) {
            (Some(needed), Some(available)) => {
                write!(f, "it needs {} on each device, which has {}", gib(needed), gib(available))
            }
            _ => f.write_str(self.message.lines().next().unwrap_or_default()),
        }
    }
}

/// Compiles a serialized module for every device of the target.
///
/// # Errors
/// libtpu refuses the module for another reason than its size.
pub(super) fn compile(target: &Target, module: &[u8]) -> Result<Attempt> {
    let options = compile_options(&target.device_ids, None);
    let start = Instant::now();
    let executable = match target.topology.compile(module, &options) {
        Ok(executable) => executable,
        Err(Error::Call(error)) if error.code == ErrorCode::ResourceExhausted => {
            return Ok(Attempt::TooLarge(TooLarge {
                needed: needed(&error.message),
                available: target.memory,
                message: error.message,
            }));
        }
        Err(error) => return Err(error.into()),
    };
    let seconds = start.elapsed().as_secs_f64();
    let optimized = Rc::new(optimized_module(&executable)?);
    let memory = executable.memory()?;
    Ok(Attempt::Fits(Compiled { executable: Rc::new(executable), optimized, memory, seconds }))
}

/// Bytes in `… HLO temporaries (26.92G) exceeds available HBM (15.75G)`.
fn needed(message: &str) -> Option<u64> {
    let (before, _) = message.split_once(") exceeds available HBM")?;
    let (_, amount) = before.rsplit_once('(')?;
    let unit = match amount.chars().last()? {
        'T' => 40,
        'G' => 30,
        'M' => 20,
        'K' => 10,
        _ => return None,
    };
    let number: f64 = amount[..amount.len() - 1].parse().ok()?;
    Some((number * f64::from(1_u32 << 10).powi(unit / 10)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtpus_message_says_how_much_is_needed() {
        let message = "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO \
                       temporaries (26.50G) exceeds available HBM (15.75G). HLO module: train_step.\nSee …";
        assert_eq!(needed(message), Some((26.5 * (1_u64 << 30) as f64) as u64));
        assert_eq!(needed("something else (3)"), None);
        let problem = TooLarge { needed: None, available: None, message: message.into() };
        assert!(problem.to_string().ends_with("train_step."));
    }
}
