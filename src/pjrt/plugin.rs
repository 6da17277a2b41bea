//! Which plugin to use: what the user names, what the environment names, what is installed.
//!
//! Order for a platform: `--plugin FILE`; `PJRT_NAMES_AND_LIBRARY_PATHS` (`name:path,…`) and, for the TPU,
//! `TPU_LIBRARY_PATH`; `/lib/libtpu.so`; the program's own cache. Only the CPU plugin installs itself. Invariant:
//! a platform asked for is the platform used, or there is an error.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::api::Api;
use super::environment;
use super::error::{Error, Result};
use super::install::{self, InstallOptions, PINS, Pin};

/// Where Cloud TPU VMs keep their plugin.
const SYSTEM_LIBTPU: &str = "/lib/libtpu.so";
/// Names the TPU plugin.
const TPU_LIBRARY_PATH: &str = "TPU_LIBRARY_PATH";
/// Names plugins by platform, `cpu:/a.so,tpu:/b.so`.
const NAMED_LIBRARIES: &str = "PJRT_NAMES_AND_LIBRARY_PATHS";

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// XLA on the host's own processors.
    Cpu,
    /// Google TPU.
    Tpu,
    /// NVIDIA GPU.
    Cuda,
}

impl Platform {
    /// Every platform.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Tpu, Self::Cuda];

    /// The platform that a plugin calls by this name.
    pub fn from_plugin_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "cpu" | "host" => Some(Self::Cpu),
            "tpu" => Some(Self::Tpu),
            "cuda" | "gpu" => Some(Self::Cuda),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Tpu => "tpu",
            Self::Cuda => "cuda",
        })
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = Self::ALL.into_iter().find(|platform| platform.to_string() == text);
        known.ok_or_else(|| format!("unknown platform \"{text}\", expected cpu, tpu or cuda"))
    }
}

/// A platform asked for, or the best there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlatformRequest {
    /// The TPU or GPU of this machine, else its processors.
    #[default]
    Auto,
    /// This one and no other.
    Only(Platform),
}

impl fmt::Display for PlatformRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Only(platform) => platform.fmt(f),
        }
    }
}

impl FromStr for PlatformRequest {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            other => other.parse().map(Self::Only).map_err(|_: String| {
                format!("unknown platform \"{other}\", expected auto, cpu, tpu or cuda")
            }),
        }
    }
}

/// A plugin to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFile {
    /// Its platform; for a file the user names under `auto`, a guess from the file's name.
    pub platform: Platform,
    /// The library.
    pub path: PathBuf,
    /// What named it: `--plugin`, a variable, a package with its version.
    pub origin: String,
}

/// Newest minor version of the C API among the plugins that this program was tried with.
pub const NEWEST_TRIED: i32 = 117;

/// The platform that a request means on this machine; for a file the user names under `auto`, a guess from its name.
///
/// # Errors
/// A variable names a plugin that does not exist.
pub fn platform(request: PlatformRequest, explicit: Option<&Path>) -> Result<Platform> {
    match (request, explicit) {
        (PlatformRequest::Only(platform), _) => Ok(platform),
        (PlatformRequest::Auto, Some(path)) => Ok(guess_platform(path)),
        (PlatformRequest::Auto, None) => choose_platform(),
    }
}

/// Major and minor version of a plugin's C API: the library is opened, but not initialised.
///
/// # Errors
/// The file is no plugin, or of a version that this program cannot talk to.
pub fn api_version(path: &Path) -> Result<(i32, i32)> {
    Api::probe(path)
}

/// Finds the plugin for a request, installing the CPU plugin if it is the one and is missing.
///
/// Looks at files only, never at a device: ahead-of-time compilation wants a TPU plugin without a TPU.
///
/// # Errors
/// A file named by the user that does not exist; an accelerator's plugin that is nowhere; a failed installation.
pub fn discover(request: PlatformRequest, explicit: Option<&Path>) -> Result<PluginFile> {
    let platform = platform(request, explicit)?;
    if let Some(path) = explicit {
        return named_file(platform, path.to_owned(), "--plugin");
    }
    if let Some(file) = find(platform)? {
        return Ok(file);
    }
    match platform {
        Platform::Cpu => install_file(platform, &InstallOptions::from_environment()?),
        _ => Err(Error::NoPlugin {
            platform,
            looked_at: places(platform),
            hint: format!("run `tpu-train plugin install {platform}`, or name one with --plugin FILE"),
        }),
    }
}

/// The plugin for `platform` that is there already, if any.
///
/// # Errors
/// A variable names a file that does not exist.
pub fn find(platform: Platform) -> Result<Option<PluginFile>> {
    if let Some(path) = named_library(platform) {
        return named_file(platform, path, NAMED_LIBRARIES).map(Some);
    }
    if platform == Platform::Tpu {
        if let Some(path) = variable(TPU_LIBRARY_PATH) {
            return named_file(platform, path.into(), TPU_LIBRARY_PATH).map(Some);
        }
        if Path::new(SYSTEM_LIBTPU).is_file() {
            return named_file(platform, SYSTEM_LIBTPU.into(), "the system").map(Some);
        }
    }
    let (Some(pin), Some(cache)) = (Pin::of(platform), install::cache_folder()) else { return Ok(None) };
    let path = pin.installed_in(&cache);
    Ok(path.map(|path| PluginFile { platform, path, origin: pin.title() }))
}

/// Installs the pinned plugin for `platform`, if it is not there yet, and gives its file.
///
/// # Errors
/// There is no pin for this machine, or the installation failed.
pub fn install_file(platform: Platform, options: &InstallOptions) -> Result<PluginFile> {
    let pin = Pin::of(platform).ok_or(Error::NoPin { platform, architecture: env::consts::ARCH })?;
    let path = install::install(pin, options)?;
    Ok(PluginFile { platform, path, origin: pin.title() })
}

/// # Errors
/// This machine has no device of `platform`.
pub fn require_devices(platform: Platform) -> Result<()> {
    environment::require_devices(platform)
}

fn choose_platform() -> Result<Platform> {
    // Devices decide, not `TPU_LIBRARY_PATH`: programs that import a Python package of libtpu leave it to their children.
    if !environment::tpu_device_files().is_empty() {
        return Ok(Platform::Tpu);
    }
    if environment::has_gpu_device_file() && find(Platform::Cuda)?.is_some() {
        return Ok(Platform::Cuda);
    }
    Ok(Platform::Cpu)
}

fn guess_platform(path: &Path) -> Platform {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if name.contains("tpu") {
        Platform::Tpu
    } else if name.contains("cuda") || name.contains("gpu") {
        Platform::Cuda
    } else {
        Platform::Cpu
    }
}

fn named_file(platform: Platform, path: PathBuf, named_by: &str) -> Result<PluginFile> {
    if !path.is_file() {
        return Err(Error::NoFile { path, named_by: named_by.into() });
    }
    Ok(PluginFile { platform, path, origin: named_by.into() })
}

fn named_library(platform: Platform) -> Option<PathBuf> {
    library_in(&variable(NAMED_LIBRARIES)?, platform)
}

fn library_in(list: &str, platform: Platform) -> Option<PathBuf> {
    list.split(',').find_map(|entry| {
        let (name, path) = entry.trim().split_once(':')?;
        (Platform::from_plugin_name(name) == Some(platform)).then(|| path.into())
    })
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn places(platform: Platform) -> String {
    let mut places = vec![NAMED_LIBRARIES.to_owned()];
    if platform == Platform::Tpu {
        places.extend([TPU_LIBRARY_PATH.to_owned(), SYSTEM_LIBTPU.to_owned()]);
    }
    if let (Some(pin), Some(cache)) = (Pin::of(platform), install::cache_folder()) {
        places.push(pin.destination(&cache).display().to_string());
    }
    places.join(", ")
}

/// One line of `plugin list`.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginInfo {
    /// Its platform.
    pub platform: Platform,
    /// The package that carries it, or what names it.
    pub name: String,
    /// The package's version, if it comes from one.
    pub version: Option<String>,
    /// Where it is, or would be.
    pub path: PathBuf,
    /// Whether it is there.
    pub installed: bool,
    /// Size of the library in bytes; for one that is not there, of the download.
    pub bytes: u64,
    /// Major and minor version of its C API, if it is there and can be loaded.
    pub api_version: Option<(i32, i32)>,
}

/// The plugins this program knows for this machine: the pinned ones, and others that the environment names.
pub fn list() -> Vec<PluginInfo> {
    let cache = install::cache_folder().unwrap_or_default();
    let pinned = PINS.iter().filter(|pin| pin.fits_this_machine()).map(|pin| pinned_info(pin, &cache));
    let found = Platform::ALL.into_iter().filter_map(|platform| find(platform).ok().flatten());
    let mut all: Vec<PluginInfo> = pinned.collect();
    for file in found {
        if all.iter().all(|info| info.path != file.path) {
            all.push(found_info(file));
        }
    }
    all
}

fn pinned_info(pin: &Pin, cache: &Path) -> PluginInfo {
    let installed = pin.installed_in(cache);
    PluginInfo {
        platform: pin.platform,
        name: pin.package.into(),
        version: Some(pin.version.into()),
        path: pin.destination(cache),
        installed: installed.is_some(),
        bytes: if installed.is_some() { pin.library_bytes } else { pin.wheel_bytes },
        api_version: installed.and_then(|path| Api::probe(&path).ok()),
    }
}

fn found_info(file: PluginFile) -> PluginInfo {
    PluginInfo {
        platform: file.platform,
        name: file.origin,
        version: None,
        installed: true,
        bytes: file.path.metadata().map_or(0, |metadata| metadata.len()),
        api_version: Api::probe(&file.path).ok(),
        path: file.path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_parse_and_print() {
        for text in ["auto", "cpu", "tpu", "cuda"] {
            assert_eq!(text.parse::<PlatformRequest>().unwrap().to_string(), text);
        }
        let error = "gpu".parse::<PlatformRequest>().unwrap_err();
        assert!(error.contains("\"gpu\"") && error.contains("auto, cpu, tpu or cuda"), "{error}");
    }

    #[test]
    fn named_libraries_are_found_by_platform() {
        let list = "cpu:/a/b.so, tpu:/c.so,gpu:/d.so";
        assert_eq!(library_in(list, Platform::Tpu), Some("/c.so".into()));
        assert_eq!(library_in(list, Platform::Cuda), Some("/d.so".into()));
        assert_eq!(library_in("tpu", Platform::Tpu), None);
    }

    #[test]
    fn an_explicit_file_must_exist() {
        let error =
            discover(PlatformRequest::Auto, Some(Path::new("/nowhere/libtpu.so"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere/libtpu.so") && error.contains("--plugin"), "{error}");
    }

    #[test]
    fn an_explicit_file_is_judged_by_its_name() {
        assert_eq!(guess_platform(Path::new("/x/libtpu.so")), Platform::Tpu);
        assert_eq!(guess_platform(Path::new("/x/xla_cuda_plugin.so")), Platform::Cuda);
        assert_eq!(guess_platform(Path::new("/tpu/xla_cpu_pjrt.so")), Platform::Cpu);
    }
}
