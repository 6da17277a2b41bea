//! End to end, through the binary and the rooms' public doors; one test binary.
#![allow(missing_docs, clippy::unwrap_used)]
mod data;
mod deploy;
mod events;
mod export;
mod files;
mod golden;
mod pjrt;
mod precision;
mod readme;
mod resume;
mod rooms;
mod run;
mod simulate;
mod slices;
mod support;
mod wire;
