//! MATLAB level 5 `.mat` files (MAT-File Format, MathWorks, chapter 1), read as a stream.
//!
//! A file is a 128-byte header and a row of *elements*, each a tag (type, length) and data. A variable is a `miMATRIX`
//! element, mostly wrapped in a `miCOMPRESSED` one (zlib). [`MatFile::open`] walks the tags and inflates only as far as
//! each variable's name; [`MatFile::values`] then inflates the one wanted, a chunk at a time, into float64. Every length
//! is checked against what holds it before it is believed. Both byte orders and all numeric storage types are read.
//!
//! ```no_run
//! use tpu_train::data::mat5::MatFile;
//! let file = MatFile::open("ECGPCG0003.mat".as_ref())?;
//! let mut sum = 0.0;
//! file.values("ECG", &mut |chunk| Ok(sum += chunk.iter().sum::<f64>()))?;
//! # Ok::<(), tpu_train::data::DataError>(())
//! ```

mod stream;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::DataError;
use stream::{Element, Stream, TAG_BYTES, convert, parse_tag, value_bytes};

const HEADER_BYTES: u64 = 128;

const MI_INT8: u32 = 1;
const MI_INT32: u32 = 5;
const MI_UINT32: u32 = 6;
const MI_MATRIX: u32 = 14;
const MI_COMPRESSED: u32 = 15;
const MI_UTF8: u32 = 16;

/// The class of strings, tables and dates, which have no dimensions.
const MX_OPAQUE: u8 = 17;

/// Values handed over at a time.
const CHUNK: usize = 8192;

/// Bytes read from the file at a time, and no more for headers.
const READ: usize = 1 << 16;
const READ_HEADER: usize = 512;

/// Longer names and more dimensions are taken for damage.
const MAX_NAME: u64 = 4096;
const MAX_DIMS: u64 = 64;

/// Receives a channel's values in order, chunk by chunk; its error ends the reading.
pub type Sink<'a> = dyn FnMut(&[f64]) -> Result<(), DataError> + 'a;

/// An opened file: what variables it has and where.
#[derive(Clone, Debug)]
pub struct MatFile {
    path: PathBuf,
    big_endian: bool,
    variables: Vec<Variable>,
}

/// One variable's header.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its dimensions; numeric arrays have at least two.
    pub dims: Vec<u64>,
    class: u8,
    complex: bool,
    element: Element,
}

impl MatFile {
    /// Reads the header and the name and dimensions of every variable.
    ///
    /// # Errors
    /// When the file is not level 5, or an element does not fit into it.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let mut file = File::open(path).map_err(|e| DataError::io("read", path, e))?;
        let size = file.metadata().map_err(|e| DataError::io("read", path, e))?.len();
        let big_endian = read_file_header(path, &mut file, size)?;
        let mut mat = Self { path: path.into(), big_endian, variables: Vec::new() };
        let mut at = HEADER_BYTES;
        while at < size {
            let (kind, element) = mat.element_at(&mut file, at, size)?;
            if matches!(kind, MI_MATRIX | MI_COMPRESSED) {
                let mut stream = mat.stream(&file, element, "variable header", READ_HEADER)?;
                let variable = read_variable(&mut stream, element)?;
                mat.variables.push(variable);
            }
            at = element.offset + element.padded_length();
        }
        Ok(mat)
    }

    /// The variables, in file order.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// The number of values of a vector variable.
    ///
    /// # Errors
    /// When it is missing, no numeric vector, or empty.
    pub fn length(&self, name: &str) -> Result<u64, DataError> {
        let variable = self.variable(name)?;
        variable.vector_length().map_err(|(expected, found)| self.malformed(variable, expected, found))
    }

    /// Streams a vector variable's values, of either orientation, into `sink`, and returns how many there were.
    ///
    /// # Errors
    /// When the variable is missing or no numeric vector, or its data is damaged; and the sink's own.
    pub fn values(&self, name: &str, sink: &mut Sink<'_>) -> Result<u64, DataError> {
        let count = self.length(name)?;
        let element = self.variable(name)?.element;
        let file = File::open(&self.path).map_err(|e| DataError::io("read", &self.path, e))?;
        let mut stream = self.stream(&file, element, &format!("variable {name}"), READ)?;
        read_variable(&mut stream, element)?;
        let tag = stream.tag()?;
        let size = value_bytes(tag.kind).ok_or_else(|| {
            stream.malformed("a numeric storage type".into(), format!("storage type {}", tag.kind))
        })?;
        if Some(tag.length) != count.checked_mul(size as u64) {
            let expected = format!("{count} values of {size} bytes");
            return Err(stream.malformed(expected, format!("{} bytes", tag.length)));
        }
        match tag.small {
            Some(data) => {
                let mut values = [0.0; 4];
                let values = &mut values[..count as usize];
                convert(tag.kind, self.big_endian, &data[..tag.length as usize], values);
                sink(values)?;
            }
            None => self.stream_values(&mut stream, tag.kind, size, count, sink)?,
        }
        stream.finish()?;
        Ok(count)
    }

    fn stream_values(
        &self,
        stream: &mut Stream<'_>,
        kind: u32,
        size: usize,
        count: u64,
        sink: &mut Sink<'_>,
    ) -> Result<(), DataError> {
        let mut bytes = vec![0; CHUNK * size];
        let mut values = vec![0.0; CHUNK];
        let mut left = count;
        while left > 0 {
            let n = left.min(CHUNK as u64) as usize;
            stream.exact(&mut bytes[..n * size])?;
            convert(kind, self.big_endian, &bytes[..n * size], &mut values[..n]);
            sink(&values[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    fn variable(&self, name: &str) -> Result<&Variable, DataError> {
        self.variables.iter().find(|v| v.name == name).ok_or_else(|| DataError::Malformed {
            path: self.path.clone(),
            place: format!("variable {name}"),
            offset: HEADER_BYTES,
            expected: "a variable of this name".into(),
            found: self.variables.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    fn malformed(&self, variable: &Variable, expected: String, found: String) -> DataError {
        DataError::Malformed {
            path: self.path.clone(),
            place: format!("variable {}", variable.name),
            offset: variable.element.offset,
            expected,
            found,
        }
    }

    /// The tag at `at`: its type and where its data lies.
    fn element_at(&self, file: &mut File, at: u64, size: u64) -> Result<(u32, Element), DataError> {
        let fail = |expected: String, found: String| DataError::Malformed {
            path: self.path.clone(),
            place: "element tag".into(),
            offset: at,
            expected,
            found,
        };
        if size - at < TAG_BYTES {
            return Err(fail("8 bytes".into(), format!("the file's end {} bytes on", size - at)));
        }
        let mut bytes = [0; TAG_BYTES as usize];
        file.seek(SeekFrom::Start(at)).map_err(|e| DataError::io("read", &self.path, e))?;
        file.read_exact(&mut bytes).map_err(|e| DataError::io("read", &self.path, e))?;
        let tag = parse_tag(bytes, self.big_endian);
        let known = (1..=MI_UTF8 + 2).contains(&tag.kind);
        if !known {
            return Err(fail("an element type from 1 to 18".into(), format!("type {}", tag.kind)));
        }
        let length = if tag.small.is_some() { 0 } else { tag.length };
        let element = Element { offset: at + TAG_BYTES, length, compressed: tag.kind == MI_COMPRESSED };
        if element.length > size - element.offset {
            let found = format!("{} bytes up to the file's end: it is cut short", size - element.offset);
            return Err(fail(format!("an element of {} bytes", element.length), found));
        }
        Ok((tag.kind, element))
    }

    fn stream<'a>(
        &'a self,
        file: &'a File,
        element: Element,
        place: &str,
        read: usize,
    ) -> Result<Stream<'a>, DataError> {
        Stream::open(&self.path, file, self.big_endian, element, place, read)
    }
}

impl Variable {
    /// Values in a numeric vector; else what was expected and found.
    fn vector_length(&self) -> Result<u64, (String, String)> {
        if !(6..=15).contains(&self.class) || self.complex {
            let kind = match self.class {
                _ if self.complex => "complex numbers".into(),
                1 => "a cell array".into(),
                2 => "a structure".into(),
                4 => "text".into(),
                5 => "a sparse array".into(),
                MX_OPAQUE => "an object".into(),
                class => format!("array class {class}"),
            };
            return Err(("a real numeric array".into(), kind));
        }
        let shape = self.dims.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        if self.dims.iter().filter(|d| **d != 1).count() > 1 || self.dims.contains(&0) {
            return Err(("a vector (1, N) or (N, 1)".into(), format!("({shape})")));
        }
        Ok(self.dims.iter().product())
    }
}

/// Checks the 128 bytes and returns whether the file is big-endian.
fn read_file_header(path: &Path, file: &mut File, size: u64) -> Result<bool, DataError> {
    let fail = |offset: u64, expected: &str, found: String| DataError::Malformed {
        path: path.into(),
        place: "file header".into(),
        offset,
        expected: expected.into(),
        found,
    };
    if size < HEADER_BYTES {
        return Err(fail(size, "a MATLAB file's 128-byte header", format!("a file of {size} bytes")));
    }
    let mut header = [0; HEADER_BYTES as usize];
    file.read_exact(&mut header).map_err(|e| DataError::io("read", path, e))?;
    let big_endian = match &header[126..128] {
        b"IM" => false,
        b"MI" => true,
        other => {
            let found = format!(
                "bytes {:02x} {:02x}: no MATLAB level 5 file (save it with -v7 or -v7.3)",
                other[0], other[1]
            );
            return Err(fail(126, "the mark IM or MI", found));
        }
    };
    let version = [header[124], header[125]];
    let version = if big_endian { u16::from_be_bytes(version) } else { u16::from_le_bytes(version) };
    if version != 0x0100 {
        return Err(fail(124, "version 0x0100", format!("version {version:#06x}")));
    }
    Ok(big_endian)
}

/// Reads a variable up to its name and leaves the stream in front of its data.
fn read_variable(stream: &mut Stream<'_>, element: Element) -> Result<Variable, DataError> {
    if element.compressed {
        let mut tag = [0; TAG_BYTES as usize];
        stream.exact(&mut tag)?;
        let tag = parse_tag(tag, stream.big_endian);
        if tag.kind != MI_MATRIX || tag.small.is_some() {
            return Err(
                stream.malformed("a compressed array".into(), format!("an element of type {}", tag.kind))
            );
        }
        stream.left = tag.length;
    }
    let flags = stream.short("array flags", &[MI_UINT32], 8)?;
    if flags.len() != 8 {
        return Err(stream.malformed("8 bytes of array flags".into(), format!("{} bytes", flags.len())));
    }
    let flags = stream.u32(&flags);
    if flags as u8 == MX_OPAQUE {
        let name =
            String::from_utf8_lossy(&stream.short("array name", &[MI_INT8, MI_UTF8], MAX_NAME)?).into_owned();
        return Ok(Variable { name, dims: Vec::new(), class: MX_OPAQUE, complex: false, element });
    }
    let dims = stream.short("array dimensions", &[MI_INT32], 4 * MAX_DIMS)?;
    if dims.len() % 4 != 0 || dims.len() < 8 {
        return Err(
            stream.malformed("two or more dimensions".into(), format!("{} bytes of them", dims.len()))
        );
    }
    let dims: Vec<u64> = dims.chunks_exact(4).map(|d| u64::from(stream.u32(d))).collect();
    if dims.iter().any(|d| *d > i32::MAX as u64) {
        return Err(stream.malformed("dimensions of at least 0".into(), format!("{dims:?} as unsigned")));
    }
    let name = stream.short("array name", &[MI_INT8, MI_UTF8], MAX_NAME)?;
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok(Variable { name, dims, class: flags as u8, complex: flags & 0x800 != 0, element })
}
