//! The reader of optimized modules, on modules made by hand.

use tpu_train::report::optimized::{Network, bytes_over, note_trips, read};
use tpu_train_proto::xla::{
    FrontendAttributes, HloComputationProto, HloInstructionProto, HloModuleProto, LiteralProto, OpMetadata,
    PrimitiveType, ReplicaGroup, ShapeProto,
};

fn shape(element_type: PrimitiveType, dimensions: &[i64]) -> ShapeProto {
    ShapeProto { element_type: element_type.into(), dimensions: dimensions.to_vec(), ..Default::default() }
}

fn s32() -> ShapeProto {
    shape(PrimitiveType::S32, &[])
}

fn floats(elements: i64) -> ShapeProto {
    shape(PrimitiveType::F32, &[elements])
}

fn tuple(members: &[ShapeProto]) -> ShapeProto {
    ShapeProto { tuple_shapes: members.to_vec(), ..shape(PrimitiveType::Tuple, &[]) }
}

/// A computation under construction; its instructions are numbered from `1000 · id`.
struct Maker(HloComputationProto);

impl Maker {
    fn new(id: i64) -> Self {
        Self(HloComputationProto { id, name: format!("computation.{id}"), ..Default::default() })
    }

    fn add(&mut self, opcode: &str, shape: ShapeProto, operands: &[i64]) -> &mut HloInstructionProto {
        let id = self.0.id * 1000 + self.0.instructions.len() as i64;
        self.0.root_id = id;
        self.0.instructions.push(HloInstructionProto {
            id,
            name: format!("{opcode}.{id}"),
            opcode: opcode.into(),
            shape: Some(shape),
            operand_ids: operands.to_vec(),
            ..Default::default()
        });
        self.0.instructions.last_mut().unwrap()
    }

    fn constant(&mut self, value: i32) -> i64 {
        let constant = self.add("constant", s32(), &[]);
        constant.literal = Some(LiteralProto { shape: Some(s32()), s32s: vec![value], ..Default::default() });
        constant.id
    }

    fn element(&mut self, of: i64, index: i64, shape: ShapeProto) -> i64 {
        let element = self.add("get-tuple-element", shape, &[of]);
        element.tuple_index = index;
        element.id
    }

    /// A fusion that costs something, in a layer.
    fn fusion(&mut self, scope: &str, cycles: u64) -> i64 {
        let fusion = self.add("fusion", floats(4), &[]);
        fusion.metadata = Some(OpMetadata { op_name: format!("{scope}/dot"), ..Default::default() });
        fusion.backend_config =
            format!(r#"{{"window_config":{{"estimated_cycles":"{cycles}","x":0}}}}"#).into_bytes();
        fusion.id
    }

    /// A loop over `(counter, array)`.
    fn repeat(&mut self, init: i64, body: i64, condition: i64, scope: &str) -> i64 {
        let each = self.add("while", tuple(&[s32(), floats(4)]), &[init]);
        each.called_computation_ids = vec![body, condition];
        each.metadata = Some(OpMetadata { op_name: format!("{scope}/while"), ..Default::default() });
        each.id
    }
}

/// `counter <direction> bound` of a carry `(counter, array)`.
fn condition(id: i64, direction: &str, bound: i32) -> HloComputationProto {
    let mut maker = Maker::new(id);
    let carry = maker.add("parameter", tuple(&[s32(), floats(4)]), &[]).id;
    let counter = maker.element(carry, 0, s32());
    let bound = maker.constant(bound);
    maker.add("compare", shape(PrimitiveType::Pred, &[]), &[counter, bound]).comparison_direction =
        direction.into();
    maker.0
}

/// A body that adds `step` to the counter in a fusion of its own, `adder`, and otherwise does what `inside` does.
fn body(id: i64, step: i32, adder: i64, inside: impl FnOnce(&mut Maker)) -> [HloComputationProto; 2] {
    let mut add = Maker::new(adder);
    let counter = add.add("parameter", s32(), &[]).id;
    let step = add.constant(step);
    add.add("add", s32(), &[counter, step]);
    let mut maker = Maker::new(id);
    let carry = maker.add("parameter", tuple(&[s32(), floats(4)]), &[]).id;
    let counter = maker.element(carry, 0, s32());
    let array = maker.element(carry, 1, floats(4));
    inside(&mut maker);
    let next = maker.add("fusion", s32(), &[counter]);
    next.called_computation_ids = vec![adder];
    let next = next.id;
    let copied = maker.add("copy", s32(), &[next]).id;
    maker.add("tuple", tuple(&[s32(), floats(4)]), &[copied, array]);
    [add.0, maker.0]
}

fn module(computations: Vec<HloComputationProto>, entry: HloComputationProto) -> HloModuleProto {
    let entry_computation_id = entry.id;
    let computations = computations.into_iter().chain([entry]).collect();
    HloModuleProto { name: "made".into(), entry_computation_id, computations, ..Default::default() }
}

fn enter(maker: &mut Maker, first: i32, body: i64, condition: i64, scope: &str) -> i64 {
    let first = maker.constant(first);
    let first = maker.add("copy", s32(), &[first]).id;
    let array = maker.add("broadcast", floats(4), &[]).id;
    let init = maker.add("tuple", tuple(&[s32(), floats(4)]), &[first, array]).id;
    maker.repeat(init, body, condition, scope)
}

/// An outer loop of 5 trips, counting up, around an inner one of 8, counting down to 0 inclusive.
fn nested_loops() -> HloModuleProto {
    let inner = body(1, -1, 2, |maker| {
        maker.fusion("lstm/gradient", 10);
    });
    let outer = body(3, 1, 4, |maker| {
        maker.fusion("lstm", 100);
        enter(maker, 7, 1, 5, "lstm/gradient");
    });
    let mut entry = Maker::new(7);
    entry.fusion("conv1d", 1000);
    enter(&mut entry, 0, 3, 6, "lstm");
    let conditions = [condition(5, "GE", 0), condition(6, "LT", 5)];
    module(inner.into_iter().chain(outer).chain(conditions).collect(), entry.0)
}

#[test]
fn loops_count_by_their_trips_in_either_direction() {
    let cycles = read(&nested_loops()).cycles;
    assert_eq!(cycles.total, 1000 + 5 * (100 + 8 * 10));
    let loops: Vec<_> =
        cycles.loops.iter().map(|l| (&l.layer[..], l.depth, l.runs, l.trips, l.cycles)).collect();
    assert_eq!(loops, [("lstm", 0, 1, 5, 900), ("lstm/gradient", 1, 5, 8, 400)]);
    let layers: Vec<_> = cycles.layers.iter().map(|l| (&l.layer[..], l.cycles)).collect();
    assert_eq!(layers, [("conv1d", 1000), ("lstm", 500), ("lstm/gradient", 400)]);
    let costliest: Vec<_> = cycles.instructions.iter().map(|i| (i.runs, i.cycles_each)).collect();
    assert_eq!(costliest, [(1, 1000), (5, 100), (40, 10)]);
}

#[test]
fn trips_that_are_written_down_count() {
    let mut module = nested_loops();
    note_trips(&mut module);
    let whiles = || {
        let all = module.computations.iter().flat_map(|c| &c.instructions);
        all.filter(|i| i.opcode == "while").map(|i| String::from_utf8(i.backend_config.clone()).unwrap())
    };
    let written: Vec<String> = whiles().collect();
    assert_eq!(written, [r#"{"known_trip_count":{"n":"8"}}"#, r#"{"known_trip_count":{"n":"5"}}"#]);
    assert_eq!(read(&module), read(&nested_loops()));
    let mut again = module.clone();
    note_trips(&mut again);
    assert_eq!(again, module);
    for instruction in module.computations.iter_mut().flat_map(|c| &mut c.instructions) {
        if instruction.opcode == "while" && instruction.name.starts_with("while.3") {
            instruction.backend_config = br#"{"known_trip_count":{"n":"80"},"flag_configs":[]}"#.to_vec();
        }
    }
    assert_eq!(read(&module).cycles.total, 1000 + 5 * (100 + 80 * 10));
}

#[test]
fn a_counter_from_outside_leaves_the_largest_constant_of_the_condition() {
    let mut entry = Maker::new(7);
    let first = entry.add("parameter", s32(), &[]).id;
    let init = entry.add("tuple", tuple(&[s32(), floats(4)]), &[first, first]).id;
    entry.repeat(init, 1, 5, "lstm");
    let inner = body(1, 1, 2, |maker| {
        maker.fusion("lstm", 10);
    });
    let module = module(inner.into_iter().chain([condition(5, "LT", 12)]).collect(), entry.0);
    assert_eq!(read(&module).cycles.total, 120);
}

#[test]
fn of_branches_the_costliest_counts_and_calls_count_in_full() {
    let branch = |id: i64, cycles: u64| {
        let mut maker = Maker::new(id);
        maker.fusion("branch", cycles);
        maker.0
    };
    let mut entry = Maker::new(9);
    entry.add("conditional", floats(4), &[]).called_computation_ids = vec![1, 2];
    entry.add("call", floats(4), &[]).called_computation_ids = vec![3];
    let module = module(vec![branch(1, 5), branch(2, 70), branch(3, 800)], entry.0);
    let cycles = read(&module).cycles;
    assert_eq!((cycles.total, cycles.instructions.len()), (870, 2));
}

#[test]
fn collectives_are_told_apart_by_what_carries_them() {
    let inner = body(1, 1, 2, |maker| {
        let array = maker.add("broadcast", floats(128), &[]).id;
        let reduce = maker.add("all-reduce", floats(128), &[array]);
        reduce.replica_groups = vec![ReplicaGroup { replica_ids: (0..8).collect() }; 2];
        reduce.metadata = Some(OpMetadata { op_name: "adam/all-reduce".into(), ..Default::default() });
    });
    let mut fused = Maker::new(8);
    let whole = fused.add("parameter", floats(64), &[]).id;
    fused.add("reduce-scatter", floats(8), &[whole]);
    let mut entry = Maker::new(7);
    enter(&mut entry, 0, 1, 5, "lstm");
    entry.add("fusion", floats(8), &[]).called_computation_ids = vec![8];
    let array = entry.add("parameter", floats(8), &[]).id;
    entry.add("all-gather-start", tuple(&[floats(8), floats(64)]), &[array]);
    let token = shape(PrimitiveType::Token, &[]);
    for (opcode, handler) in
        [("send", "xla_megascale_runtime"), ("recv", "xla_megascale_runtime"), ("send", "something else")]
    {
        let transfer =
            entry.add(opcode, tuple(&[floats(8), shape(PrimitiveType::U32, &[]), token.clone()]), &[array]);
        let map = [("_xla_host_transfer_handler_name".to_owned(), handler.to_owned())].into();
        transfer.frontend_attributes = Some(FrontendAttributes { map });
    }
    let computations = inner.into_iter().chain([condition(5, "LT", 3), fused.0]).collect();
    let found = read(&module(computations, entry.0)).collectives;
    let summary: Vec<_> = found.iter().map(|c| (&c.operation[..], c.network, c.runs, c.bytes)).collect();
    assert_eq!(
        summary,
        [
            ("all-reduce", Network::Ici, 3, 512),
            ("reduce-scatter", Network::Ici, 1, 256),
            ("all-gather", Network::Ici, 1, 256),
            ("send", Network::Dcn, 1, 32),
            ("recv", Network::Dcn, 1, 32),
        ]
    );
    assert_eq!((found[0].group_size, &found[0].layer[..]), (Some(8), "adam"));
    assert_eq!(bytes_over(&found, Network::Ici), 3 * 512 + 256 + 256);
    assert_eq!(bytes_over(&found, Network::Dcn), 32);
}
