//! Collectives: what devices send one another, inside a slice and across slices.
//!
//! Inside a slice libtpu keeps XLA's own operations, which run over the chips' interconnect (ICI). Across slices it
//! makes `send`/`recv` pairs of them, which its Megascale runtime carries over the data centre's network (DCN).

use serde::Serialize;
use tpu_train_proto::xla::{HloInstructionProto, PrimitiveType, ShapeProto};

use super::{Index, loops};

/// Operations over the interconnect. Those that are split into a start and a done count by their start.
const COLLECTIVES: [&str; 9] = [
    "all-reduce",
    "all-reduce-start",
    "all-gather",
    "all-gather-start",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-permute-start",
    "collective-broadcast",
];

/// What frontend attribute names the runtime that carries a send or a recv.
const TRANSFER_HANDLER: &str = "_xla_host_transfer_handler_name";
const MEGASCALE: &str = "xla_megascale_runtime";

/// What carries a collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Between the chips of a slice.
    Ici,
    /// Between slices.
    Dcn,
}

/// One collective.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Collective {
    /// The instruction's name.
    pub name: String,
    /// The operation, such as `all-reduce`, `send`, `recv`.
    pub operation: String,
    /// What carries it.
    pub network: Network,
    /// The scope it comes from.
    pub layer: String,
    /// How often it runs.
    pub runs: u64,
    /// Bytes on each device in one run: the larger of what it takes and what it gives.
    pub bytes: u64,
    /// Devices that take part in one together; `None` where that is all of them.
    pub group_size: Option<usize>,
}

/// Bytes that each device hands to a network in one run of the module. A `recv` counts with its `send`.
pub fn bytes_over(collectives: &[Collective], network: Network) -> u64 {
    let sent = collectives.iter().filter(|c| c.network == network && c.operation != "recv");
    sent.map(|collective| collective.runs * collective.bytes).sum()
}

pub(super) fn find(index: &Index<'_>) -> Vec<Collective> {
    let mut found = Vec::new();
    visit(index, index.entry, 1, &mut found);
    found
}

/// Collectives of a computation and of all that it calls, fusions included: some are compiled into one.
fn visit(index: &Index<'_>, computation: i64, runs: u64, found: &mut Vec<Collective>) {
    for instruction in index.instructions(computation) {
        if let Some((operation, network)) = kind(instruction) {
            found.push(Collective {
                name: instruction.name.clone(),
                operation: operation.to_owned(),
                network,
                layer: index.layer(computation, instruction),
                runs,
                bytes: payload(index, computation, instruction),
                group_size: group_size(instruction),
            });
        }
        let runs = match instruction.opcode.as_str() {
            "while" => runs * loops::trips(index, computation, instruction),
            _ => runs,
        };
        for &called in &instruction.called_computation_ids {
            visit(index, called, runs, found);
        }
    }
}

fn kind(instruction: &HloInstructionProto) -> Option<(&str, Network)> {
    let opcode = instruction.opcode.as_str();
    if COLLECTIVES.contains(&opcode) {
        return Some((opcode.strip_suffix("-start").unwrap_or(opcode), Network::Ici));
    }
    let attributes = instruction.frontend_attributes.as_ref()?;
    let across = attributes.map.get(TRANSFER_HANDLER).is_some_and(|name| name == MEGASCALE);
    (across && matches!(opcode, "send" | "recv")).then_some((opcode, Network::Dcn))
}

fn payload(index: &Index<'_>, computation: i64, instruction: &HloInstructionProto) -> u64 {
    let result = instruction.shape.as_ref();
    match (instruction.opcode.as_str(), result) {
        // (array, context, token), (operand, result, …)
        ("send" | "recv" | "collective-permute-start" | "all-gather-start", Some(shape)) => {
            shape.tuple_shapes.iter().map(bytes_of).max().unwrap_or(0)
        }
        _ => {
            let body = index.computations.get(&computation);
            let operands = instruction.operand_ids.iter();
            let operands = operands.filter_map(|id| body?.by_id.get(id)?.shape.as_ref());
            operands.map(bytes_of).sum::<u64>().max(result.map_or(0, bytes_of))
        }
    }
}

fn bytes_of(shape: &ShapeProto) -> u64 {
    let elements = shape.dimensions.iter().map(|&extent| extent.max(0) as u64).product::<u64>();
    let bits = match shape.element_type() {
        PrimitiveType::Tuple => return shape.tuple_shapes.iter().map(bytes_of).sum(),
        PrimitiveType::Token | PrimitiveType::OpaqueType | PrimitiveType::Invalid => 0,
        PrimitiveType::S4 | PrimitiveType::U4 | PrimitiveType::F4e2m1fn => 4,
        PrimitiveType::S16 | PrimitiveType::U16 | PrimitiveType::F16 | PrimitiveType::Bf16 => 16,
        PrimitiveType::S32 | PrimitiveType::U32 | PrimitiveType::F32 => 32,
        PrimitiveType::S64 | PrimitiveType::U64 | PrimitiveType::F64 | PrimitiveType::C64 => 64,
        PrimitiveType::C128 => 128,
        _ => 8,
    };
    (elements * bits).div_ceil(8)
}

/// Devices of the first group, in either notation.
fn group_size(instruction: &HloInstructionProto) -> Option<usize> {
    let list = instruction.collective_device_list.as_ref();
    let iota = list.and_then(|list| list.iota_replica_group_list.as_ref());
    if let Some(iota) = iota {
        return usize::try_from(iota.num_devices_per_group).ok();
    }
    let listed = list.map(|list| &list.replica_groups).filter(|groups| !groups.is_empty());
    listed.unwrap_or(&instruction.replica_groups).first().map(|group| group.replica_ids.len())
}
