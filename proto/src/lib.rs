//! Wire messages of XLA and TensorBoard.
