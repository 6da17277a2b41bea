//! How the same network is laid out for each kind of platform: the one table of such choices.
//!
//! A form changes the order of the work and the rounding, never the model. `tests/bench/LOG.md` has the measurements
//! behind each choice.

pub use tpu_train_hlo::lstm::{Blocks, LstmForm};

/// How the two convolutions and their pools are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontEnd {
    /// Each convolution with its bias, relu and pool in one loop over the windows of the batch.
    Looped,
    /// Layer by layer over the whole batch, for a compiler that fuses them itself.
    Layered,
}

/// The choices for one kind of platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forms {
    /// The convolutions and pools.
    pub front_end: FrontEnd,
    /// The LSTM.
    pub lstm: LstmForm,
}

impl Forms {
    /// XLA:CPU: what leaves the cache costs more than what is computed.
    pub const CPU: Self = Self { front_end: FrontEnd::Looped, lstm: LstmForm::Stepwise };
    /// TPU, and what is like it: few and large accesses to the device's memory.
    pub const ACCELERATOR: Self =
        Self { front_end: FrontEnd::Layered, lstm: LstmForm::Blocked(Blocks { steps: 32, unroll: 4 }) };
}
