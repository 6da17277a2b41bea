//! XLA's own reader on the messages of the crate `tpu-train-proto`: every field number is the compiler's.

use std::collections::BTreeMap;
use std::fs;

use prost::Message;
use tpu_train_proto::xla::device_assignment_proto::ComputationDevice;
use tpu_train_proto::xla::option_override_proto::Value;
use tpu_train_proto::xla::{
    CompileOptionsProto, DebugOptions, DeviceAssignmentProto, ExecutableBuildOptionsProto, HloModuleProto,
    OptionOverrideProto,
};

use crate::support::judge;

/// Writes modules that use most of the attributes: as lowered, as optimized, and with collectives.
const WRITE_MODULES: &str = r#"
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, jax.numpy as jnp
from jax import lax
highest = lax.Precision.HIGHEST
def program(x, kernel, w, i):
    y = lax.conv_general_dilated(x, kernel, (2,), [(1, 2)], (1,), (2,), ("NWC", "WIO", "NWC"), precision=highest)
    y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 1), (1, 2, 1), "VALID")
    y = lax.dot_general(y, w, (((2,), (0,)), ((), ())), precision=highest)
    y = lax.pad(y, 0., [(0, 0, 0), (1, -1, 2), (0, 0, 0)])
    s, _ = lax.scan(lambda c, v: (jnp.tanh(c + v), c), y[:, 0], jnp.swapaxes(y, 0, 1))
    z = lax.dynamic_update_slice(s, lax.dynamic_slice(s, (i, 0), (1, 3)), (0, i))
    g = s[jnp.array([1, 0, 1])]
    r = lax.reduce_precision(lax.rev(z.astype(jnp.bfloat16), (1,)), 5, 4).astype(jnp.float32)
    h = jnp.zeros(4).at[jnp.array([1, 2])].add(r[0, :2])
    order = jnp.argsort(r.reshape(-1))
    q = lax.shift_right_logical(order.astype(jnp.uint32), jnp.uint32(1))
    constants = jnp.array([True, False]), jnp.array([1, -2], jnp.int8), jnp.array([3, -4], jnp.int16)
    return jnp.where(r > 0, r, -r) + z, g, h, order, q, jnp.arange(5) * jnp.array([1, 2, 3, 4, 7]), constants
arguments = jnp.ones((2, 32, 2)), jnp.ones((3, 2, 4)), jnp.ones((4, 3)), jnp.int32(1)
lowered = jax.jit(program).lower(*arguments)
donating = jax.jit(lambda x, y: (y * 2, x + 1), donate_argnums=1).lower(jnp.ones(3), jnp.ones((2, 2)))
def collectives(v):
    return lax.psum(v, "i"), lax.ppermute(v, "i", [(0, 1), (1, 0)]), lax.axis_index("i"), \
        lax.psum(v, "i", axis_index_groups=[[0, 1], [2, 3]])
replicated = jax.pmap(collectives, "i").lower(jnp.ones((4, 3)))
optimized = lambda lowered: lowered.compile().runtime_executable().hlo_modules()[0]
modules = {
    "lowered": lowered.compiler_ir("hlo").get_hlo_module(),
    "optimized": optimized(lowered),
    "donating": optimized(donating),
    "collectives": optimized(replicated),
}
for name, module in modules.items():
    with open(f"{sys.argv[1]}/{name}", "wb") as file:
        file.write(module.as_serialized_hlo_module_proto())
"#;

/// Prints both versions of each module, in full.
const PRINT_MODULES: &str = r#"
import json, sys
import jax
from jaxlib import _hlo
options = _hlo.HloPrintOptions()
options.print_metadata = False
options.print_large_constants = True
def text(name):
    with open(f"{sys.argv[1]}/{name}", "rb") as file:
        return _hlo.HloModule.from_serialized_hlo_module_proto(file.read()).to_string(options)
print(json.dumps({name: [text(name), text(name + ".again")] for name in sys.argv[2:]}))
"#;

#[test]
fn modules_of_a_real_compiler_survive_reading_and_writing() {
    let Some(judge) = judge::python() else { return };
    let folder = tempfile::tempdir().unwrap();
    judge.run(WRITE_MODULES, &[folder.path()]);
    let names = ["lowered", "optimized", "donating", "collectives"];
    for name in names {
        let bytes = fs::read(folder.path().join(name)).unwrap();
        let module = HloModuleProto::decode(bytes.as_slice()).unwrap();
        assert!(module.host_program_shape.is_some() && module.entry_computation_id != 0);
        fs::write(folder.path().join(format!("{name}.again")), module.encode_to_vec()).unwrap();
    }
    let arguments: Vec<_> =
        [folder.path().as_os_str()].into_iter().chain(names.map(|n| n.as_ref())).collect();
    let printed: BTreeMap<String, [String; 2]> =
        serde_json::from_str(&judge.run(PRINT_MODULES, &arguments)).unwrap();
    let expected = [
        ("lowered", "convolution("),
        ("lowered", "operand_precision={highest,highest}"),
        ("optimized", "backend_config="),
        ("donating", "input_output_alias="),
        ("collectives", "replica_groups="),
        ("collectives", "source_target_pairs="),
    ];
    for (name, part) in expected {
        assert!(printed[name][0].contains(part), "no {part} in the module {name}:\n{}", printed[name][0]);
    }
    for (name, [first, again]) in printed {
        // Shardings are the one printed attribute that is not declared.
        assert_eq!(first.replace(", sharding={devices=[4,1]<=[4]}", ""), again, "the module {name} changed");
    }
}

#[test]
fn compile_options_mean_to_the_compiler_what_they_mean_here() {
    let Some(judge) = judge::python() else { return };
    let devices = |ids: [i64; 2]| ComputationDevice { replica_device_ids: ids.to_vec() };
    let assignment = DeviceAssignmentProto {
        replica_count: 2,
        computation_count: 1,
        computation_devices: vec![devices([3, 1])],
    };
    let debug = DebugOptions {
        xla_dump_to: "dumps".into(),
        xla_dump_hlo_module_re: "module".into(),
        xla_dump_hlo_pass_re: "pass".into(),
        xla_dump_hlo_as_proto: true,
        xla_dump_max_hlo_modules: 7,
        ..DebugOptions::default()
    };
    let build = ExecutableBuildOptionsProto {
        num_replicas: 2,
        num_partitions: 1,
        device_assignment: Some(assignment),
        debug_options: Some(debug),
        ..ExecutableBuildOptionsProto::default()
    };
    let value = OptionOverrideProto { value: Some(Value::BoolField(true)) };
    let options = CompileOptionsProto {
        executable_build_options: Some(build),
        env_option_overrides: [("xla_dump_hlo_as_text".to_owned(), value)].into(),
        ..CompileOptionsProto::default()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), options.encode_to_vec()).unwrap();
    let script = r#"
import sys
from jaxlib import xla_client
options = xla_client.CompileOptions.ParseFromString(open(sys.argv[1], "rb").read())
build = options.executable_build_options
debug = build.debug_options
print(build.num_replicas, build.num_partitions, build.device_assignment.serialize().hex())
print(debug.xla_dump_to, debug.xla_dump_hlo_module_re, debug.xla_dump_hlo_pass_re)
print(debug.xla_dump_hlo_as_proto, debug.xla_dump_hlo_as_text, debug.xla_dump_max_hlo_modules)
print(options.env_option_overrides)
"#;
    let printed = judge.run(script, &[file.path()]);
    let expected = "2 1 080210011a040a020301
dumps module pass
True False 7
[('xla_dump_hlo_as_text', True)]
";
    assert_eq!(printed, expected);
}
