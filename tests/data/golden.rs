//! The real records against the reference numbers beside them.

use serde_json::Value;
use sha2::{Digest, Sha256};
use tpu_train::data::recording::Recording;
use tpu_train::data::*;

use super::maker::real_records;

fn sha256(values: impl Iterator<Item = f64>) -> String {
    let mut hasher = Sha256::new();
    values.for_each(|v| hasher.update(v.to_le_bytes()));
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn golden(folder: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap()
}

fn close(a: f64, b: &Value) -> bool {
    (a - b.as_f64().unwrap()).abs() < 1e-12
}

#[test]
fn real_records_equal_their_reference_bit_for_bit() {
    let Some(folder) = real_records() else { return };
    let golden = golden(&folder);
    let out = tempfile::tempdir().unwrap();
    let mut options = PrepareOptions::new(Some(folder));
    options.out = Some(out.path().into());
    let prepared = prepare(&options, &|_| {}).unwrap();
    assert_eq!(prepared.recordings().len(), 2);
    assert_eq!(prepared.warnings().len(), 2, "missing ones counted once: {:?}", prepared.warnings());
    for (index, entry) in prepared.recordings().iter().enumerate() {
        let record = &golden[&entry.shard.name];
        assert_eq!(entry.shard.sample_type, SampleType::Int16);
        assert_eq!(record["fs"].as_f64().unwrap(), entry.shard.sampling_rate);
        for (channel, range) in entry.shard.channels.iter().enumerate() {
            let expected = &record[&range.name];
            assert_eq!(expected["min"].as_f64().unwrap(), range.minimum);
            assert_eq!(expected["max"].as_f64().unwrap(), range.maximum);
            assert_eq!(expected["sha256_raw_f64le"], sha256(prepared.shard(index).channel(channel)));
            let scaled = scaled_f64(&prepared, index, channel);
            assert_eq!(expected["sha256_norm_f64le"], sha256(scaled.iter().copied()));
            for (at, window) in scaled.chunks_exact(10_000).enumerate() {
                let mean = window.iter().sum::<f64>() / 1e4;
                let deviation = (window.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1e4).sqrt();
                assert!(
                    close(mean, &expected["window_mean"][at])
                        && close(deviation, &expected["window_std"][at])
                );
            }
        }
    }
    check_windows(&prepared, &golden);
}

/// Windows as a device scales them, in float32, are the reference rounded to float32.
fn check_windows(prepared: &Prepared, golden: &Value) {
    let rule = LabelRule::Column(" subject id".into());
    let table = WindowTable::new(prepared, 10_000, 10_000, &rule, RecordingOrder::Spreadsheet).unwrap();
    assert_eq!(table.len(), 48);
    assert_eq!(table.classes, ["S003", "S006"]);
    assert_eq!(golden["ECGPCG0003"]["windows"], 24);
    let scaled: Vec<Vec<Vec<f64>>> =
        (0..2).map(|r| (0..2).map(|c| scaled_f64(prepared, r, c)).collect()).collect();
    let batch = batch(prepared, &table, &(0..48).collect::<Vec<_>>(), 48).unwrap();
    let Samples::I16(q) = &batch.samples else { panic!("int16 expected") };
    for (row, window) in table.windows.iter().enumerate() {
        for t in 0..10_000 {
            for c in 0..2 {
                let sample = f32::from(q[(row * 10_000 + t) * 2 + c]);
                let device = (sample - batch.minimum[row * 2 + c]) / batch.range[row * 2 + c];
                let host = scaled[window.recording as usize][c][window.start as usize + t];
                assert_eq!(device.to_bits(), (host as f32).to_bits());
            }
        }
    }
}

#[test]
fn wfdb_equals_mat() {
    let Some(folder) = real_records() else { return };
    let stop = Default::default();
    let mat =
        Recording::open_file(&folder.join("MAT/ECGPCG0003.mat")).unwrap().read(&CHANNELS, &stop).unwrap();
    let wfdb =
        Recording::open_file(&folder.join("WFDB/ECGPCG0003.hea")).unwrap().read(&CHANNELS, &stop).unwrap();
    assert_eq!(mat, wfdb);
}

#[test]
fn every_variable_equals_crate_matfile() {
    let Some(folder) = real_records() else { return };
    for name in ["ECGPCG0003", "ECGPCG0006"] {
        let path = folder.join(format!("MAT/{name}.mat"));
        let judge = matfile::MatFile::parse(std::fs::File::open(&path).unwrap()).unwrap();
        let ours = mat5::MatFile::open(&path).unwrap();
        let names: Vec<_> = ours.variables().iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, judge.arrays().iter().map(|a| a.name()).collect::<Vec<_>>());
        for array in judge.arrays() {
            let mut values = Vec::new();
            ours.values(array.name(), &mut |chunk| {
                values.extend_from_slice(chunk);
                Ok(())
            })
            .unwrap();
            match array.data() {
                matfile::NumericData::Double { real, .. } => assert_eq!(&values, real),
                other => panic!("{} is {other:?}", array.name()),
            }
        }
    }
}

/// The whole source split: the real spreadsheet, files with the real numbers of windows (of two samples each).
#[test]
fn the_source_split_is_reproduced() {
    let Some(folder) = real_records() else { return };
    let golden = &golden(&folder)["seed_split"];
    assert!(golden["file_order"].as_array().unwrap().iter().eq(SOURCE_ORDER.iter()));
    let root = super::maker::Root::new();
    let sheet = spreadsheet::Spreadsheet::read(&folder.join("ECGPCGSpreadsheet.csv")).unwrap();
    let text = std::fs::read(folder.join("ECGPCGSpreadsheet.csv")).unwrap();
    std::fs::write(root.path().join("ECGPCGSpreadsheet.csv"), text).unwrap();
    for row in &sheet.rows {
        let n = if row.field("record duration (min)") == Some("30") { 2880 } else { 48 };
        let wave = super::maker::wave(row.line, n);
        root.file(&row.record, &super::maker::mat_bytes(&wave, &wave, false));
    }
    let all = root.prepare();
    let table = WindowTable::new(&all, 2, 2, &LabelRule::Scenario, RecordingOrder::Spreadsheet).unwrap();
    assert_eq!(table.len(), 83_712);
    let every: Vec<u32> = (0..83_712).collect();
    assert_eq!(table.class_counts(&every), [11_520, 4_512, 18_720, 18_720, 14_400, 15_840]);
    assert_eq!(table.subjects.len(), 24);

    for seed in 0..5 {
        let split = Split::new(&table, &SplitOptions { seed, ..Default::default() }).unwrap();
        for part in [&split.validation, &split.test] {
            let share = part.len() as f64 / 83_712.0;
            assert!((share - 0.1).abs() < 0.03, "seed {seed}: {share}");
        }
        assert!(table.class_counts(&split.train).iter().all(|c| *c > 0));
    }

    let rule = LabelRule::SourceScenario;
    let table = WindowTable::new(&all, 2, 2, &rule, RecordingOrder::Source).unwrap();
    assert_eq!(table.len(), 64_992);
    assert_eq!(table.classes.len(), 5);
    let options =
        SplitOptions { by: SplitBy::Random, validation: 0.1, test: 0.1, seed: 42, validate_on_test: true };
    let split = Split::new(&table, &options).unwrap();
    assert_eq!(split.validation, split.test);
    assert_eq!(golden["n_test"], split.test.len());
    assert_eq!(golden["n_train"], split.train.len());
    assert_eq!(golden["test_first10"], serde_json::json!(split.test[..10]));
    assert_eq!(golden["train_first10"], serde_json::json!(split.train[..10]));
    for (part, key) in [(&split.test, "test_class_counts"), (&split.train, "train_class_counts")] {
        let expected: Vec<u64> =
            ["1", "2", "4", "5", "6"].iter().map(|c| golden[key][*c].as_u64().unwrap()).collect();
        assert_eq!(table.class_counts(part), expected);
    }
}
