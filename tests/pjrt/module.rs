//! Modules written instruction by instruction.

use tpu_train_proto::xla::hlo_input_output_alias_proto::AliasEntryProto;
use tpu_train_proto::xla::{
    HloComputationProto, HloInputOutputAliasProto, HloInstructionProto, HloModuleProto, Kind, LayoutProto,
    LiteralProto, PrimitiveType, ProgramShapeProto, ShapeProto,
};

fn array(element_type: PrimitiveType, dims: &[i64]) -> ShapeProto {
    ShapeProto {
        element_type: element_type.into(),
        dimensions: dims.to_vec(),
        is_dynamic_dimension: vec![false; dims.len()],
        layout: Some(LayoutProto {
            minor_to_major: (0..dims.len() as i64).rev().collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn tuple(members: &[&ShapeProto]) -> ShapeProto {
    ShapeProto {
        element_type: PrimitiveType::Tuple.into(),
        tuple_shapes: members.iter().map(|&shape| shape.clone()).collect(),
        ..Default::default()
    }
}

/// A computation under construction; instruction ids count from 1.
struct Computation {
    id: i64,
    name: &'static str,
    instructions: Vec<HloInstructionProto>,
}

impl Computation {
    fn new(id: i64, name: &'static str) -> Self {
        Self { id, name, instructions: Vec::new() }
    }

    fn add(&mut self, opcode: &str, shape: &ShapeProto, operands: &[i64]) -> i64 {
        self.add_with(opcode, shape, operands, |_| ())
    }

    fn add_with(
        &mut self,
        opcode: &str,
        shape: &ShapeProto,
        operands: &[i64],
        set: impl FnOnce(&mut HloInstructionProto),
    ) -> i64 {
        let id = self.instructions.len() as i64 + 1;
        let mut instruction = HloInstructionProto {
            name: format!("{}.{opcode}.{id}", self.name),
            opcode: opcode.into(),
            shape: Some(shape.clone()),
            id,
            operand_ids: operands.to_vec(),
            ..Default::default()
        };
        set(&mut instruction);
        self.instructions.push(instruction);
        id
    }

    fn parameter(&mut self, number: i64, shape: &ShapeProto) -> i64 {
        self.add_with("parameter", shape, &[], |i| i.parameter_number = number)
    }

    fn member(&mut self, index: i64, shape: &ShapeProto, of: i64) -> i64 {
        self.add_with("get-tuple-element", shape, &[of], |i| i.tuple_index = index)
    }

    fn constant_s32(&mut self, value: i32) -> i64 {
        let shape = array(PrimitiveType::S32, &[]);
        let literal = LiteralProto { shape: Some(shape.clone()), s32s: vec![value], ..Default::default() };
        self.add_with("constant", &shape, &[], |i| i.literal = Some(literal))
    }

    fn finish(self, root_id: i64) -> HloComputationProto {
        HloComputationProto {
            name: self.name.into(),
            id: self.id,
            root_id,
            instructions: self.instructions,
            ..Default::default()
        }
    }
}

/// `(state, x) -> (state + 3 · all_reduce(x), x · x)`, the sum in a loop, `state` aliased to the first output.
pub(super) fn all_reduce_loop(elements: usize) -> HloModuleProto {
    let vector = array(PrimitiveType::F32, &[elements as i64]);
    let scalar = array(PrimitiveType::F32, &[]);
    let counter = array(PrimitiveType::S32, &[]);
    let truth = array(PrimitiveType::Pred, &[]);
    let carry = tuple(&[&counter, &vector, &vector]);

    let mut sum = Computation::new(1, "sum");
    let (a, b) = (sum.parameter(0, &scalar), sum.parameter(1, &scalar));
    let root = sum.add("add", &scalar, &[a, b]);
    let sum = sum.finish(root);

    let mut condition = Computation::new(2, "condition");
    let state = condition.parameter(0, &carry);
    let i = condition.member(0, &counter, state);
    let limit = condition.constant_s32(3);
    let root = condition.add_with("compare", &truth, &[i, limit], |i| {
        i.comparison_direction = "LT".into();
        i.comparison_type = "SIGNED".into();
    });
    let condition = condition.finish(root);

    let mut body = Computation::new(3, "body");
    let state = body.parameter(0, &carry);
    let (i, total) = (body.member(0, &counter, state), body.member(1, &vector, state));
    let reduced = body.member(2, &vector, state);
    let one = body.constant_s32(1);
    let i = body.add("add", &counter, &[i, one]);
    let total = body.add("add", &vector, &[total, reduced]);
    let root = body.add("tuple", &carry, &[i, total, reduced]);
    let body = body.finish(root);

    let result = tuple(&[&vector, &vector]);
    let mut entry = Computation::new(4, "main");
    let (state, x) = (entry.parameter(0, &vector), entry.parameter(1, &vector));
    let reduced = entry.add_with("all-reduce", &vector, &[x], |i| i.called_computation_ids = vec![1]);
    let zero = entry.constant_s32(0);
    let start = entry.add("tuple", &carry, &[zero, state, reduced]);
    let end = entry.add_with("while", &carry, &[start], |i| i.called_computation_ids = vec![3, 2]);
    let total = entry.member(1, &vector, end);
    let squares = entry.add("multiply", &vector, &[x, x]);
    let root = entry.add("tuple", &result, &[total, squares]);
    let entry = entry.finish(root);

    HloModuleProto {
        name: "all_reduce_loop".into(),
        entry_computation_name: "main".into(),
        entry_computation_id: 4,
        computations: vec![sum, condition, body, entry],
        host_program_shape: Some(ProgramShapeProto {
            parameters: vec![vector.clone(), vector],
            result: Some(result),
            parameter_names: vec!["state".into(), "x".into()],
        }),
        input_output_alias: Some(HloInputOutputAliasProto {
            entries: vec![AliasEntryProto {
                output_shape_index: vec![0],
                parameter_number: 0,
                parameter_shape_index: vec![],
                kind: Kind::MayAlias.into(),
            }],
        }),
        ..Default::default()
    }
}
