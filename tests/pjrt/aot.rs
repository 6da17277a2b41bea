//! The same binding against libtpu, a plugin of a newer C API, ahead of time and without a TPU.

use prost::Message;
use tpu_train::pjrt::install::InstallOptions;
use tpu_train::pjrt::{OptionValue, Platform, Plugin, PluginFile, plugin};
use tpu_train::runtime::{compile_options, optimized_module};

use super::{ELEMENTS, error_of, module};
use crate::support;

/// libtpu if it is there, or may be downloaded (137 MB, 467 MB unpacked) because `TPU_TRAIN_SLOW` is set.
fn libtpu() -> Option<PluginFile> {
    support::prepare();
    let found = plugin::find(Platform::Tpu).unwrap();
    if found.is_none() && std::env::var_os("TPU_TRAIN_SLOW").is_none() {
        eprintln!("skipped: libtpu is not installed; set TPU_TRAIN_SLOW=1 to download it");
        return None;
    }
    found.or_else(|| {
        match plugin::install_file(Platform::Tpu, &InstallOptions::from_environment().unwrap()) {
            Ok(file) => Some(file),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    })
}

#[test]
fn libtpu_compiles_for_topologies_it_does_not_have() {
    let Some(file) = libtpu() else { return };
    let plugin = Plugin::load(&file).unwrap();
    assert_eq!(plugin.api_version().0, 0);
    let module = module::all_reduce_loop(ELEMENTS);
    for (name, slices, devices) in [("v5e:2x4", 1, 8), ("v4:2x2x1", 1, 8), ("v5e:2x4", 2, 16)] {
        let options = [("num_slices", OptionValue::Int(slices))];
        let topology = plugin.topology(name, if slices > 1 { &options[..] } else { &[] }).unwrap();
        assert_eq!(topology.platform_name().unwrap(), "tpu");
        let described = topology.devices().unwrap();
        assert_eq!(described.len(), devices, "{name}");
        if slices > 1 {
            let slice: Vec<_> = described.iter().map(|device| device.int_attribute("slice_index")).collect();
            assert_eq!((slice[0], slice[devices - 1]), (Some(0), Some(slices - 1)));
        }
        let ids: Vec<i32> = described.iter().map(|device| device.id).collect();
        let executable = topology.compile(&module.encode_to_vec(), &compile_options(&ids, None)).unwrap();
        let memory = executable.memory().unwrap();
        assert!(memory.arguments > 0 && memory.outputs > 0, "{memory:?}");
        assert_eq!(executable.output_count().unwrap(), 2);
        let optimized = optimized_module(&executable).unwrap();
        let instructions = || optimized.computations.iter().flat_map(|computation| &computation.instructions);
        assert!(instructions().any(|i| i.opcode.starts_with("all-reduce")), "{name}");
        assert!(!executable.serialize().unwrap().is_empty());
        assert!(!executable.fingerprint().unwrap().is_empty());
        assert!(!executable.cost_analysis().unwrap().is_empty());
        println!("{name} x {slices}: {memory:?}");
    }
}

#[test]
fn libtpu_names_what_it_does_not_know_and_makes_no_client_without_a_tpu() {
    let Some(file) = libtpu() else { return };
    let plugin = Plugin::load(&file).unwrap();
    let error = error_of(plugin.topology("v99:2x2", &[]));
    assert!(error.starts_with("PJRT_TopologyDescription_Create failed with "), "{error}");
    if plugin::require_devices(Platform::Tpu).is_ok() {
        eprintln!("skipped: this machine has a TPU");
        return;
    }
    let start = std::time::Instant::now();
    let error = error_of(plugin.client(&[]));
    assert!(error.contains("no TPU device files"), "{error}");
    assert!(start.elapsed().as_secs_f64() < 1.0);
}
