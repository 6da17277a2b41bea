//! The crate's tests: gradients against central differences on the evaluator, the LSTM and max-pool rules against
//! plain formulations, published vectors for Threefry, invariants of lowered modules.

#![allow(clippy::unwrap_used)]

mod conv_pool;
mod evaluator;
mod gradients;
mod lowering;
mod lstm;
mod pool;
mod random;
mod replicas;
mod shapes;
mod support;
mod text;
