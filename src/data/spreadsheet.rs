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

use std::collections::{BTreeMap, HashMap, HashSet};
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

    /// Parses the text of a spreadsheet; `path` only serves messages.
    ///
    /// # Errors
    /// As [`Spreadsheet::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        let fail = |problem: String| DataError::Spreadsheet { path: path.into(), problem };
        let text = utf8(bytes).map_err(fail)?;
        if text.trim().is_empty() {
            return Err(fail("the file is empty, expected a header line and one line per recording".into()));
        }
        // A quote that is never closed takes in all that follows it: the last line too, which is not the sheet's.
        let closed = format!("{text}\n{LAST_LINE}");
        let mut reader =
            csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(closed.as_bytes());
        let mut records = reader.records();
        let header = match records.next() {
            Some(header) => header.map_err(|e| fail(format!("the header line cannot be read: {e}")))?,
            None => return Err(fail("the file has no header line".into())),
        };
        if header.iter().any(|cell| cell.ends_with(LAST_LINE)) {
            return Err(fail("the header line opens a quote that is never closed".into()));
        }
        let columns = named_columns(&header);
        let names: Vec<String> = columns.iter().map(|(_, name)| name.clone()).collect();
        if let ([name], Some(separator)) = (&names[..], SEPARATORS.iter().find(|s| header[0].contains(**s))) {
            let found: String = name.chars().take(40).collect();
            return Err(fail(format!(
                "its cells are separated by {separator:?}, expected commas: found {found:?}"
            )));
        }
        for wanted in [RECORD_NAME, SUBJECT_ID] {
            if find_column(names.iter(), wanted).is_none() {
                let place = format!("spreadsheet {}", path.display());
                return Err(DataError::MissingColumn { place, column: wanted.into(), found: names });
            }
        }
        let (mut rows, mut lines) = (Vec::new(), Lines { text, at: 0, line: 1 });
        for record in records {
            let record = record.map_err(|e| fail(format!("a line cannot be read: {e}")))?;
            if record.iter().eq([LAST_LINE]) || record.iter().all(|cell| cell.trim().is_empty()) {
                continue;
            }
            let line = lines.of(&record);
            if record.iter().any(|cell| cell.ends_with(LAST_LINE)) {
                return Err(fail(format!("line {line} opens a quote that is never closed")));
            }
            if record.iter().skip(header.len()).any(|cell| !cell.trim().is_empty()) {
                let (found, expected) = (record.len(), header.len());
                return Err(fail(format!(
                    "line {line} has {found} cells, the header {expected}: put quotes around a cell that holds a comma"
                )));
            }
            rows.push(parse_row(&record, line, &columns).map_err(fail)?);
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

/// What is appended to a sheet to see that it was read to its end.
const LAST_LINE: &str = "\u{1}end\u{1}";

/// What some programs write between cells in place of commas.
const SEPARATORS: [char; 2] = [';', '\t'];

/// The text of a file, without its byte order mark.
fn utf8(bytes: &[u8]) -> Result<&str, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("the file is UTF-16, expected UTF-8: save it as CSV UTF-8".into());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (before, byte) = (&bytes[..error.valid_up_to()], bytes[error.valid_up_to()]);
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        format!("line {line} holds the byte {byte:#04x}, which is not UTF-8: save the file as CSV UTF-8")
    })?;
    Ok(text.trim_start_matches('\u{feff}'))
}

/// Positions and trimmed names of the columns that have one; of two with the same name the first counts.
fn named_columns(header: &csv::StringRecord) -> Vec<(usize, String)> {
    let mut seen = HashSet::new();
    let cells = header.iter().map(str::trim).enumerate();
    let named = cells.filter(|(_, name)| !name.is_empty() && seen.insert(name.to_ascii_lowercase()));
    named.map(|(index, name)| (index, name.to_owned())).collect()
}

/// Counts lines, whether they end in LF, CRLF or CR; the parser's own count lags behind.
struct Lines<'a> {
    text: &'a str,
    /// Bytes counted so far.
    at: usize,
    /// The line that byte is on.
    line: u64,
}

impl Lines<'_> {
    /// The line a record starts on, from 1. Records come in the file's order.
    fn of(&mut self, record: &csv::StringRecord) -> u64 {
        let bytes = self.text.as_bytes();
        let start = record.position().map_or(0, |p| p.byte() as usize).min(bytes.len());
        let newlines = bytes[start..].iter().take_while(|b| b"\r\n".contains(b)).count();
        while self.at < start + newlines {
            let ends =
                bytes[self.at] == b'\n' || bytes[self.at] == b'\r' && bytes.get(self.at + 1) != Some(&b'\n');
            self.line += u64::from(ends);
            self.at += 1;
        }
        self.line
    }
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
