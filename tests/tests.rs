#![allow(missing_docs)]
mod data;
mod support;
