//! Messages for shapes, literals and the attributes of instructions.

use tpu_train_proto::xla::hlo_instruction_proto::SliceDimensions;
use tpu_train_proto::xla::padding_config::PaddingConfigDimension;
use tpu_train_proto::xla::precision_config::Precision as OperandPrecision;
use tpu_train_proto::xla::{
    ConvolutionDimensionNumbers, DotDimensionNumbers, HloInstructionProto, LayoutProto, LiteralProto,
    PaddingConfig, PrecisionConfig, PrimitiveType, ShapeProto, Window, WindowDimension,
};

use crate::op::Op;
use crate::{ConvolutionConfig, DotDimensions, ElementType, Literal, Precision, Shape};

fn primitive(ty: ElementType) -> PrimitiveType {
    match ty {
        ElementType::Pred => PrimitiveType::Pred,
        ElementType::S8 => PrimitiveType::S8,
        ElementType::S16 => PrimitiveType::S16,
        ElementType::S32 => PrimitiveType::S32,
        ElementType::S64 => PrimitiveType::S64,
        ElementType::U8 => PrimitiveType::U8,
        ElementType::U32 => PrimitiveType::U32,
        ElementType::Bf16 => PrimitiveType::Bf16,
        ElementType::F32 => PrimitiveType::F32,
        ElementType::F64 => PrimitiveType::F64,
    }
}

fn numbers(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&v| v as i64).collect()
}

/// An array shape in row-major layout.
pub(super) fn shape_proto(shape: &Shape) -> ShapeProto {
    ShapeProto {
        element_type: primitive(shape.element_type).into(),
        dimensions: numbers(&shape.dims),
        layout: Some(LayoutProto {
            minor_to_major: (0..shape.rank() as i64).rev().collect(),
            ..Default::default()
        }),
        is_dynamic_dimension: vec![false; shape.rank()],
        ..Default::default()
    }
}

pub(super) fn tuple_proto(shapes: &[Shape]) -> ShapeProto {
    ShapeProto {
        element_type: PrimitiveType::Tuple.into(),
        tuple_shapes: shapes.iter().map(shape_proto).collect(),
        ..Default::default()
    }
}

/// The upper half of a float32, rounded to nearest even.
fn bf16_bits(value: f64) -> u16 {
    let value = value as f32;
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

/// A constant with its elements rounded to their type.
pub(super) fn literal_proto(literal: &Literal) -> LiteralProto {
    let values = literal.values.iter();
    let mut proto = LiteralProto { shape: Some(shape_proto(&literal.shape)), ..Default::default() };
    match literal.shape.element_type {
        ElementType::Pred => proto.preds = values.map(|&v| v != 0.0).collect(),
        ElementType::S8 => proto.s8s = values.map(|&v| v as i8 as u8).collect(),
        ElementType::S16 => proto.s16s = values.flat_map(|&v| (v as i16).to_le_bytes()).collect(),
        ElementType::S32 => proto.s32s = values.map(|&v| v as i32).collect(),
        ElementType::S64 => proto.s64s = values.map(|&v| v as i64).collect(),
        ElementType::U8 => proto.u8s = values.map(|&v| v as u8).collect(),
        ElementType::U32 => proto.u32s = values.map(|&v| v as u32).collect(),
        ElementType::Bf16 => proto.bf16s = values.flat_map(|&v| bf16_bits(v).to_le_bytes()).collect(),
        ElementType::F32 => proto.f32s = values.map(|&v| v as f32).collect(),
        ElementType::F64 => proto.f64s = values.copied().collect(),
    }
    proto
}

/// Sets what the opcode alone does not say, for operands of these shapes.
pub(super) fn set(i: &mut HloInstructionProto, op: &Op, operands: &[&Shape]) {
    match op {
        Op::Parameter { number, name, .. } => {
            i.parameter_number = *number as i64;
            if let Some(metadata) = &mut i.metadata {
                metadata.op_name = name.clone();
            }
        }
        Op::Constant(literal) => i.literal = Some(literal_proto(literal)),
        Op::Iota { dimension, .. } | Op::Concatenate(dimension) => i.dimensions = vec![*dimension as i64],
        Op::Compare(comparison) => i.comparison_direction = comparison.name().to_owned(),
        Op::Broadcast { mapping: dims, .. }
        | Op::Transpose(dims)
        | Op::Reverse(dims)
        | Op::Reduce { dims, .. } => i.dimensions = numbers(dims),
        Op::Slice { starts, limits, strides } => {
            let bound = |d: usize| SliceDimensions {
                start: starts[d] as i64,
                limit: limits[d] as i64,
                stride: strides[d] as i64,
            };
            i.slice_dimensions = (0..starts.len()).map(bound).collect();
        }
        Op::Pad(padding) => {
            let dimensions = padding.iter().map(|p| PaddingConfigDimension {
                edge_padding_low: p.low,
                edge_padding_high: p.high,
                interior_padding: p.interior as i64,
            });
            i.padding_config = Some(PaddingConfig { dimensions: dimensions.collect() });
        }
        Op::DynamicSlice(sizes) => i.dynamic_slice_sizes = numbers(sizes),
        Op::Dot { dims, precision } => {
            i.dot_dimension_numbers = Some(dot_numbers(dims));
            i.precision_config = Some(operand_precision(*precision));
        }
        Op::Convolution { config, precision } => {
            i.convolution_dimension_numbers = Some(convolution_numbers(config));
            i.window = Some(convolution_window(config, operands[1]));
            i.precision_config = Some(operand_precision(*precision));
            (i.feature_group_count, i.batch_group_count) = (1, 1);
        }
        Op::ReduceWindow { window, .. } => {
            let dimensions = window.iter().map(|w| WindowDimension {
                size: w.size as i64,
                stride: w.stride as i64,
                padding_low: w.low,
                padding_high: w.high,
                window_dilation: w.dilation as i64,
                base_dilation: 1,
                window_reversal: false,
            });
            i.window = Some(Window { dimensions: dimensions.collect() });
        }
        Op::ReplicaId
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Convert(_)
        | Op::BitcastConvert(_)
        | Op::Reshape(_)
        | Op::DynamicUpdateSlice
        | Op::AllReduce(_)
        | Op::While { .. }
        | Op::Element(_)
        | Op::StopGradient => {}
    }
}

fn operand_precision(precision: Precision) -> PrecisionConfig {
    let operand = match precision {
        Precision::F32 => OperandPrecision::Highest,
        Precision::Bf16 => OperandPrecision::Default,
    };
    PrecisionConfig { operand_precision: vec![operand.into(); 2] }
}

fn dot_numbers(d: &DotDimensions) -> DotDimensionNumbers {
    DotDimensionNumbers {
        lhs_contracting_dimensions: numbers(&d.lhs_contracting),
        rhs_contracting_dimensions: numbers(&d.rhs_contracting),
        lhs_batch_dimensions: numbers(&d.lhs_batch),
        rhs_batch_dimensions: numbers(&d.rhs_batch),
    }
}

fn convolution_numbers(c: &ConvolutionConfig) -> ConvolutionDimensionNumbers {
    ConvolutionDimensionNumbers {
        kernel_input_feature_dimension: c.rhs_input as i64,
        kernel_output_feature_dimension: c.rhs_output as i64,
        kernel_spatial_dimensions: numbers(&c.rhs_spatial),
        input_batch_dimension: c.lhs_batch as i64,
        input_feature_dimension: c.lhs_feature as i64,
        output_batch_dimension: c.out_batch as i64,
        output_feature_dimension: c.out_feature as i64,
        input_spatial_dimensions: numbers(&c.lhs_spatial),
        output_spatial_dimensions: numbers(&c.out_spatial),
    }
}

fn convolution_window(c: &ConvolutionConfig, kernel: &Shape) -> Window {
    let dimensions = c.windows.iter().zip(&c.rhs_spatial).map(|(w, &d)| WindowDimension {
        size: kernel.dims[d] as i64,
        stride: w.stride as i64,
        padding_low: w.low,
        padding_high: w.high,
        window_dilation: w.rhs_dilation as i64,
        base_dilation: w.lhs_dilation as i64,
        window_reversal: w.reversal,
    });
    Window { dimensions: dimensions.collect() }
}
