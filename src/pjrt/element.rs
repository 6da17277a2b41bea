//! Element types of buffers.

use super::error::{Error, Result};

/// Element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// Boolean, one byte.
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
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
    /// bfloat16.
    Bf16,
}

/// Every type with its code in the C API.
const CODES: [(ElementType, i32); 13] = [
    (ElementType::Pred, 1),
    (ElementType::S8, 2),
    (ElementType::S16, 3),
    (ElementType::S32, 4),
    (ElementType::S64, 5),
    (ElementType::U8, 6),
    (ElementType::U16, 7),
    (ElementType::U32, 8),
    (ElementType::U64, 9),
    (ElementType::F16, 10),
    (ElementType::F32, 11),
    (ElementType::F64, 12),
    (ElementType::Bf16, 13),
];

impl ElementType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Pred | Self::S8 | Self::U8 => 1,
            Self::S16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::S32 | Self::U32 | Self::F32 => 4,
            Self::S64 | Self::U64 | Self::F64 => 8,
        }
    }

    pub(super) fn code(self) -> i32 {
        CODES[self as usize].1
    }

    pub(super) fn from_code(function: &'static str, code: i32) -> Result<Self> {
        CODES.iter().find(|(_, known)| *known == code).map(|(element, _)| *element).ok_or_else(|| {
            Error::Unexpected {
                function,
                found: format!("element type code {code}"),
                expected: "a plain numeric type".into(),
            }
        })
    }
}

/// A number that lies in host memory as in a device's: plain bytes, little-endian.
///
/// # Safety
/// A value has no padding, and its bytes in memory are those of [`Self::TYPE`].
pub unsafe trait Number: Copy {
    /// The element type of an array of it.
    const TYPE: ElementType;
}

#[cfg(target_endian = "big")]
compile_error!("arrays are passed to plugins as they lie in memory, which must be little-endian");

// SAFETY: two bytes.
unsafe impl Number for i16 {
    const TYPE: ElementType = ElementType::S16;
}
// SAFETY: four bytes.
unsafe impl Number for i32 {
    const TYPE: ElementType = ElementType::S32;
}
// SAFETY: four bytes.
unsafe impl Number for f32 {
    const TYPE: ElementType = ElementType::F32;
}

/// The bytes of an array.
pub fn bytes_of<T: Number>(values: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, so every byte is initialized, and bytes may lie anywhere.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_both_ways() {
        for (element, code) in CODES {
            assert_eq!(element.code(), code);
            assert_eq!(ElementType::from_code("f", code).unwrap(), element);
        }
        assert!(ElementType::from_code("f", 14).is_err());
    }
}
