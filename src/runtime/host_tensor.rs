//! Dense arrays in host memory.

use tpu_train_hlo::ElementType;

use super::RuntimeError;

/// A dense row-major array in host memory, little-endian.
///
/// Invariant: `bytes` holds exactly the elements of `dims`; what is built by hand is checked when it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTensor {
    /// Type of each element.
    pub element_type: ElementType,
    /// Dimensions, outermost first; empty for a scalar.
    pub dims: Vec<usize>,
    /// The elements.
    pub bytes: Vec<u8>,
}

macro_rules! constructors {
    ($($from:ident, $to:ident, $scalar:ident: $ty:ty = $element:ident;)*) => {$(
        #[doc = concat!("A tensor of these `", stringify!($ty), "` values, in row-major order.")]
        ///
        /// # Panics
        /// The number of values is not that of `dims`.
        pub fn $from(values: &[$ty], dims: &[usize]) -> Self {
            assert_eq!(values.len(), dims.iter().product::<usize>(), "values do not fill {dims:?}");
            const SIZE: usize = size_of::<$ty>();
            let mut bytes = vec![0_u8; values.len() * SIZE];
            for (chunk, value) in bytes.chunks_exact_mut(SIZE).zip(values) {
                chunk.copy_from_slice(&value.to_le_bytes());
            }
            Self { element_type: ElementType::$element, dims: dims.to_vec(), bytes }
        }

        #[doc = concat!("A scalar `", stringify!($ty), "`.")]
        pub fn $scalar(value: $ty) -> Self {
            Self::$from(&[value], &[])
        }

        #[doc = concat!("The elements as `", stringify!($ty), "`.")]
        ///
        /// # Errors
        /// The element type is another one.
        pub fn $to(&self) -> Result<Vec<$ty>, RuntimeError> {
            self.expect_type(ElementType::$element)?;
            let (chunks, _) = self.bytes.as_chunks();
            Ok(chunks.iter().map(|chunk| <$ty>::from_le_bytes(*chunk)).collect())
        }
    )*};
}

impl HostTensor {
    /// A tensor over bytes that are already in place.
    ///
    /// # Errors
    /// The number of bytes is not that of `dims`.
    pub fn new(element_type: ElementType, dims: &[usize], bytes: Vec<u8>) -> Result<Self, RuntimeError> {
        let tensor = Self { element_type, dims: dims.to_vec(), bytes };
        tensor.check()?;
        Ok(tensor)
    }

    /// A tensor of zeros.
    pub fn zeros(element_type: ElementType, dims: &[usize]) -> Self {
        let bytes = vec![0; dims.iter().product::<usize>() * element_type.bytes()];
        Self { element_type, dims: dims.to_vec(), bytes }
    }

    constructors! {
        from_f32, to_f32, scalar_f32: f32 = F32;
        from_i16, to_i16, scalar_i16: i16 = S16;
        from_i32, to_i32, scalar_i32: i32 = S32;
        from_u32, to_u32, scalar_u32: u32 = U32;
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// The one element of a tensor of one `f32`.
    ///
    /// # Errors
    /// The element type is another one, or there is not exactly one element.
    pub fn item_f32(&self) -> Result<f32, RuntimeError> {
        match self.to_f32()?[..] {
            [value] => Ok(value),
            _ => Err(RuntimeError::Tensor {
                expected: "one element".into(),
                found: format!("dims {:?}", self.dims),
            }),
        }
    }

    /// # Errors
    /// [`RuntimeError::Tensor`] if the bytes are not those of `dims`.
    pub(super) fn check(&self) -> Result<(), RuntimeError> {
        let expected = self.elements() * self.element_type.bytes();
        if self.bytes.len() == expected {
            return Ok(());
        }
        Err(RuntimeError::Tensor {
            expected: format!("{expected} bytes for {}{:?}", self.element_type.name(), self.dims),
            found: self.bytes.len().to_string(),
        })
    }

    fn expect_type(&self, expected: ElementType) -> Result<(), RuntimeError> {
        if self.element_type == expected {
            return Ok(());
        }
        Err(RuntimeError::Tensor {
            expected: format!("a tensor of {}", expected.name()),
            found: format!("{}{:?}", self.element_type.name(), self.dims),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        let values = [1.5_f32, -0.0, f32::MIN_POSITIVE, 3e8, 0.1, 7.0];
        assert_eq!(HostTensor::from_f32(&values, &[2, 3]).to_f32().unwrap(), values);
        assert_eq!(HostTensor::from_i16(&[-2048, 2047], &[2]).to_i16().unwrap(), [-2048, 2047]);
        assert_eq!(HostTensor::scalar_i32(-5).to_i32().unwrap(), [-5]);
        assert_eq!(HostTensor::scalar_f32(2.5).item_f32().unwrap(), 2.5);
    }

    #[test]
    fn a_wrong_type_or_size_is_an_error() {
        let error = HostTensor::scalar_i32(1).to_f32().unwrap_err().to_string();
        assert!(error.contains("f32") && error.contains("s32"), "{error}");
        assert!(HostTensor::new(ElementType::F32, &[2], vec![0; 7]).is_err());
        assert!(HostTensor::zeros(ElementType::F32, &[2]).item_f32().is_err());
    }
}
