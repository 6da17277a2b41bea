//! What plugins insist on in a module.

use std::collections::{HashMap, HashSet};

use prost::Message;
use tpu_train_hlo::{
    ElementType, Graph, GraphError, Precision, Reducer, Shape, Value, lower, lstm, pool::max_pool1d, random,
};
use tpu_train_proto::xla::precision_config::Precision as OperandPrecision;
use tpu_train_proto::xla::{HloInstructionProto, HloModuleProto, PrimitiveType, ShapeProto};

use crate::support::f32s;

/// A small CNN-LSTM with dropout, its gradients, and the outputs that keep the parameters.
fn model(precision: Precision) -> (Graph, Vec<Value>) {
    let mut g = Graph::new("model");
    g.set_precision(precision);
    let shapes: [(&str, &[usize]); 6] = [
        ("x", &[2, 13, 2]),
        ("k", &[3, 2, 4]),
        ("w", &[4, 12]),
        ("u", &[3, 12]),
        ("b", &[12]),
        ("d", &[3, 5]),
    ];
    let p: Vec<Value> = shapes.iter().map(|(name, dims)| g.parameter(name, f32s(dims))).collect();
    let unused = g.parameter("seed", Shape::new(ElementType::U32, &[]));
    let y = g.scope("conv1d", |g| {
        let y = g.conv1d(p[0], p[1]);
        g.relu(y)
    });
    let y = max_pool1d(&mut g, y, 2);
    let h = g.scope("lstm", |g| lstm::last_hidden(g, lstm::LstmForm::Stepwise, y, p[2], p[3], p[4]));
    let zero = g.scalar(ElementType::U32, 0.0);
    let noise = random::uniform(&mut g, [unused, zero], zero, &[2, 3]);
    let h = g.mul(h, noise);
    let logits = g.scope("dense", |g| g.matmul(h, p[5]));
    let square = g.mul(logits, logits);
    let objective = g.sum(square, &[0, 1]);
    let gradients = g.gradients(objective, &p[1..]);
    let gradients = g.all_reduce_many(&gradients, Reducer::Add);
    let mut outputs = vec![objective];
    outputs.extend(p[1..].iter().zip(gradients).map(|(&p, d)| g.sub(p, d)));
    (g, outputs)
}

fn check_layout(shape: &ShapeProto, place: &str) {
    if shape.element_type == i32::from(PrimitiveType::Tuple) {
        return shape.tuple_shapes.iter().for_each(|s| check_layout(s, place));
    }
    let layout = shape.layout.as_ref().unwrap_or_else(|| panic!("{place} has no layout"));
    let descending: Vec<i64> = (0..shape.dimensions.len() as i64).rev().collect();
    assert_eq!(layout.minor_to_major, descending, "{place}");
}

/// Everything that does not depend on the particular graph.
fn check_invariants(module: &HloModuleProto) {
    let (mut ids, mut names, mut seen) = (HashSet::new(), HashSet::new(), HashSet::new());
    let total: usize = module.computations.iter().map(|c| c.instructions.len() + 1).sum();
    for computation in &module.computations {
        let mut own: HashMap<i64, &HloInstructionProto> = HashMap::new();
        for i in &computation.instructions {
            assert!(!i.name.is_empty() && names.insert(&i.name), "the name {:?} is not unique", i.name);
            assert!(
                i.id > 0 && i.id <= total as i64 && ids.insert(i.id),
                "the id of {} is not small and unique",
                i.name
            );
            assert!(
                i.operand_ids.iter().all(|id| own.contains_key(id)),
                "an operand of {} comes after it",
                i.name
            );
            assert!(
                i.called_computation_ids.iter().all(|id| seen.contains(id)),
                "a callee of {} comes after it",
                i.name
            );
            check_layout(i.shape.as_ref().unwrap(), &i.name);
            i.literal.iter().for_each(|l| check_layout(l.shape.as_ref().unwrap(), &i.name));
            own.insert(i.id, i);
        }
        assert!(own.contains_key(&computation.root_id), "{} has no root", computation.name);
        assert!(ids.insert(computation.id) && names.insert(&computation.name), "{}", computation.name);
        seen.insert(computation.id);
    }
    let entry = module.computations.last().unwrap();
    assert_eq!((module.entry_computation_id, &module.entry_computation_name), (entry.id, &entry.name));
    let shape = module.host_program_shape.as_ref().unwrap();
    let mut parameters: Vec<_> = entry.instructions.iter().filter(|i| i.opcode == "parameter").collect();
    parameters.sort_by_key(|p| p.parameter_number);
    assert_eq!(shape.parameters.len(), shape.parameter_names.len());
    assert!(parameters.iter().enumerate().all(|(n, p)| p.parameter_number == n as i64));
    assert_eq!(shape.parameters, parameters.iter().map(|p| p.shape.clone().unwrap()).collect::<Vec<_>>());
    let root = entry.instructions.iter().find(|i| i.id == entry.root_id).unwrap();
    assert_eq!((root.opcode.as_str(), &root.shape), ("tuple", &shape.result));
}

fn all<'a>(module: &'a HloModuleProto, opcode: &'a str) -> impl Iterator<Item = &'a HloInstructionProto> {
    module.computations.iter().flat_map(|c| &c.instructions).filter(move |i| i.opcode == opcode)
}

#[test]
fn a_training_step_keeps_the_invariants() {
    let (g, outputs) = model(Precision::F32);
    let module = lower(&g, &outputs, &[(1, 1), (2, 2)]).unwrap();
    check_invariants(&module);
    let by_id: HashMap<i64, &str> = module.computations.iter().map(|c| (c.id, c.name.as_str())).collect();
    // The LSTM's input projection and its scan, forward and back.
    assert_eq!(all(&module, "while").count(), 4);
    for w in all(&module, "while") {
        let called: Vec<&str> = w.called_computation_ids.iter().map(|id| by_id[id]).collect();
        assert!(called[0].starts_with("body.") && called[1].starts_with("condition."), "{called:?}");
    }
    let reduced: Vec<_> = all(&module, "all-reduce").collect();
    assert_eq!(reduced.len(), 1);
    assert!(
        reduced[0].replica_groups.is_empty()
            && reduced[0].channel_id == 0
            && !reduced[0].use_global_device_ids
    );
    for product in all(&module, "dot").chain(all(&module, "convolution")) {
        let precision = &product.precision_config.as_ref().unwrap().operand_precision;
        assert_eq!(*precision, [i32::from(OperandPrecision::Highest); 2]);
    }
    let aliases = &module.input_output_alias.as_ref().unwrap().entries;
    let pairs: Vec<_> = aliases.iter().map(|a| (a.output_shape_index.clone(), a.parameter_number)).collect();
    assert_eq!(pairs, [(vec![1], 1), (vec![2], 2)]);
    assert_eq!(HloModuleProto::decode(&module.encode_to_vec()[..]).unwrap(), module);
}

#[test]
fn scopes_name_the_operations_and_their_gradients() {
    let (g, outputs) = model(Precision::F32);
    let module = lower(&g, &outputs, &[]).unwrap();
    let names: HashSet<&str> = module
        .computations
        .iter()
        .flat_map(|c| &c.instructions)
        .filter_map(|i| i.metadata.as_ref().map(|m| m.op_name.as_str()))
        .collect();
    for name in [
        "conv1d/convolution",
        "conv1d/gradient/convolution",
        "lstm/while",
        "lstm/gradient/while",
        "dense/dot",
    ] {
        assert!(names.contains(name), "{name} is missing in {names:?}");
    }
}

#[test]
fn bf16_products_convert_their_operands_and_sum_in_float32() {
    let (g, outputs) = model(Precision::Bf16);
    let module = lower(&g, &outputs, &[]).unwrap();
    check_invariants(&module);
    let by_id: HashMap<i64, &HloInstructionProto> =
        module.computations.iter().flat_map(|c| &c.instructions).map(|i| (i.id, i)).collect();
    let element_type = |i: &HloInstructionProto| i.shape.as_ref().unwrap().element_type;
    for product in all(&module, "dot").chain(all(&module, "convolution")) {
        assert_eq!(element_type(product), i32::from(PrimitiveType::F32));
        for id in &product.operand_ids {
            assert_eq!(element_type(by_id[id]), i32::from(PrimitiveType::Bf16), "{}", product.name);
        }
    }
}

#[test]
fn only_what_is_needed_is_lowered() {
    let (g, outputs) = model(Precision::F32);
    let module = lower(&g, &outputs[..1], &[]).unwrap();
    check_invariants(&module);
    assert_eq!((all(&module, "while").count(), all(&module, "all-reduce").count()), (2, 0));
    let shape = module.host_program_shape.unwrap();
    assert_eq!(shape.parameter_names, ["x", "k", "w", "u", "b", "d", "seed"]);
}

#[test]
fn loop_elements_that_nothing_needs_are_left_out() {
    let mut g = Graph::new("pruned");
    let (n, x) = (g.parameter("n", Shape::new(ElementType::S32, &[])), g.parameter("x", f32s(&[3])));
    // 0 feeds the condition, 1 feeds 2, 3 feeds only itself.
    let end = g.while_loop(
        &[n, x, x, x],
        |g, c| {
            let zero = g.scalar(ElementType::S32, 0.0);
            g.compare(c[0], zero, tpu_train_hlo::Comparison::Gt)
        },
        |g, c| {
            let one = g.scalar(ElementType::S32, 1.0);
            let doubled = g.add(c[1], c[1]);
            vec![g.sub(c[0], one), doubled, g.add(c[2], c[1]), g.exp(c[3])]
        },
    );
    let carried = |outputs: &[Value]| {
        let module = lower(&g, outputs, &[]).unwrap();
        check_invariants(&module);
        let found = all(&module, "while").next().unwrap().shape.as_ref().unwrap().tuple_shapes.len();
        (found, all(&module, "exponential").count())
    };
    assert_eq!(carried(&[end[2]]), (3, 0));
    assert_eq!(carried(&[end[1]]), (2, 0));
    assert_eq!(carried(&[end[3], end[1]]), (3, 1));
    assert_eq!(carried(&[end[3]]), (2, 1));
}

#[test]
fn wrong_aliases_are_errors() {
    let mut g = Graph::new("alias");
    let (x, y) = (g.parameter("x", f32s(&[2])), g.parameter("y", f32s(&[3])));
    let outputs = [g.neg(x), g.neg(y)];
    let problem = |aliases: &[(usize, usize)]| match lower(&g, &outputs, aliases) {
        Err(GraphError::Alias { output, parameter, problem }) => (output, parameter, problem),
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(&[(0, 1)]), (0, 1, "it is f32[2], the parameter f32[3]".to_owned()));
    assert_eq!(problem(&[(2, 0)]), (2, 0, "there are 2 outputs and 2 parameters".to_owned()));
    assert_eq!(problem(&[(0, 0), (0, 0)]).2, "one of the two is aliased already");
    assert!(lower(&g, &outputs, &[(0, 0), (1, 1)]).is_ok());
}

#[test]
fn literals_round_to_their_type() {
    let mut g = Graph::new("literals");
    let values = [(ElementType::Bf16, 1.003_906_25), (ElementType::F32, 0.1), (ElementType::S16, -2.0)];
    let outputs: Vec<Value> = values.iter().map(|&(ty, x)| g.scalar(ty, x)).collect();
    let module = lower(&g, &outputs, &[]).unwrap();
    let literals: Vec<_> = all(&module, "constant").map(|c| c.literal.clone().unwrap()).collect();
    // 1 + 2^-8 lies between two bf16 numbers and goes to the even one, 1.
    assert_eq!(literals[0].bf16s, 0x3F80u16.to_le_bytes());
    assert_eq!(literals[1].f32s, [0.1f32]);
    assert_eq!(literals[2].s16s, (-2i16).to_le_bytes());
}
