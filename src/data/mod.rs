//! data.

pub mod simulate;
