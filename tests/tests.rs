#![allow(missing_docs)]
mod events;
mod files;
mod support;
mod wire;
