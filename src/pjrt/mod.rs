//! PJRT: plugins loaded at run time through the PJRT C API; the only room with unsafe code.
//!
//! A **plugin** is a shared library with one entry point that returns a table of C functions. A **client** is one
//! plugin's runtime in this process; it owns **devices**; a **program** (a serialized `HloModuleProto`) compiles
//! to an **executable**; **buffers** live on a device. This room speaks bytes, dims and element types and never
//! sees a graph.
//!
//! Invariants: [`prepare_environment`] runs before a plugin is loaded; a library once loaded is never unloaded;
//! every object keeps what it came from alive (a buffer its client, the client its plugin); every failure of a
//! C function carries its name, code and message.
//!
//! ```no_run
//! use tpu_train::pjrt::{OptionValue, Plugin, PlatformRequest, plugin};
//! # fn main() -> tpu_train::pjrt::Result<()> {
//! let file = plugin::discover(PlatformRequest::Auto, None)?;
//! let client = Plugin::load(&file)?.client(&[("cpu_device_count", OptionValue::Int(8))])?;
//! println!("{} with {} devices", client.platform_name()?, client.devices()?.len());
//! # Ok(())
//! # }
//! ```
#![allow(unsafe_code)]

mod ahead_of_time;
mod api;
mod buffer;
mod client;
mod device;
mod element;
mod environment;
mod error;
mod event;
mod executable;
pub mod install;
mod named;
pub mod plugin;
mod sys;
mod topology;

pub use ahead_of_time::{or_last_words, prepare_ahead_of_time};
pub use buffer::Buffer;
pub use client::{Client, Plugin};
pub use device::{Device, DeviceDescription, DeviceMemory};
pub use element::{ElementType, Number, bytes_of};
pub use environment::{has_gpu_device_file_under, prepare_environment, tpu_device_files_under};
pub use error::{Error, ErrorCode, PjrtError, Result};
pub use executable::{Argument, CompiledMemory, Executable, LoadedExecutable, OptimizedProgram};
pub use named::OptionValue;
pub use plugin::{Platform, PlatformRequest, PluginFile};
pub use topology::Topology;
