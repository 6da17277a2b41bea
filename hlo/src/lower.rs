//! Lowering: a graph becomes an `HloModuleProto` that PJRT plugins accept.
//!
//! Invariants, all of which plugins insist on: callees stand before their callers and operands before their users;
//! ids are small and unique in the module, names unique; every shape and literal has a layout; a while calls
//! `[body, condition]`; the entry has a host program shape with a name for each parameter. Only what the outputs need
//! is lowered (all parameters stay). Usage: `lower(&graph, &outputs, &[(output, parameter)])`.

mod attributes;

use std::collections::HashMap;
use std::panic::Location;

use tpu_train_proto::xla::hlo_input_output_alias_proto::AliasEntryProto;
use tpu_train_proto::xla::{
    HloComputationProto, HloInputOutputAliasProto, HloInstructionProto, HloModuleProto, Kind, OpMetadata,
    ProgramShapeProto, ShapeProto,
};

use crate::graph::{Computation, Node, Type};
use crate::live::Live;
use crate::op::Op;
use crate::{ElementType, Graph, GraphError, Literal, Precision, Reducer, Shape, Value};
use attributes::{literal_proto, shape_proto, tuple_proto};

/// The module whose entry takes the graph's parameters and returns a tuple of `outputs`. Each alias names an output
/// and the parameter whose (donated) buffer it reuses.
///
/// # Errors
/// The graph's first error, or an alias that does not fit.
#[track_caller]
pub fn lower(
    graph: &Graph,
    outputs: &[Value],
    aliases: &[(usize, usize)],
) -> Result<HloModuleProto, GraphError> {
    graph.finish()?;
    if let Some(problem) = graph.foreign(outputs) {
        let at = Location::caller();
        let (op, file, line) = ("lower".to_owned(), at.file().to_owned(), at.line());
        return Err(GraphError::Operation { op, file, line, problem });
    }
    let entries =
        aliases.iter().enumerate().map(|(i, &alias)| alias_entry(graph, outputs, alias, &aliases[..i]));
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    let mut module = Module::default();
    let (entry_computation_id, name) = module.entry(graph, outputs);
    let shapes = graph.parameter_shapes();
    let results: Vec<Shape> = outputs.iter().map(|&v| graph.shape(v).clone()).collect();
    Ok(HloModuleProto {
        name: graph.name().to_owned(),
        entry_computation_name: name,
        entry_computation_id,
        computations: module.computations,
        host_program_shape: Some(ProgramShapeProto {
            parameters: shapes.iter().map(shape_proto).collect(),
            result: Some(tuple_proto(&results)),
            parameter_names: parameter_names(graph),
        }),
        input_output_alias: (!entries.is_empty()).then_some(HloInputOutputAliasProto { entries }),
        ..Default::default()
    })
}

fn parameter_names(graph: &Graph) -> Vec<String> {
    let name = |v: &Value| match &*graph.nodes[v.index()].op {
        Op::Parameter { name, .. } => name.clone(),
        _ => String::new(),
    };
    graph.parameters.iter().map(name).collect()
}

fn alias_entry(
    graph: &Graph,
    outputs: &[Value],
    (output, parameter): (usize, usize),
    earlier: &[(usize, usize)],
) -> Result<AliasEntryProto, GraphError> {
    let wrong = |problem: String| GraphError::Alias { output, parameter, problem };
    let shapes = outputs
        .get(output)
        .zip(graph.parameters.get(parameter))
        .map(|(&o, &p)| (graph.shape(o), graph.shape(p)));
    let (produced, given) = shapes.ok_or_else(|| {
        wrong(format!("there are {} outputs and {} parameters", outputs.len(), graph.parameters.len()))
    })?;
    if produced != given {
        return Err(wrong(format!("it is {produced}, the parameter {given}")));
    }
    if earlier.iter().any(|&(o, p)| o == output || p == parameter) {
        return Err(wrong("one of the two is aliased already".to_owned()));
    }
    Ok(AliasEntryProto {
        output_shape_index: vec![output as i64],
        parameter_number: parameter as i64,
        parameter_shape_index: Vec::new(),
        kind: Kind::MayAlias.into(),
    })
}

/// The module under construction.
#[derive(Default)]
struct Module {
    computations: Vec<HloComputationProto>,
    reducers: HashMap<(Reducer, ElementType), i64>,
    last_id: i64,
}

/// A computation under construction. Instructions may call computations already finished.
struct Body<'a> {
    module: &'a mut Module,
    instructions: Vec<HloInstructionProto>,
    scope: &'a str,
}

impl Module {
    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn finish(&mut self, name: &str, instructions: Vec<HloInstructionProto>, root_id: i64) -> (i64, String) {
        let id = self.next_id();
        let name = format!("{name}.{id}");
        let parameters = instructions.iter().filter(|i| i.opcode == "parameter");
        let (shapes, parameter_names) =
            parameters.map(|p| (p.shape.clone().unwrap_or_default(), p.name.clone())).unzip();
        let root = instructions.iter().find(|i| i.id == root_id);
        let program_shape = ProgramShapeProto {
            parameters: shapes,
            result: root.and_then(|r| r.shape.clone()),
            parameter_names,
        };
        self.computations.push(HloComputationProto {
            name: name.clone(),
            instructions,
            program_shape: Some(program_shape),
            id,
            root_id,
            ..Default::default()
        });
        (id, name)
    }

    /// The entry: each parameter an array.
    fn entry(&mut self, graph: &Graph, outputs: &[Value]) -> (i64, String) {
        let live = Live::of(graph, outputs);
        let mut body = Body { module: self, instructions: Vec::new(), scope: "" };
        let mut ids = HashMap::new();
        for &v in &graph.parameters {
            let node = &graph.nodes[v.index()];
            ids.insert(v, body.node(graph, node, &[], &live.carries[v.index()]));
        }
        body.nodes(graph, &live, &mut ids);
        let elements: Vec<i64> = outputs.iter().map(|v| ids[v]).collect();
        let shapes: Vec<Shape> = outputs.iter().map(|&v| graph.shape(v).clone()).collect();
        let root = body.push("tuple", tuple_proto(&shapes), &elements, |_| ());
        let instructions = body.instructions;
        self.finish("entry", instructions, root)
    }

    /// A condition or body: one parameter, the tuple of the carry's live elements.
    fn nested(&mut self, c: &Computation, carry: &[bool], is_body: bool) -> i64 {
        let keep = |all: &[Value]| -> Vec<Value> {
            all.iter().zip(carry).filter(|(_, live)| **live).map(|(&v, _)| v).collect()
        };
        let (parameters, outputs) =
            (keep(&c.graph.parameters), if is_body { keep(&c.outputs) } else { c.outputs.clone() });
        let shapes: Vec<Shape> = parameters.iter().map(|&v| c.graph.shape(v).clone()).collect();
        let live = Live::of(&c.graph, &outputs);
        let mut body = Body { module: self, instructions: Vec::new(), scope: "" };
        let tuple = body.push("parameter", tuple_proto(&shapes), &[], |_| ());
        let mut ids = HashMap::new();
        for (i, (&v, shape)) in
            parameters.iter().zip(&shapes).enumerate().filter(|(_, (v, _))| live.nodes[v.index()])
        {
            let element = |e: &mut HloInstructionProto| e.tuple_index = i as i64;
            ids.insert(v, body.push("get-tuple-element", shape_proto(shape), &[tuple], element));
        }
        body.nodes(&c.graph, &live, &mut ids);
        let elements: Vec<i64> = outputs.iter().map(|v| ids[v]).collect();
        let root =
            if is_body { body.push("tuple", tuple_proto(&shapes), &elements, |_| ()) } else { elements[0] };
        let instructions = body.instructions;
        self.finish(c.graph.name(), instructions, root).0
    }

    /// The computation of two scalars that a reduction folds with.
    fn reducer(&mut self, reducer: Reducer, ty: ElementType) -> i64 {
        if let Some(&id) = self.reducers.get(&(reducer, ty)) {
            return id;
        }
        let name = reducer.binary().name();
        let scalar = shape_proto(&Shape::scalar(ty));
        let mut body = Body { module: self, instructions: Vec::new(), scope: "" };
        let left = body.push("parameter", scalar.clone(), &[], |_| ());
        let right = body.push("parameter", scalar.clone(), &[], |p| p.parameter_number = 1);
        let root = body.push(name, scalar, &[left, right], |_| ());
        let instructions = body.instructions;
        let (id, _) = self.finish(&format!("{name}_{ty}"), instructions, root);
        self.reducers.insert((reducer, ty), id);
        id
    }
}

impl<'a> Body<'a> {
    /// Appends the live nodes that have no instruction yet.
    fn nodes(&mut self, graph: &'a Graph, live: &Live, ids: &mut HashMap<Value, i64>) {
        for (i, node) in graph.nodes.iter().enumerate() {
            let v = graph.value(i);
            if !live.nodes[i] || ids.contains_key(&v) {
                continue;
            }
            let carry = &live.carries[i];
            let kept =
                node.operands.iter().enumerate().filter(|(j, _)| carry.get(*j).copied().unwrap_or(true));
            let operands: Vec<i64> = kept.map(|(_, v)| ids[v]).collect();
            let id = match &*node.op {
                Op::Element(element) => {
                    let carry = &live.carries[node.operands[0].index()];
                    let dropped = carry.iter().take(*element).filter(|live| !**live).count();
                    self.scope = &node.scope;
                    let index = |e: &mut HloInstructionProto| e.tuple_index = (element - dropped) as i64;
                    self.push("get-tuple-element", shape_proto(node.shape()), &operands, index)
                }
                Op::StopGradient => operands[0],
                _ => self.node(graph, node, &operands, carry),
            };
            ids.insert(v, id);
        }
    }

    /// Appends one node's instruction, after what it needs besides its operands.
    fn node(&mut self, graph: &Graph, node: &'a Node, operands: &[i64], carry: &[bool]) -> i64 {
        self.scope = &node.scope;
        let shape = match &node.ty {
            Type::Array(shape) => shape_proto(shape),
            Type::Tuple(shapes) if carry.is_empty() => tuple_proto(shapes),
            Type::Tuple(shapes) => {
                let kept: Vec<Shape> =
                    shapes.iter().zip(carry).filter(|(_, l)| **l).map(|(s, _)| s.clone()).collect();
                tuple_proto(&kept)
            }
        };
        let ty = node.shape().element_type;
        let shapes: Vec<&Shape> = node.operands.iter().map(|&v| graph.shape(v)).collect();
        match &*node.op {
            Op::While { condition, body } => {
                let (body, condition) =
                    (self.module.nested(body, carry, true), self.module.nested(condition, carry, false));
                let tuple = self.push("tuple", shape.clone(), operands, |_| ());
                self.push("while", shape, &[tuple], |w| w.called_computation_ids = vec![body, condition])
            }
            Op::Reduce { reducer, .. } | Op::ReduceWindow { reducer, .. } => {
                let called = self.module.reducer(*reducer, ty);
                let identity = Literal::scalar(ty, reducer.identity(ty));
                let identity = self.push("constant", shape_proto(&identity.shape), &[], |c| {
                    c.literal = Some(literal_proto(&identity));
                });
                self.push(node.op.name(), shape, &[operands[0], identity], |i| {
                    attributes::set(i, &node.op, &shapes);
                    i.called_computation_ids = vec![called];
                })
            }
            Op::AllReduce(reducer) => {
                let called = self.module.reducer(*reducer, ty);
                self.push("all-reduce", shape, operands, |i| i.called_computation_ids = vec![called])
            }
            Op::Dot { precision, .. } | Op::Convolution { precision, .. } => {
                let operands: Vec<i64> = operands
                    .iter()
                    .zip(&shapes)
                    .map(|(&id, shape)| self.factor(id, shape, *precision, ty))
                    .collect();
                self.push(node.op.name(), shape, &operands, |i| attributes::set(i, &node.op, &shapes))
            }
            _ => self.push(node.op.name(), shape, operands, |i| attributes::set(i, &node.op, &shapes)),
        }
    }

    /// An operand of a product, in the type in which it is multiplied.
    fn factor(&mut self, id: i64, shape: &Shape, precision: Precision, product: ElementType) -> i64 {
        let wanted = match precision {
            Precision::Bf16 if product == ElementType::F32 => ElementType::Bf16,
            _ => product,
        };
        if shape.element_type == wanted {
            return id;
        }
        self.push("convert", shape_proto(&shape.with_type(wanted)), &[id], |_| ())
    }

    fn push(
        &mut self,
        opcode: &str,
        shape: ShapeProto,
        operands: &[i64],
        set: impl FnOnce(&mut HloInstructionProto),
    ) -> i64 {
        let id = self.module.next_id();
        let op_name =
            if self.scope.is_empty() { opcode.to_owned() } else { format!("{}/{opcode}", self.scope) };
        let mut instruction = HloInstructionProto {
            name: format!("{opcode}.{id}"),
            opcode: opcode.to_owned(),
            shape: Some(shape),
            metadata: Some(OpMetadata { op_type: opcode.to_owned(), op_name, ..Default::default() }),
            operand_ids: operands.to_vec(),
            id,
            ..Default::default()
        };
        set(&mut instruction);
        self.instructions.push(instruction);
        id
    }
}
