//! How many trips a loop makes.
//!
//! Compilers seldom write the number down. The counter is a scalar integer of the carry that starts at a constant, so
//! the loop is run: its integer scalars alone, in whatever direction they count, through the fusions and copies that
//! optimization put around them. Where that leads nowhere, the largest constant of the condition is taken, as the
//! bound of a loop that counts up from 0.

use std::collections::HashMap;

use tpu_train_proto::xla::{HloInstructionProto, LiteralProto, PrimitiveType, ShapeProto};

use super::{Index, number_in};

/// A loop that makes more trips than this is given up.
const MOST_TRIPS: u64 = 1 << 20;

/// Trips of the `while` instruction of a computation.
pub(super) fn trips(index: &Index<'_>, computation: i64, instruction: &HloInstructionProto) -> u64 {
    let &[body, condition] = &instruction.called_computation_ids[..] else { return 1 };
    written_down(&instruction.backend_config)
        .or_else(|| run(index, computation, instruction, body, condition))
        .unwrap_or_else(|| largest_constant(index, condition))
}

/// `{"known_trip_count":{"n":"2498"}}`.
fn written_down(config: &[u8]) -> Option<u64> {
    let (_, count) = std::str::from_utf8(config).ok()?.split_once("\"known_trip_count\":")?;
    number_in(count.as_bytes(), "n")
}

/// The inverse of [`written_down`]; a configuration that has the number stays as it is.
pub(super) fn write_down(config: &mut Vec<u8>, trips: u64) {
    if written_down(config).is_some() {
        return;
    }
    let count = format!("{{\"known_trip_count\":{{\"n\":\"{trips}\"}}");
    let rest = config.strip_prefix(b"{").map(<[u8]>::trim_ascii_start).unwrap_or(b"}");
    let separator: &[u8] = if rest.starts_with(b"}") { b"" } else { b"," };
    *config = [count.as_bytes(), separator, rest].concat();
}

/// Runs the loop on the integers that are known at its start.
fn run(
    index: &Index<'_>,
    computation: i64,
    instruction: &HloInstructionProto,
    body: i64,
    condition: i64,
) -> Option<u64> {
    let outside = Interpreter::new(index, computation, &[]);
    let mut carry = outside.value(*instruction.operand_ids.first()?)?;
    for trip in 0..=MOST_TRIPS {
        let arguments = [Some(carry)];
        let Known::Integer(goes_on) = Interpreter::new(index, condition, &arguments).root()? else {
            return None;
        };
        if goes_on == 0 {
            return Some(trip);
        }
        carry = Interpreter::new(index, body, &arguments).root()?;
    }
    None
}

/// The largest positive s32 constant of a condition and of what it calls, at least 1.
fn largest_constant(index: &Index<'_>, condition: i64) -> u64 {
    let (mut seen, mut todo, mut largest) = (Vec::new(), vec![condition], 1);
    while let Some(computation) = todo.pop() {
        if seen.contains(&computation) {
            continue;
        }
        seen.push(computation);
        for instruction in index.instructions(computation) {
            let constant = instruction.literal.as_ref().and_then(integer).unwrap_or(0);
            largest = largest.max(u64::try_from(constant).unwrap_or(0));
            todo.extend(&instruction.called_computation_ids);
        }
    }
    largest
}

/// What is known of a value: an integer (a truth value is 0 or 1), or the members of a tuple.
#[derive(Clone)]
enum Known {
    Integer(i64),
    Tuple(Vec<Option<Known>>),
}

/// One run of a computation, as far as integer scalars go.
struct Interpreter<'a> {
    index: &'a Index<'a>,
    computation: i64,
    arguments: &'a [Option<Known>],
    memo: std::cell::RefCell<HashMap<i64, Option<Known>>>,
}

impl<'a> Interpreter<'a> {
    fn new(index: &'a Index<'a>, computation: i64, arguments: &'a [Option<Known>]) -> Self {
        Self { index, computation, arguments, memo: Default::default() }
    }

    fn root(&self) -> Option<Known> {
        self.value(self.index.computations.get(&self.computation)?.root)
    }

    fn value(&self, id: i64) -> Option<Known> {
        if let Some(known) = self.memo.borrow().get(&id) {
            return known.clone();
        }
        let instruction = self.index.computations.get(&self.computation)?.by_id.get(&id)?;
        let value = self.compute(instruction);
        self.memo.borrow_mut().insert(id, value.clone());
        value
    }

    fn compute(&self, i: &HloInstructionProto) -> Option<Known> {
        let shape = i.shape.as_ref()?;
        let is_tuple = shape.element_type() == PrimitiveType::Tuple;
        if !is_tuple && !is_integer_scalar(shape) {
            return None;
        }
        let operand = |place: usize| self.value(*i.operand_ids.get(place)?);
        let integer_at = |place: usize| match operand(place)? {
            Known::Integer(value) => Some(value),
            Known::Tuple(_) => None,
        };
        match i.opcode.as_str() {
            "constant" => i.literal.as_ref().and_then(integer).map(Known::Integer),
            "parameter" => self.arguments.get(usize::try_from(i.parameter_number).ok()?)?.clone(),
            "tuple" => Some(Known::Tuple((0..i.operand_ids.len()).map(operand).collect())),
            "get-tuple-element" => match operand(0)? {
                Known::Tuple(members) => members.get(usize::try_from(i.tuple_index).ok()?)?.clone(),
                Known::Integer(_) => None,
            },
            // A started copy is a tuple; what it copies is its operand.
            "copy" | "bitcast" | "reshape" | "convert" | "copy-start" | "copy-done" | "opt-barrier" => {
                operand(0)
            }
            "fusion" | "call" => {
                let arguments: Vec<Option<Known>> = (0..i.operand_ids.len()).map(operand).collect();
                Interpreter::new(self.index, *i.called_computation_ids.first()?, &arguments).root()
            }
            "compare" => {
                let (a, b) = (integer_at(0)?, integer_at(1)?);
                let holds = match i.comparison_direction.as_str() {
                    "EQ" => a == b,
                    "NE" => a != b,
                    "LT" => a < b,
                    "LE" => a <= b,
                    "GT" => a > b,
                    "GE" => a >= b,
                    _ => return None,
                };
                Some(Known::Integer(holds.into()))
            }
            "not" => Some(Known::Integer((integer_at(0)? == 0).into())),
            opcode => binary(opcode, integer_at(0)?, integer_at(1)?).map(Known::Integer),
        }
    }
}

fn binary(opcode: &str, a: i64, b: i64) -> Option<i64> {
    match opcode {
        "add" => a.checked_add(b),
        "subtract" => a.checked_sub(b),
        "multiply" => a.checked_mul(b),
        "divide" => a.checked_div(b),
        "remainder" => a.checked_rem(b),
        "minimum" => Some(a.min(b)),
        "maximum" => Some(a.max(b)),
        "and" => Some(a & b),
        "or" => Some(a | b),
        _ => None,
    }
}

fn is_integer_scalar(shape: &ShapeProto) -> bool {
    use PrimitiveType::{Pred, S32, S64, U32};
    shape.dimensions.is_empty() && matches!(shape.element_type(), Pred | S32 | U32 | S64)
}

/// The value of an integer scalar constant.
fn integer(literal: &LiteralProto) -> Option<i64> {
    let shape = literal.shape.as_ref().filter(|shape| is_integer_scalar(shape))?;
    match shape.element_type() {
        PrimitiveType::Pred => literal.preds.first().map(|&value| value.into()),
        PrimitiveType::S32 => literal.s32s.first().map(|&value| value.into()),
        PrimitiveType::U32 => literal.u32s.first().map(|&value| value.into()),
        _ => literal.s64s.first().copied(),
    }
}
