//! `.mat` level 5, `.mat` 7.3 and WFDB: what a valid file may look like.

use std::path::PathBuf;

use crate::support::judge;
use hdf5_pure::{AttrValue, FileBuilder};
use tpu_train::data::recording::{Recording, Signals};
use tpu_train::data::*;

use super::maker::{DOUBLE, Mat, mat_bytes, wave};

fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn read(path: &std::path::Path) -> Result<Signals, DataError> {
    Recording::open_file(path)?.read(&CHANNELS, &Default::default())
}

fn interleaved(ecg: &[f64], pcg: &[f64]) -> Samples {
    Samples::I16(ecg.iter().zip(pcg).flat_map(|(e, p)| [(e * 2048.0) as i16, (p * 2048.0) as i16]).collect())
}

#[test]
fn every_storage_type_byte_order_and_orientation() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<f64> = (0..20_000).map(|i| f64::from(i % 11)).collect();
    for big in [false, true] {
        for compress in [false, true] {
            for kind in [1, 2, 3, 4, 5, 6, 7, 9, 12, 13] {
                for dims in [[1, 20_000], [20_000, 1]] {
                    let mut mat = Mat::new(big);
                    mat.array("before", &[3, 5], 6, DOUBLE, &[1.5; 15], compress);
                    mat.array("ECG", &dims, 6, kind, &values, compress);
                    mat.array("PCG", &dims, 12, kind, &values, compress);
                    mat.array("fs", &[1, 1], 6, kind.min(9), &[100.0], compress);
                    let signals = read(&write(&folder, "a.mat", &mat.bytes)).unwrap();
                    assert_eq!(signals.data, interleaved(&values, &values), "big {big} type {kind}");
                    assert_eq!((signals.sampling_rate, signals.samples), (100.0, 20_000));
                    assert_eq!((signals.channels[0].minimum, signals.channels[1].maximum), (0.0, 10.0));
                }
            }
        }
    }
}

#[test]
fn one_to_four_values_in_a_small_element() {
    let folder = tempfile::tempdir().unwrap();
    for n in 1..=4u32 {
        let values: Vec<f64> = (0..n).map(f64::from).collect();
        let mut mat = Mat::new(false);
        mat.array("ECG", &[1, n], 6, 2, &values, true);
        mat.array("PCG", &[n, 1], 6, 2, &values, false);
        mat.array("fs", &[1, 1], 6, 4, &[8000.0], true);
        assert_eq!(read(&write(&folder, "a.mat", &mat.bytes)).unwrap().data, interleaved(&values, &values));
    }
}

#[test]
fn values_off_the_grid_make_the_recording_float32() {
    let folder = tempfile::tempdir().unwrap();
    let (ecg, mut pcg) = (wave(1, 30_000), wave(2, 30_000));
    pcg[25_000] = 0.1;
    let signals = read(&write(&folder, "a.mat", &mat_bytes(&ecg, &pcg, true))).unwrap();
    let expected = ecg.iter().zip(&pcg).flat_map(|(e, p)| [*e as f32, *p as f32]).collect();
    assert_eq!(signals.data, Samples::F32(expected));
    let exact = |values: &[f64]| {
        (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(f64::MIN, f64::max))
    };
    let range = |c: &ChannelEntry| (c.minimum, c.maximum);
    assert_eq!(range(&signals.channels[0]), exact(&ecg));
    assert_eq!(range(&signals.channels[1]), exact(&pcg));
}

#[test]
fn the_grid_ends_where_int16_does() {
    let folder = tempfile::tempdir().unwrap();
    for (value, exact) in
        [(-16.0, true), (32_767.0 / 2048.0, true), (16.0, false), (-16.0 - 1.0 / 2048.0, false)]
    {
        let ecg = [0.0, value, 0.0];
        let signals = read(&write(&folder, "a.mat", &mat_bytes(&ecg, &ecg, true))).unwrap();
        assert_eq!(matches!(signals.data, Samples::I16(_)), exact, "{value}");
        let (low, high) = (signals.channels[0].minimum, signals.channels[0].maximum);
        assert_eq!((low, high), (value.min(0.0), value.max(0.0)));
    }
}

#[test]
fn samples_that_are_no_numbers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
        for float in [false, true] {
            let mut pcg = wave(3, 20_000);
            if float {
                pcg[5] = 0.3;
            }
            pcg[12_345] = value;
            let error = read(&write(&folder, "a.mat", &mat_bytes(&wave(1, 20_000), &pcg, true))).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("recording a channel PCG: sample 12345"), "{error}");
        }
    }
}

#[test]
fn wrong_variables_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = |mat: Mat| read(&write(&folder, "a.mat", &mat.bytes)).unwrap_err().to_string();
    let with = |change: &dyn Fn(&mut Mat)| {
        let mut mat = Mat::new(false);
        change(&mut mat);
        mat.signal("PCG", &[0.0, 0.5], true);
        mat.array("fs", &[1, 1], 6, 4, &[8000.0], true);
        error(mat)
    };
    let missing = with(&|_| {});
    assert!(missing.contains("no channel \"ECG\": found \"PCG\", \"fs\""), "{missing}");
    let shape = with(&|mat| mat.array("ECG", &[2, 2], 6, DOUBLE, &[0.0; 4], true));
    assert!(shape.contains("variable ECG") && shape.contains("(2, 2)"), "{shape}");
    let complex = with(&|mat| mat.array("ECG", &[1, 2], 0x806, DOUBLE, &[0.0; 2], true));
    assert!(complex.contains("complex"), "{complex}");
    let class = with(&|mat| mat.array("ECG", &[1, 2], 4, 4, &[0.0; 2], true));
    assert!(class.contains("found text"), "{class}");
    let empty = with(&|mat| mat.array("ECG", &[0, 0], 6, DOUBLE, &[], true));
    assert!(empty.contains("(0, 0)"), "{empty}");
    let length = with(&|mat| mat.signal("ECG", &[0.0; 3], true));
    assert!(length.contains("PCG has 2 samples, expected 3 as in channel ECG"), "{length}");
    let lie = with(&|mat| mat.array("ECG", &[1, 1 << 30], 6, DOUBLE, &[0.0; 3], true));
    assert!(lie.contains("expected 1073741824 samples") || lie.contains("samples, expected"), "{lie}");
    let mut rate = Mat::new(false);
    rate.signal("ECG", &[0.0, 0.5], true);
    rate.signal("PCG", &[0.0, 0.5], true);
    let rate = error(rate);
    assert!(rate.contains("variable fs") && rate.contains("no such variable"), "{rate}");
    let mut rates = Mat::new(false);
    rates.signal("ECG", &[0.0, 0.5], true);
    rates.signal("PCG", &[0.0, 0.5], true);
    rates.array("fs", &[1, 2], 6, 4, &[8000.0; 2], true);
    let rates = error(rates);
    assert!(rates.contains("one positive number, found 2 values"), "{rates}");
    let other = read(&write(&folder, "b.mat", &[b'x'; 300])).unwrap_err().to_string();
    assert!(other.contains("no MATLAB level 5 file"), "{other}");
}

#[test]
fn variables_without_dimensions_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut mat = Mat::new(false);
    mat.opaque("notes");
    mat.signal("ECG", &[0.0, 0.5], true);
    mat.signal("PCG", &[0.5, 0.0], true);
    mat.array("fs", &[1, 1], 6, 4, &[8000.0], true);
    assert_eq!(
        read(&write(&folder, "a.mat", &mat.bytes)).unwrap().data,
        interleaved(&[0.0, 0.5], &[0.5, 0.0])
    );
}

#[test]
fn signals_that_float32_cannot_scale_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (low, high) in [(1e6, 1e6 + 1e-3), (0.0, 1e-50), (-3e38, 3e38)] {
        let ecg = [low, high, low];
        let error = read(&write(&folder, "a.mat", &mat_bytes(&ecg, &[0.0, 0.5, 0.0], true))).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("recording a channel ECG: float32 cannot tell"), "{error}");
    }
}

fn mat73(ecg: &[f64], pcg: &[f64], row: bool) -> Vec<u8> {
    let mut builder = FileBuilder::new();
    for (name, values) in [("AUX1", ecg), ("ECG", ecg), ("PCG", pcg)] {
        let n = values.len() as u64;
        let dataset = builder.create_dataset(name).with_f64_data(values);
        let (shape, chunk) = if row { ([1, n], [1, n.min(1000)]) } else { ([n, 1], [n.min(1000), 1]) };
        dataset.with_shape(&shape).with_chunks(&chunk).with_deflate(3);
    }
    builder.create_dataset("fs").with_f64_data(&[8000.0]).with_shape(&[1, 1]);
    builder.with_userblock(512).with_userblock_content(b"MATLAB 7.3 MAT-file");
    builder.finish().unwrap()
}

#[test]
fn mat73_equals_mat5() {
    let folder = tempfile::tempdir().unwrap();
    let (ecg, mut pcg) = (wave(8, 300_000), wave(9, 300_000));
    for grid in [true, false] {
        if !grid {
            pcg[299_999] = 0.01;
        }
        let expected = read(&write(&folder, "a.mat", &mat_bytes(&ecg, &pcg, true))).unwrap();
        for row in [false, true] {
            assert_eq!(read(&write(&folder, "a.mat", &mat73(&ecg, &pcg, row))).unwrap(), expected);
        }
    }
}

#[test]
fn damaged_mat73_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (ecg, pcg) = (wave(8, 3000), wave(9, 3000));
    let bytes = mat73(&ecg, &pcg, false);
    let whole = read(&write(&folder, "a.mat", &bytes)).unwrap();
    for cut in (0..bytes.len()).step_by(97) {
        let found = read(&write(&folder, "a.mat", &bytes[..cut]));
        assert!(found.is_err() || found.unwrap() == whole, "cut at {cut}");
    }
    for at in (0..bytes.len()).step_by(61) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        // HDF5 without checksums cannot tell every flip; the point is that none ends the process.
        let _ = read(&write(&folder, "a.mat", &damaged));
    }
}

#[test]
fn empty_arrays_of_mat73_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = FileBuilder::new();
    for name in ["ECG", "PCG"] {
        // What MATLAB stores are the dimensions.
        let dataset = builder.create_dataset(name).with_u64_data(&[0, 0]);
        dataset.set_attr("MATLAB_empty", AttrValue::U8(1));
    }
    builder.create_dataset("fs").with_f64_data(&[8000.0]).with_shape(&[1, 1]);
    let error = read(&write(&folder, "a.mat", &builder.finish().unwrap())).unwrap_err().to_string();
    assert!(error.contains("variable ECG") && error.contains("found an empty array"), "{error}");
}

/// Two signals of three chunks, of which the second of PCG was never written.
const WRITE_IN_H5PY: &str = r#"
import sys, h5py, numpy
with h5py.File(sys.argv[1], "w", userblock_size=512) as file:
    file["fs"] = [[8000.0]]
    for name, starts in ("ECG", (0, 1000, 2000)), ("PCG", (0, 2000)):
        signal = file.create_dataset(name, (3000, 1), "f8", chunks=(1000, 1), compression="gzip")
        for start in starts:
            signal[start:start + 1000] = 0.5
"#;

#[test]
fn chunks_that_mat73_lacks_are_not_taken_for_zeros() {
    let Some(judge) = judge::python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mat");
    judge.run(WRITE_IN_H5PY, &[&path]);
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("variable PCG") && error.contains("found 2 of its 3 chunks"), "{error}");
}

fn wfdb(folder: &tempfile::TempDir, ecg: &[i16], pcg: &[i16], change: impl Fn(String) -> String) -> PathBuf {
    let sum = |values: &[i16]| values.iter().fold(0i16, |a, b| a.wrapping_add(*b));
    let header = format!(
        "# made by a test\n a 2 8000/1(0) {} 12:00:00\na.dat 16+4 65536(100)/mV 0 0 {} {} 0 ECG\n\
         a.dat 16+4 65536/mV 0 -50 {} {} 0 PCG\n# end\n",
        ecg.len(),
        ecg[0],
        sum(ecg),
        pcg[0],
        sum(pcg)
    );
    let mut data = vec![9; 4];
    data.extend(ecg.iter().zip(pcg).flat_map(|(e, p)| [e.to_le_bytes(), p.to_le_bytes()].concat()));
    write(folder, "a.dat", &data);
    write(folder, "a.hea", change(header).as_bytes())
}

#[test]
fn wfdb_values_return_to_the_grid() {
    let folder = tempfile::tempdir().unwrap();
    let q: Vec<i16> = (-500..500).collect();
    // 65536 steps a unit are 32 steps of the ADC to one of the grid.
    let ecg: Vec<i16> = q.iter().map(|q| q * 32 + 100).collect();
    let pcg: Vec<i16> = q.iter().map(|q| q * 32 - 50 + q % 2).collect();
    let signals = read(&wfdb(&folder, &ecg, &pcg, |h| h)).unwrap();
    let expected: Vec<f64> = q.iter().map(|q| f64::from(*q) / 2048.0).collect();
    assert_eq!(signals.data, interleaved(&expected, &expected));
    assert_eq!(signals.sampling_rate, 8000.0);
    let between: Vec<i16> = q.iter().map(|q| q * 32 - 50 + 7).collect();
    assert!(matches!(read(&wfdb(&folder, &ecg, &between, |h| h)).unwrap().data, Samples::F32(_)));
}

#[test]
fn wrong_wfdb_headers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let q: Vec<i16> = (-50..50).map(|q| q * 32).collect();
    let error = |from: &str, to: &str| {
        let path = wfdb(&folder, &q, &q, |h| {
            assert!(h.contains(from), "{h}");
            h.replace(from, to)
        });
        read(&path).unwrap_err().to_string()
    };
    for (from, to, part) in [
        ("16+4", "212", "format 16"),
        (" 2 8000", " two 8000", "number of signals"),
        (" 2 8000", " 3 8000", "one line for each signal"),
        ("8000/1(0)", "0", "sampling frequency"),
        (" a 2", " a/3 2", "one segment"),
        ("65536(100)", "gain", "gain"),
        ("a.dat", "../a.dat", "same folder"),
        ("a.dat", "b.dat", "b.dat"),
        (" 100 12", " 101 12", "cut short"),
        (" 0 ECG", " 0 EKG", "no channel \"ECG\": found \"EKG\", \"PCG\""),
        (" 0 0 -1600", " 0 0 -1601", "initial value"),
        (" 0 -50 -1600 -1600", " 0 -50 -1600 -1599", "checksum"),
    ] {
        let error = error(from, to);
        assert!(error.contains(part), "{from} -> {to}: {error}");
    }
    let empty = wfdb(&folder, &q, &q, |h| h.replace(" 100 12", ""));
    write(&folder, "a.dat", &[9; 7]);
    let error = read(&empty).unwrap_err().to_string();
    assert!(error.contains("at least one time point, found a file of 7 bytes"), "{error}");
    let mut invalid = q.clone();
    invalid[60] = i16::MIN;
    let error = read(&wfdb(&folder, &invalid, &q, |h| h)).unwrap_err().to_string();
    assert!(error.contains("invalid mark, sample 60"), "{error}");
}
