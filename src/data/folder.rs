//! The prepared folder on disk: its lock, its files written whole or not at all, and what interrupted runs left in it.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{CHANNELS, DataError, Manifest, PrepareEvent, ShardEntry};

/// Files with this prefix are unfinished.
const TEMPORARY: &str = ".tmp-";

const LOCK_FILE: &str = ".lock";

/// Waits until no other process prepares this folder.
pub(super) fn lock(
    out: &Path,
    stop: &AtomicBool,
    progress: &(dyn Fn(PrepareEvent<'_>) + Sync),
) -> Result<File, DataError> {
    let path = out.join(LOCK_FILE);
    let options = File::options().create(true).truncate(false).write(true).open(&path);
    let file = options.map_err(|e| DataError::write(&path, 0, e))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    progress(PrepareEvent::Waiting { folder: out });
                    told = true;
                }
                if stop.load(Ordering::Relaxed) {
                    return Err(DataError::Interrupted);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            // File systems without locks exist; renaming still keeps every file whole.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(DataError::io("lock", &path, e)),
        }
    }
}

/// The file that describes a shard.
pub(super) fn entry_file(shard: &str) -> String {
    format!("{shard}.json")
}

/// The shards that earlier runs finished; files that cannot be parsed are passed over.
pub(super) fn read_entries(out: &Path) -> Vec<ShardEntry> {
    let names = file_names(out).unwrap_or_default();
    let described = names.iter().filter(|name| is_shard_name(name) && name.ends_with(".json"));
    let read = |name: &String| {
        let entry: ShardEntry = serde_json::from_slice(&fs::read(out.join(name)).ok()?).ok()?;
        let valid = entry.check().is_ok() && entry_file(&entry.file) == *name;
        let channels = entry.channels.iter().map(|c| c.name.as_str()).eq(CHANNELS);
        (valid && channels).then_some(entry)
    };
    described.filter_map(read).collect()
}

fn file_names(out: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(out)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// `NAME-<12 hex>.i16`, `.f32`, or their descriptions.
fn is_shard_name(name: &str) -> bool {
    let stem = name.strip_suffix(".json").unwrap_or(name);
    let stem = stem.strip_suffix(".i16").or_else(|| stem.strip_suffix(".f32"));
    stem.and_then(|stem| stem.rsplit_once('-'))
        .is_some_and(|(_, digest)| digest.len() == 12 && digest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Removes what an interrupted run left. Only while holding the lock.
pub(super) fn remove_temporary(out: &Path) -> Result<(), DataError> {
    remove(out, |name| name.starts_with(TEMPORARY))
}

/// Removes shards the manifest no longer names; mappings of them stay valid.
pub(super) fn remove_unreferenced(out: &Path, manifest: &Manifest) -> Result<(), DataError> {
    let shards: HashSet<&str> = manifest.recordings.iter().map(|r| r.shard.file.as_str()).collect();
    remove(out, |name| is_shard_name(name) && !shards.contains(name.strip_suffix(".json").unwrap_or(name)))
}

fn remove(out: &Path, which: impl Fn(&str) -> bool) -> Result<(), DataError> {
    let names = file_names(out).map_err(|e| DataError::io("list", out, e))?;
    for name in names.iter().filter(|name| which(name)) {
        let path = out.join(name);
        fs::remove_file(&path).map_err(|e| DataError::io("remove", &path, e))?;
    }
    Ok(())
}

/// A file that removes itself unless it is renamed.
pub(super) fn temporary(out: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o644));
    }
    builder.prefix(TEMPORARY).tempfile_in(out)
}

/// Writes JSON under its name, whole or not at all.
pub(super) fn write_json(out: &Path, name: &str, value: &impl serde::Serialize) -> Result<(), DataError> {
    let path = out.join(name);
    let text = serde_json::to_vec_pretty(value).map_err(|e| DataError::io("write", &path, e.into()))?;
    let fail = |e: io::Error| DataError::write(&path, text.len() as u64, e);
    let mut file = temporary(out).map_err(fail)?;
    file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.persist(&path).map_err(|e| fail(e.error))?;
    let flushed = File::open(out).and_then(|folder| folder.sync_all());
    flushed.map_err(fail)
}
