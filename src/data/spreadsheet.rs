//! The data set's spreadsheet: one row per recording, with its subject, its scenario and notes.
//!
//! Columns are found by name (trimmed, case-insensitive), so edited copies with other case, other order or without
//! the empty columns read the same. Rows keep the file's order; cells keep their text, blanks included, because the
//! source's label rule compares them exactly.
//!
//! ```no_run
//! let sheet = tpu_train::data::spreadsheet::Spreadsheet::read("ECGPCGSpreadsheet.csv".as_ref())?;
//! println!("{} recordings", sheet.rows.len());
//! # Ok::<(), tpu_train::data::DataError>(())
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::DataError;

/// Column with the recording's name.
pub const RECORD_NAME: &str = "Record Name";
/// Column with the person's identifier.
pub const SUBJECT_ID: &str = "Subject ID";
/// Column with what the person was doing.
pub const SCENARIO: &str = "Recording Scenario";

/// A parsed spreadsheet.
#[derive(Clone, Debug)]
pub struct Spreadsheet {
    /// The file it came from.
    pub path: PathBuf,
    /// Names of the named columns, trimmed, in file order.
    pub columns: Vec<String>,
    /// One per recording, in file order.
    pub rows: Vec<Row>,
}

/// One recording's line.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Recording name, trimmed: the stem of its files.
    pub record: String,
    /// Subject, trimmed; empty if the cell is.
    pub subject: String,
    /// Line in the file, from 1.
    pub line: u64,
    /// Every named column's text as written.
    pub fields: BTreeMap<String, String>,
}

impl Spreadsheet {
    /// Reads and parses `path`.
    ///
    /// # Errors
    /// When it cannot be read, is empty, lacks the record or subject column, or names a recording twice.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(|e| DataError::io("read", path, e))?;
        Self::parse(path, &bytes)
    }

    /// Parses the text of a spreadsheet; `path` only serves messages. Text that is not UTF-8 has its odd
    /// bytes replaced.
    ///
    /// # Errors
    /// As [`Spreadsheet::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}');
        let fail = |problem: String| DataError::Spreadsheet { path: path.into(), problem };
        if text.trim().is_empty() {
            return Err(fail("the file is empty, expected a header line and one line per recording".into()));
        }
        let mut reader =
            csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(text.as_bytes());
        let mut records = reader.records();
        let header = match records.next() {
            Some(header) => header.map_err(|e| fail(format!("the header line cannot be read: {e}")))?,
            None => return Err(fail("the file has no header line".into())),
        };
        let columns = named_columns(&header);
        let names: Vec<String> = columns.iter().map(|(_, name)| name.clone()).collect();
        for wanted in [RECORD_NAME, SUBJECT_ID] {
            if find_column(names.iter(), wanted).is_none() {
                let place = format!("spreadsheet {}", path.display());
                return Err(DataError::MissingColumn { place, column: wanted.into(), found: names });
            }
        }
        let mut rows = Vec::new();
        for record in records {
            let record = record.map_err(|e| fail(format!("a line cannot be read: {e}")))?;
            if record.iter().any(|cell| !cell.trim().is_empty()) {
                rows.push(parse_row(&record, line_of(text, &record), &columns).map_err(fail)?);
            }
        }
        check_rows(&rows).map_err(fail)?;
        Ok(Self { path: path.into(), columns: names, rows })
    }
}

impl Row {
    /// The text of a column, found trimmed and case-insensitively.
    pub fn field(&self, column: &str) -> Option<&str> {
        field(&self.fields, column)
    }
}

/// The text of a column among a row's fields, found trimmed and case-insensitively.
pub(crate) fn field<'a>(fields: &'a BTreeMap<String, String>, column: &str) -> Option<&'a str> {
    let name = find_column(fields.keys(), column)?;
    fields.get(name).map(String::as_str)
}

/// The column of that name, compared trimmed and case-insensitively.
pub(crate) fn find_column<'a>(
    mut columns: impl Iterator<Item = &'a String>,
    wanted: &str,
) -> Option<&'a String> {
    let wanted = wanted.trim().to_lowercase();
    columns.find(|name| name.to_lowercase() == wanted)
}

/// Positions and trimmed names of the columns that have one; of two with the same name the first counts.
fn named_columns(header: &csv::StringRecord) -> Vec<(usize, String)> {
    let mut columns: Vec<(usize, String)> = Vec::new();
    for (index, cell) in header.iter().enumerate() {
        let name = cell.trim();
        let seen = columns.iter().any(|(_, other)| other.eq_ignore_ascii_case(name));
        if !name.is_empty() && !seen {
            columns.push((index, name.to_owned()));
        }
    }
    columns
}

/// The line a record starts on, from 1. The parser's own count lags behind where lines end in CRLF.
fn line_of(text: &str, record: &csv::StringRecord) -> u64 {
    let at = record.position().map_or(0, |p| p.byte() as usize);
    let newlines = text.as_bytes()[at..].iter().take_while(|b| b"\r\n".contains(b)).count();
    1 + text.as_bytes()[..at + newlines].iter().filter(|b| **b == b'\n').count() as u64
}

fn parse_row(record: &csv::StringRecord, line: u64, columns: &[(usize, String)]) -> Result<Row, String> {
    let cell = |index: usize| record.get(index).unwrap_or("").to_owned();
    let fields: BTreeMap<_, _> = columns.iter().map(|(index, name)| (name.clone(), cell(*index))).collect();
    let name = field(&fields, RECORD_NAME).unwrap_or("").trim().to_owned();
    if name.is_empty() {
        return Err(format!("line {line} has no {RECORD_NAME}"));
    }
    let plain = |c: char| c.is_alphanumeric() || "_-.+ ".contains(c);
    if !name.chars().all(plain) || name.starts_with('.') {
        return Err(format!(
            "line {line}: {RECORD_NAME} \"{name}\" is no file name: expected letters and digits"
        ));
    }
    let subject = field(&fields, SUBJECT_ID).unwrap_or("").trim().to_owned();
    Ok(Row { record: name, subject, line, fields })
}

fn check_rows(rows: &[Row]) -> Result<(), String> {
    if rows.is_empty() {
        return Err("it has a header line and no recordings".into());
    }
    let mut seen = HashMap::new();
    for row in rows {
        if let Some(first) = seen.insert(row.record.as_str(), row.line) {
            return Err(format!(
                "line {} names recording {} again, first on line {first}",
                row.line, row.record
            ));
        }
    }
    Ok(())
}
