//! Compiled programs as files: the plugin's own serialization behind a header that says what it was made of.
//!
//! ```text
//! tpu-train executable 1\n
//! {"build": …, "device_kind": …, "module_sha256": …, "device_ids": […], "payload_sha256": …}\n
//! payload
//! ```
//! Invariant: a file is loaded only where every field of the header is what this run has, so that what runs is what
//! would have been compiled.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RuntimeError;

const MAGIC: &str = "tpu-train executable 1\n";

/// What an executable was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutableHeader {
    /// The plugin's build, the lines that tell it from others.
    pub build: String,
    /// The devices' kind.
    pub device_kind: String,
    /// SHA-256 of the serialized module before optimization.
    pub module_sha256: String,
    /// The device of each replica.
    pub device_ids: Vec<i32>,
}

/// The header as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    header: ExecutableHeader,
    payload_sha256: String,
}

impl ExecutableHeader {
    /// The header of a module compiled by a plugin for these devices.
    pub fn new(platform_version: &str, device_kind: &str, module: &[u8], device_ids: &[i32]) -> Self {
        Self {
            build: build_of(platform_version),
            device_kind: device_kind.to_owned(),
            module_sha256: hex(module),
            device_ids: device_ids.to_vec(),
        }
    }

    /// The file: this header and the serialized executable.
    ///
    /// # Errors
    /// The header is no JSON, which it always is.
    pub fn file(&self, payload: &[u8]) -> Result<Vec<u8>, RuntimeError> {
        let line = Line { header: self.clone(), payload_sha256: hex(payload) };
        let line = serde_json::to_string(&line).map_err(|e| unreadable(e.to_string()))?;
        Ok([MAGIC.as_bytes(), line.as_bytes(), b"\n", payload].concat())
    }

    /// Header and serialized executable of a file.
    ///
    /// # Errors
    /// The file is none of these, or damaged.
    pub fn read(file: &[u8]) -> Result<(Self, &[u8]), RuntimeError> {
        let rest = file.strip_prefix(MAGIC.as_bytes());
        let rest = rest.ok_or_else(|| unreadable("it does not begin as one".into()))?;
        let end = rest.iter().position(|&byte| byte == b'\n');
        let end = end.ok_or_else(|| unreadable("it ends within its header".into()))?;
        let line: Line = serde_json::from_slice(&rest[..end]).map_err(|e| unreadable(e.to_string()))?;
        let payload = &rest[end + 1..];
        if hex(payload) != line.payload_sha256 {
            return Err(unreadable("it is damaged: the checksum is another".into()));
        }
        Ok((line.header, payload))
    }

    /// What differs from `ours`, in words.
    pub fn difference(&self, ours: &Self) -> Option<String> {
        if self.build != ours.build {
            return Some(format!(
                "the plugin that made it is \"{}\", this is \"{}\"",
                self.build, ours.build
            ));
        }
        if self.device_kind != ours.device_kind {
            return Some(format!("it is for {}, the devices are {}", self.device_kind, ours.device_kind));
        }
        if self.device_ids != ours.device_ids {
            let (theirs, here) = (devices(&self.device_ids), devices(&ours.device_ids));
            return Some(format!("it is for {theirs}, this run has {here}"));
        }
        if self.module_sha256 != ours.module_sha256 {
            return Some("it is another program: batch, window, rates, seed or the like differ".into());
        }
        None
    }
}

/// The lines of a platform version that tell builds apart: all but the first, which names the device and is worded
/// differently with several slices; the first where it is alone.
fn build_of(platform_version: &str) -> String {
    let lines: Vec<&str> = platform_version.trim().lines().map(str::trim).collect();
    let telling = if lines.len() > 1 { &lines[1..] } else { &lines[..] };
    telling.join(", ")
}

fn devices(ids: &[i32]) -> String {
    match ids {
        [] => "no device".into(),
        [only] => format!("device {only}"),
        [first, .., last] => format!("{} devices, {first} to {last}", ids.len()),
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unreadable(reason: String) -> RuntimeError {
    RuntimeError::ExecutableFile { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "TFRT TPU v5 lite\nBuilt on Nov 5 2026 01:07:28 (1793869648) cl/1014260217";

    fn header() -> ExecutableHeader {
        ExecutableHeader::new(VERSION, "TPU v5 lite", b"module", &[0, 1])
    }

    #[test]
    fn a_file_gives_back_what_it_was_made_of() {
        let file = header().file(b"pay\nload").unwrap();
        assert_eq!(ExecutableHeader::read(&file).unwrap(), (header(), &b"pay\nload"[..]));
    }

    #[test]
    fn what_is_damaged_or_something_else_is_refused() {
        let file = header().file(b"payload").unwrap();
        let mut flipped = file.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for (bytes, expected) in [
            (&flipped[..], "damaged"),
            (&file[..file.len() - 1], "damaged"),
            (&file[..40], "ends within its header"),
            (b"ELF", "does not begin as one"),
            (b"tpu-train executable 1\n{}\n", "missing field"),
        ] {
            let error = ExecutableHeader::read(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn each_difference_has_its_sentence() {
        let ours = header();
        assert_eq!(ours.difference(&ours), None);
        let megascale = VERSION.replace("TFRT", "megascale+TFRT");
        let same = ExecutableHeader::new(&megascale, "TPU v5 lite", b"module", &[0, 1]);
        assert_eq!(same.difference(&ours), None);
        for (theirs, word) in [
            (ExecutableHeader::new("a\nb", "TPU v5 lite", b"module", &[0, 1]), "plugin that made it"),
            (ExecutableHeader::new(VERSION, "TPU v4", b"module", &[0, 1]), "for TPU v4"),
            (ExecutableHeader::new(VERSION, "TPU v5 lite", b"other", &[0, 1]), "another program"),
            (ExecutableHeader::new(VERSION, "TPU v5 lite", b"module", &[0]), "for device 0"),
        ] {
            let difference = theirs.difference(&ours).unwrap();
            assert!(difference.contains(word), "{difference}");
        }
    }
}
