//! What a compiler's optimized module says of a step: its cycles by loop and by layer, its collectives.
//!
//! Invariant: an instruction counts as often as it runs, the bodies of loops their number of trips; of a
//! conditional's branches the costliest counts. The cycles are libtpu's own estimates (`estimated_cycles` in an
//! instruction's backend configuration): a yardstick for two programs compiled by the same libtpu for the same
//! topology, not a time. Modules of other compilers have none, and no cycles.
//!
//! ```
//! # use tpu_train_proto::xla::HloModuleProto;
//! use tpu_train::report::optimized::read;
//! let reading = read(&HloModuleProto::default());
//! assert_eq!((reading.cycles.total, reading.collectives.len()), (0, 0));
//! ```

mod collectives;
mod cycles;
mod loops;

use std::collections::HashMap;

use tpu_train_proto::xla::{HloComputationProto, HloInstructionProto, HloModuleProto};

pub use collectives::{Collective, Network, bytes_over};
pub use cycles::{Cycles, InstructionCost, LayerCost, LoopCost};

/// What there is to read in an optimized module.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Estimated cycles.
    pub cycles: Cycles,
    /// Collectives, in the order in which they stand.
    pub collectives: Vec<Collective>,
}

/// Reads a module as a compiler left it.
pub fn read(module: &HloModuleProto) -> Reading {
    let index = Index::of(module);
    Reading { cycles: cycles::estimate(&index), collectives: collectives::find(&index) }
}

/// Writes the trips of every loop into its backend configuration, `{"known_trip_count":{"n":"2498"}}`, as XLA's own
/// annotation has them, so that a reader that cannot run loops counts them as [`read`] does.
pub fn note_trips(module: &mut HloModuleProto) {
    let index = Index::of(module);
    let mut trips: Vec<(i64, i64, u64)> = Vec::new();
    for (&computation, body) in &index.computations {
        let loops = body.instructions.iter().filter(|instruction| instruction.opcode == "while");
        trips.extend(loops.map(|each| (computation, each.id, loops::trips(&index, computation, each))));
    }
    for computation in &mut module.computations {
        for instruction in &mut computation.instructions {
            let place = (computation.id, instruction.id);
            if let Some((.., trips)) = trips.iter().find(|(c, i, _)| (*c, *i) == place) {
                loops::write_down(&mut instruction.backend_config, *trips);
            }
        }
    }
}

/// A module's computations and instructions by their ids.
struct Index<'a> {
    entry: i64,
    computations: HashMap<i64, Body<'a>>,
}

/// One computation.
struct Body<'a> {
    instructions: &'a [HloInstructionProto],
    by_id: HashMap<i64, &'a HloInstructionProto>,
    root: i64,
}

impl<'a> Index<'a> {
    fn of(module: &'a HloModuleProto) -> Self {
        let body = |computation: &'a HloComputationProto| {
            let instructions = &computation.instructions[..];
            let by_id = instructions.iter().map(|instruction| (instruction.id, instruction)).collect();
            (computation.id, Body { instructions, by_id, root: computation.root_id })
        };
        Self {
            entry: module.entry_computation_id,
            computations: module.computations.iter().map(body).collect(),
        }
    }

    fn instructions(&self, computation: i64) -> &'a [HloInstructionProto] {
        self.computations.get(&computation).map_or(&[], |body| body.instructions)
    }

    /// The layer an instruction comes from: the scope in its metadata; where it has none, that of what it computes
    /// inside, or of what it takes.
    fn layer(&self, computation: i64, instruction: &HloInstructionProto) -> String {
        self.scope(computation, instruction, 8).unwrap_or("(none)").to_owned()
    }

    fn scope(&self, computation: i64, instruction: &'a HloInstructionProto, depth: usize) -> Option<&'a str> {
        let name = instruction.metadata.as_ref().map_or("", |metadata| metadata.op_name.as_str());
        if let Some((scope, _)) = name.rsplit_once('/') {
            return Some(scope);
        }
        let depth = depth.checked_sub(1)?;
        let inside = instruction.called_computation_ids.iter().find_map(|called| {
            let body = self.computations.get(called).filter(|_| instruction.opcode != "while")?;
            body.instructions.iter().rev().find_map(|inner| self.scope(*called, inner, 0))
        });
        inside.or_else(|| {
            let body = self.computations.get(&computation)?;
            let operands = instruction.operand_ids.iter().filter_map(|id| body.by_id.get(id));
            operands.take(1).find_map(|operand| self.scope(computation, operand, depth))
        })
    }
}

/// The number behind `"name":"` or `"name":` in a backend configuration.
fn number_in(config: &[u8], name: &str) -> Option<u64> {
    let config = std::str::from_utf8(config).ok()?;
    let (_, rest) = config.split_once(&format!("\"{name}\":"))?;
    let digits = rest.trim_start_matches(['"', ' ']);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}
