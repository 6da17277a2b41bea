//! The data room against its judges: the real records' reference numbers, crate `matfile`, numpy, and files made by hand
//! to be odd or damaged.

#![allow(clippy::unwrap_used)]

mod damage;
mod formats;
mod golden;
mod maker;
mod preparing;
mod sheets;
mod tables;
