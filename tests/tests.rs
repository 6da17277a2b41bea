#![allow(missing_docs)]
mod files;
mod support;
