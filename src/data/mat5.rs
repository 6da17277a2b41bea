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

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::{Decompress, FlushDecompress, Status};

use super::DataError;

const HEADER_BYTES: u64 = 128;
const TAG_BYTES: u64 = 8;

const MI_INT8: u32 = 1;
const MI_INT32: u32 = 5;
const MI_UINT32: u32 = 6;
const MI_MATRIX: u32 = 14;
const MI_COMPRESSED: u32 = 15;
const MI_UTF8: u32 = 16;

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
    /// Its dimensions; MATLAB has at least two.
    pub dims: Vec<u64>,
    class: u8,
    complex: bool,
    element: Element,
}

/// Where a top-level element lies.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Element {
    /// Offset of its data, behind the tag.
    offset: u64,
    length: u64,
    compressed: bool,
}

/// A tag, and the data itself where it is packed into the tag.
struct Tag {
    kind: u32,
    length: u64,
    small: Option<[u8; 4]>,
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
        mut file: &'a File,
        element: Element,
        place: &str,
        read: usize,
    ) -> Result<Stream<'a>, DataError> {
        file.seek(SeekFrom::Start(element.offset)).map_err(|e| DataError::io("read", &self.path, e))?;
        Ok(Stream {
            path: &self.path,
            place: place.into(),
            big_endian: self.big_endian,
            offset: element.offset,
            file,
            unread: element.length,
            buffer: vec![0; read],
            at: 0,
            end: 0,
            inflate: element.compressed.then(|| Decompress::new(true)),
            inflated_all: false,
            // A compressed element's own size is known only from the tag inside.
            left: if element.compressed { TAG_BYTES } else { element.length },
        })
    }
}

impl Element {
    /// Data and padding; compressed elements have none.
    fn padded_length(self) -> u64 {
        if self.compressed { self.length } else { self.length.next_multiple_of(8) }
    }
}

impl Variable {
    /// Values in a numeric vector; else what was expected and found.
    fn vector_length(&self) -> Result<u64, (String, String)> {
        if !(6..=15).contains(&self.class) || self.complex {
            let kind = if self.complex { "complex".into() } else { format!("array class {}", self.class) };
            return Err(("a real numeric array".into(), kind));
        }
        let shape = self.dims.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        if self.dims.iter().filter(|d| **d != 1).count() > 1 || self.dims.contains(&0) {
            return Err(("a vector (1, N) or (N, 1)".into(), format!("({shape})")));
        }
        Ok(self.dims.iter().product())
    }
}

/// Bytes of one element's content, inflated if need be.
struct Stream<'a> {
    path: &'a Path,
    place: String,
    big_endian: bool,
    /// File offset behind the last byte taken.
    offset: u64,
    file: &'a File,
    /// Bytes of the element not yet read from the file.
    unread: u64,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    inflate: Option<Decompress>,
    inflated_all: bool,
    /// Content bytes that the enclosing element may still have.
    left: u64,
}

impl Stream<'_> {
    fn malformed(&self, expected: String, found: String) -> DataError {
        let (path, place) = (self.path.into(), self.place.clone());
        DataError::Malformed { path, place, offset: self.offset, expected, found }
    }

    /// Fills `out` or fails.
    fn exact(&mut self, out: &mut [u8]) -> Result<(), DataError> {
        if out.len() as u64 > self.left {
            let expected = format!("{} more bytes", out.len());
            return Err(self.malformed(expected, format!("{} to the element's end", self.left)));
        }
        let found = self.take(out)?;
        if found < out.len() {
            let expected = format!("{} more bytes", out.len());
            return Err(self.malformed(expected, format!("{found}: the data is cut short")));
        }
        self.left -= out.len() as u64;
        Ok(())
    }

    /// Fills as much of `out` as there is.
    fn take(&mut self, out: &mut [u8]) -> Result<usize, DataError> {
        let mut filled = 0;
        while filled < out.len() && !self.inflated_all {
            if self.at == self.end && !self.refill()? && self.inflate.is_none() {
                break;
            }
            let input = &self.buffer[self.at..self.end];
            let (consumed, produced) = match &mut self.inflate {
                None => {
                    let n = input.len().min(out.len() - filled);
                    out[filled..filled + n].copy_from_slice(&input[..n]);
                    (n, n)
                }
                Some(inflate) => {
                    let before = (inflate.total_in(), inflate.total_out());
                    let status = inflate.decompress(input, &mut out[filled..], FlushDecompress::None);
                    let moved = (inflate.total_in() - before.0, inflate.total_out() - before.1);
                    match status {
                        Ok(Status::StreamEnd) => self.inflated_all = true,
                        Ok(_) if moved == (0, 0) && self.unread == 0 => break,
                        Ok(_) => {}
                        Err(e) => {
                            return Err(
                                self.malformed("compressed data (zlib)".into(), format!("damage: {e}"))
                            );
                        }
                    }
                    (moved.0 as usize, moved.1 as usize)
                }
            };
            self.at += consumed;
            self.offset += consumed as u64;
            filled += produced;
        }
        Ok(filled)
    }

    /// Reads more of the element from the file; false at its end.
    fn refill(&mut self) -> Result<bool, DataError> {
        let n = self.unread.min(self.buffer.len() as u64) as usize;
        self.at = 0;
        self.end = 0;
        if n > 0 {
            self.end =
                self.file.read(&mut self.buffer[..n]).map_err(|e| DataError::io("read", self.path, e))?;
            self.unread = if self.end == 0 { 0 } else { self.unread - self.end as u64 };
        }
        Ok(self.end > 0)
    }

    fn tag(&mut self) -> Result<Tag, DataError> {
        let mut bytes = [0; TAG_BYTES as usize];
        self.exact(&mut bytes)?;
        let tag = parse_tag(bytes, self.big_endian);
        if tag.small.is_some() && tag.length > 4 {
            let found = format!("{} bytes", tag.length);
            return Err(self.malformed("at most 4 bytes in a small element".into(), found));
        }
        if tag.small.is_none() && tag.length > self.left {
            let found = format!("{} to the enclosing element's end", self.left);
            return Err(self.malformed(format!("{} bytes", tag.length), found));
        }
        Ok(tag)
    }

    /// A short element of one of these types, whole, with its padding skipped.
    fn short(&mut self, what: &str, kinds: &[u32], most: u64) -> Result<Vec<u8>, DataError> {
        let tag = self.tag()?;
        if !kinds.contains(&tag.kind) {
            return Err(self.malformed(what.into(), format!("an element of type {}", tag.kind)));
        }
        if tag.length > most {
            return Err(
                self.malformed(format!("{what} of at most {most} bytes"), format!("{} bytes", tag.length))
            );
        }
        if let Some(small) = tag.small {
            return Ok(small[..tag.length as usize].to_vec());
        }
        let mut bytes = vec![0; tag.length.next_multiple_of(8) as usize];
        self.exact(&mut bytes)?;
        bytes.truncate(tag.length as usize);
        Ok(bytes)
    }

    /// Reads a compressed element to its end, so that its checksum is verified.
    fn finish(&mut self) -> Result<(), DataError> {
        if self.inflate.is_none() {
            return Ok(());
        }
        let mut rest = vec![0; self.left.min(1 << 16) as usize];
        while self.left > 0 {
            let n = self.left.min(rest.len() as u64) as usize;
            self.exact(&mut rest[..n])?;
        }
        let surplus = self.take(&mut [0; 1])?;
        if surplus > 0 || !self.inflated_all {
            let found = if surplus > 0 { "more data" } else { "no end mark: the data is cut short" };
            return Err(self.malformed("the end of the compressed data".into(), found.into()));
        }
        Ok(())
    }

    fn u32(&self, bytes: &[u8]) -> u32 {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
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
            let found = format!("bytes {:02x} {:02x}: this is no MATLAB level 5 file", other[0], other[1]);
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

fn parse_tag(bytes: [u8; 8], big_endian: bool) -> Tag {
    let word = |at: usize| {
        let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    };
    let first = word(0);
    if first >> 16 == 0 {
        return Tag { kind: first, length: u64::from(word(4)), small: None };
    }
    let small = [bytes[4], bytes[5], bytes[6], bytes[7]];
    Tag { kind: first & 0xffff, length: u64::from(first >> 16), small: Some(small) }
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

/// Bytes of one value of a storage type; none if it is not numeric.
fn value_bytes(kind: u32) -> Option<usize> {
    match kind {
        1 | 2 => Some(1),
        3 | 4 => Some(2),
        5..=7 => Some(4),
        9 | 12 | 13 => Some(8),
        _ => None,
    }
}

/// Converts stored values of a numeric type to float64.
fn convert(kind: u32, big_endian: bool, bytes: &[u8], out: &mut [f64]) {
    macro_rules! each {
        ($type:ty) => {{
            const SIZE: usize = size_of::<$type>();
            let (words, _) = bytes.as_chunks::<SIZE>();
            if big_endian {
                out.iter_mut().zip(words).for_each(|(out, word)| *out = <$type>::from_be_bytes(*word) as f64);
            } else {
                out.iter_mut().zip(words).for_each(|(out, word)| *out = <$type>::from_le_bytes(*word) as f64);
            }
        }};
    }
    match kind {
        1 => each!(i8),
        2 => each!(u8),
        3 => each!(i16),
        4 => each!(u16),
        5 => each!(i32),
        6 => each!(u32),
        7 => each!(f32),
        9 => each!(f64),
        12 => each!(i64),
        13 => each!(u64),
        _ => unreachable!("value_bytes admits numeric types only"),
    }
}
