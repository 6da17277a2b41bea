#![allow(missing_docs)]
mod files;
mod pjrt;
mod support;
