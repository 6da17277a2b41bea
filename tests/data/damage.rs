//! Cut and flipped `.mat` files: an error or the same data, never a panic.

use std::path::Path;

use tpu_train::data::recording::{Recording, Signals};
use tpu_train::data::*;

use super::maker::{mat_bytes, wave};

fn read(path: &Path, bytes: &[u8]) -> Result<Signals, DataError> {
    std::fs::write(path, bytes).unwrap();
    Recording::open_file(path)?.read(&CHANNELS, &Default::default())
}

#[test]
fn every_cut_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mat");
    for compress in [true, false] {
        let bytes = mat_bytes(&wave(1, 120), &wave(2, 120), compress);
        for cut in 0..bytes.len() {
            let error = read(&path, &bytes[..cut]).expect_err("a cut file is no recording").to_string();
            assert!(error.contains("a.mat"), "cut at {cut}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}

#[test]
fn every_flip_is_an_error_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mat");
    let bytes = mat_bytes(&wave(1, 80), &wave(2, 80), true);
    let whole = read(&path, &bytes).unwrap();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x10, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            if let Ok(signals) = read(&path, &damaged) {
                assert_eq!(signals, whole, "byte {at} bit {bit:#x}");
            }
        }
    }
}

#[test]
fn flips_in_uncompressed_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mat");
    let bytes = mat_bytes(&wave(1, 20), &wave(2, 20), false);
    for at in 0..bytes.len() {
        for bit in [0x01, 0x04, 0x40, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            let _ = read(&path, &damaged);
        }
    }
}

#[test]
fn cut_real_records_are_errors() {
    let Some(real) = super::maker::real_records() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mat");
    let bytes = std::fs::read(real.join("MAT/ECGPCG0003.mat")).unwrap();
    for part in 1..40 {
        let cut = bytes.len() * part / 40;
        assert!(read(&path, &bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(read(&path, &bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn broken_manifests_are_refused() {
    let mut root = super::maker::Root::new();
    root.recording("A1", "S1", super::maker::BED, 300);
    drop(root.prepare());
    let manifest = root.out().join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let open = |text: &str| {
        std::fs::write(&manifest, text).unwrap();
        Prepared::open(&root.out())
    };
    for cut in 0..text.len() - 2 {
        assert!(open(&text[..cut]).is_err(), "cut at {cut}");
    }
    for (from, to) in [
        ("tpu-train prepared", "another"),
        ("\"version\": 1", "\"version\": 2"),
        ("\"samples\": 300", "\"samples\": 301"),
        ("\"samples\": 300", "\"samples\": 9223372036854775807"),
        ("\"bytes\": 1200", "\"bytes\": 1201"),
        ("\"sampling_rate\": 8000.0", "\"sampling_rate\": -1.0"),
        ("\"file\": \"A1", "\"file\": \"../A1"),
        ("\"file\": \"A1", "\"file\": \"A2"),
        ("int16", "float32"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = open(&text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains("prepare it again"), "{from}: {error}");
    }
    assert!(open(&text).is_ok());
}
