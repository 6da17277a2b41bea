//! How the same network is laid out for each kind of platform: the one table of such choices.
//!
//! A form changes the order of the work and the rounding, never the model. `tests/bench/LOG.md` has the measurements
//! behind each choice.

use tpu_train_hlo::ElementType;

pub use tpu_train_hlo::conv_pool::ConvForm;
pub use tpu_train_hlo::lstm::{Blocks, LstmForm};

/// The choices for one kind of platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forms {
    /// Each convolution with its bias, relu and pool.
    pub conv: ConvForm,
    /// Whether batch normalisation takes its sums over time in a loop over the rows, or of the whole batch at once.
    pub loop_over_rows: bool,
    /// What batch normalisation computes its statistics in, and all that lies between its float32 arrays.
    pub statistics: ElementType,
    /// The LSTM.
    pub lstm: LstmForm,
}

impl Forms {
    /// XLA:CPU: what leaves the cache costs more than what is computed, in float64 too.
    pub const CPU: Self = Self {
        conv: ConvForm::Looped,
        loop_over_rows: true,
        statistics: ElementType::F64,
        lstm: LstmForm::Stepwise,
    };
    /// TPU, and what is like it: few and large accesses to the device's memory, full matrix units, no float64.
    pub const ACCELERATOR: Self = Self {
        conv: ConvForm::Packed,
        loop_over_rows: false,
        statistics: ElementType::F32,
        lstm: LstmForm::Blocked(Blocks { steps: 96, unroll: 4 }),
    };
}
