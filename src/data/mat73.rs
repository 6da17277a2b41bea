//! MATLAB 7.3 `.mat` files: HDF5 behind a 512-byte user block, arrays transposed, so a signal is `(N, 1)`.
//!
//! ```no_run
//! use tpu_train::data::mat73::Mat73File;
//! let file = Mat73File::open("recording.mat".as_ref())?;
//! println!("{} samples", file.length("ECG")?);
//! # Ok::<(), tpu_train::data::DataError>(())
//! ```

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hdf5_pure::{Dataset, make_f64_type};

use super::DataError;
use super::mat5::Sink;

/// The attribute MATLAB marks empty arrays by; what is stored is their dimensions.
const EMPTY: &str = "MATLAB_empty";

const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

/// Values read at a time.
const CHUNK: u64 = 1 << 17;

/// Values handed over at a time.
const PIECE: usize = 8192;

/// An opened file.
pub struct Mat73File {
    path: PathBuf,
    file: hdf5_pure::File,
}

impl std::fmt::Debug for Mat73File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mat73File").field("path", &self.path).finish()
    }
}

/// Whether the file is HDF5, with or without a user block.
///
/// # Errors
/// When it cannot be read.
pub fn is_hdf5(path: &Path) -> Result<bool, DataError> {
    let mut file = File::open(path).map_err(|e| DataError::io("read", path, e))?;
    for offset in [0, 512, 1024, 2048] {
        let mut bytes = [0; SIGNATURE.len()];
        file.seek(SeekFrom::Start(offset)).map_err(|e| DataError::io("read", path, e))?;
        match file.read_exact(&mut bytes) {
            Ok(()) if &bytes == SIGNATURE => return Ok(true),
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(DataError::io("read", path, e)),
        }
    }
    Ok(false)
}

impl Mat73File {
    /// Opens the file without reading its data.
    ///
    /// # Errors
    /// When it is not valid HDF5.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let opened = guarded(|| hdf5_pure::File::open_streaming(path));
        let file = opened.map_err(|found| malformed(path, "file", found))?;
        Ok(Self { path: path.into(), file })
    }

    /// Names of the variables.
    ///
    /// # Errors
    /// When the file's root group is damaged.
    pub fn variables(&self) -> Result<Vec<String>, DataError> {
        guarded(|| self.file.root().datasets()).map_err(|found| malformed(&self.path, "root group", found))
    }

    /// The number of values of a vector variable.
    ///
    /// # Errors
    /// When it is missing, no vector, or empty.
    pub fn length(&self, name: &str) -> Result<u64, DataError> {
        let shape =
            guarded(|| self.file.dataset(name)?.shape()).map_err(|found| self.variable(name, found))?;
        let attributes =
            guarded(|| self.file.dataset(name)?.attrs()).map_err(|found| self.variable(name, found))?;
        if attributes.contains_key(EMPTY) {
            return Err(self.variable(name, "an empty array".into()));
        }
        if shape.iter().filter(|d| **d != 1).count() > 1 || shape.contains(&0) {
            return Err(
                self.variable(name, format!("shape {shape:?}, where a vector (N, 1) or (1, N) was expected"))
            );
        }
        Ok(shape.iter().product())
    }

    /// Streams a vector variable's values into `sink`, and returns how many there were.
    ///
    /// # Errors
    /// When it is missing, no numeric vector, or damaged; and the sink's own.
    pub fn values(&self, name: &str, sink: &mut Sink<'_>) -> Result<u64, DataError> {
        let count = self.length(name)?;
        let dataset = guarded(|| self.file.dataset(name)).map_err(|found| self.variable(name, found))?;
        let shape = guarded(|| dataset.shape()).map_err(|found| self.variable(name, found))?;
        check_chunks(&dataset, &shape).map_err(|found| self.variable(name, found))?;
        // Windows go along the first dimension; a signal stored (1, N) can only be read whole.
        if shape.first() != Some(&count) {
            return self.whole(name, &dataset, count, sink);
        }
        let mut at = 0;
        while at < count {
            let n = CHUNK.min(count - at);
            let values =
                guarded(|| dataset.read_f64_rows(at, n)).map_err(|found| self.variable(name, found))?;
            self.hand_over(name, &values, n, sink)?;
            at += n;
        }
        Ok(count)
    }

    /// Reads a dataset at once: plain float64 as bytes, converted in pieces, so that it is in memory only once.
    fn whole(
        &self,
        name: &str,
        dataset: &Dataset,
        count: u64,
        sink: &mut Sink<'_>,
    ) -> Result<u64, DataError> {
        let fail = |found| self.variable(name, found);
        if guarded(|| dataset.datatype()).map_err(fail)? != make_f64_type() {
            let values = guarded(|| dataset.read_f64()).map_err(fail)?;
            return self.hand_over(name, &values, count, sink);
        }
        let bytes = guarded(|| dataset.read_raw()).map_err(fail)?;
        let (words, _) = bytes.as_chunks::<8>();
        if words.len() as u64 != count {
            return Err(fail(format!("{} values where {count} were expected", words.len())));
        }
        for words in words.chunks(PIECE) {
            sink(&words.iter().map(|word| f64::from_le_bytes(*word)).collect::<Vec<_>>())?;
        }
        Ok(count)
    }

    fn hand_over(
        &self,
        name: &str,
        values: &[f64],
        count: u64,
        sink: &mut Sink<'_>,
    ) -> Result<u64, DataError> {
        if values.len() as u64 != count {
            return Err(self.variable(name, format!("{} values where {count} were expected", values.len())));
        }
        values.chunks(PIECE).try_for_each(sink)?;
        Ok(count)
    }

    fn variable(&self, name: &str, found: String) -> DataError {
        malformed(&self.path, &format!("variable {name}"), found)
    }
}

/// That every chunk of the data is there: the reader, as HDF5 has it, takes zeros for those that its index lacks.
fn check_chunks(dataset: &Dataset, shape: &[u64]) -> Result<(), String> {
    let Some(chunk) = guarded(|| dataset.chunk_shape())? else { return Ok(()) };
    // An index that cannot be listed is left to the reader.
    let Ok(chunks) = guarded(|| dataset.chunks()) else { return Ok(()) };
    let expected: u64 = shape.iter().zip(&chunk).map(|(&all, &one)| all.div_ceil(one.max(1))).product();
    let inside = |chunk: &Vec<u64>| chunk.iter().zip(shape).all(|(at, all)| at < all);
    let found: HashSet<Vec<u64>> = chunks.into_iter().map(|chunk| chunk.offset).filter(inside).collect();
    match found.len() as u64 {
        all if all == expected => Ok(()),
        found => Err(format!("{found} of its {expected} chunks: the file is damaged, or was not filled")),
    }
}

/// Runs a call into the HDF5 reader; damage that makes it panic is an error like any other.
fn guarded<T>(call: impl FnOnce() -> Result<T, hdf5_pure::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("data that the reader gave up on".into()),
    }
}

fn malformed(path: &Path, place: &str, found: String) -> DataError {
    let expected = "a readable HDF5 (.mat v7.3) object".into();
    DataError::Malformed { path: path.into(), place: place.into(), offset: 0, expected, found }
}
