//! Shared by the tests.
#![allow(unused_imports)]

pub(crate) mod judge;
mod runtime;

pub(crate) use runtime::{prepare, runtime};
