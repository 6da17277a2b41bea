//! Which nodes, and which elements of a loop's carry, the outputs need.
//!
//! A loop may carry what only a later gradient would read (the LSTM's stored states): where no output needs such an
//! element, the element, its initial value and everything computed for it in the body are left out.

use crate::graph::{Computation, Graph, Value};
use crate::op::Op;

/// What is needed of one graph.
pub(crate) struct Live {
    /// For each node.
    pub(crate) nodes: Vec<bool>,
    /// For each node that is a loop, the elements of its carry; empty for others.
    pub(crate) carries: Vec<Vec<bool>>,
}

impl Live {
    /// What `outputs` need of `g`.
    pub(crate) fn of(g: &Graph, outputs: &[Value]) -> Self {
        let mut nodes = vec![false; g.nodes.len()];
        for v in outputs {
            nodes[v.index()] = true;
        }
        let mut carries: Vec<Vec<bool>> = vec![Vec::new(); g.nodes.len()];
        for i in (0..g.nodes.len()).rev().filter(|&i| !g.nodes[i].operands.is_empty()) {
            if !nodes[i] {
                continue;
            }
            let node = &g.nodes[i];
            match &*node.op {
                Op::Element(element) => {
                    let tuple = node.operands[0].index();
                    if matches!(&*g.nodes[tuple].op, Op::While { .. }) {
                        carries[tuple].resize(g.nodes[tuple].operands.len(), false);
                        carries[tuple][*element] = true;
                    }
                    nodes[tuple] = true;
                }
                Op::While { condition, body } => {
                    close(&mut carries[i], condition, body);
                    for (v, _) in node.operands.iter().zip(&carries[i]).filter(|(_, live)| **live) {
                        nodes[v.index()] = true;
                    }
                }
                _ => node.operands.iter().for_each(|v| nodes[v.index()] = true),
            }
        }
        Self { nodes, carries }
    }
}

/// Adds what the condition reads, and what the body reads for the elements that are live, until nothing is added.
fn close(carry: &mut [bool], condition: &Computation, body: &Computation) {
    read(carry, &condition.graph, &condition.outputs);
    loop {
        let before = carry.to_vec();
        let outputs: Vec<Value> =
            body.outputs.iter().zip(&before).filter(|(_, live)| **live).map(|(&v, _)| v).collect();
        read(carry, &body.graph, &outputs);
        if *carry == *before {
            return;
        }
    }
}

/// Marks the parameters that `outputs` depend on.
fn read(carry: &mut [bool], g: &Graph, outputs: &[Value]) {
    let live = Live::of(g, outputs);
    for (element, v) in g.parameters.iter().enumerate() {
        carry[element] |= live.nodes[v.index()];
    }
}
