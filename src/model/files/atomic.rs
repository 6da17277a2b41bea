//! A file appears whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::Problem;

/// Writes beside the target, flushes to the disk and renames. A failure leaves the target as it was.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut unfinished = new_file(folder)?;
    unfinished.write_all(bytes)?;
    unfinished.as_file().sync_all()?;
    unfinished.persist(path).map_err(|error| error.error)?;
    // The rename itself reaches the disk with the folder; file systems that cannot do this lose nothing.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// A temporary file with the permissions a plain new file has.
fn new_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tpu-train-").suffix(".unfinished");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_one_sentence() {
        let path = Path::new("/dev/full");
        if !path.exists() {
            eprintln!("skipped: no /dev/full on this system");
            return;
        }
        let error = File::options().write(true).open(path).unwrap().write_all(b"x").unwrap_err();
        assert_eq!(Problem::from(error).to_string(), "the disk is full; free some space and try again");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("taken");
        std::fs::create_dir(&target).unwrap();
        assert!(write(&target, b"new").is_err());
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["taken"]);
        assert!(write(&folder.path().join("missing/model.keras"), b"new").is_err());
        let file = folder.path().join("model.keras");
        write(&file, b"old").unwrap();
        write(&file, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
    }
}
