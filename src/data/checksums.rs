//! `SHA256SUMS.txt`: the published hash of every file, checked for the files that are used.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::DataError;
use super::catalog::hex;

/// The list's file name.
pub const CHECKSUMS_FILE: &str = "SHA256SUMS.txt";

/// Published hashes by path relative to the root; empty when there is no list.
#[derive(Clone, Debug, Default)]
pub struct Checksums {
    root: PathBuf,
    by_path: HashMap<String, String>,
}

impl Checksums {
    /// Reads `root/SHA256SUMS.txt` if it exists.
    ///
    /// # Errors
    /// When it cannot be read or a line is neither blank nor a hash and a name.
    pub fn read(root: &Path) -> Result<Self, DataError> {
        let path = root.join(CHECKSUMS_FILE);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(DataError::io("read", &path, e)),
        };
        let mut by_path = HashMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (hash, name) = parse_line(line).ok_or_else(|| DataError::ChecksumList {
                path: path.clone(),
                line: index + 1,
                found: line.chars().take(80).collect(),
            })?;
            by_path.insert(name, hash);
        }
        Ok(Self { root: root.into(), by_path })
    }

    /// Compares a file's hash with the list; a file that is not listed passes.
    ///
    /// # Errors
    /// [`DataError::Checksum`] when they differ.
    pub fn check(&self, relative: &str, sha256: &str) -> Result<(), DataError> {
        match self.by_path.get(relative) {
            Some(expected) if expected != sha256 => Err(DataError::Checksum {
                path: self.root.join(relative),
                expected: expected.clone(),
                found: sha256.into(),
            }),
            _ => Ok(()),
        }
    }
}

/// `<64 hex> [ *]<path>`, as `sha256sum` prints it.
fn parse_line(line: &str) -> Option<(String, String)> {
    let (hash, name) = line.trim().split_once(char::is_whitespace)?;
    let name = name.trim_start().trim_start_matches('*').trim_start_matches("./");
    let valid = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) && !name.is_empty();
    valid.then(|| (hash.to_ascii_lowercase(), name.to_owned()))
}

/// SHA-256 of a file in lower-case hexadecimal, read in pieces.
///
/// # Errors
/// When it cannot be read, or `stop` is set meanwhile.
pub fn sha256_file(path: &Path, stop: &AtomicBool) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(|e| DataError::io("read", path, e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(DataError::Interrupted);
        }
        match file.read(&mut buffer).map_err(|e| DataError::io("read", path, e))? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}
