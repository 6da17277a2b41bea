//! Installing pinned plugins into the user's cache.
//!
//! A plugin comes as a **wheel** (a zip) from the Python package index, fetched by `python3 -m pip download` with
//! version and platform named outright, and checked against a pinned SHA-256. Its library is unpacked beside its
//! destination and renamed into place as the last act, under a lock: a folder that exists holds the whole library,
//! however many runs start at once and whenever one is killed. At later starts its size is compared, not its hash.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::error::{Error, Result};
use super::plugin::Platform;
use crate::cache;

/// Folders that an installation works in begin with this.
const WORK_PREFIX: &str = ".tmp-";
/// The lock file of the plugins folder.
const LOCK_FILE: &str = ".lock";
/// A work folder older than this belongs to no running installation, locks or not.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// How often the progress line is written on a terminal.
const TICK: Duration = Duration::from_millis(250);

/// One plugin at one version for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its platform.
    pub platform: Platform,
    /// Rust's name of the architecture it runs on.
    pub architecture: &'static str,
    /// The package's name in the Python package index.
    pub package: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// The wheel's file name.
    pub wheel: &'static str,
    /// The wheel's size in bytes.
    pub wheel_bytes: u64,
    /// The wheel's SHA-256, in lower-case hexadecimal.
    pub sha256: &'static str,
    /// The wheel's platform tag.
    pub tag: &'static str,
    /// The wheel's ABI tag, where it has one.
    pub abi: Option<&'static str>,
    /// Path of the library inside the wheel.
    pub member: &'static str,
    /// The library's size in bytes.
    pub library_bytes: u64,
}

/// Every plugin this program installs.
pub const PINS: [Pin; 4] = [
    Pin {
        platform: Platform::Cpu,
        architecture: "x86_64",
        package: "xla-cpu-pjrt",
        version: "0.0.1",
        wheel: "xla_cpu_pjrt-0.0.1-py3-none-manylinux_2_27_x86_64.whl",
        wheel_bytes: 63_461_052,
        sha256: "55837b6b7b47daa717f2d9a5a03563ea0ceaa338d06a81a1e2d3f060d960decc",
        tag: "manylinux_2_27_x86_64",
        abi: None,
        member: "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so",
        library_bytes: 259_284_552,
    },
    Pin {
        platform: Platform::Cpu,
        architecture: "aarch64",
        package: "xla-cpu-pjrt",
        version: "0.0.1",
        wheel: "xla_cpu_pjrt-0.0.1-py3-none-manylinux_2_27_aarch64.whl",
        wheel_bytes: 49_514_947,
        sha256: "8f613be6e891858f40d64f9799319502fff42689661944fc18a6ffd8210b30c9",
        tag: "manylinux_2_27_aarch64",
        abi: None,
        member: "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so",
        library_bytes: 200_328_224,
    },
    Pin {
        platform: Platform::Tpu,
        architecture: "x86_64",
        package: "libtpu",
        version: "0.0.52",
        wheel: "libtpu-0.0.52-cp311-cp311-manylinux_2_31_x86_64.whl",
        wheel_bytes: 137_064_406,
        sha256: "f5e2e596eaea9357fbb5a6755a7a9007c6ab75bfde4a55191b03eff402971140",
        tag: "manylinux_2_31_x86_64",
        abi: Some("cp311"),
        member: "libtpu/libtpu.so",
        library_bytes: 467_479_448,
    },
    Pin {
        platform: Platform::Cuda,
        architecture: "x86_64",
        package: "jax-cuda13-pjrt",
        version: "0.12.0.1",
        wheel: "jax_cuda13_pjrt-0.12.0.1-py3-none-manylinux_2_27_x86_64.whl",
        wheel_bytes: 134_922_808,
        sha256: "5899bb6177eda86ea532afb9a26794f2bdd04966f6a01f9028266b16c2b6cf90",
        tag: "manylinux_2_27_x86_64",
        abi: None,
        member: "jax_plugins/xla_cuda13/xla_cuda_plugin.so",
        library_bytes: 395_967_648,
    },
];

impl Pin {
    /// The pin for `platform` on this machine.
    pub fn of(platform: Platform) -> Option<&'static Self> {
        PINS.iter().find(|pin| pin.platform == platform && pin.fits_this_machine())
    }

    /// Whether the library runs on this architecture.
    pub fn fits_this_machine(&self) -> bool {
        self.architecture == env::consts::ARCH
    }

    /// Package and version.
    pub fn title(&self) -> String {
        format!("{} {}", self.package, self.version)
    }

    /// Where the library is installed under a plugins folder.
    pub fn destination(&self, plugins: &Path) -> PathBuf {
        let folder = format!("{}-{}-{}", self.package, self.version, self.architecture);
        plugins.join(folder).join(self.library())
    }

    /// The library under a plugins folder, if it is there and whole.
    pub fn installed_in(&self, plugins: &Path) -> Option<PathBuf> {
        let path = self.destination(plugins);
        let whole = path.metadata().is_ok_and(|file| file.is_file() && file.len() == self.library_bytes);
        whole.then_some(path)
    }

    /// The library's file name.
    fn library(&self) -> &'static str {
        self.member.rsplit('/').next().unwrap_or(self.member)
    }

    fn failure(&self, plugins: &Path, reason: impl ToString) -> Error {
        Error::Install {
            name: self.package,
            version: self.version,
            reason: reason.to_string(),
            hint: format!(
                "without a network, take {} from the wheel {} and put it at {}, or name a plugin with --plugin FILE",
                self.member,
                self.wheel,
                self.destination(plugins).display()
            ),
        }
    }
}

/// The folder of installed plugins: `$XDG_CACHE_HOME/tpu-train/plugins`, by default under `~/.cache`.
pub fn cache_folder() -> Option<PathBuf> {
    Some(cache::folder()?.join("plugins"))
}

/// Where from and where to.
#[derive(Clone, Debug)]
pub struct InstallOptions {
    /// The folder of installed plugins.
    pub plugins: PathBuf,
    /// A folder that holds the wheel; without one, pip downloads it.
    pub wheels: Option<PathBuf>,
    /// Whether to write a progress line to standard error.
    pub progress: bool,
}

impl InstallOptions {
    /// Into [`cache_folder`], by pip, with a progress line.
    ///
    /// # Errors
    /// Neither `XDG_CACHE_HOME` nor a home folder is known.
    pub fn from_environment() -> Result<Self> {
        let plugins = cache_folder().ok_or_else(|| Error::File {
            action: "find",
            path: "~/.cache".into(),
            source: io::Error::other("neither XDG_CACHE_HOME nor HOME is set"),
        })?;
        Ok(Self { plugins, wheels: None, progress: true })
    }
}

/// Installs `pin` unless it is there, and gives the library's path.
///
/// # Errors
/// The wheel cannot be had or is not the pinned one; a file cannot be written.
pub fn install(pin: &Pin, options: &InstallOptions) -> Result<PathBuf> {
    let plugins = &options.plugins;
    if let Some(path) = pin.installed_in(plugins) {
        return Ok(path);
    }
    fs::create_dir_all(plugins).map_err(file_error("create", plugins))?;
    let lock = Lock::take(plugins, options.progress)?;
    if let Some(path) = pin.installed_in(plugins) {
        return Ok(path);
    }
    remove_leftovers(plugins, lock.held);
    let work = tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(plugins);
    let work = work.map_err(file_error("create a folder in", plugins))?;
    let wheel = fetch(pin, options, &work)?;
    check_hash(pin, plugins, &wheel)?;
    let unpacked = unpack(pin, plugins, &wheel, &work)?;
    put_in_place(pin, plugins, &unpacked, &work)
}

/// The lock that lets one installation at a time work in a plugins folder; freed with the file.
struct Lock {
    held: bool,
    _file: File,
}

impl Lock {
    fn take(plugins: &Path, progress: bool) -> Result<Self> {
        let path = plugins.join(LOCK_FILE);
        let file =
            File::options().create(true).append(true).open(&path).map_err(file_error("open", &path))?;
        let held = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                if progress {
                    eprintln!("waiting for another run that installs a plugin …");
                }
                file.lock().is_ok()
            }
            // A file system without locks: the rename at the end keeps two runs apart.
            Err(TryLockError::Error(_)) => false,
        };
        Ok(Self { held, _file: file })
    }
}

/// Removes work folders of installations that were killed.
fn remove_leftovers(plugins: &Path, locked: bool) {
    let Ok(entries) = plugins.read_dir() else { return };
    for entry in entries.flatten() {
        let old = || {
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            modified
                .and_then(|time| SystemTime::now().duration_since(time).ok())
                .is_some_and(|age| age > STALE)
        };
        if entry.file_name().to_string_lossy().starts_with(WORK_PREFIX) && (locked || old()) {
            // What cannot be removed stays; it is never trusted.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn fetch(pin: &Pin, options: &InstallOptions, work: &TempDir) -> Result<PathBuf> {
    if let Some(folder) = &options.wheels {
        let wheel = folder.join(pin.wheel);
        return if wheel.is_file() {
            Ok(wheel)
        } else {
            Err(pin.failure(&options.plugins, format!("{} has no {}", folder.display(), pin.wheel)))
        };
    }
    download(pin, options, work).map_err(|reason| pin.failure(&options.plugins, reason))
}

fn download(pin: &Pin, options: &InstallOptions, work: &TempDir) -> std::result::Result<PathBuf, String> {
    let destination = work.path().join("wheel");
    let log = work.path().join("pip.log");
    let stderr = File::create(&log).map_err(|error| error.to_string())?;
    let mut command = Command::new("python3");
    command
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "--no-cache-dir",
        ])
        .args(["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--platform", pin.tag]);
    if let Some(abi) = pin.abi {
        command.args(["--abi", abi]);
    }
    command.arg("--dest").arg(&destination).arg(format!("{}=={}", pin.package, pin.version));
    // pip keeps a download in progress in its temporary folder: there its size can be seen, and is cleaned up.
    command.env("TMPDIR", work.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let mut progress = Progress::start(pin, options.progress);
    let mut child = command.spawn().map_err(|error| format!("python3 cannot be run ({error})"))?;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None => progress.tick(work.path()),
        }
    };
    progress.finish();
    let wheel = destination.join(pin.wheel);
    match (status.success(), wheel.is_file()) {
        (true, true) => Ok(wheel),
        (true, false) => Err(format!("pip did not bring {}", pin.wheel)),
        (false, _) => {
            Err(format!("pip failed: {}", last_error(&fs::read_to_string(&log).unwrap_or_default())))
        }
    }
}

/// The line of pip's messages that says most.
fn last_error(log: &str) -> &str {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().rfind(|line| line.starts_with("ERROR:")).or_else(|| lines().next_back());
    error.map_or("it gave no reason", |line| line.trim_start_matches("ERROR:").trim())
}

/// The line on standard error that tells how far a download is.
struct Progress {
    shown: bool,
    terminal: bool,
    text: String,
    total: u64,
}

impl Progress {
    fn start(pin: &Pin, shown: bool) -> Self {
        let text = format!(
            "installing the {} plugin {} ({:.1} MB) …",
            pin.platform.to_string().to_uppercase(),
            pin.title(),
            megabytes(pin.wheel_bytes)
        );
        let terminal = shown && io::stderr().is_terminal();
        if shown && !terminal {
            eprintln!("{text}");
        }
        Self { shown, terminal, text, total: pin.wheel_bytes }
    }

    fn tick(&mut self, folder: &Path) {
        if self.terminal {
            let done = size_of_largest(folder).min(self.total);
            eprint!("\r{} {:.1} MB ", self.text, megabytes(done));
            // A terminal that is gone must not stop the installation.
            let _ = io::stderr().flush();
        }
        std::thread::sleep(TICK);
    }

    fn finish(&self) {
        if self.shown && self.terminal {
            eprintln!();
        }
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Size of the largest file under `folder`.
fn size_of_largest(folder: &Path) -> u64 {
    let Ok(entries) = folder.read_dir() else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of_largest(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.max().unwrap_or(0)
}

fn check_hash(pin: &Pin, plugins: &Path, wheel: &Path) -> Result<()> {
    let mut file = File::open(wheel).map_err(file_error("open", wheel))?;
    let mut hash = Sha256::new();
    let mut block = vec![0_u8; 1 << 20];
    loop {
        match file.read(&mut block).map_err(file_error("read", wheel))? {
            0 => break,
            length => hash.update(&block[..length]),
        }
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == pin.sha256 {
        return Ok(());
    }
    Err(pin.failure(plugins, format!("SHA-256 of {} is {found}, expected {}", pin.wheel, pin.sha256)))
}

/// Unpacks the library into a folder of its own and gives that folder.
fn unpack(pin: &Pin, plugins: &Path, wheel: &Path, work: &TempDir) -> Result<PathBuf> {
    let folder = work.path().join("unpacked");
    fs::create_dir(&folder).map_err(file_error("create", &folder))?;
    let path = folder.join(pin.library());
    let archive = File::open(wheel).map_err(file_error("open", wheel))?;
    let zip_failure = |error: zip::result::ZipError| pin.failure(plugins, format!("{}: {error}", pin.wheel));
    let mut archive = zip::ZipArchive::new(archive).map_err(zip_failure)?;
    let mut member = archive.by_name(pin.member).map_err(zip_failure)?;
    let mut file = File::create(&path).map_err(file_error("create", &path))?;
    let written = io::copy(&mut member, &mut file).map_err(file_error("write", &path))?;
    if written != pin.library_bytes {
        let reason = format!("{} has {written} bytes, expected {}", pin.member, pin.library_bytes);
        return Err(pin.failure(plugins, reason));
    }
    file.sync_all().map_err(file_error("write", &path))?;
    sync_folder(&folder)?;
    Ok(folder)
}

/// Renames the unpacked folder to its destination; one that another run put there first is accepted.
fn put_in_place(pin: &Pin, plugins: &Path, unpacked: &Path, work: &TempDir) -> Result<PathBuf> {
    let destination = pin.destination(plugins);
    let folder = destination.parent().unwrap_or(plugins);
    if folder.exists() {
        // It holds no whole library, or this would not run.
        fs::rename(folder, work.path().join("replaced")).map_err(file_error("move away", folder))?;
    }
    if let Err(error) = fs::rename(unpacked, folder)
        && pin.installed_in(plugins).is_none()
    {
        return Err(file_error("create", folder)(error));
    }
    sync_folder(plugins)?;
    Ok(destination)
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(file_error("write", folder))
}

fn file_error(action: &'static str, path: impl AsRef<OsStr>) -> impl FnOnce(io::Error) -> Error {
    let path = PathBuf::from(path.as_ref());
    move |source| Error::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_last_error_line_is_kept() {
        let log =
            "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution found\n\n";
        assert_eq!(last_error(log), "No matching distribution found");
        assert_eq!(
            last_error("/usr/bin/python3: No module named pip\n"),
            "/usr/bin/python3: No module named pip"
        );
        assert_eq!(last_error(""), "it gave no reason");
    }

    #[test]
    fn only_old_work_folders_go_without_a_lock() {
        let plugins = tempfile::tempdir().unwrap();
        fs::create_dir(plugins.path().join(".tmp-x")).unwrap();
        remove_leftovers(plugins.path(), false);
        assert!(plugins.path().join(".tmp-x").exists());
        remove_leftovers(plugins.path(), true);
        assert!(!plugins.path().join(".tmp-x").exists());
    }
}
