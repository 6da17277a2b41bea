//! Installation, from wheels made here.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use tpu_train::pjrt::Platform;
use tpu_train::pjrt::install::{InstallOptions, Pin, install};
use zip::write::SimpleFileOptions;

use super::error_of;

const MEMBER: &str = "pkg/plugin.so";
const WHEEL: &str = "pkg-1.0-py3-none-any.whl";
/// Names the folder that [`install_in_another_process`] works in.
const CHILD: &str = "TPU_TRAIN_TEST_INSTALL_IN";

/// A folder with a wheel, a plugins folder and the pin of that wheel.
struct Site {
    folder: PathBuf,
    pin: Pin,
}

fn content() -> Vec<u8> {
    (0_u32..4 << 20).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

impl Site {
    fn make(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("wheels")).unwrap();
        let path = folder.join("wheels").join(WHEEL);
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        zip.start_file("pkg/__init__.py", SimpleFileOptions::default()).unwrap();
        zip.start_file(MEMBER, SimpleFileOptions::default()).unwrap();
        zip.write_all(&content()).unwrap();
        zip.finish().unwrap();
        Self::open(folder)
    }

    fn open(folder: &Path) -> Self {
        let wheel = fs::read(folder.join("wheels").join(WHEEL)).unwrap();
        let hash: String = Sha256::digest(&wheel).iter().map(|byte| format!("{byte:02x}")).collect();
        let pin = Pin {
            platform: Platform::Cpu,
            architecture: std::env::consts::ARCH,
            package: "pkg",
            version: "1.0",
            wheel: WHEEL,
            wheel_bytes: wheel.len() as u64,
            sha256: hash.leak(),
            tag: "any",
            abi: None,
            member: MEMBER,
            library_bytes: content().len() as u64,
        };
        Self { folder: folder.to_owned(), pin }
    }

    fn options(&self) -> InstallOptions {
        let wheels = Some(self.folder.join("wheels"));
        InstallOptions { plugins: self.folder.join("plugins"), wheels, progress: false }
    }

    /// Names in the plugins folder, but for the lock.
    fn left(&self) -> Vec<String> {
        let entries = self.folder.join("plugins").read_dir().unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".lock")
            .collect()
    }
}

#[test]
fn a_wheel_is_unpacked_once_and_repaired_when_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::make(folder.path());
    let path = install(&site.pin, &site.options()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), content());
    assert_eq!(site.left().len(), 1, "{:?}", site.left());

    fs::remove_dir_all(folder.path().join("wheels")).unwrap();
    assert_eq!(install(&site.pin, &site.options()).unwrap(), path, "no wheel is needed any more");

    fs::write(&path, "truncated").unwrap();
    fs::create_dir(folder.path().join("plugins/.tmp-killed")).unwrap();
    Site::make(folder.path());
    assert_eq!(install(&site.pin, &site.options()).unwrap(), path);
    assert_eq!(fs::read(&path).unwrap(), content());
    assert_eq!(site.left().len(), 1, "{:?}", site.left());
}

#[test]
fn a_wheel_that_is_not_the_pinned_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::make(folder.path());
    let wheel = folder.path().join("wheels").join(WHEEL);
    let mut bytes = fs::read(&wheel).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&wheel, bytes).unwrap();
    let error = error_of(install(&site.pin, &site.options()));
    assert!(
        error.contains("SHA-256") && error.contains(site.pin.sha256) && error.contains("--plugin FILE"),
        "{error}"
    );
    assert!(site.left().is_empty(), "{:?}", site.left());

    let options = InstallOptions { wheels: Some(folder.path().join("nowhere")), ..site.options() };
    let error = error_of(install(&site.pin, &options));
    assert!(error.contains(WHEEL) && error.contains("put it at"), "{error}");

    let mut longer = Site::make(folder.path());
    longer.pin.library_bytes += 1;
    let error = error_of(install(&longer.pin, &longer.options()));
    assert!(error.contains("pkg/plugin.so has 16777216 bytes, expected 16777217"), "{error}");
    longer.pin.member = "pkg/other.so";
    assert!(error_of(install(&longer.pin, &longer.options())).starts_with("cannot install pkg 1.0: "));
    assert!(site.left().is_empty(), "{:?}", site.left());
}

#[test]
fn without_a_network_or_python_the_error_says_what_to_put_where() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::make(folder.path());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "pjrt::install::install_in_another_process", "--nocapture"]);
    command.env(CHILD, folder.path()).env("TPU_TRAIN_TEST_BY_PIP", "1").env("PATH", folder.path());
    let output = command.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("python3 cannot be run"), "{said}");
    let destination = site.pin.destination(&folder.path().join("plugins"));
    assert!(
        said.contains(&format!(
            "take {MEMBER} from the wheel {WHEEL} and put it at {}",
            destination.display()
        )),
        "{said}"
    );
    assert!(site.left().is_empty(), "{:?}", site.left());
}

#[test]
fn processes_that_install_at_once_all_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::make(folder.path());
    let spawn = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pjrt::install::install_in_another_process"])
            .env(CHILD, folder.path())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| spawn()).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(fs::read(install(&site.pin, &site.options()).unwrap()).unwrap(), content())
            });
        }
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(site.left().len(), 1, "{:?}", site.left());
}

/// Runs in the processes that other tests start.
#[test]
fn install_in_another_process() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let site = Site::open(Path::new(&folder));
    let mut options = site.options();
    if std::env::var_os("TPU_TRAIN_TEST_BY_PIP").is_some() {
        options.wheels = None;
        println!("{}", error_of(install(&site.pin, &options)));
        return;
    }
    assert_eq!(fs::read(install(&site.pin, &options).unwrap()).unwrap(), content());
}
