//! Constants of a graph.

use crate::{ElementType, Shape};

/// A small array known when the graph is built, row-major. The elements are held in f64: exact for every type here
/// (64-bit integers up to 2^53), and unrounded for the evaluator; lowering rounds them to the element type.
#[derive(Clone, Debug, PartialEq)]
pub struct Literal {
    pub(crate) shape: Shape,
    pub(crate) values: Vec<f64>,
}

impl Literal {
    /// An array of `dims` with these elements in row-major order. A wrong number of them becomes the graph's error
    /// where the literal is used.
    pub fn new(element_type: ElementType, dims: &[usize], values: Vec<f64>) -> Self {
        Self { shape: Shape::new(element_type, dims), values }
    }

    /// One element.
    pub fn scalar(element_type: ElementType, value: f64) -> Self {
        Self { shape: Shape::scalar(element_type), values: vec![value] }
    }
}
