//! Shape inference: the result type of an operation, or a sentence on what does not fit.

use crate::graph::{Computation, Type};
use crate::op::{Binary, Op, Unary};
use crate::{ConvolutionConfig, DotDimensions, ElementType, PadDimension, Shape, WindowDimension};

type Inferred = Result<Shape, String>;

/// The type of `op` over operands of these types.
pub(crate) fn infer(op: &Op, operands: &[&Type]) -> Result<Type, String> {
    let arrays: Option<Vec<&Shape>> = operands
        .iter()
        .map(|t| match t {
            Type::Array(shape) => Some(shape),
            Type::Tuple(_) => None,
        })
        .collect();
    let shapes = arrays.ok_or("expected arrays, found a tuple")?;
    match op {
        Op::While { condition, body } => while_loop(condition, body, &shapes),
        Op::AllReduce(_) if shapes.len() != 1 => Ok(Type::Tuple(shapes.into_iter().cloned().collect())),
        _ => array(op, &shapes).map(Type::Array),
    }
}

fn array(op: &Op, s: &[&Shape]) -> Inferred {
    match op {
        Op::Parameter { shape, .. } => Ok(shape.clone()),
        Op::Constant(literal) => {
            let (expected, found) = (literal.shape.elements(), literal.values.len());
            check(expected == found, || format!("{} has {expected} elements, found {found}", literal.shape))?;
            Ok(literal.shape.clone())
        }
        Op::Iota { shape, dimension } => {
            dimension_of(shape, *dimension)?;
            Ok(shape.clone())
        }
        Op::ReplicaId => Ok(Shape::scalar(ElementType::U32)),
        Op::Unary(unary) => elementwise_unary(*unary, s[0]),
        Op::Binary(binary) => elementwise_binary(*binary, s[0], s[1]),
        Op::Compare(_) => same(s[0], s[1]).map(|()| s[0].with_type(ElementType::Pred)),
        Op::Select => {
            check(s[0].element_type == ElementType::Pred, || {
                format!("expected a pred to choose by, found {}", s[0])
            })?;
            same(s[1], s[2])?;
            check(s[0].dims == s[1].dims, || format!("the pred is {}, what it chooses from {}", s[0], s[1]))?;
            Ok(s[1].clone())
        }
        Op::Convert(ty) => Ok(s[0].with_type(*ty)),
        Op::BitcastConvert(ty) => {
            check(ty.bytes() == s[0].element_type.bytes(), || format!("{} and {ty} differ in width", s[0]))?;
            Ok(s[0].with_type(*ty))
        }
        Op::Broadcast { dims, mapping } => broadcast(s[0], dims, mapping),
        Op::Reshape(dims) => {
            let result = s[0].with_dims(dims.clone());
            check(result.elements() == s[0].elements(), || {
                format!("{} cannot become {result}: sizes differ", s[0])
            })?;
            Ok(result)
        }
        Op::Transpose(permutation) => {
            permutation_of(permutation, s[0].rank())?;
            Ok(s[0].with_dims(permutation.iter().map(|&d| s[0].dims[d]).collect()))
        }
        Op::Reverse(dims) => {
            distinct(dims, s[0])?;
            Ok(s[0].clone())
        }
        Op::Slice { starts, limits, strides } => slice(s[0], starts, limits, strides),
        Op::Pad(padding) => pad(s[0], s[1], padding),
        Op::Concatenate(dimension) => concatenate(s, *dimension),
        Op::DynamicSlice(sizes) => {
            fits_inside(sizes, s[0])?;
            starts(&s[1..], s[0])?;
            Ok(s[0].with_dims(sizes.clone()))
        }
        Op::DynamicUpdateSlice => {
            same_type(s[0], s[1])?;
            fits_inside(&s[1].dims, s[0])?;
            starts(&s[2..], s[0])?;
            Ok(s[0].clone())
        }
        Op::Dot { dims, .. } => dot(s[0], s[1], dims),
        Op::Convolution { config, .. } => convolution(s[0], s[1], config),
        Op::Reduce { dims, .. } => {
            distinct(dims, s[0])?;
            let kept = (0..s[0].rank()).filter(|d| !dims.contains(d));
            Ok(s[0].with_dims(kept.map(|d| s[0].dims[d]).collect()))
        }
        Op::ReduceWindow { window, .. } => reduce_window(s[0], window),
        Op::AllReduce(_) | Op::StopGradient => Ok(s[0].clone()),
        // Loops are inferred above; elements take their shape from the tuple's operands.
        Op::While { .. } | Op::Element(_) => Err("expected an array operation".to_owned()),
    }
}

fn check(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

fn same(a: &Shape, b: &Shape) -> Result<(), String> {
    check(a == b, || format!("expected equal shapes or a scalar, found {a} and {b}"))
}

fn same_type(a: &Shape, b: &Shape) -> Result<(), String> {
    check(a.element_type == b.element_type, || format!("expected one element type, found {a} and {b}"))
}

fn dimension_of(shape: &Shape, dimension: usize) -> Result<(), String> {
    check(dimension < shape.rank(), || format!("{shape} has no dimension {dimension}"))
}

fn distinct(dims: &[usize], shape: &Shape) -> Result<(), String> {
    for (i, &d) in dims.iter().enumerate() {
        dimension_of(shape, d)?;
        check(!dims[..i].contains(&d), || format!("dimension {d} is named twice"))?;
    }
    Ok(())
}

fn permutation_of(permutation: &[usize], rank: usize) -> Result<(), String> {
    let mut sorted = permutation.to_vec();
    sorted.sort_unstable();
    let whole = sorted.iter().copied().eq(0..rank);
    check(whole, || format!("expected a permutation of {rank} dimensions, found {permutation:?}"))
}

fn elementwise_unary(op: Unary, a: &Shape) -> Inferred {
    let ty = a.element_type;
    let fits = match op {
        Unary::Neg | Unary::Abs => ty != ElementType::Pred,
        Unary::Not => !ty.is_float(),
        Unary::Exp | Unary::Log | Unary::Tanh | Unary::Sqrt | Unary::Rsqrt | Unary::Floor => ty.is_float(),
    };
    check(fits, || format!("no such operation on elements of type {ty}"))?;
    Ok(a.clone())
}

fn elementwise_binary(op: Binary, a: &Shape, b: &Shape) -> Inferred {
    same(a, b)?;
    let ty = a.element_type;
    let fits = match op {
        Binary::And | Binary::Or | Binary::Xor => !ty.is_float(),
        Binary::Shl | Binary::Shr => !ty.is_float() && ty != ElementType::Pred,
        Binary::Pow => ty.is_float(),
        Binary::Max | Binary::Min => true,
        Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Rem => ty != ElementType::Pred,
    };
    check(fits, || format!("no such operation on elements of type {ty}"))?;
    Ok(a.clone())
}

fn broadcast(a: &Shape, dims: &[usize], mapping: &[usize]) -> Inferred {
    let result = a.with_dims(dims.to_vec());
    check(mapping.len() == a.rank(), || {
        format!("{a} has {} dimensions, the mapping {}", a.rank(), mapping.len())
    })?;
    distinct(mapping, &result)?;
    check(mapping.is_sorted(), || {
        format!("expected an ascending mapping, found {mapping:?}; transpose before")
    })?;
    for (&to, &extent) in mapping.iter().zip(&a.dims) {
        check(dims[to] == extent, || format!("{a} cannot become {result}: dimension {to} is not {extent}"))?;
    }
    Ok(result)
}

fn slice(a: &Shape, starts: &[usize], limits: &[usize], strides: &[usize]) -> Inferred {
    let rank = a.rank();
    let whole = [starts.len(), limits.len(), strides.len()].iter().all(|&n| n == rank);
    check(whole, || format!("expected starts, limits and strides for each dimension of {a}"))?;
    let mut dims = Vec::with_capacity(rank);
    for d in 0..rank {
        let (start, limit, stride) = (starts[d], limits[d], strides[d]);
        let fits = start <= limit && limit <= a.dims[d] && stride > 0;
        check(fits, || format!("{start}..{limit} by {stride} is not inside of dimension {d} of {a}"))?;
        dims.push((limit - start).div_ceil(stride));
    }
    Ok(a.with_dims(dims))
}

fn pad(a: &Shape, value: &Shape, padding: &[PadDimension]) -> Inferred {
    same_type(a, value)?;
    check(value.rank() == 0, || format!("expected a scalar to pad with, found {value}"))?;
    check(padding.len() == a.rank(), || format!("expected padding for each dimension of {a}"))?;
    let mut dims = Vec::with_capacity(a.rank());
    for (p, &n) in padding.iter().zip(&a.dims) {
        let extent = dilated(n, p.interior + 1) + p.low + p.high;
        check(extent >= 0, || format!("padding {p:?} cuts off more than there is of {a}"))?;
        dims.push(extent as usize);
    }
    Ok(a.with_dims(dims))
}

/// Extent of `n` elements at this distance.
pub(crate) fn dilated(n: usize, distance: usize) -> i64 {
    if n == 0 { 0 } else { ((n - 1) * distance + 1) as i64 }
}

fn concatenate(s: &[&Shape], dimension: usize) -> Inferred {
    let first = *s.first().ok_or("expected at least one array")?;
    dimension_of(first, dimension)?;
    let mut dims = first.dims.clone();
    for other in &s[1..] {
        let fits = first.element_type == other.element_type
            && first.rank() == other.rank()
            && (0..first.rank()).all(|d| d == dimension || first.dims[d] == other.dims[d]);
        check(fits, || format!("{first} and {other} differ in more than dimension {dimension}"))?;
        dims[dimension] += other.dims[dimension];
    }
    Ok(first.with_dims(dims))
}

fn fits_inside(sizes: &[usize], a: &Shape) -> Result<(), String> {
    let fits = sizes.len() == a.rank() && sizes.iter().zip(&a.dims).all(|(s, d)| s <= d);
    check(fits, || format!("a part of {sizes:?} does not fit into {a}"))
}

fn starts(starts: &[&Shape], a: &Shape) -> Result<(), String> {
    let integer =
        |s: &&Shape| s.rank() == 0 && !s.element_type.is_float() && s.element_type != ElementType::Pred;
    let fits = starts.len() == a.rank() && starts.iter().all(integer);
    check(fits, || format!("expected an integer scalar to start from for each dimension of {a}"))?;
    for s in starts {
        same_type(starts[0], s)?;
    }
    Ok(())
}

/// The element type of a product: f64 of two f64, otherwise f32.
fn product_type(a: &Shape, b: &Shape) -> Result<ElementType, String> {
    use ElementType::{Bf16, F32, F64};
    match (a.element_type, b.element_type) {
        (F64, F64) => Ok(F64),
        (F32 | Bf16, F32 | Bf16) => Ok(F32),
        _ => Err(format!("expected two arrays of f32 or bf16, or two of f64, found {a} and {b}")),
    }
}

fn dot(a: &Shape, b: &Shape, d: &DotDimensions) -> Inferred {
    let ty = product_type(a, b)?;
    distinct(&[d.lhs_batch.clone(), d.lhs_contracting.clone()].concat(), a)?;
    distinct(&[d.rhs_batch.clone(), d.rhs_contracting.clone()].concat(), b)?;
    for (left, right) in [(&d.lhs_contracting, &d.rhs_contracting), (&d.lhs_batch, &d.rhs_batch)] {
        let fits = left.len() == right.len() && left.iter().zip(right).all(|(&l, &r)| a.dims[l] == b.dims[r]);
        check(fits, || format!("dimensions {left:?} of {a} and {right:?} of {b} differ in extent"))?;
    }
    let batch = d.lhs_batch.iter().map(|&i| a.dims[i]);
    let left = (0..a.rank()).filter(|i| !d.lhs_batch.contains(i) && !d.lhs_contracting.contains(i));
    let right = (0..b.rank()).filter(|i| !d.rhs_batch.contains(i) && !d.rhs_contracting.contains(i));
    Ok(Shape {
        element_type: ty,
        dims: batch.chain(left.map(|i| a.dims[i])).chain(right.map(|i| b.dims[i])).collect(),
    })
}

fn convolution(a: &Shape, k: &Shape, c: &ConvolutionConfig) -> Inferred {
    let ty = product_type(a, k)?;
    let numbers = |first: usize, second: usize, spatial: &[usize]| [&[first, second], spatial].concat();
    permutation_of(&numbers(c.lhs_batch, c.lhs_feature, &c.lhs_spatial), a.rank())?;
    permutation_of(&numbers(c.rhs_input, c.rhs_output, &c.rhs_spatial), k.rank())?;
    permutation_of(&numbers(c.out_batch, c.out_feature, &c.out_spatial), a.rank())?;
    check(k.rank() == a.rank() && c.windows.len() + 2 == a.rank(), || {
        format!("expected one window for each spatial dimension of {a} and {k}, found {}", c.windows.len())
    })?;
    check(a.dims[c.lhs_feature] == k.dims[c.rhs_input], || {
        format!("the features of {a} and of the kernel {k} differ")
    })?;
    let mut dims = vec![0; a.rank()];
    dims[c.out_batch] = a.dims[c.lhs_batch];
    dims[c.out_feature] = k.dims[c.rhs_output];
    for (i, w) in c.windows.iter().enumerate() {
        let positive = w.stride > 0 && w.lhs_dilation > 0 && w.rhs_dilation > 0;
        check(positive, || format!("stride and dilations must be positive, found {w:?}"))?;
        let input = dilated(a.dims[c.lhs_spatial[i]], w.lhs_dilation) + w.low + w.high;
        let window = dilated(k.dims[c.rhs_spatial[i]], w.rhs_dilation);
        dims[c.out_spatial[i]] = positions(input, window, w.stride).ok_or_else(|| {
            format!("a kernel of {window} does not fit into {input} elements of {a} with its padding")
        })?;
    }
    Ok(Shape { element_type: ty, dims })
}

/// How many times a window fits.
fn positions(input: i64, window: i64, stride: usize) -> Option<usize> {
    (input >= window && window > 0).then(|| ((input - window) / stride as i64 + 1) as usize)
}

fn reduce_window(a: &Shape, windows: &[WindowDimension]) -> Inferred {
    check(windows.len() == a.rank(), || format!("expected a window for each dimension of {a}"))?;
    let mut dims = Vec::with_capacity(a.rank());
    for (w, &n) in windows.iter().zip(&a.dims) {
        let positive = w.size > 0 && w.stride > 0 && w.dilation > 0;
        check(positive, || format!("size, stride and dilation must be positive, found {w:?}"))?;
        let (input, window) = (n as i64 + w.low + w.high, dilated(w.size, w.dilation));
        let fits = positions(input, window, w.stride);
        dims.push(
            fits.ok_or_else(|| format!("a window of {window} does not fit into {input} elements of {a}"))?,
        );
    }
    Ok(a.with_dims(dims))
}

fn while_loop(condition: &Computation, body: &Computation, carry: &[&Shape]) -> Result<Type, String> {
    let pred = condition.output_shapes();
    let scalar = pred == [Shape::scalar(ElementType::Pred)];
    check(scalar, || format!("expected the condition to return pred[], found {}", list(&pred)))?;
    let next = body.output_shapes();
    let carry: Vec<Shape> = carry.iter().map(|&s| s.clone()).collect();
    check(next == carry, || format!("the carry is {}, the body returns {}", list(&carry), list(&next)))?;
    Ok(Type::Tuple(carry))
}

fn list(shapes: &[Shape]) -> String {
    let shapes: Vec<String> = shapes.iter().map(Shape::to_string).collect();
    format!("({})", shapes.join(", "))
}
