//! Element types and array shapes.
//!
//! A [`Shape`] is an element type and the extents of its dimensions, slowest first (row-major, as the host holds
//! it); rank 0 is a scalar. Usage: `Shape::new(ElementType::F32, &[batch, time, channels])`.

use std::fmt;

/// The type of an array's elements.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// Truth value, one byte.
    Pred,
    /// Signed 8-bit integer.
    S8,
    /// Signed 16-bit integer.
    S16,
    /// Signed 32-bit integer.
    S32,
    /// Signed 64-bit integer.
    S64,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 32-bit integer.
    U32,
    /// bfloat16: a float32 with the lower half of its bits cut off.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl ElementType {
    /// XLA's name: `f32`, `bf16`, `s32`, `pred`, …
    pub fn name(self) -> &'static str {
        match self {
            Self::Pred => "pred",
            Self::S8 => "s8",
            Self::S16 => "s16",
            Self::S32 => "s32",
            Self::S64 => "s64",
            Self::U8 => "u8",
            Self::U32 => "u32",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Pred | Self::S8 | Self::U8 => 1,
            Self::S16 | Self::Bf16 => 2,
            Self::S32 | Self::U32 | Self::F32 => 4,
            Self::S64 | Self::F64 => 8,
        }
    }

    /// Whether it is a floating-point type, which alone can carry a cotangent.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Bf16 | Self::F32 | Self::F64)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Element type and extents of an array; dimension 0 varies slowest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Type of the elements.
    pub element_type: ElementType,
    /// Extent of each dimension; empty for a scalar.
    pub dims: Vec<usize>,
}

impl Shape {
    /// The shape of an array of `dims`.
    pub fn new(element_type: ElementType, dims: &[usize]) -> Self {
        Self { element_type, dims: dims.to_vec() }
    }

    /// The shape of one element.
    pub fn scalar(element_type: ElementType) -> Self {
        Self { element_type, dims: Vec::new() }
    }

    /// Number of elements; 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Bytes of the elements, without padding.
    pub fn bytes(&self) -> usize {
        self.elements() * self.element_type.bytes()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The same extents with elements of another type.
    pub(crate) fn with_type(&self, element_type: ElementType) -> Self {
        Self { element_type, dims: self.dims.clone() }
    }

    /// The same element type with other extents.
    pub(crate) fn with_dims(&self, dims: Vec<usize>) -> Self {
        Self { element_type: self.element_type, dims }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        write!(f, "{}[{}]", self.element_type, dims.join(","))
    }
}
