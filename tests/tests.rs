#![allow(missing_docs)]
mod events;
mod files;
mod pjrt;
mod simulate;
mod support;
mod wire;
