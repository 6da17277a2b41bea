//! Wire messages of XLA and TensorBoard.
//!
//! The messages are declared in `protos/`, our own minimal subset of the upstream definitions: only the
//! messages and fields that are read or written, under upstream's field numbers. The Rust in `src/generated/`
//! is checked in; `tests/generated.rs` makes it anew and fails when the two differ, so neither a build script
//! nor `protoc` is needed.
//!
//! Invariant: decoding skips fields that are not declared, so a message that was decoded and encoded again
//! may be smaller than it was. Maps are ordered, so encoding is a pure function of the message.
//!
//! ```
//! use prost::Message as _;
//! let module = tpu_train_proto::xla::HloModuleProto { name: "step".into(), ..Default::default() };
//! let bytes = module.encode_to_vec();
//! assert_eq!(tpu_train_proto::xla::HloModuleProto::decode(bytes.as_slice()).unwrap().name, "step");
//! ```

/// HLO modules, literals and compile options.
pub mod xla {
    #![allow(missing_docs, clippy::all)]
    include!("generated/xla.rs");
}

/// Event files: events, summaries, tensors and graphs.
pub mod tensorboard {
    #![allow(missing_docs, clippy::all)]
    include!("generated/tensorboard.rs");
}
