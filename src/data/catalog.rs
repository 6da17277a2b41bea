//! Where the data set lies: a download root, or a prepared folder.
//!
//! ```no_run
//! use tpu_train::data::catalog::{Located, locate};
//! match locate(None)? {
//!     Located::Root(root) => println!("recordings under {}", root.display()),
//!     Located::Prepared(folder) => println!("prepared set {}", folder.display()),
//! }
//! # Ok::<(), tpu_train::data::DataError>(())
//! ```

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::DataError;
use super::manifest::MANIFEST_FILE;
use crate::cache;

/// What recursive wget makes of the data set's address.
pub const WGET_FOLDER: &str = "physionet.org/files/ephnogram/1.0.0";

/// The spreadsheet's file name.
pub const SPREADSHEET_FILE: &str = "ECGPCGSpreadsheet.csv";

/// A folder's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// A download root: it holds the spreadsheet and `MAT/` or `WFDB/`.
    Root(PathBuf),
    /// A prepared set: it holds `manifest.json`, and no spreadsheet.
    Prepared(PathBuf),
}

/// Finds the data set at `dir`, or below it where recursive wget leaves it; by default the latter under the current
/// folder.
///
/// # Errors
/// When there is neither a spreadsheet nor a manifest.
pub fn locate(dir: Option<&Path>) -> Result<Located, DataError> {
    let Some(dir) = dir else {
        let root = PathBuf::from(WGET_FOLDER);
        if is_root(&root) {
            return Ok(Located::Root(root));
        }
        return Err(not_found(
            &root,
            "name the folder with --data DIR, download the data set with wget, or try --demo",
        ));
    };
    // The spreadsheet first: an old set among the recordings must not stand for them.
    if dir.join(MANIFEST_FILE).is_file() && !is_root(dir) {
        return Ok(Located::Prepared(dir.into()));
    }
    // DIR itself, or any folder on the way down that wget makes.
    let steps: Vec<&str> = WGET_FOLDER.split('/').collect();
    let below = (0..=steps.len()).rev().map(|i| dir.join(steps[i..].join("/")));
    if let Some(root) = below.into_iter().find(|root| is_root(root)) {
        return Ok(Located::Root(root));
    }
    let hint = match dir.symlink_metadata() {
        Err(_) => "there is no such folder",
        Ok(_) if dir.is_file() => "it is a file: name the folder that holds it",
        Ok(_) => "name the folder that holds the spreadsheet",
    };
    Err(not_found(dir, hint))
}

/// The default place of a root's prepared form:
/// `$XDG_CACHE_HOME/tpu-train/prepared/<name>-<hash of the canonical path>`.
///
/// # Errors
/// When the root's canonical path cannot be had, or the user has no cache folder.
pub fn default_prepared_dir(root: &Path) -> Result<PathBuf, DataError> {
    let canonical = root.canonicalize().map_err(|e| DataError::io("find", root, e))?;
    let name = canonical.file_name().map_or("root".into(), |n| n.to_string_lossy().into_owned());
    let digest = hex(&Sha256::digest(canonical.as_os_str().as_encoded_bytes()));
    let cache = cache::folder().ok_or_else(|| {
        let reason = "neither XDG_CACHE_HOME nor HOME is set; name another folder with --prepared DIR";
        DataError::io("find", Path::new("~/.cache"), std::io::Error::other(reason))
    })?;
    Ok(cache.join("prepared").join(format!("{name}-{}", &digest[..12])))
}

fn is_root(dir: &Path) -> bool {
    dir.join(SPREADSHEET_FILE).is_file()
}

fn not_found(path: &Path, hint: &str) -> DataError {
    let expected = format!("{SPREADSHEET_FILE} beside MAT/ or WFDB/, or a prepared set's {MANIFEST_FILE}");
    DataError::NotADataset { path: path.into(), expected, hint: hint.into() }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
