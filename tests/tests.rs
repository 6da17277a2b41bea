#![allow(missing_docs)]
mod events;
mod files;
mod simulate;
mod support;
