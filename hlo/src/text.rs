//! Readable HLO from an `HloModuleProto`: ours, or an optimized one read back from a plugin.
//!
//! The form is XLA's own: one line for each instruction, `%name = shape opcode(operands), attributes`, computations
//! before their callers, the entry marked `ENTRY` and roots `ROOT`. Long constants are cut to `{...}`.
//! Usage: `text::print(&module)`.

mod attributes;

use std::collections::HashMap;
use std::fmt::Write;

use tpu_train_proto::xla::hlo_input_output_alias_proto::AliasEntryProto;
use tpu_train_proto::xla::{
    HloComputationProto, HloInstructionProto, HloModuleProto, Kind, LayoutProto, LiteralProto, PrimitiveType,
    ShapeProto,
};

/// Elements of a constant that are printed.
const PRINTED_ELEMENTS: usize = 16;

/// The module as text, ending in a newline.
pub fn print(module: &HloModuleProto) -> String {
    let names: HashMap<i64, &str> = module.computations.iter().map(|c| (c.id, c.name.as_str())).collect();
    let mut text = format!("HloModule {}", module.name);
    let aliases = module.input_output_alias.iter().flat_map(|a| &a.entries).map(alias).collect::<Vec<_>>();
    if !aliases.is_empty() {
        let _ = write!(text, ", input_output_alias={{ {} }}", aliases.join(", "));
    }
    text.push('\n');
    for computation in &module.computations {
        text.push('\n');
        if computation.id == module.entry_computation_id {
            text.push_str("ENTRY ");
        }
        print_computation(&mut text, computation, &names);
    }
    text
}

fn alias(entry: &AliasEntryProto) -> String {
    let kind = if entry.kind == i32::from(Kind::MustAlias) { "must-alias" } else { "may-alias" };
    let (output, input) = (join(&entry.output_shape_index), join(&entry.parameter_shape_index));
    format!("{{{output}}}: ({}, {{{input}}}, {kind})", entry.parameter_number)
}

fn print_computation(text: &mut String, computation: &HloComputationProto, names: &HashMap<i64, &str>) {
    let mut parameters: Vec<&HloInstructionProto> =
        computation.instructions.iter().filter(|i| i.opcode == "parameter").collect();
    parameters.sort_by_key(|p| p.parameter_number);
    let parameters: Vec<String> =
        parameters.iter().map(|p| format!("{}: {}", p.name, shape_of(p, false))).collect();
    let root = computation.instructions.iter().find(|i| i.id == computation.root_id);
    let result = root.map(|r| shape_of(r, false)).unwrap_or_default();
    let _ = writeln!(text, "%{} ({}) -> {result} {{", computation.name, parameters.join(", "));
    let operands: HashMap<i64, &str> =
        computation.instructions.iter().map(|i| (i.id, i.name.as_str())).collect();
    for instruction in &computation.instructions {
        text.push_str(if instruction.id == computation.root_id { "  ROOT " } else { "  " });
        print_instruction(text, instruction, &operands, names);
    }
    text.push_str("}\n");
}

fn print_instruction(
    text: &mut String,
    i: &HloInstructionProto,
    operands: &HashMap<i64, &str>,
    computations: &HashMap<i64, &str>,
) {
    let inside = match (i.opcode.as_str(), &i.literal) {
        ("parameter", _) => i.parameter_number.to_string(),
        ("constant", Some(value)) => literal(value),
        _ => {
            let named = i.operand_ids.iter().map(|id| operand(operands, *id));
            named.collect::<Vec<_>>().join(", ")
        }
    };
    let _ = write!(text, "%{} = {} {}({inside})", i.name, shape_of(i, true), i.opcode);
    for attribute in attributes::of(i, operands, computations) {
        let _ = write!(text, ", {attribute}");
    }
    text.push('\n');
}

/// `%name`, or the bare number where a module refers to something that is not there.
fn operand(names: &HashMap<i64, &str>, id: i64) -> String {
    names.get(&id).map_or_else(|| format!("%{id}"), |name| format!("%{name}"))
}

fn join<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn shape_of(i: &HloInstructionProto, layout: bool) -> String {
    i.shape.as_ref().map(|s| shape(s, layout)).unwrap_or_default()
}

fn shape(s: &ShapeProto, with_layout: bool) -> String {
    let ty = PrimitiveType::try_from(s.element_type).unwrap_or(PrimitiveType::Invalid);
    if ty == PrimitiveType::Tuple {
        let members: Vec<String> = s.tuple_shapes.iter().map(|m| shape(m, with_layout)).collect();
        return format!("({})", members.join(", "));
    }
    let dims = s.dimensions.iter().enumerate().map(|(d, extent)| {
        let dynamic = s.is_dynamic_dimension.get(d).copied().unwrap_or(false);
        if dynamic { format!("<={extent}") } else { extent.to_string() }
    });
    let dims = dims.collect::<Vec<_>>().join(",");
    let layout = s.layout.as_ref().filter(|_| with_layout).map(layout).unwrap_or_default();
    match ty {
        PrimitiveType::Token => "token[]".to_owned(),
        PrimitiveType::OpaqueType => "opaque[]".to_owned(),
        _ => format!("{}[{dims}]{layout}", ty.as_str_name().to_lowercase()),
    }
}

fn layout(l: &LayoutProto) -> String {
    let mut text = join(&l.minor_to_major);
    let tiles: String = l.tiles.iter().map(|t| format!("({})", join(&t.dimensions))).collect();
    let mut properties = if tiles.is_empty() { String::new() } else { format!("T{tiles}") };
    if l.element_size_in_bits != 0 {
        let _ = write!(properties, "E({})", l.element_size_in_bits);
    }
    if l.memory_space != 0 {
        let _ = write!(properties, "S({})", l.memory_space);
    }
    if !properties.is_empty() {
        let _ = write!(text, ":{properties}");
    }
    if text.is_empty() { text } else { format!("{{{text}}}") }
}

/// The elements of a constant: a bare one for a scalar, a flat list for an array.
fn literal(l: &LiteralProto) -> String {
    let Some(shape) = &l.shape else { return "{...}".to_owned() };
    let elements = elements(l, shape);
    match (shape.dimensions.is_empty(), elements.len()) {
        (true, 1) => elements[0].clone(),
        (_, 1..=PRINTED_ELEMENTS) => format!("{{{}}}", elements.join(", ")),
        _ => "{...}".to_owned(),
    }
}

/// The printed elements, none where there are too many or their type is not printed.
fn elements(l: &LiteralProto, shape: &ShapeProto) -> Vec<String> {
    fn list<T: ToString>(values: &[T]) -> Vec<String> {
        if values.len() > PRINTED_ELEMENTS { Vec::new() } else { values.iter().map(T::to_string).collect() }
    }
    let half_words = |bytes: &[u8]| -> Vec<u16> {
        bytes.chunks_exact(2).take(PRINTED_ELEMENTS + 1).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
    };
    match PrimitiveType::try_from(shape.element_type) {
        Ok(PrimitiveType::Pred) => list(&l.preds),
        Ok(PrimitiveType::S8) => list(&l.s8s.iter().map(|&b| b as i8).collect::<Vec<_>>()),
        Ok(PrimitiveType::S16) => list(&half_words(&l.s16s).iter().map(|&w| w as i16).collect::<Vec<_>>()),
        Ok(PrimitiveType::S32) => list(&l.s32s),
        Ok(PrimitiveType::S64) => list(&l.s64s),
        Ok(PrimitiveType::U8) => list(&l.u8s),
        Ok(PrimitiveType::U16) => list(&half_words(&l.u16s)),
        Ok(PrimitiveType::U32) => list(&l.u32s),
        Ok(PrimitiveType::U64) => list(&l.u64s),
        Ok(PrimitiveType::F32) => list(&l.f32s),
        Ok(PrimitiveType::F64) => list(&l.f64s),
        Ok(PrimitiveType::Bf16) => {
            let words = half_words(&l.bf16s);
            list(&words.iter().map(|&w| f32::from_bits(u32::from(w) << 16)).collect::<Vec<_>>())
        }
        _ => Vec::new(),
    }
}
