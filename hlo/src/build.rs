//! The operations as methods of [`Graph`].
//!
//! Two-operand operations and [`Graph::select`] take equal shapes, or one side a scalar, which is broadcast. Extents
//! are in elements; dimension 0 varies slowest. Each method keeps an error for [`Graph::finish`] when its operands
//! do not fit, with the caller's location.

use crate::op::{Binary, Op, Unary};
use crate::{
    Comparison, ConvolutionConfig, ConvolutionWindow, DotDimensions, ElementType, Graph, Literal,
    PadDimension, Reducer, Shape, Value, WindowDimension,
};

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident: $op:ident;)*) => {
        impl Graph { $(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&mut self, v: Value) -> Value {
                self.push(Op::Unary(Unary::$op), &[v])
            }
        )* }
    };
}

unary! {
    /// `-v`.
    neg: Neg;
    /// `e^v`.
    exp: Exp;
    /// Natural logarithm.
    log: Log;
    /// Hyperbolic tangent.
    tanh: Tanh;
    /// Square root. Not differentiable here.
    sqrt: Sqrt;
    /// `1 / sqrt(v)`.
    rsqrt: Rsqrt;
    /// Magnitude. Not differentiable here.
    abs: Abs;
    /// Greatest integer not above. Not differentiable.
    floor: Floor;
    /// Logical not of a pred, bitwise not of an integer.
    not: Not;
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident: $op:ident;)*) => {
        impl Graph { $(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&mut self, a: Value, b: Value) -> Value {
                let (a, b) = self.align(a, b);
                self.push(Op::Binary(Binary::$op), &[a, b])
            }
        )* }
    };
}

binary! {
    /// `a + b`; integers wrap.
    add: Add;
    /// `a - b`; integers wrap.
    sub: Sub;
    /// `a * b`; integers wrap.
    mul: Mul;
    /// `a / b`; integers round towards zero.
    div: Div;
    /// Greater of the two; at a tie the gradient goes to `b`.
    max: Max;
    /// Less of the two; at a tie the gradient goes to `b`.
    min: Min;
    /// `a^b`. Not differentiable here.
    pow: Pow;
    /// Remainder with the sign of `a`. Not differentiable.
    rem: Rem;
    /// Logical or bitwise and.
    and: And;
    /// Logical or bitwise or.
    or: Or;
    /// Logical or bitwise exclusive or.
    xor: Xor;
    /// Shift left by `b` bits.
    shl: Shl;
    /// Shift right by `b` bits, zeros from the left.
    shr: Shr;
}

/// Elementwise operations and constants.
impl Graph {
    /// A constant scalar; rounded to the element type when lowered.
    #[track_caller]
    pub fn scalar(&mut self, ty: ElementType, value: f64) -> Value {
        self.constant(Literal::scalar(ty, value))
    }

    /// A constant scalar of the element type of `v`.
    #[track_caller]
    pub fn scalar_like(&mut self, v: Value, value: f64) -> Value {
        self.scalar(self.shape(v).element_type, value)
    }

    /// An array of equal elements.
    #[track_caller]
    pub fn full(&mut self, ty: ElementType, value: f64, dims: &[usize]) -> Value {
        let scalar = self.scalar(ty, value);
        self.spread(scalar, dims)
    }

    /// Zeros of the shape of `v`.
    #[track_caller]
    pub fn zeros_like(&mut self, v: Value) -> Value {
        let shape = self.shape(v).clone();
        self.full(shape.element_type, 0.0, &shape.dims)
    }

    /// An array whose elements are their own index along `dimension`.
    #[track_caller]
    pub fn iota(&mut self, ty: ElementType, dims: &[usize], dimension: usize) -> Value {
        self.push(Op::Iota { shape: Shape::new(ty, dims), dimension }, &[])
    }

    /// `max(v, 0)`, with gradient 0 at 0, as Keras has it.
    #[track_caller]
    pub fn relu(&mut self, v: Value) -> Value {
        let zero = self.scalar_like(v, 0.0);
        self.max(v, zero)
    }

    /// A pred for each pair of elements.
    #[track_caller]
    pub fn compare(&mut self, a: Value, b: Value, comparison: Comparison) -> Value {
        let (a, b) = self.align(a, b);
        self.push(Op::Compare(comparison), &[a, b])
    }

    /// `a` where `pred` holds, `b` elsewhere; scalars among the three are broadcast.
    #[track_caller]
    pub fn select(&mut self, pred: Value, a: Value, b: Value) -> Value {
        let (a, b) = self.align(a, b);
        let (pred, a) = self.align(pred, a);
        let (pred, b) = self.align(pred, b);
        self.push(Op::Select, &[pred, a, b])
    }

    /// Elements converted in value; floats to integers round towards zero.
    #[track_caller]
    pub fn convert(&mut self, v: Value, ty: ElementType) -> Value {
        if self.shape(v).element_type == ty { v } else { self.push(Op::Convert(ty), &[v]) }
    }

    /// The same bits as another type of equal width. Not differentiable.
    #[track_caller]
    pub fn bitcast_convert(&mut self, v: Value, ty: ElementType) -> Value {
        self.push(Op::BitcastConvert(ty), &[v])
    }

    /// `v` as a constant to differentiation.
    #[track_caller]
    pub fn stop_gradient(&mut self, v: Value) -> Value {
        self.push(Op::StopGradient, &[v])
    }

    /// 1 where the index along a new last dimension equals the integer in `indices`, else 0: `[..] -> [.., depth]`.
    #[track_caller]
    pub fn one_hot(&mut self, indices: Value, depth: usize, ty: ElementType) -> Value {
        let index = self.shape(indices).clone();
        let dims = [&index.dims[..], &[depth]].concat();
        let mapping: Vec<usize> = (0..index.rank()).collect();
        let spread = self.broadcast(indices, &dims, &mapping);
        let positions = self.iota(index.element_type, &dims, index.rank());
        let equal = self.compare(spread, positions, Comparison::Eq);
        self.convert(equal, ty)
    }

    /// Makes one side the other's shape if it is a scalar.
    #[track_caller]
    fn align(&mut self, a: Value, b: Value) -> (Value, Value) {
        let (left, right) = (self.dims(a), self.dims(b));
        match (left.is_empty(), right.is_empty()) {
            (true, false) => (self.spread(a, &right), b),
            (false, true) => (a, self.spread(b, &left)),
            _ => (a, b),
        }
    }

    /// A scalar broadcast to `dims`.
    #[track_caller]
    pub(crate) fn spread(&mut self, scalar: Value, dims: &[usize]) -> Value {
        if dims.is_empty() { scalar } else { self.broadcast(scalar, dims, &[]) }
    }
}

/// Operations that move elements.
impl Graph {
    /// Dimension `i` of `v` becomes dimension `mapping[i]` of the result, with equal extent; the others repeat it. The
    /// mapping ascends.
    #[track_caller]
    pub fn broadcast(&mut self, v: Value, dims: &[usize], mapping: &[usize]) -> Value {
        self.push(Op::Broadcast { dims: dims.to_vec(), mapping: mapping.to_vec() }, &[v])
    }

    /// The same elements in row-major order under other extents.
    #[track_caller]
    pub fn reshape(&mut self, v: Value, dims: &[usize]) -> Value {
        self.push(Op::Reshape(dims.to_vec()), &[v])
    }

    /// Dimension `i` of the result is dimension `permutation[i]` of `v`.
    #[track_caller]
    pub fn transpose(&mut self, v: Value, permutation: &[usize]) -> Value {
        self.push(Op::Transpose(permutation.to_vec()), &[v])
    }

    /// Elements in reverse order along `dims`. Not differentiable here.
    #[track_caller]
    pub fn reverse(&mut self, v: Value, dims: &[usize]) -> Value {
        self.push(Op::Reverse(dims.to_vec()), &[v])
    }

    /// Elements `starts[d], starts[d] + strides[d], …` below `limits[d]` of each dimension.
    #[track_caller]
    pub fn slice(&mut self, v: Value, starts: &[usize], limits: &[usize], strides: &[usize]) -> Value {
        let (starts, limits, strides) = (starts.to_vec(), limits.to_vec(), strides.to_vec());
        self.push(Op::Slice { starts, limits, strides }, &[v])
    }

    /// Elements `start..limit` of one dimension, all of the others.
    #[track_caller]
    pub fn slice_in_dim(&mut self, v: Value, dimension: usize, start: usize, limit: usize) -> Value {
        let mut limits = self.dims(v);
        let (mut starts, strides) = (vec![0; limits.len()], vec![1; limits.len()]);
        if let (Some(s), Some(l)) = (starts.get_mut(dimension), limits.get_mut(dimension)) {
            (*s, *l) = (start, limit);
            self.slice(v, &starts, &limits, &strides)
        } else {
            self.slice(v, &[], &[], &[])
        }
    }

    /// Adds (or with negative amounts cuts off) elements at the ends and between neighbours.
    #[track_caller]
    pub fn pad(&mut self, v: Value, value: Value, padding: &[PadDimension]) -> Value {
        self.push(Op::Pad(padding.to_vec()), &[v, value])
    }

    /// Arrays one after another along `dimension`.
    #[track_caller]
    pub fn concatenate(&mut self, values: &[Value], dimension: usize) -> Value {
        self.push(Op::Concatenate(dimension), values)
    }

    /// A part of extents `sizes` from integer scalars `starts`, moved inside where it would reach out. Not
    /// differentiable here.
    #[track_caller]
    pub fn dynamic_slice(&mut self, v: Value, starts: &[Value], sizes: &[usize]) -> Value {
        self.push(Op::DynamicSlice(sizes.to_vec()), &[&[v], starts].concat())
    }

    /// `v` with `update` written from integer scalars `starts` on, moved inside where it would reach out. Not
    /// differentiable here.
    #[track_caller]
    pub fn dynamic_update_slice(&mut self, v: Value, update: Value, starts: &[Value]) -> Value {
        self.push(Op::DynamicUpdateSlice, &[&[v, update], starts].concat())
    }
}

/// Rows: the parts of an array along its first dimension.
impl Graph {
    /// Row `index` (an integer scalar) of `v`: `[N, ..] -> [..]`.
    #[track_caller]
    pub fn row(&mut self, v: Value, index: Value) -> Value {
        let dims = self.dims(v);
        let (starts, mut sizes) = (self.row_start(index, dims.len()), dims);
        sizes[0] = 1;
        let row = self.dynamic_slice(v, &starts, &sizes);
        self.reshape(row, &sizes[1..])
    }

    /// `v` `[N, ..]` with row `index` replaced by `row` `[..]`.
    #[track_caller]
    pub fn put_row(&mut self, v: Value, index: Value, row: Value) -> Value {
        let mut dims = self.dims(row);
        dims.insert(0, 1);
        let (starts, row) = (self.row_start(index, dims.len()), self.reshape(row, &dims));
        self.dynamic_update_slice(v, row, &starts)
    }

    fn row_start(&mut self, index: Value, rank: usize) -> Vec<Value> {
        let zero = self.scalar_like(index, 0.0);
        let mut starts = vec![zero; rank];
        starts[0] = index;
        starts
    }
}

/// Products.
impl Graph {
    /// The general product of two arrays of f32 or bf16 (result f32) or f64, at the graph's precision.
    #[track_caller]
    pub fn dot_general(&mut self, a: Value, b: Value, dims: DotDimensions) -> Value {
        let precision = self.precision();
        self.push(Op::Dot { dims, precision }, &[a, b])
    }

    /// `[.., k] x [k, n] -> [.., n]`, lowered as a product of two matrices, which compilers multiply without copies
    /// in all three directions.
    #[track_caller]
    pub fn matmul(&mut self, a: Value, b: Value) -> Value {
        let mut dims = self.dims(a);
        let lhs_contracting = vec![dims.len().saturating_sub(1).min(1)];
        let product = DotDimensions { lhs_contracting, rhs_contracting: vec![0], ..Default::default() };
        let (true, Some(depth)) = (dims.len() > 2, dims.pop()) else {
            return self.dot_general(a, b, product);
        };
        let rows = self.reshape(a, &[dims.iter().product(), depth]);
        let flat = self.dot_general(rows, b, product);
        dims.extend(self.dims(b).get(1));
        self.reshape(flat, &dims)
    }

    /// The general convolution of an input and a kernel, at the graph's precision.
    #[track_caller]
    pub fn convolution(&mut self, lhs: Value, rhs: Value, config: ConvolutionConfig) -> Value {
        let precision = self.precision();
        self.push(Op::Convolution { config, precision }, &[lhs, rhs])
    }

    /// Keras's `Conv1D` without bias, valid padding, stride 1: `[B, T, C] * [K, C, F] -> [B, T - K + 1, F]`.
    #[track_caller]
    pub fn conv1d(&mut self, x: Value, kernel: Value) -> Value {
        let config = ConvolutionConfig {
            lhs_batch: 0,
            lhs_feature: 2,
            lhs_spatial: vec![1],
            rhs_input: 1,
            rhs_output: 2,
            rhs_spatial: vec![0],
            out_batch: 0,
            out_feature: 2,
            out_spatial: vec![1],
            windows: vec![ConvolutionWindow::default()],
        };
        self.convolution(x, kernel, config)
    }
}

/// Reductions.
impl Graph {
    /// Folds `dims` away. Only sums are differentiable.
    #[track_caller]
    pub fn reduce(&mut self, v: Value, dims: &[usize], reducer: Reducer) -> Value {
        self.push(Op::Reduce { dims: dims.to_vec(), reducer }, &[v])
    }

    /// Sum over `dims`.
    #[track_caller]
    pub fn sum(&mut self, v: Value, dims: &[usize]) -> Value {
        self.reduce(v, dims, Reducer::Add)
    }

    /// Greatest element over `dims`. Not differentiable: stop the gradient before it.
    #[track_caller]
    pub fn reduce_max(&mut self, v: Value, dims: &[usize]) -> Value {
        self.reduce(v, dims, Reducer::Max)
    }

    /// Folds a window that slides over all dimensions, one [`WindowDimension`] each. Not differentiable here; see
    /// [`crate::pool`] for max-pooling.
    #[track_caller]
    pub fn reduce_window(&mut self, v: Value, window: &[WindowDimension], reducer: Reducer) -> Value {
        self.push(Op::ReduceWindow { window: window.to_vec(), reducer }, &[v])
    }

    /// Index (s32) of the first greatest element along `dimension`; the last index where an element is NaN.
    #[track_caller]
    pub fn argmax(&mut self, v: Value, dimension: usize) -> Value {
        let dims = self.dims(v);
        let greatest = self.reduce_max(v, &[dimension]);
        let mapping: Vec<usize> = (0..dims.len()).filter(|&d| d != dimension).collect();
        let greatest = self.broadcast(greatest, &dims, &mapping);
        let found = self.compare(v, greatest, Comparison::Eq);
        let index = self.iota(ElementType::S32, &dims, dimension);
        let extent = dims.get(dimension).copied().unwrap_or(1);
        let last = self.scalar(ElementType::S32, extent as f64 - 1.0);
        let candidates = self.select(found, index, last);
        self.reduce(candidates, &[dimension], Reducer::Min)
    }

    /// Folds the same value of all replicas; each gets the result. A sum is differentiable: the objective is the sum
    /// of the replicas' own, so the cotangent is the all-reduced sum of the cotangents.
    #[track_caller]
    pub fn all_reduce(&mut self, v: Value, reducer: Reducer) -> Value {
        self.push(Op::AllReduce(reducer), &[v])
    }

    /// One all-reduce of several arrays: the replicas meet once. Not differentiable here.
    #[track_caller]
    pub fn all_reduce_many(&mut self, values: &[Value], reducer: Reducer) -> Vec<Value> {
        match values {
            [] => Vec::new(),
            &[v] => vec![self.all_reduce(v, reducer)],
            _ => self.push_tuple(Op::AllReduce(reducer), values),
        }
    }

    /// Number (u32) of the replica that runs.
    #[track_caller]
    pub fn replica_id(&mut self) -> Value {
        self.push(Op::ReplicaId, &[])
    }
}
