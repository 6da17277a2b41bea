//! The network as a program of its own, for other runtimes.
//!
//! Parameters are the variables in the order of [`variables`], under their names, and `windows`, `[rows, window,
//! channels]` f32 scaled to [0, 1], as Keras's model takes them; the one output is `[rows, classes]`, the softmax
//! probabilities. The weights stay outside, so that one module serves every checkpoint of a network.

use super::forms::Forms;
use super::network::{self, Precision};
use super::step::{declare, log_softmax};
use super::{ModelConfig, variables};
use tpu_train_hlo::{ElementType, Graph, GraphError, Shape, lower};
use tpu_train_proto::xla::HloModuleProto;

/// The network on `rows` windows, its root a tuple of one.
///
/// # Errors
/// When the window is too short for the network.
pub fn inference(
    config: &ModelConfig,
    rows: usize,
    precision: Precision,
) -> Result<HloModuleProto, GraphError> {
    let mut g = Graph::new("inference");
    let g = &mut g;
    g.set_precision(precision.into());
    let variables = declare(g, "", &variables(config));
    let shape = Shape::new(ElementType::F32, &[rows, config.window, config.channels]);
    let windows = g.parameter("windows", shape);
    let logits = network::forward(g, config, &Forms::CPU, &variables, windows, None).logits;
    let log_probabilities = log_softmax(g, logits);
    let probabilities = g.exp(log_probabilities);
    lower(g, &[probabilities], &[])
}
