//! XLA graphs: builder, autodiff, lowering, evaluator.
