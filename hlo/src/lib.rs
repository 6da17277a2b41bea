//! XLA graphs in Rust: build, differentiate, lower to `HloModuleProto`, print, evaluate.
//!
//! Terms: a [`Graph`] is an append-only list of operations; a [`Value`] is a small copyable index of one of
//! their results; a *cotangent* is the derivative of the objective with respect to a value; a *VJP*
//! (vector-Jacobian product) takes the cotangent of an operation's result to those of its operands.
//! A *module*, a *computation* and an *instruction* are XLA's words for what a graph is lowered to.
//!
//! Invariant: operations are appended after their operands, so one pass forward evaluates and one countdown
//! differentiates. Operations return a [`Value`], never a `Result`: the first shape error is kept with its
//! caller's location, and [`Graph::finish`] (and so [`lower`] and [`eval::evaluate`]) returns it.
//!
//! ```
//! use tpu_train_hlo::{ElementType, Graph, Shape, lower};
//!
//! let mut g = Graph::new("square");
//! let x = g.parameter("x", Shape::new(ElementType::F32, &[3]));
//! let y = g.mul(x, x);
//! let objective = g.sum(y, &[0]);
//! let dx = g.gradients(objective, &[x])[0];
//! let module = lower(&g, &[objective, dx], &[])?;
//! assert_eq!(module.name, "square");
//! # Ok::<(), tpu_train_hlo::GraphError>(())
//! ```

#![forbid(unsafe_code)]

mod build;
pub mod conv_pool;
mod error;
pub mod eval;
mod grad;
mod graph;
mod infer;
mod literal;
mod live;
mod lower;
pub mod lstm;
mod op;
pub mod pool;
pub mod random;
mod shape;
pub mod text;
mod vjp;

pub use error::GraphError;
pub use graph::{Graph, Value};
pub use literal::Literal;
pub use lower::lower;
pub use op::{
    Comparison, ConvolutionConfig, ConvolutionWindow, DotDimensions, PadDimension, Precision, Reducer,
    WindowDimension,
};
pub use shape::{ElementType, Shape};
