//! Reverse-mode differentiation: one countdown over the nodes.
//!
//! Invariant: when the countdown reaches a node, every user of it has added its cotangent, for users come later.
//! Only nodes that depend on what is differentiated are visited; a region with a hand-written rule is one step.

use std::panic::Location;

use crate::graph::{Node, Region, Type};
use crate::op::Op;
use crate::vjp::vjp;
use crate::{Graph, GraphError, Value};

impl Graph {
    /// Derivatives of a scalar objective by each of `wrt`, in their shapes; zeros where it does not depend on one.
    /// With several replicas the objective is the sum of the replicas' own objectives.
    #[track_caller]
    pub fn gradients(&mut self, objective: Value, wrt: &[Value]) -> Vec<Value> {
        let at = Location::caller();
        if let Some(problem) = self.foreign(&[&[objective], wrt].concat()) {
            self.fail("gradients", at, problem);
            return wrt.to_vec();
        }
        let shape = self.shape(objective).clone();
        if shape.rank() != 0 || !shape.element_type.is_float() {
            self.fail(
                "gradients",
                at,
                format!("expected a floating-point scalar as objective, found {shape}"),
            );
            return wrt.to_vec();
        }
        let mut sweep = Sweep::new(self, objective, wrt);
        let one = self.scalar_like(objective, 1.0);
        sweep.add(self, objective, one);
        sweep.run(self);
        wrt.iter()
            .map(|&v| {
                sweep.cotangents.get(v.index()).copied().flatten().unwrap_or_else(|| self.zeros_like(v))
            })
            .collect()
    }
}

/// Whether a cotangent can pass through a node at all.
fn passes(node: &Node) -> bool {
    match &node.ty {
        Type::Array(shape) => shape.element_type.is_float() && !matches!(*node.op, Op::StopGradient),
        Type::Tuple(_) => true,
    }
}

struct Sweep {
    /// For each node below the start, the sum of the cotangents so far.
    cotangents: Vec<Option<Value>>,
    /// Whether a node depends on what is differentiated, by a path that a cotangent can take.
    active: Vec<bool>,
}

impl Sweep {
    /// Starts at the objective, or at the end of the region that it is an output of.
    fn new(g: &Graph, objective: Value, wrt: &[Value]) -> Self {
        let inside = g.regions.iter().filter(|r| r.nodes.contains(&objective.index()));
        let end = inside.map(|r| r.nodes.end).fold(objective.index() + 1, usize::max);
        let mut active = vec![false; end];
        for i in 0..end {
            let through = passes(&g.nodes[i]) && g.nodes[i].operands.iter().any(|v| active[v.index()]);
            active[i] = through || wrt.iter().any(|v| v.index() == i);
        }
        Self { cotangents: vec![None; end], active }
    }

    fn run(&mut self, g: &mut Graph) {
        let (scope, precision) = (g.scope.clone(), g.precision());
        let mut end = self.cotangents.len();
        while end > 0 {
            let last = end - 1;
            g.scope = format!("{}/gradient", g.nodes[last].scope).trim_start_matches('/').into();
            // The last one pushed is the outermost that ends here.
            match g.regions.iter().rfind(|r| r.nodes.end == end && !r.nodes.is_empty()).cloned() {
                Some(region) => {
                    g.set_precision(region.precision);
                    self.region(g, &region);
                    end = region.nodes.start;
                }
                None => {
                    self.node(g, last);
                    end = last;
                }
            }
        }
        g.scope = scope;
        g.set_precision(precision);
    }

    fn node(&mut self, g: &mut Graph, index: usize) {
        let Some(cotangent) = self.cotangents[index].filter(|_| self.active[index]) else { return };
        let operands = g.nodes[index].operands.clone();
        match vjp(g, index, cotangent) {
            Some(parts) => {
                for (v, part) in operands.into_iter().zip(parts) {
                    if let Some(part) = part {
                        self.add(g, v, part);
                    }
                }
            }
            None => {
                let node = &g.nodes[index];
                let (op, file, line) =
                    (node.op.name().to_owned(), node.location.file().to_owned(), node.location.line());
                g.keep(GraphError::NotDifferentiable { op, file, line });
            }
        }
    }

    fn region(&mut self, g: &mut Graph, region: &Region) {
        let found: Vec<Option<Value>> = region.outputs.iter().map(|v| self.cotangents[v.index()]).collect();
        let wanted = region.inputs.iter().any(|v| self.active[v.index()]);
        if !wanted || found.iter().all(Option::is_none) {
            return;
        }
        let cotangents: Vec<Value> =
            region.outputs.iter().zip(found).map(|(&v, c)| c.unwrap_or_else(|| g.zeros_like(v))).collect();
        let parts = (region.rule)(g, &cotangents);
        let fits = parts.len() == region.inputs.len()
            && parts.iter().zip(&region.inputs).all(|(&p, &v)| g.shape(p).dims == g.shape(v).dims);
        if fits {
            for (&v, part) in region.inputs.iter().zip(parts) {
                self.add(g, v, part);
            }
        } else {
            let problem = "the rule must return one cotangent of the same extents for each input".to_owned();
            g.fail("custom_vjp", g.nodes[region.nodes.start].location, problem);
        }
    }

    fn add(&mut self, g: &mut Graph, v: Value, part: Value) {
        if !self.active[v.index()] {
            return;
        }
        let part = g.convert(part, g.shape(v).element_type);
        let sum = match self.cotangents[v.index()] {
            Some(so_far) => g.add(so_far, part),
            None => part,
        };
        self.cotangents[v.index()] = Some(sum);
    }
}
