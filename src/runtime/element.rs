//! Element types: of graphs, of modules, of buffers.

use tpu_train_hlo::ElementType;
use tpu_train_proto::xla::PrimitiveType;

use super::RuntimeError;
use crate::pjrt;

/// The element type of an array that a buffer can hold.
pub(super) fn primitive_to_pjrt(element_type: PrimitiveType) -> Option<pjrt::ElementType> {
    Some(match element_type {
        PrimitiveType::Pred => pjrt::ElementType::Pred,
        PrimitiveType::S8 => pjrt::ElementType::S8,
        PrimitiveType::S16 => pjrt::ElementType::S16,
        PrimitiveType::S32 => pjrt::ElementType::S32,
        PrimitiveType::S64 => pjrt::ElementType::S64,
        PrimitiveType::U8 => pjrt::ElementType::U8,
        PrimitiveType::U16 => pjrt::ElementType::U16,
        PrimitiveType::U32 => pjrt::ElementType::U32,
        PrimitiveType::U64 => pjrt::ElementType::U64,
        PrimitiveType::F16 => pjrt::ElementType::F16,
        PrimitiveType::F32 => pjrt::ElementType::F32,
        PrimitiveType::F64 => pjrt::ElementType::F64,
        PrimitiveType::Bf16 => pjrt::ElementType::Bf16,
        _ => return None,
    })
}

/// As plugins know it.
pub(super) fn to_pjrt(element_type: ElementType) -> pjrt::ElementType {
    match element_type {
        ElementType::Pred => pjrt::ElementType::Pred,
        ElementType::S8 => pjrt::ElementType::S8,
        ElementType::S16 => pjrt::ElementType::S16,
        ElementType::S32 => pjrt::ElementType::S32,
        ElementType::S64 => pjrt::ElementType::S64,
        ElementType::U8 => pjrt::ElementType::U8,
        ElementType::U32 => pjrt::ElementType::U32,
        ElementType::Bf16 => pjrt::ElementType::Bf16,
        ElementType::F32 => pjrt::ElementType::F32,
        ElementType::F64 => pjrt::ElementType::F64,
    }
}

/// As graphs know it.
///
/// # Errors
/// Graphs have no such type.
pub(super) fn from_pjrt(element_type: pjrt::ElementType) -> Result<ElementType, RuntimeError> {
    Ok(match element_type {
        pjrt::ElementType::Pred => ElementType::Pred,
        pjrt::ElementType::S8 => ElementType::S8,
        pjrt::ElementType::S16 => ElementType::S16,
        pjrt::ElementType::S32 => ElementType::S32,
        pjrt::ElementType::S64 => ElementType::S64,
        pjrt::ElementType::U8 => ElementType::U8,
        pjrt::ElementType::U32 => ElementType::U32,
        pjrt::ElementType::Bf16 => ElementType::Bf16,
        pjrt::ElementType::F32 => ElementType::F32,
        pjrt::ElementType::F64 => ElementType::F64,
        other => {
            return Err(RuntimeError::Tensor {
                expected: "an element type that graphs have".into(),
                found: format!("{other:?}"),
            });
        }
    })
}
