//! Estimated cycles, summed.

use std::collections::HashMap;

use serde::Serialize;
use tpu_train_proto::xla::HloInstructionProto;

use super::{Index, loops, number_in};

/// Estimated cycles of one run of a module on one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cycles {
    /// All of them.
    pub total: u64,
    /// Loops, outer ones before those inside.
    pub loops: Vec<LoopCost>,
    /// By layer, the costliest first.
    pub layers: Vec<LayerCost>,
    /// By instruction, the costliest first.
    pub instructions: Vec<InstructionCost>,
}

/// One loop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoopCost {
    /// The instruction's name.
    pub name: String,
    /// The scope it comes from.
    pub layer: String,
    /// Loops around it.
    pub depth: usize,
    /// How often it is entered.
    pub runs: u64,
    /// Trips each time.
    pub trips: u64,
    /// Cycles of one trip, loops inside included.
    pub cycles_per_trip: u64,
    /// Cycles of all trips.
    pub cycles: u64,
}

/// All instructions of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerCost {
    /// The scope, such as `lstm/gradient`.
    pub layer: String,
    /// Cycles of all its instructions.
    pub cycles: u64,
}

/// One instruction: a fusion, mostly.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstructionCost {
    /// Its name in the module.
    pub name: String,
    /// Its opcode.
    pub opcode: String,
    /// The scope it comes from.
    pub layer: String,
    /// How often it runs.
    pub runs: u64,
    /// Cycles of one run.
    pub cycles_each: u64,
    /// Cycles of all runs.
    pub cycles: u64,
}

pub(super) fn estimate(index: &Index<'_>) -> Cycles {
    let mut walk = Walk { index, totals: HashMap::new(), found: Cycles::default() };
    walk.visit(index.entry, 1, 0);
    let mut found = walk.found;
    found.total = found.instructions.iter().map(|instruction| instruction.cycles).sum();
    found.instructions.sort_by(|a, b| b.cycles.cmp(&a.cycles).then_with(|| a.name.cmp(&b.name)));
    found.layers = by_layer(&found.instructions);
    found
}

fn by_layer(instructions: &[InstructionCost]) -> Vec<LayerCost> {
    let mut sums: HashMap<&str, u64> = HashMap::new();
    for instruction in instructions {
        *sums.entry(&instruction.layer).or_default() += instruction.cycles;
    }
    let mut layers: Vec<LayerCost> =
        sums.into_iter().map(|(layer, cycles)| LayerCost { layer: layer.to_owned(), cycles }).collect();
    layers.sort_by(|a, b| b.cycles.cmp(&a.cycles).then_with(|| a.layer.cmp(&b.layer)));
    layers
}

struct Walk<'a> {
    index: &'a Index<'a>,
    /// Cycles of one run of a computation.
    totals: HashMap<i64, u64>,
    found: Cycles,
}

impl Walk<'_> {
    /// Counts a computation that runs `runs` times, inside of `depth` loops.
    fn visit(&mut self, computation: i64, runs: u64, depth: usize) {
        for instruction in self.index.instructions(computation) {
            let each = cycles_of(instruction);
            if each > 0 {
                self.found.instructions.push(InstructionCost {
                    name: instruction.name.clone(),
                    opcode: instruction.opcode.clone(),
                    layer: self.index.layer(computation, instruction),
                    runs,
                    cycles_each: each,
                    cycles: runs * each,
                });
            }
            match (instruction.opcode.as_str(), &instruction.called_computation_ids[..]) {
                ("while", &[body, _]) => {
                    let trips = loops::trips(self.index, computation, instruction);
                    let cycles_per_trip = self.total(body);
                    self.found.loops.push(LoopCost {
                        name: instruction.name.clone(),
                        layer: self.index.layer(computation, instruction),
                        depth,
                        runs,
                        trips,
                        cycles_per_trip,
                        cycles: runs * trips * cycles_per_trip,
                    });
                    self.visit(body, runs * trips, depth + 1);
                }
                ("conditional", branches) => {
                    if let Some(costliest) = branches.iter().copied().max_by_key(|&b| self.total(b)) {
                        self.visit(costliest, runs, depth);
                    }
                }
                ("call", called) => called.iter().for_each(|&called| self.visit(called, runs, depth)),
                _ => {}
            }
        }
    }

    /// Cycles of one run of a computation.
    fn total(&mut self, computation: i64) -> u64 {
        if let Some(&known) = self.totals.get(&computation) {
            return known;
        }
        let mut cycles = 0;
        for instruction in self.index.instructions(computation) {
            cycles += cycles_of(instruction);
            cycles += match (instruction.opcode.as_str(), &instruction.called_computation_ids[..]) {
                ("while", &[body, _]) => {
                    loops::trips(self.index, computation, instruction) * self.total(body)
                }
                ("conditional", branches) => branches.iter().map(|&b| self.total(b)).max().unwrap_or(0),
                ("call", called) => called.iter().map(|&called| self.total(called)).sum(),
                _ => 0,
            };
        }
        self.totals.insert(computation, cycles);
        cycles
    }
}

fn cycles_of(instruction: &HloInstructionProto) -> u64 {
    number_in(&instruction.backend_config, "estimated_cycles").unwrap_or(0)
}
