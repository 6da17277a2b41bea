//! Makes small data sets and `.mat` files, odd ones included.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use tempfile::TempDir;
use tpu_train::data::{LabelRule, PrepareOptions, Prepared, prepare};

pub(super) const HEADER: &str = "Record Name,Subject ID,Record Duration (min),Age (years),Gender,Recording Scenario,\
    Num Channels,ECG Notes,PCG Notes,PCG2 Notes,AUX1 Notes,AUX2 Notes,Database Housekeeping";

pub(super) const BED: &str = "Rest: laying on bed";
pub(super) const CHAIR: &str = "Rest: sitting on armchair";

/// The folder with the real records, or none and a printed reason.
pub(super) fn real_records() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/ephnogram");
    if folder.join("golden.json").is_file() {
        return Some(folder);
    }
    eprintln!("skipped: {} with the real records is not there", folder.display());
    None
}

/// `.mat` level 5 bytes.
pub(super) struct Mat {
    big: bool,
    pub(super) bytes: Vec<u8>,
}

/// Storage type numbers of the format.
pub(super) const DOUBLE: u32 = 9;

impl Mat {
    pub(super) fn new(big: bool) -> Self {
        let mut bytes = b"MATLAB 5.0 MAT-file, made by a test".to_vec();
        bytes.resize(124, b' ');
        bytes.extend(if big { [1, 0, b'M', b'I'] } else { [0, 1, b'I', b'M'] });
        Self { big, bytes }
    }

    fn u32(&self, value: u32) -> [u8; 4] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn element(&self, kind: u32, data: &[u8]) -> Vec<u8> {
        let mut out = self.u32(kind).to_vec();
        out.extend(self.u32(data.len() as u32));
        out.extend(data);
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    /// Packed into the tag where it fits.
    fn small(&self, kind: u32, data: &[u8]) -> Vec<u8> {
        if data.is_empty() || data.len() > 4 {
            return self.element(kind, data);
        }
        let mut out = self.u32((data.len() as u32) << 16 | kind).to_vec();
        out.extend(data);
        out.resize(8, 0);
        out
    }

    /// A numeric array: dimensions, class flags, storage type and values.
    pub(super) fn array(
        &mut self,
        name: &str,
        dims: &[u32],
        flags: u32,
        kind: u32,
        values: &[f64],
        compress: bool,
    ) {
        let mut content = self.element(6, &[self.u32(flags), self.u32(0)].concat());
        content.extend(self.element(5, &dims.iter().flat_map(|d| self.u32(*d)).collect::<Vec<_>>()));
        content.extend(self.small(1, name.as_bytes()));
        content.extend(self.small(kind, &self.store(kind, values)));
        let matrix = self.element(14, &content);
        if !compress {
            return self.bytes.extend(matrix);
        }
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&matrix).unwrap();
        let zlib = zlib.finish().unwrap();
        self.bytes.extend(self.u32(15));
        self.bytes.extend(self.u32(zlib.len() as u32));
        self.bytes.extend(zlib);
    }

    /// A string, a table or a date: an object without dimensions.
    pub(super) fn opaque(&mut self, name: &str) {
        let mut content = self.element(6, &[self.u32(17), self.u32(0)].concat());
        for text in [name, "MCOS", "string"] {
            content.extend(self.small(1, text.as_bytes()));
        }
        let matrix = self.element(14, &content);
        self.bytes.extend(matrix);
    }

    fn store(&self, kind: u32, values: &[f64]) -> Vec<u8> {
        macro_rules! as_type {
            ($type:ty) => {{
                let bytes = |v: &f64| {
                    let value = *v as $type;
                    if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
                };
                values.iter().flat_map(bytes).collect()
            }};
        }
        match kind {
            1 => as_type!(i8),
            2 => as_type!(u8),
            3 => as_type!(i16),
            4 => as_type!(u16),
            5 => as_type!(i32),
            6 => as_type!(u32),
            7 => as_type!(f32),
            12 => as_type!(i64),
            13 => as_type!(u64),
            _ => as_type!(f64),
        }
    }

    /// A double vector (1, N).
    pub(super) fn signal(&mut self, name: &str, values: &[f64], compress: bool) {
        self.array(name, &[1, values.len() as u32], 6, DOUBLE, values, compress);
    }
}

/// A recording's file as the data set has them, `fs` stored small.
pub(super) fn mat_bytes(ecg: &[f64], pcg: &[f64], compress: bool) -> Vec<u8> {
    let mut mat = Mat::new(false);
    mat.signal("AUX1", &vec![0.25; ecg.len()], compress);
    mat.signal("ECG", ecg, compress);
    mat.signal("PCG", pcg, compress);
    mat.array("fs", &[1, 1], 6, 4, &[8000.0], compress);
    mat.bytes
}

/// Values on the 1/2048 grid that depend on a seed.
pub(super) fn wave(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 20) % 4096) as f64 - 2048.0
    };
    (0..n).map(|_| next() / 2048.0).collect()
}

/// A download root in a temporary folder.
pub(super) struct Root {
    pub(super) folder: TempDir,
    rows: Vec<String>,
}

impl Root {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("MAT")).unwrap();
        std::fs::create_dir(folder.path().join("WFDB")).unwrap();
        let root = Self { folder, rows: Vec::new() };
        root.write_sheet();
        root
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn mat_path(&self, name: &str) -> PathBuf {
        self.path().join("MAT").join(format!("{name}.mat"))
    }

    pub(super) fn out(&self) -> PathBuf {
        self.path().join("prepared")
    }

    fn write_sheet(&self) {
        let text = [&[HEADER.to_owned()], self.rows.as_slice()].concat().join("\r\n");
        std::fs::write(self.path().join("ECGPCGSpreadsheet.csv"), text + "\r\n").unwrap();
    }

    pub(super) fn row(&mut self, name: &str, subject: &str, scenario: &str) {
        self.rows.push(format!("{name},{subject},0.5,26,Male,{scenario},2,Good,Good,NA,NA,NA,"));
        self.write_sheet();
    }

    /// A row and its file, `n` samples long.
    pub(super) fn recording(&mut self, name: &str, subject: &str, scenario: &str, n: usize) {
        self.row(name, subject, scenario);
        let seed = name.bytes().map(u64::from).fold(7, |a, b| a * 31 + b);
        self.file(name, &mat_bytes(&wave(seed, n), &wave(seed + 1, n), true));
    }

    pub(super) fn file(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.mat_path(name), bytes).unwrap();
    }

    pub(super) fn options(&self) -> PrepareOptions {
        let mut options = PrepareOptions::new(Some(self.path().into()));
        options.out = Some(self.out());
        options.threads = 2;
        options
    }

    pub(super) fn prepare(&self) -> Prepared {
        prepare(&self.options(), &|_| {}).unwrap()
    }

    pub(super) fn prepare_error(&self) -> String {
        prepare(&self.options(), &|_| {}).unwrap_err().to_string()
    }

    pub(super) fn prepare_as(&self, rule: LabelRule) -> Prepared {
        let mut options = self.options();
        options.rule = rule;
        prepare(&options, &|_| {}).unwrap()
    }
}
