//! The operations of a graph: one enum, with the attributes of each.
//!
//! Invariant: every table over operations (shape inference, VJP, lowering, evaluation) is an exhaustive `match` on
//! [`Op`], so a new operation does not compile until each of them has an answer.

use crate::graph::Computation;
use crate::{ElementType, Literal, Shape};

/// How products of dots and convolutions are computed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// Operands as they are, operand precision `HIGHEST`: float32 stays float32 on TPU too.
    #[default]
    F32,
    /// Operands rounded to bfloat16, products summed in float32.
    Bf16,
}

/// What a reduction does with two elements.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reducer {
    /// Sum.
    Add,
    /// Product.
    Mul,
    /// Greater of two.
    Max,
    /// Less of two.
    Min,
    /// Logical or bitwise and.
    And,
    /// Logical or bitwise or.
    Or,
}

/// The relation that a comparison tests.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// Padding of one dimension; a negative `low` or `high` cuts off instead.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct PadDimension {
    /// Elements before the first.
    pub low: i64,
    /// Elements after the last.
    pub high: i64,
    /// Elements between any two neighbours.
    pub interior: usize,
}

/// Which dimensions a dot contracts and which it takes as batch dimensions, pairwise. The result's dimensions are
/// batch, then the left operand's free ones, then the right operand's.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DotDimensions {
    /// Contracted dimensions of the left operand.
    pub lhs_contracting: Vec<usize>,
    /// Contracted dimensions of the right operand, in the same order.
    pub rhs_contracting: Vec<usize>,
    /// Batch dimensions of the left operand.
    pub lhs_batch: Vec<usize>,
    /// Batch dimensions of the right operand, in the same order.
    pub rhs_batch: Vec<usize>,
}

/// The window of one spatial dimension of a convolution.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ConvolutionWindow {
    /// Step of the window.
    pub stride: usize,
    /// Zeros before the input; negative cuts off.
    pub low: i64,
    /// Zeros after the input; negative cuts off.
    pub high: i64,
    /// Distance of neighbouring input elements; 1 is plain, 2 puts one zero between them.
    pub lhs_dilation: usize,
    /// Distance of neighbouring kernel elements.
    pub rhs_dilation: usize,
    /// Whether the kernel is read backwards.
    pub reversal: bool,
}

impl Default for ConvolutionWindow {
    fn default() -> Self {
        Self { stride: 1, low: 0, high: 0, lhs_dilation: 1, rhs_dilation: 1, reversal: false }
    }
}

/// Dimension numbers and windows of a convolution. Spatial lists run in the same order in all three arrays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvolutionConfig {
    /// Batch dimension of the input.
    pub lhs_batch: usize,
    /// Feature dimension of the input.
    pub lhs_feature: usize,
    /// Spatial dimensions of the input.
    pub lhs_spatial: Vec<usize>,
    /// Input feature dimension of the kernel.
    pub rhs_input: usize,
    /// Output feature dimension of the kernel.
    pub rhs_output: usize,
    /// Spatial dimensions of the kernel.
    pub rhs_spatial: Vec<usize>,
    /// Batch dimension of the result.
    pub out_batch: usize,
    /// Feature dimension of the result.
    pub out_feature: usize,
    /// Spatial dimensions of the result.
    pub out_spatial: Vec<usize>,
    /// One window for each spatial dimension.
    pub windows: Vec<ConvolutionWindow>,
}

/// The window of one dimension of a reduce-window.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct WindowDimension {
    /// Elements under the window.
    pub size: usize,
    /// Step of the window.
    pub stride: usize,
    /// Identity elements before the first.
    pub low: i64,
    /// Identity elements after the last.
    pub high: i64,
    /// Distance of neighbouring elements under the window.
    pub dilation: usize,
}

impl Default for WindowDimension {
    fn default() -> Self {
        Self { size: 1, stride: 1, low: 0, high: 0, dilation: 1 }
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    Neg,
    Exp,
    Log,
    Tanh,
    Sqrt,
    Rsqrt,
    Abs,
    Floor,
    Not,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    Pow,
    Rem,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

/// One operation; its operands stand beside it in the node.
pub(crate) enum Op {
    Parameter {
        number: usize,
        name: String,
        shape: Shape,
    },
    Constant(Literal),
    Iota {
        shape: Shape,
        dimension: usize,
    },
    ReplicaId,
    Unary(Unary),
    Binary(Binary),
    Compare(Comparison),
    /// Operands: pred, on true, on false.
    Select,
    Convert(ElementType),
    BitcastConvert(ElementType),
    /// Operand dimension `i` becomes result dimension `mapping[i]`.
    Broadcast {
        dims: Vec<usize>,
        mapping: Vec<usize>,
    },
    Reshape(Vec<usize>),
    Transpose(Vec<usize>),
    Reverse(Vec<usize>),
    Slice {
        starts: Vec<usize>,
        limits: Vec<usize>,
        strides: Vec<usize>,
    },
    /// Operands: array, padding value.
    Pad(Vec<PadDimension>),
    Concatenate(usize),
    /// Operands: array, one scalar start for each dimension.
    DynamicSlice(Vec<usize>),
    /// Operands: array, update, one scalar start for each dimension.
    DynamicUpdateSlice,
    Dot {
        dims: DotDimensions,
        precision: Precision,
    },
    Convolution {
        config: ConvolutionConfig,
        precision: Precision,
    },
    Reduce {
        dims: Vec<usize>,
        reducer: Reducer,
    },
    ReduceWindow {
        window: Vec<WindowDimension>,
        reducer: Reducer,
    },
    /// A tuple when it has several operands.
    AllReduce(Reducer),
    /// Operands: the initial carry. A tuple.
    While {
        condition: Box<Computation>,
        body: Box<Computation>,
    },
    /// One element of a tuple.
    Element(usize),
    /// Its operand, through which no cotangent passes.
    StopGradient,
}

impl Unary {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Neg => "negate",
            Self::Exp => "exponential",
            Self::Log => "log",
            Self::Tanh => "tanh",
            Self::Sqrt => "sqrt",
            Self::Rsqrt => "rsqrt",
            Self::Abs => "abs",
            Self::Floor => "floor",
            Self::Not => "not",
        }
    }
}

impl Binary {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "subtract",
            Self::Mul => "multiply",
            Self::Div => "divide",
            Self::Max => "maximum",
            Self::Min => "minimum",
            Self::Pow => "power",
            Self::Rem => "remainder",
            Self::And => "and",
            Self::Or => "or",
            Self::Xor => "xor",
            Self::Shl => "shift-left",
            Self::Shr => "shift-right-logical",
        }
    }
}

impl Reducer {
    /// The binary operation that it folds with.
    pub(crate) fn binary(self) -> Binary {
        match self {
            Self::Add => Binary::Add,
            Self::Mul => Binary::Mul,
            Self::Max => Binary::Max,
            Self::Min => Binary::Min,
            Self::And => Binary::And,
            Self::Or => Binary::Or,
        }
    }

    /// The element that changes nothing: -inf and inf for floating-point max and min.
    pub(crate) fn identity(self, ty: ElementType) -> f64 {
        match self {
            Self::Add | Self::Or => 0.0,
            Self::Mul => 1.0,
            Self::Max => lowest(ty),
            Self::Min => highest(ty),
            Self::And if matches!(ty, ElementType::Pred) => 1.0,
            Self::And if matches!(ty, ElementType::U8 | ElementType::U32) => highest(ty),
            Self::And => -1.0,
        }
    }
}

fn lowest(ty: ElementType) -> f64 {
    match ty {
        ElementType::Pred | ElementType::U8 | ElementType::U32 => 0.0,
        ElementType::S8 => i8::MIN.into(),
        ElementType::S16 => i16::MIN.into(),
        ElementType::S32 => i32::MIN.into(),
        ElementType::S64 => i64::MIN as f64,
        ElementType::Bf16 | ElementType::F32 | ElementType::F64 => f64::NEG_INFINITY,
    }
}

fn highest(ty: ElementType) -> f64 {
    match ty {
        ElementType::Pred => 1.0,
        ElementType::U8 => u8::MAX.into(),
        ElementType::U32 => u32::MAX.into(),
        ElementType::S8 => i8::MAX.into(),
        ElementType::S16 => i16::MAX.into(),
        ElementType::S32 => i32::MAX.into(),
        ElementType::S64 => i64::MAX as f64,
        ElementType::Bf16 | ElementType::F32 | ElementType::F64 => f64::INFINITY,
    }
}

impl Comparison {
    /// XLA's name of the direction.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Eq => "EQ",
            Self::Ne => "NE",
            Self::Lt => "LT",
            Self::Le => "LE",
            Self::Gt => "GT",
            Self::Ge => "GE",
        }
    }
}

impl Op {
    /// XLA's opcode.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Parameter { .. } => "parameter",
            Self::Constant(_) => "constant",
            Self::Iota { .. } => "iota",
            Self::ReplicaId => "replica-id",
            Self::Unary(op) => op.name(),
            Self::Binary(op) => op.name(),
            Self::Compare(_) => "compare",
            Self::Select => "select",
            Self::Convert(_) => "convert",
            Self::BitcastConvert(_) => "bitcast-convert",
            Self::Broadcast { .. } => "broadcast",
            Self::Reshape(_) => "reshape",
            Self::Transpose(_) => "transpose",
            Self::Reverse(_) => "reverse",
            Self::Slice { .. } => "slice",
            Self::Pad(_) => "pad",
            Self::Concatenate(_) => "concatenate",
            Self::DynamicSlice(_) => "dynamic-slice",
            Self::DynamicUpdateSlice => "dynamic-update-slice",
            Self::Dot { .. } => "dot",
            Self::Convolution { .. } => "convolution",
            Self::Reduce { .. } => "reduce",
            Self::ReduceWindow { .. } => "reduce-window",
            Self::AllReduce(_) => "all-reduce",
            Self::While { .. } => "while",
            Self::Element(_) => "get-tuple-element",
            Self::StopGradient => "stop-gradient",
        }
    }
}
