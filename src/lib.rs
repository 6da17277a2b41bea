//! Trains a CNN-LSTM on synchronised ECG and PCG recordings through XLA and PJRT.
//!
//! Two streams meet in [`runtime`]: *files → recording → window → batch → device buffer* ([`data`]) and
//! *layers → graph → gradient → `HloModuleProto` → executable* ([`model`], the crate `tpu-train-hlo`);
//! [`train`] drives both.

pub mod aot;
pub mod cache;
pub mod cli;
pub mod config;
pub mod data;
pub mod deploy;
pub mod doctor;
pub mod events;
pub mod model;
pub mod pjrt;
pub mod report;
pub mod runtime;
pub mod topology;
pub mod train;
