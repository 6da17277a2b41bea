//! Simulated data sets, judged by crate `matfile`, `csv` and by counting peaks.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use matfile::{MatFile, NumericData};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tpu_train::data::simulate::{Scenario, SimulateError, SimulateOptions, SimulateReport, simulate};

fn small(out: &Path) -> SimulateOptions {
    SimulateOptions { subjects: 2, seconds: 6.0, ..SimulateOptions::new(out) }
}

fn run(options: &SimulateOptions) -> Result<SimulateReport, SimulateError> {
    simulate(options, &|_, _| {}, &AtomicBool::new(false))
}

fn signals(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let file = MatFile::parse(fs::File::open(path).unwrap()).unwrap();
    let read = |array: &matfile::Array| {
        let values = match array.data() {
            NumericData::Double { real, imag: None } => real.clone(),
            NumericData::UInt16 { real, imag: None } => real.iter().map(|&x| f64::from(x)).collect(),
            other => panic!("{other:?}"),
        };
        assert_eq!(array.size(), &vec![1, values.len()], "{} is a row", array.name());
        (array.name().to_owned(), values)
    };
    file.arrays().iter().map(read).collect()
}

/// Every file below a folder, by its path.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for part in ["", "MAT"] {
        for entry in fs::read_dir(folder.join(part)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let name = format!("{part}/{}", entry.file_name().to_string_lossy());
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn recordings_are_compressed_doubles_on_the_grid() {
    let folder = TempDir::new().unwrap();
    let report = run(&small(folder.path())).unwrap();
    assert_eq!((report.recordings.len(), report.samples, report.reused), (12, 48_000, false));
    let mut five = 0;
    for recording in &report.recordings {
        let path = folder.path().join(format!("MAT/{}.mat", recording.name));
        let bytes = fs::metadata(&path).unwrap().len();
        let signals = signals(&path);
        let names: Vec<&str> = signals.keys().map(String::as_str).collect();
        if names.len() == 6 {
            five += 1;
            assert_eq!(names, ["AUX1", "AUX2", "ECG", "PCG", "PCG2", "fs"]);
        } else {
            assert_eq!(names, ["ECG", "PCG", "fs"]);
        }
        assert_eq!(signals["fs"], [8000.0]);
        let channels = (names.len() - 1) as u64;
        assert!(bytes < channels * 48_000 * 4, "{bytes} bytes for {channels} channels");
        for (name, values) in signals.iter().filter(|(name, _)| *name != "fs") {
            assert_eq!(values.len(), 48_000);
            assert!(values.iter().all(|x| (x * 2048.0).fract() == 0.0 && (-1.0..1.0).contains(x)), "{name}");
            let distinct = values.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(distinct > 1000, "{name} of {} stands still", recording.name);
        }
    }
    assert_eq!(five, 2);
}

/// Beats a minute from the tallest peaks of a 5-to-30-Hz-like derivative: counts QRS complexes.
fn count_rate(ecg: &[f64]) -> f64 {
    // The largest rise within 20 ms, at least 250 ms apart.
    let rise: Vec<f64> = ecg.windows(160).map(|cut| cut[159] - cut[0]).collect();
    let threshold = 0.5 * rise.iter().copied().fold(0.0, f64::max);
    let mut peaks: Vec<usize> = Vec::new();
    for (n, &value) in rise.iter().enumerate() {
        if value > threshold && peaks.last().is_none_or(|last| n - last > 2000) {
            peaks.push(n);
        }
    }
    60.0 * 8000.0 * (peaks.len() - 1) as f64 / (peaks[peaks.len() - 1] - peaks[0]) as f64
}

#[test]
fn the_heart_beats_at_the_rate_asked_for() {
    let folder = TempDir::new().unwrap();
    let options = SimulateOptions { seconds: 20.0, ..small(folder.path()) };
    for recording in run(&options).unwrap().recordings {
        let path = folder.path().join(format!("MAT/{}.mat", recording.name));
        let (found, expected) = (count_rate(&signals(&path)["ECG"]), recording.heart_rate);
        let ramped = matches!(recording.scenario, Scenario::BicycleStress | Scenario::BruceTreadmill);
        let tolerance = if ramped { 0.08 } else { 0.05 };
        assert!((found / expected - 1.0).abs() < tolerance, "{recording:?}: counted {found}");
    }
}

#[test]
fn the_spreadsheet_has_the_data_sets_form() {
    let folder = TempDir::new().unwrap();
    let report = run(&small(folder.path())).unwrap();
    let bytes = fs::read(folder.path().join("ECGPCGSpreadsheet.csv")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.is_ascii());
    assert_eq!(text.matches("\r\n").count(), report.recordings.len() + 1);
    assert!(text.ends_with(&format!("\r\n{}\n", ",".repeat(44))));
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers = reader.headers().unwrap().clone();
    assert_eq!(headers.len(), 45);
    assert_eq!((&headers[0], &headers[1], &headers[5]), ("Record Name", "Subject ID", "Recording Scenario"));
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert!(rows[rows.len() - 1].iter().all(str::is_empty));
    let mut seen = BTreeMap::new();
    for (row, recording) in rows.iter().zip(&report.recordings) {
        assert_eq!(
            (&row[0], &row[1], &row[5]),
            (&*recording.name, &*recording.subject, recording.scenario.text())
        );
        *seen.entry((row[1].to_owned(), row[5].to_owned())).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 12, "each subject once in each scenario");
    assert!(text.contains("Exercise: walking at constant speed (3.7 km/h) ,"));
    assert_eq!(rows.iter().filter(|row| &row[6] == "2" && &row[9] == "NA").count(), 10);
}

#[test]
fn checksums_and_records_name_every_file() {
    let folder = TempDir::new().unwrap();
    run(&small(folder.path())).unwrap();
    let sums = fs::read_to_string(folder.path().join("SHA256SUMS.txt")).unwrap();
    assert_eq!(sums.lines().count(), 14);
    for line in sums.lines() {
        let (sum, path) = line.split_once(' ').unwrap();
        let digest = Sha256::digest(fs::read(folder.path().join(path)).unwrap());
        assert_eq!(sum, digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), "{path}");
    }
    let records = fs::read_to_string(folder.path().join("RECORDS")).unwrap();
    assert!(records.lines().all(|name| folder.path().join(format!("{name}.mat")).is_file()));
}

#[test]
fn the_same_settings_give_the_same_bytes() {
    let folders: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    run(&small(folders[0].path())).unwrap();
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    alone.install(|| run(&small(folders[1].path()))).unwrap();
    run(&SimulateOptions { seed: 43, ..small(folders[2].path()) }).unwrap();
    let [first, second, other] = [0, 1, 2].map(|n| contents(folders[n].path()));
    assert!(first == second);
    assert!(first.keys().eq(other.keys()));
    let name = "/MAT/ECGPCG0001.mat".trim_start_matches('/');
    assert_ne!(first[name], other[name]);
}

#[test]
fn earlier_output_is_reused_repaired_or_refused() {
    let folder = TempDir::new().unwrap();
    let options = small(folder.path());
    run(&options).unwrap();
    let before = contents(folder.path());
    let again = run(&options).unwrap();
    assert!(again.reused && again.recordings.len() == 12);

    let damaged = folder.path().join("MAT/ECGPCG0007.mat");
    fs::write(&damaged, b"cut short").unwrap();
    assert!(!run(&options).unwrap().reused);
    assert!(contents(folder.path()) == before);

    let other = run(&SimulateOptions { subjects: 3, ..options.clone() }).unwrap_err().to_string();
    assert!(other.contains("other settings") && other.contains("empty or new folder"), "{other}");
    assert!(contents(folder.path()) == before);

    let foreign = TempDir::new().unwrap();
    fs::write(foreign.path().join("thesis.tex"), b"dear").unwrap();
    let refused = run(&small(foreign.path())).unwrap_err().to_string();
    assert!(refused.contains("files that simulate did not write"), "{refused}");
    assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 1);
}

#[test]
fn a_stopped_run_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("deep/er");
    let (stop, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    let progress = |done, total| {
        assert_eq!(total, 12);
        most.fetch_max(done, Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
    };
    let stopped = simulate(&small(&out), &progress, &stop);
    assert!(matches!(stopped, Err(SimulateError::Stopped { total: 12, .. })), "{stopped:?}");
    assert!((1..12).contains(&most.load(Ordering::Relaxed)));
    assert!(!out.exists());
}

#[test]
fn a_full_or_forbidden_disk_is_one_sentence() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = run(&small(&file.join("below"))).unwrap_err().to_string();
    assert!(error.starts_with("cannot") && error.contains("below") && !error.contains('\n'), "{error}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let folder = TempDir::new().unwrap();
    let good = small(folder.path());
    for bad in [
        SimulateOptions { subjects: 0, ..good.clone() },
        SimulateOptions { seconds: f64::NAN, ..good.clone() },
        SimulateOptions { sampling_frequency: 100, ..good.clone() },
        SimulateOptions { five_channel_fraction: 1.5, ..good.clone() },
    ] {
        let error = run(&bad).unwrap_err();
        assert!(matches!(error, SimulateError::Setting { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
