#![allow(missing_docs)]
mod deploy;
mod files;
mod support;
