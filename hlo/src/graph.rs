//! The graph itself: nodes, parameters, scopes, nested loop bodies, regions with hand-written VJPs.
//!
//! Invariant: a node's operands precede it. A [`Value`] belongs to the graph that made it; the body of a loop is a
//! graph of its own and sees only its carry, so a value of another graph is an error, not a wrong number.
//! Usage: see the crate's example; the operations themselves are in `build`.

use std::ops::Range;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::infer::infer;
use crate::op::Op;
use crate::{Comparison, ElementType, GraphError, Literal, Precision, Shape};

/// One result in a [`Graph`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Value {
    graph: u32,
    index: u32,
}

impl Value {
    pub(crate) fn index(self) -> usize {
        self.index as usize
    }
}

/// The type of a node's result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Type {
    Array(Shape),
    Tuple(Vec<Shape>),
}

pub(crate) struct Node {
    pub(crate) op: Arc<Op>,
    pub(crate) operands: Vec<Value>,
    pub(crate) ty: Type,
    pub(crate) scope: Arc<str>,
    pub(crate) location: &'static Location<'static>,
}

impl Node {
    /// The array shape; that of a tuple's first element for the few nodes that are tuples.
    pub(crate) fn shape(&self) -> &Shape {
        match &self.ty {
            Type::Array(shape) => shape,
            Type::Tuple(shapes) => shapes.first().unwrap_or(&NOTHING),
        }
    }
}

/// A condition or a body: a graph over the carry, and what it returns.
pub(crate) struct Computation {
    pub(crate) graph: Graph,
    pub(crate) outputs: Vec<Value>,
}

type Rule = dyn Fn(&mut Graph, &[Value]) -> Vec<Value> + Send + Sync;

/// Nodes whose cotangents a hand-written rule passes on, from `outputs` to `inputs` in one go.
#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) nodes: Range<usize>,
    pub(crate) inputs: Vec<Value>,
    pub(crate) outputs: Vec<Value>,
    pub(crate) precision: Precision,
    pub(crate) rule: Arc<Rule>,
}

/// The shape reported for a value of another graph; the operation that uses it reports the error.
static NOTHING: Shape = Shape { element_type: ElementType::F32, dims: Vec::new() };

/// An append-only program of array operations; see the crate's documentation for the idea and an example.
pub struct Graph {
    name: String,
    id: u32,
    pub(crate) nodes: Vec<Node>,
    pub(crate) parameters: Vec<Value>,
    pub(crate) regions: Vec<Region>,
    pub(crate) scope: Arc<str>,
    precision: Precision,
    error: Option<GraphError>,
}

impl Graph {
    /// An empty graph; `name` becomes the name of its module.
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            name: name.to_owned(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            nodes: Vec::new(),
            parameters: Vec::new(),
            regions: Vec::new(),
            scope: "".into(),
            precision: Precision::default(),
            error: None,
        }
    }

    /// The name given to [`Graph::new`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The element type and extents of a value.
    pub fn shape(&self, v: Value) -> &Shape {
        if v.graph != self.id { &NOTHING } else { self.nodes[v.index()].shape() }
    }

    /// The extents of a value, as an owned list.
    pub fn dims(&self, v: Value) -> Vec<usize> {
        self.shape(v).dims.clone()
    }

    /// Shapes of the parameters, in the order in which they were made.
    pub fn parameter_shapes(&self) -> Vec<Shape> {
        self.parameters.iter().map(|&v| self.shape(v).clone()).collect()
    }

    /// How dots and convolutions appended from now on (their gradients included) compute their products.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// What [`Graph::set_precision`] set; [`Precision::F32`] at first.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Runs `f` with `name` appended to the scope: operations made in it are named `outer/name/…` in the module's
    /// metadata, and their gradients `outer/name/gradient/…`.
    pub fn scope<R>(&mut self, name: &str, f: impl FnOnce(&mut Graph) -> R) -> R {
        let outer = self.scope.clone();
        self.scope = if outer.is_empty() { name.into() } else { format!("{outer}/{name}").into() };
        let result = f(self);
        self.scope = outer;
        result
    }

    /// The next parameter: parameters are numbered in the order of these calls.
    #[track_caller]
    pub fn parameter(&mut self, name: &str, shape: Shape) -> Value {
        let number = self.parameters.len();
        let v = self.push(Op::Parameter { number, name: name.to_owned(), shape }, &[]);
        self.parameters.push(v);
        v
    }

    /// A constant array.
    #[track_caller]
    pub fn constant(&mut self, literal: Literal) -> Value {
        self.push(Op::Constant(literal), &[])
    }

    /// Repeats `body` while `condition` holds. Both see only the carry, whose shapes `body` must keep; returns the
    /// last carry. What the loop needs from outside goes through the carry; elements that nothing needs in the end
    /// are left out of the lowered loop. Not differentiable: give a loop its rule with [`Graph::custom_vjp`].
    #[track_caller]
    pub fn while_loop(
        &mut self,
        init: &[Value],
        condition: impl FnOnce(&mut Graph, &[Value]) -> Value,
        body: impl FnOnce(&mut Graph, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        if let Some(problem) = self.foreign(init) {
            self.fail("while", Location::caller(), problem);
            return init.to_vec();
        }
        let shapes: Vec<Shape> = init.iter().map(|&v| self.shape(v).clone()).collect();
        let condition = self.nested("condition", &shapes, |g, carry| vec![condition(g, carry)]);
        let body = self.nested("body", &shapes, body);
        let op = Op::While { condition: Box::new(condition), body: Box::new(body) };
        self.push_tuple(op, init)
    }

    /// `count` rounds of `body`, which takes the number of the round (s32, from 0), the carry and the `fixed` values,
    /// and returns the next carry. Otherwise as [`Graph::while_loop`].
    #[track_caller]
    pub fn counted_loop(
        &mut self,
        count: usize,
        carry: &[Value],
        fixed: &[Value],
        body: impl FnOnce(&mut Graph, Value, &[Value], &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let (first, rounds) = (self.scalar(ElementType::S32, 0.0), count as f64);
        let ends = 1 + carry.len();
        let condition = move |g: &mut Graph, all: &[Value]| {
            let end = g.scalar(ElementType::S32, rounds);
            g.compare(all[0], end, Comparison::Lt)
        };
        let next = move |g: &mut Graph, all: &[Value]| {
            let mut next = body(g, all[0], &all[1..ends], &all[ends..]);
            let one = g.scalar(ElementType::S32, 1.0);
            next.insert(0, g.add(all[0], one));
            next.extend(&all[ends..]);
            next
        };
        let mut done = self.while_loop(&[&[first], carry, fixed].concat(), condition, next);
        done.truncate(ends);
        done.remove(0);
        done
    }

    /// A region with a hand-written rule. `forward` appends the region's operations and returns its outputs and
    /// whatever `rule` wants to keep (values of this graph, sizes); `rule` takes the cotangents of the outputs to
    /// those of `inputs`, in order. Values from outside that are not among `inputs` count as constants, and values
    /// inside the region that are not among the outputs must not be used after it.
    #[track_caller]
    pub fn custom_vjp<R: Send + Sync + 'static>(
        &mut self,
        inputs: &[Value],
        forward: impl FnOnce(&mut Graph) -> (Vec<Value>, R),
        rule: impl Fn(&mut Graph, &R, &[Value]) -> Vec<Value> + Send + Sync + 'static,
    ) -> Vec<Value> {
        let start = self.nodes.len();
        let (outputs, kept) = forward(self);
        let nodes = start..self.nodes.len();
        let outside = outputs.iter().any(|v| v.graph != self.id || !nodes.contains(&v.index()));
        if outside && self.error.is_none() {
            let problem = "expected every output to be computed inside of the region".to_owned();
            self.fail("custom_vjp", Location::caller(), problem);
        }
        self.regions.push(Region {
            nodes,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
            precision: self.precision,
            rule: Arc::new(move |g, cotangents| rule(g, &kept, cotangents)),
        });
        outputs
    }

    /// Whether everything so far fits together.
    ///
    /// # Errors
    /// The first error, with the location of the call that made it.
    pub fn finish(&self) -> Result<(), GraphError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// Appends `op` if its operands fit it. Otherwise keeps the error, if it is the first, and returns the first
    /// operand, so that building goes on with a value of the usual rank.
    #[track_caller]
    pub(crate) fn push(&mut self, op: Op, operands: &[Value]) -> Value {
        let location = Location::caller();
        let inferred = match self.foreign(operands) {
            Some(problem) => Err(problem),
            None => {
                let types: Vec<&Type> = operands.iter().map(|v| &self.nodes[v.index()].ty).collect();
                infer(&op, &types)
            }
        };
        match inferred {
            Ok(ty) => self.append(op, operands, ty, location),
            Err(problem) => {
                self.fail(op.name(), location, problem);
                match operands.first() {
                    Some(&v) if v.graph == self.id => v,
                    _ => {
                        let zero = Literal::scalar(ElementType::F32, 0.0);
                        self.append(Op::Constant(zero), &[], Type::Array(NOTHING.clone()), location)
                    }
                }
            }
        }
    }

    /// Appends an operation whose result is a tuple like its operands, and returns its elements.
    #[track_caller]
    pub(crate) fn push_tuple(&mut self, op: Op, operands: &[Value]) -> Vec<Value> {
        let (location, before) = (Location::caller(), self.nodes.len());
        let tuple = self.push(op, operands);
        if self.nodes.len() == before {
            return operands.to_vec();
        }
        let element = |(i, &v): (usize, &Value)| {
            let ty = Type::Array(self.shape(v).clone());
            self.append(Op::Element(i), &[tuple], ty, location)
        };
        operands.iter().enumerate().map(element).collect()
    }

    fn append(
        &mut self,
        op: Op,
        operands: &[Value],
        ty: Type,
        location: &'static Location<'static>,
    ) -> Value {
        let v = Value { graph: self.id, index: self.nodes.len() as u32 };
        self.nodes.push(Node {
            op: Arc::new(op),
            operands: operands.to_vec(),
            ty,
            scope: self.scope.clone(),
            location,
        });
        v
    }

    /// Keeps an error unless there is one already.
    pub(crate) fn fail(&mut self, op: &str, at: &'static Location<'static>, problem: String) {
        let (op, file, line) = (op.to_owned(), at.file().to_owned(), at.line());
        self.keep(GraphError::Operation { op, file, line, problem });
    }

    pub(crate) fn keep(&mut self, error: GraphError) {
        self.error.get_or_insert(error);
    }

    /// The value of the node at `index`.
    pub(crate) fn value(&self, index: usize) -> Value {
        Value { graph: self.id, index: index as u32 }
    }

    /// A sentence if one of `values` belongs to another graph.
    pub(crate) fn foreign(&self, values: &[Value]) -> Option<String> {
        values.iter().any(|v| v.graph != self.id).then(|| {
            "a value of another graph is used here; a loop sees only its carry, so carry what it needs"
                .to_owned()
        })
    }

    /// Builds a computation over `shapes` in a graph of its own.
    #[track_caller]
    fn nested(
        &mut self,
        name: &str,
        shapes: &[Shape],
        build: impl FnOnce(&mut Graph, &[Value]) -> Vec<Value>,
    ) -> Computation {
        let mut graph = Graph::new(name);
        graph.scope = self.scope.clone();
        graph.precision = self.precision;
        let carry: Vec<Value> = shapes
            .iter()
            .enumerate()
            .map(|(i, s)| graph.parameter(&format!("carry.{i}"), s.clone()))
            .collect();
        let outputs = build(&mut graph, &carry);
        if let Some(problem) = graph.foreign(&outputs) {
            graph.fail("while", Location::caller(), problem);
        }
        if let Some(error) = graph.error.clone() {
            self.keep(error);
        }
        Computation { graph, outputs }
    }
}

impl Computation {
    /// Shapes of what it returns.
    pub(crate) fn output_shapes(&self) -> Vec<Shape> {
        self.outputs.iter().map(|&v| self.graph.shape(v).clone()).collect()
    }
}
