//! WFDB records (header(5) and signal(5) of the WFDB Applications Guide): a text header `.hea` and samples of format 16.
//!
//! `value = (sample − baseline) / gain`. A converter that scaled a 12-bit signal to 16 bits leaves values a fraction of
//! an ADC step beside the 1/2048 grid they came from; such values are put back on it, which restores the `.mat` exactly.
//!
//! ```no_run
//! use tpu_train::data::wfdb::Record;
//! let record = Record::open("WFDB/ECGPCG0003.hea".as_ref())?;
//! println!("{} Hz", record.sampling_rate);
//! # Ok::<(), tpu_train::data::DataError>(())
//! ```

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::mat5::Sink;
use super::{DataError, GRID};

/// Time points read at a time.
const CHUNK: usize = 8192;

/// Headers are short; a longer file is something else.
const MAX_HEADER: u64 = 1 << 20;

/// A parsed header.
#[derive(Clone, Debug)]
pub struct Record {
    path: PathBuf,
    /// In Hz.
    pub sampling_rate: f64,
    /// Time points; 0 if the header does not say.
    samples: u64,
    /// In file order.
    pub signals: Vec<Signal>,
}

/// One signal's line of the header.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// What it is: `ECG`, say.
    pub name: String,
    /// The file with its samples.
    pub file: PathBuf,
    /// Bytes before the first sample.
    byte_offset: u64,
    /// ADC steps per unit.
    pub gain: f64,
    /// Sample of value 0.
    pub baseline: f64,
    initial: Option<i32>,
    checksum: Option<i16>,
}

impl Record {
    /// Reads and parses a `.hea` file.
    ///
    /// # Errors
    /// When it cannot be read, is not a header, or needs a feature other than format 16.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|e| DataError::io("read", path, e))?;
        let mut bytes = Vec::new();
        file.take(MAX_HEADER).read_to_end(&mut bytes).map_err(|e| DataError::io("read", path, e))?;
        let text = String::from_utf8_lossy(&bytes);
        let mut at = 0;
        let mut lines = Vec::new();
        for (index, line) in text.split('\n').enumerate() {
            let content = line.trim();
            if !content.is_empty() && !content.starts_with('#') {
                lines.push(Line { path, number: index + 1, offset: at, text: content });
            }
            at += line.len() as u64 + 1;
        }
        parse(path, &lines)
    }

    /// The header's `.dat` files, each once.
    pub fn data_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.signals.iter().map(|s| s.file.clone()).collect();
        files.dedup();
        files
    }

    /// The number of time points.
    ///
    /// # Errors
    /// When the header does not say and the data file cannot be looked at, or holds none.
    pub fn length(&self, name: &str) -> Result<u64, DataError> {
        if self.samples > 0 {
            return Ok(self.samples);
        }
        let (index, row) = self.position(name)?;
        let signal = &self.signals[index];
        let bytes =
            std::fs::metadata(&signal.file).map_err(|e| DataError::io("read", &signal.file, e))?.len();
        match bytes.saturating_sub(signal.byte_offset) / (2 * row.1 as u64) {
            0 => Err(signal.malformed(
                signal.byte_offset,
                "at least one time point",
                format!("a file of {bytes} bytes"),
            )),
            samples => Ok(samples),
        }
    }

    /// Streams one signal's values into `sink`, and returns how many there were.
    ///
    /// # Errors
    /// When the data file is shorter than the header says, a sample is marked invalid, or the header's initial value or
    /// checksum disagrees; and the sink's own.
    pub fn values(&self, name: &str, sink: &mut Sink<'_>) -> Result<u64, DataError> {
        let (index, (column, columns)) = self.position(name)?;
        let signal = &self.signals[index];
        let count = self.length(name)?;
        let mut file = File::open(&signal.file).map_err(|e| DataError::io("read", &signal.file, e))?;
        file.seek(SeekFrom::Start(signal.byte_offset)).map_err(|e| DataError::io("read", &signal.file, e))?;
        let mut bytes = vec![0; CHUNK * 2 * columns];
        let mut values = vec![0.0; CHUNK];
        let (mut done, mut sum) = (0u64, 0i16);
        while done < count {
            let n = (count - done).min(CHUNK as u64) as usize;
            let offset = signal.byte_offset + done * 2 * columns as u64;
            file.read_exact(&mut bytes[..n * 2 * columns])
                .map_err(|e| signal.read_error(e, offset, count - done))?;
            let column = bytes.chunks_exact(2 * columns).map(|row| [row[2 * column], row[2 * column + 1]]);
            for (i, (value, sample)) in values[..n].iter_mut().zip(column.map(i16::from_le_bytes)).enumerate()
            {
                if sample == i16::MIN {
                    return Err(signal.malformed(
                        offset,
                        "a valid sample",
                        format!("the invalid mark, sample {}", done + i as u64),
                    ));
                }
                if let (0, 0, Some(initial)) = (done, i, signal.initial)
                    && initial != i32::from(sample)
                {
                    let expected = format!("the initial value {initial}");
                    return Err(signal.malformed(offset, &expected, sample.to_string()));
                }
                sum = sum.wrapping_add(sample);
                *value = signal.value(sample);
            }
            sink(&values[..n])?;
            done += n as u64;
        }
        match signal.checksum {
            Some(expected) if expected != sum => Err(signal.malformed(
                signal.byte_offset,
                &format!("samples of checksum {expected}"),
                format!("{sum}"),
            )),
            _ => Ok(count),
        }
    }

    /// A signal's index, its column within its file, and the file's columns.
    fn position(&self, name: &str) -> Result<(usize, (usize, usize)), DataError> {
        let index = self.signals.iter().position(|s| s.name == name).ok_or_else(|| DataError::Malformed {
            path: self.path.clone(),
            place: format!("signal {name}"),
            offset: 0,
            expected: "a signal line of this name".into(),
            found: self.signals.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
        })?;
        let same = |signal: &&Signal| signal.file == self.signals[index].file;
        let column = self.signals[..index].iter().filter(same).count();
        Ok((index, (column, self.signals.iter().filter(same).count())))
    }
}

impl Signal {
    /// The physical value; on the 1/2048 grid if that is as near as the ADC can tell.
    fn value(&self, sample: i16) -> f64 {
        let value = (f64::from(sample) - self.baseline) / self.gain;
        let grid = (value * GRID).round_ties_even() / GRID;
        // Half a step from rounding the sample and half from rounding the baseline.
        let within = ((value - grid) * self.gain).abs() <= 1.0;
        if within && self.gain.abs() >= 8.0 * GRID { grid } else { value }
    }

    fn read_error(&self, error: std::io::Error, offset: u64, left: u64) -> DataError {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            let found = "the file's end: it is cut short".into();
            return self.malformed(offset, &format!("{left} more time points"), found);
        }
        DataError::io("read", &self.file, error)
    }

    fn malformed(&self, offset: u64, expected: &str, found: String) -> DataError {
        DataError::Malformed {
            path: self.file.clone(),
            place: format!("signal {}", self.name),
            offset,
            expected: expected.into(),
            found,
        }
    }
}

/// A header line that is neither blank nor a comment.
struct Line<'a> {
    path: &'a Path,
    number: usize,
    offset: u64,
    text: &'a str,
}

impl Line<'_> {
    fn fail(&self, expected: &str) -> DataError {
        DataError::Malformed {
            path: self.path.into(),
            place: format!("line {}", self.number),
            offset: self.offset,
            expected: expected.into(),
            found: format!("\"{}\"", self.text.chars().take(80).collect::<String>()),
        }
    }
}

fn parse(path: &Path, lines: &[Line<'_>]) -> Result<Record, DataError> {
    let Some(first) = lines.first() else {
        let line = Line { path, number: 1, offset: 0, text: "" };
        return Err(line.fail("a record line: name, signals, frequency, samples"));
    };
    let mut words = first.text.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    if name.contains('/') {
        return Err(first.fail("a record of one segment"));
    }
    let signals: usize =
        words.next().and_then(|w| w.parse().ok()).ok_or_else(|| first.fail("the number of signals"))?;
    let rate = words.next().unwrap_or("250");
    let rate = rate.split(['/', '(']).next().and_then(|w| w.parse().ok());
    let sampling_rate =
        rate.filter(|r: &f64| r.is_finite() && *r > 0.0).ok_or_else(|| first.fail("a sampling frequency"))?;
    let samples = match words.next() {
        Some(word) => word.parse().map_err(|_| first.fail("the number of samples"))?,
        None => 0,
    };
    let lines = lines.get(1..=signals).ok_or_else(|| first.fail("one line for each signal"))?;
    let signals = lines.iter().map(parse_signal).collect::<Result<Vec<_>, _>>()?;
    Ok(Record { path: path.into(), sampling_rate, samples, signals })
}

fn parse_signal(line: &Line<'_>) -> Result<Signal, DataError> {
    let words: Vec<&str> = line.text.split_ascii_whitespace().collect();
    let file = words.first().filter(|w| !w.contains(['/', '\\']) && !w.starts_with('.'));
    let file = file.ok_or_else(|| line.fail("a file name in the same folder"))?;
    let format = words.get(1).copied().unwrap_or_default();
    let (format, byte_offset) = match format.split_once('+') {
        Some((format, offset)) => (format, offset.parse().map_err(|_| line.fail("a byte offset"))?),
        None => (format, 0),
    };
    if format != "16" {
        return Err(line.fail("format 16"));
    }
    let integer = |index: usize, what: &str| -> Result<Option<i32>, DataError> {
        words.get(index).map(|w| w.parse().map_err(|_| line.fail(what))).transpose()
    };
    let zero = integer(4, "an ADC zero")?.unwrap_or(0);
    let (gain, baseline) = parse_gain(words.get(2).copied().unwrap_or("200"), zero)
        .ok_or_else(|| line.fail("a gain such as 200(0)/mV"))?;
    Ok(Signal {
        name: words.get(8..).unwrap_or_default().join(" "),
        file: line.path.with_file_name(file),
        byte_offset,
        gain,
        baseline,
        initial: integer(5, "an initial value")?,
        checksum: integer(6, "a checksum")?.map(|sum| sum as i16),
    })
}

/// `gain[(baseline)][/units]`; a gain of 0 means 200, a missing baseline the ADC zero.
fn parse_gain(word: &str, zero: i32) -> Option<(f64, f64)> {
    let word = word.split('/').next()?;
    let (gain, baseline) = match word.split_once('(') {
        Some((gain, baseline)) => (gain, baseline.strip_suffix(')')?.parse().ok()?),
        None => (word, f64::from(zero)),
    };
    let gain: f64 = gain.parse().ok()?;
    let gain = if gain == 0.0 { 200.0 } else { gain };
    (gain.is_finite() && baseline.is_finite()).then_some((gain, baseline))
}
