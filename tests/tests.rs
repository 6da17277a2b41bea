#![allow(missing_docs)]
mod simulate;
mod support;
