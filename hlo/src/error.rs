//! What can be wrong with a graph.

/// An error of building, differentiating, lowering or evaluating a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// An operation whose operands do not fit it.
    #[error("{op} at {file}:{line}: {problem}")]
    Operation {
        /// XLA's name of the operation.
        op: String,
        /// Source file of the call that made it.
        file: String,
        /// Line of that call.
        line: u32,
        /// What was expected and what was found.
        problem: String,
    },
    /// A gradient was asked for through an operation that has no rule.
    #[error(
        "{op} at {file}:{line} is not differentiable, but a gradient reaches it; end it before with stop_gradient"
    )]
    NotDifferentiable {
        /// XLA's name of the operation.
        op: String,
        /// Source file of the call that made it.
        file: String,
        /// Line of that call.
        line: u32,
    },
    /// An output that cannot reuse a parameter's buffer.
    #[error("output {output} cannot reuse the buffer of parameter {parameter}: {problem}")]
    Alias {
        /// Index of the output.
        output: usize,
        /// Number of the parameter.
        parameter: usize,
        /// Why not.
        problem: String,
    },
    /// Inputs that do not fit the graph, or replicas that part ways.
    #[error("evaluation of graph {graph}: {problem}")]
    Evaluation {
        /// Name of the graph.
        graph: String,
        /// What was expected and what was found.
        problem: String,
    },
}
