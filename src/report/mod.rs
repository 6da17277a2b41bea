//! What a person or a script reads: metrics, tables, the progress bar.
//!
//! **truth** is a window's class, **predicted** the model's; **support** is the number of windows whose truth is
//! a class. Everything here is formatting and arithmetic; only [`progress::Progress`] writes, and it is told
//! where to.
//!
//! ```
//! use tpu_train::report::Confusion;
//! let mut confusion = Confusion::new(vec!["rest".into(), "exercise".into()]);
//! for (truth, predicted) in [(0, 0), (0, 1), (1, 1), (1, 1)] {
//!     confusion.record(truth, predicted).unwrap();
//! }
//! assert_eq!(confusion.accuracy(), 0.75);
//! println!("{}", confusion.metrics());
//! ```

mod confusion;
pub mod optimized;
pub mod progress;
pub mod table;

pub use confusion::{ClassMetrics, Confusion, Metrics, ReportError};
