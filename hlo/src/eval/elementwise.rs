//! Elementwise operations of the evaluator.

use super::Tensor;
use crate::op::{Binary, Unary};
use crate::{Comparison, ElementType, Shape};

/// An integer at the width of its type.
fn wrap(ty: ElementType, value: i64) -> f64 {
    match ty {
        ElementType::Pred => f64::from(value & 1 != 0),
        ElementType::S8 => f64::from(value as i8),
        ElementType::S16 => f64::from(value as i16),
        ElementType::S32 => f64::from(value as i32),
        ElementType::U8 => f64::from(value as u8),
        ElementType::U32 => f64::from(value as u32),
        ElementType::S64 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => value as f64,
    }
}

/// A tensor of values that may lie outside of an integer type.
pub(super) fn wrapped(shape: Shape, mut values: Vec<f64>) -> Tensor {
    let ty = shape.element_type;
    if !ty.is_float() {
        values.iter_mut().for_each(|v| *v = wrap(ty, *v as i64));
    }
    Tensor::new(shape, values)
}

pub(super) fn unary(op: Unary, a: &Tensor) -> Tensor {
    let ty = a.shape.element_type;
    let f = |x: f64| match op {
        Unary::Neg => -x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Tanh => x.tanh(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Abs => x.abs(),
        Unary::Floor => x.floor(),
        Unary::Not => wrap(ty, !(x as i64)),
    };
    wrapped(a.shape.clone(), a.values.iter().map(|&x| f(x)).collect())
}

pub(super) fn binary(op: Binary, a: &Tensor, b: &Tensor) -> Tensor {
    let ty = a.shape.element_type;
    let pairs = a.values.iter().zip(b.values.iter());
    let values = if ty.is_float() {
        pairs.map(|(&x, &y)| float(op, x, y)).collect()
    } else {
        pairs.map(|(&x, &y)| wrap(ty, integer(op, ty, x as i64, y as i64))).collect()
    };
    Tensor::new(a.shape.clone(), values)
}

fn float(op: Binary, x: f64, y: f64) -> f64 {
    match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Max if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Min if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Max => x.max(y),
        Binary::Min => x.min(y),
        Binary::Pow => x.powf(y),
        Binary::Rem => x % y,
        Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => f64::NAN,
    }
}

fn integer(op: Binary, ty: ElementType, x: i64, y: i64) -> i64 {
    let bits = 8 * ty.bytes() as i64;
    let inside = (0..bits).contains(&y);
    match op {
        Binary::Add => x.wrapping_add(y),
        Binary::Sub => x.wrapping_sub(y),
        Binary::Mul => x.wrapping_mul(y),
        // XLA gives all bits set for a division by zero and the dividend for its remainder.
        Binary::Div => {
            if y == 0 {
                -1
            } else {
                x.wrapping_div(y)
            }
        }
        Binary::Rem => {
            if y == 0 {
                x
            } else {
                x.wrapping_rem(y)
            }
        }
        Binary::Max => x.max(y),
        Binary::Min => x.min(y),
        Binary::Pow => x.wrapping_pow(y as u32),
        Binary::And => x & y,
        Binary::Or => x | y,
        Binary::Xor => x ^ y,
        Binary::Shl => {
            if inside {
                x << y
            } else {
                0
            }
        }
        // The bits above the type's width are cut off before they could come in from the left.
        Binary::Shr if bits < 64 => {
            if inside {
                (x & ((1 << bits) - 1)) >> y
            } else {
                0
            }
        }
        Binary::Shr => {
            if inside {
                (x as u64 >> y) as i64
            } else {
                0
            }
        }
    }
}

pub(super) fn compare(comparison: Comparison, a: &Tensor, b: &Tensor) -> Tensor {
    let holds = |(x, y): (&f64, &f64)| match comparison {
        Comparison::Eq => x == y,
        Comparison::Ne => x != y,
        Comparison::Lt => x < y,
        Comparison::Le => x <= y,
        Comparison::Gt => x > y,
        Comparison::Ge => x >= y,
    };
    let values = a.values.iter().zip(b.values.iter()).map(|pair| f64::from(holds(pair))).collect();
    Tensor::new(a.shape.with_type(ElementType::Pred), values)
}

pub(super) fn select(pred: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    let pairs = a.values.iter().zip(b.values.iter());
    let values = pred.values.iter().zip(pairs).map(|(&p, (&x, &y))| if p != 0.0 { x } else { y }).collect();
    Tensor::new(a.shape.clone(), values)
}

pub(super) fn convert(a: &Tensor, shape: &Shape) -> Tensor {
    let (from, to) = (a.shape.element_type, shape.element_type);
    let f = |x: f64| match (from.is_float(), to.is_float()) {
        (_, true) => x,
        (_, false) if to == ElementType::Pred => f64::from(x != 0.0),
        (true, false) => saturate(to, x),
        (false, false) => wrap(to, x as i64),
    };
    Tensor::new(shape.clone(), a.values.iter().map(|&x| f(x)).collect())
}

/// A float rounded towards zero, at most the type's ends.
fn saturate(ty: ElementType, x: f64) -> f64 {
    let (low, high) = (crate::Reducer::Max.identity(ty), crate::Reducer::Min.identity(ty));
    if x.is_nan() { 0.0 } else { x.trunc().clamp(low, high) }
}

pub(super) fn bitcast(a: &Tensor, shape: &Shape) -> Tensor {
    let (from, to) = (a.shape.element_type, shape.element_type);
    Tensor::new(shape.clone(), a.values.iter().map(|&x| from_bits(to, bits(from, x))).collect())
}

fn bits(ty: ElementType, x: f64) -> u64 {
    match ty {
        ElementType::F64 => x.to_bits(),
        ElementType::F32 => u64::from((x as f32).to_bits()),
        ElementType::Bf16 => u64::from((x as f32).to_bits() >> 16),
        _ => x as i64 as u64,
    }
}

fn from_bits(ty: ElementType, bits: u64) -> f64 {
    match ty {
        ElementType::F64 => f64::from_bits(bits),
        ElementType::F32 => f64::from(f32::from_bits(bits as u32)),
        ElementType::Bf16 => f64::from(f32::from_bits((bits as u32) << 16)),
        _ => wrap(ty, bits as i64),
    }
}
