//! `tpu-train`: parse, run, exit code.
fn main() {}
