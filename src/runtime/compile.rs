//! Compile options, and the modules left behind by `--xla-dump`.

use std::fs;
use std::path::Path;

use prost::Message;
use tpu_train_hlo::text;
use tpu_train_proto::xla::device_assignment_proto::ComputationDevice;
use tpu_train_proto::xla::option_override_proto::Value;
use tpu_train_proto::xla::{
    CompileOptionsProto, DeviceAssignmentProto, ExecutableBuildOptionsProto, HloModuleProto,
    HloModuleProtoWithConfig, OptionOverrideProto,
};

use super::RuntimeError;
use crate::pjrt::Executable;

/// Format of an optimized program that wraps the module and its configuration.
const WITH_CONFIG: &str = "hlo_with_config";
/// Format of an optimized program that is the module alone.
const MODULE: &str = "hlo";

/// A serialized `CompileOptionsProto` for one replica on each of `device_ids`, in that order.
///
/// With `dump` the compiler writes its own dumps into that folder as well.
pub fn compile_options(device_ids: &[i32], dump: Option<&Path>) -> Vec<u8> {
    let assignment = DeviceAssignmentProto {
        replica_count: device_ids.len() as i32,
        computation_count: 1,
        computation_devices: vec![ComputationDevice {
            replica_device_ids: device_ids.iter().map(|&id| id.into()).collect(),
        }],
    };
    let build = ExecutableBuildOptionsProto {
        device_ordinal: -1,
        num_replicas: device_ids.len() as i64,
        num_partitions: 1,
        device_assignment: Some(assignment),
        ..Default::default()
    };
    // Single overrides: a whole `debug_options` record would replace the compiler's defaults, optimization included.
    let overrides = dump.into_iter().flat_map(|folder| {
        [
            ("xla_dump_to", Value::StringField(folder.display().to_string())),
            ("xla_dump_hlo_as_text", Value::BoolField(true)),
        ]
    });
    let options = CompileOptionsProto {
        executable_build_options: Some(build),
        env_option_overrides: overrides
            .map(|(name, value)| (name.to_owned(), OptionOverrideProto { value: Some(value) }))
            .collect(),
        ..Default::default()
    };
    options.encode_to_vec()
}

/// The module a plugin's compiler made of a program.
///
/// # Errors
/// The plugin does not give it, or in a form that is no `HloModuleProto`.
pub fn optimized_module(executable: &Executable) -> Result<HloModuleProto, RuntimeError> {
    let program = executable.optimized_program()?;
    let unreadable =
        |reason: String| RuntimeError::OptimizedProgram { format: program.format.clone(), reason };
    match program.format.as_str() {
        WITH_CONFIG => HloModuleProtoWithConfig::decode(&program.bytes[..])
            .map_err(|error| unreadable(error.to_string()))?
            .hlo_module
            .ok_or_else(|| unreadable("it holds no module".into())),
        MODULE => HloModuleProto::decode(&program.bytes[..]).map_err(|error| unreadable(error.to_string())),
        _ => Err(unreadable(format!("expected {WITH_CONFIG} or {MODULE}"))),
    }
}

/// Writes a module as `<folder>/<name>.<stage>.pb`, a serialized `HloModuleProto`, and as text beside it.
///
/// # Errors
/// A file cannot be written.
pub(super) fn dump_module(
    folder: &Path,
    name: &str,
    stage: &str,
    module: &HloModuleProto,
) -> Result<(), RuntimeError> {
    let write = |extension: &str, bytes: &[u8]| {
        let path = folder.join(format!("{name}.{stage}.{extension}"));
        fs::write(&path, bytes).map_err(|source| RuntimeError::Dump { path, source })
    };
    write("pb", &module.encode_to_vec())?;
    write("txt", text::print(module).as_bytes())
}
