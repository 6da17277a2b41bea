//! TFRecord framing.
//!
//! A **record** is: length as u64, masked CRC-32C of those eight bytes as u32, the bytes, their masked CRC-32C
//! as u32, all little-endian. Nothing precedes the first record or follows the last.
//!
//! ```
//! use tpu_train::events::record::{frame, Records};
//! let file = [frame(b"one"), frame(b"two")].concat();
//! let read: Result<Vec<_>, _> = Records::new(file.as_slice()).collect();
//! assert_eq!(read.unwrap(), [b"one", b"two"]);
//! ```

use std::io::{self, Read};

use super::crc32c::masked_crc32c;

const HEADER: usize = 12;
const FOOTER: usize = 4;

/// Why a record cannot be read. Offsets are those of the record's first byte.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file ends inside a record, as after a crash or while it is being written.
    #[error("the record at byte {offset} is cut short")]
    Truncated {
        /// Offset of the record, in bytes.
        offset: u64,
    },
    /// The length does not match its checksum.
    #[error(
        "the length of the record at byte {offset} fails its checksum: expected {expected:#010x}, found {found:#010x}"
    )]
    Length {
        /// Offset of the record, in bytes.
        offset: u64,
        /// The checksum in the file.
        expected: u32,
        /// The checksum of what was read.
        found: u32,
    },
    /// The bytes do not match their checksum.
    #[error(
        "the data of the record at byte {offset} fails its checksum: expected {expected:#010x}, found {found:#010x}"
    )]
    Data {
        /// Offset of the record, in bytes.
        offset: u64,
        /// The checksum in the file.
        expected: u32,
        /// The checksum of what was read.
        found: u32,
    },
    /// The reader failed.
    #[error("reading the record at byte {offset} failed: {source}")]
    Io {
        /// Offset of the record, in bytes.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

/// The framed form of some bytes.
pub fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(HEADER + data.len() + FOOTER);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc32c(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc32c(data).to_le_bytes());
    record
}

/// The records of a stream, checksums verified. Ends after the first error.
///
/// A length is believed only after its checksum held, and even then no more is allocated than is there.
#[derive(Debug)]
pub struct Records<R> {
    reader: R,
    offset: u64,
    failed: bool,
}

impl<R: Read> Records<R> {
    /// Reads from the start of a file; give it something buffered.
    pub fn new(reader: R) -> Self {
        Self { reader, offset: 0, failed: false }
    }

    fn read_record(&mut self) -> Result<Option<Vec<u8>>, RecordError> {
        let offset = self.offset;
        let header = self.read_up_to(HEADER as u64)?;
        if header.is_empty() {
            return Ok(None);
        }
        let (Some(length), Some(expected)) = (header.first_chunk::<8>(), header.last_chunk::<4>()) else {
            return Err(RecordError::Truncated { offset });
        };
        if header.len() < HEADER {
            return Err(RecordError::Truncated { offset });
        }
        let (expected, found) = (u32::from_le_bytes(*expected), masked_crc32c(length));
        if expected != found {
            return Err(RecordError::Length { offset, expected, found });
        }
        let length = u64::from_le_bytes(*length);
        let data = self.read_up_to(length)?;
        let footer = self.read_up_to(FOOTER as u64)?;
        let (true, Some(expected)) = (data.len() as u64 == length, footer.first_chunk::<4>()) else {
            return Err(RecordError::Truncated { offset });
        };
        let (expected, found) = (u32::from_le_bytes(*expected), masked_crc32c(&data));
        if expected != found {
            return Err(RecordError::Data { offset, expected, found });
        }
        self.offset += (HEADER + data.len() + FOOTER) as u64;
        Ok(Some(data))
    }

    fn read_up_to(&mut self, limit: u64) -> Result<Vec<u8>, RecordError> {
        let mut bytes = Vec::new();
        match self.reader.by_ref().take(limit).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(source) => Err(RecordError::Io { offset: self.offset, source }),
        }
    }
}

impl<R: Read> Iterator for Records<R> {
    type Item = Result<Vec<u8>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let record = self.read_record().transpose();
        self.failed = matches!(record, Some(Err(_)));
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_records() -> Vec<u8> {
        [frame(b"first"), frame(b"the second")].concat()
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = two_records();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let records: Vec<_> = Records::new(damaged.as_slice()).collect();
            assert!(records.last().unwrap().is_err(), "bit {bit} passed unnoticed");
        }
    }

    #[test]
    fn a_cut_file_gives_its_whole_records_and_then_says_where_it_ends() {
        let whole = two_records();
        let first = frame(b"first").len();
        for end in 1..whole.len() {
            let records: Vec<_> = Records::new(&whole[..end]).collect();
            if end == first {
                assert!(records.len() == 1 && records[0].is_ok());
                continue;
            }
            let expected = if end < first { 0 } else { first as u64 };
            assert!(
                matches!(records.last(), Some(Err(RecordError::Truncated { offset })) if *offset == expected),
                "{end}: {records:?}"
            );
        }
    }

    #[test]
    fn a_length_beyond_the_file_allocates_nothing() {
        let length = u64::MAX.to_le_bytes();
        let mut lie = length.to_vec();
        lie.extend_from_slice(&masked_crc32c(&length).to_le_bytes());
        lie.extend_from_slice(b"short");
        assert!(matches!(
            Records::new(lie.as_slice()).next(),
            Some(Err(RecordError::Truncated { offset: 0 }))
        ));
    }
}
