//! Elements of a level 5 `.mat` file: tags, content read as a stream, and values.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use flate2::{Decompress, FlushDecompress, Status};

use crate::data::DataError;

/// Bytes of a tag.
pub(super) const TAG_BYTES: u64 = 8;

/// Where a top-level element lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Element {
    /// Offset of its data, behind the tag.
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) compressed: bool,
}

impl Element {
    /// Data and padding; compressed elements have none.
    pub(super) fn padded_length(self) -> u64 {
        if self.compressed { self.length } else { self.length.next_multiple_of(8) }
    }
}

/// A tag, and the data itself where it is packed into the tag.
pub(super) struct Tag {
    pub(super) kind: u32,
    pub(super) length: u64,
    pub(super) small: Option<[u8; 4]>,
}

pub(super) fn parse_tag(bytes: [u8; 8], big_endian: bool) -> Tag {
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

/// Bytes of one element's content, inflated if need be.
pub(super) struct Stream<'a> {
    path: &'a Path,
    place: String,
    pub(super) big_endian: bool,
    /// File offset behind the last byte taken.
    pub(super) offset: u64,
    file: &'a File,
    /// Bytes of the element not yet read from the file.
    unread: u64,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    inflate: Option<Decompress>,
    inflated_all: bool,
    /// Content bytes that the enclosing element may still have.
    pub(super) left: u64,
}

impl<'a> Stream<'a> {
    /// Starts at the element's content, reading `read` bytes of the file at a time.
    pub(super) fn open(
        path: &'a Path,
        mut file: &'a File,
        big_endian: bool,
        element: Element,
        place: &str,
        read: usize,
    ) -> Result<Self, DataError> {
        file.seek(SeekFrom::Start(element.offset)).map_err(|e| DataError::io("read", path, e))?;
        Ok(Self {
            path,
            place: place.into(),
            big_endian,
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

impl Stream<'_> {
    pub(super) fn malformed(&self, expected: String, found: String) -> DataError {
        let (path, place) = (self.path.into(), self.place.clone());
        DataError::Malformed { path, place, offset: self.offset, expected, found }
    }

    /// Fills `out` or fails.
    pub(super) fn exact(&mut self, out: &mut [u8]) -> Result<(), DataError> {
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

    pub(super) fn tag(&mut self) -> Result<Tag, DataError> {
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
    pub(super) fn short(&mut self, what: &str, kinds: &[u32], most: u64) -> Result<Vec<u8>, DataError> {
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
    pub(super) fn finish(&mut self) -> Result<(), DataError> {
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

    pub(super) fn u32(&self, bytes: &[u8]) -> u32 {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

/// Bytes of one value of a storage type; none if it is not numeric.
pub(super) fn value_bytes(kind: u32) -> Option<usize> {
    match kind {
        1 | 2 => Some(1),
        3 | 4 => Some(2),
        5..=7 => Some(4),
        9 | 12 | 13 => Some(8),
        _ => None,
    }
}

/// Converts stored values of a numeric type to float64.
pub(super) fn convert(kind: u32, big_endian: bool, bytes: &[u8], out: &mut [f64]) {
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
