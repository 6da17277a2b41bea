//! A runtime on virtual CPU devices, for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError};

use tpu_train::pjrt::{Platform, PlatformRequest, prepare_environment};
use tpu_train::runtime::{Runtime, RuntimeOptions};

/// A runtime with this many virtual CPU devices, shared by the tests of this process. Installs the plugin if it is
/// not there; prints why and gives `None` where it cannot.
pub(crate) fn runtime(devices: usize) -> Option<Arc<Runtime>> {
    static RUNTIMES: OnceLock<Mutex<HashMap<usize, Arc<Runtime>>>> = OnceLock::new();
    let mut runtimes = RUNTIMES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = runtimes.get(&devices) {
        return Some(runtime.clone());
    }
    prepare();
    let platform = PlatformRequest::Only(Platform::Cpu);
    match Runtime::start(&RuntimeOptions { platform, plugin: None, cpu_devices: devices }) {
        Ok(runtime) => Some(runtimes.entry(devices).or_insert(Arc::new(runtime)).clone()),
        Err(tpu_train::runtime::RuntimeError::Pjrt(tpu_train::pjrt::Error::Install { .. })) if !strict() => {
            eprintln!("skipped: the CPU plugin cannot be installed here");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Sets the environment that plugins read, once.
pub(crate) fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(prepare_environment);
}

/// Whether a missing plugin is a failure rather than a reason to skip: on the project's own CI.
fn strict() -> bool {
    std::env::var_os("CI").is_some()
}
