//! Writes `.mat` files of version 5 with compressed elements (MATLAB's `-v7`), as EPHNOGRAM has them.
//!
//! Layout: *MAT-File Format*, The MathWorks. A 128-byte header; then one `miCOMPRESSED` element per variable, a
//! zlib stream of a `miMATRIX`: array flags, dimensions, name, real part. Little-endian.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;

const MI_INT8: u32 = 1;
const MI_UINT16: u32 = 4;
const MI_INT32: u32 = 5;
const MI_UINT32: u32 = 6;
const MI_DOUBLE: u32 = 9;
const MI_MATRIX: u32 = 14;
const MI_COMPRESSED: u32 = 15;
const MX_DOUBLE_CLASS: u32 = 6;

/// One variable of a file: its name and its value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Variable<'a> {
    /// Samples as a double matrix of shape (1, N), each integer divided by 2048.
    Signal(&'a str, &'a [i16]),
    /// A double scalar, stored in 16 bits.
    Scalar(&'a str, u16),
}

/// Writes a whole file: header, then the variables in this order.
///
/// # Errors
/// Whatever writing to `out` gives.
pub(super) fn write_mat(out: &mut impl Write, variables: &[Variable<'_>]) -> io::Result<()> {
    out.write_all(&header())?;
    for &variable in variables {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(1));
        match variable {
            Variable::Signal(name, samples) => write_signal(&mut encoder, name, samples)?,
            Variable::Scalar(name, value) => write_scalar(&mut encoder, name, value)?,
        }
        let compressed = encoder.finish()?;
        write_words(out, &[MI_COMPRESSED, compressed.len() as u32])?;
        out.write_all(&compressed)?;
    }
    Ok(())
}

fn header() -> [u8; 128] {
    const TEXT: &[u8] = b"MATLAB 5.0 MAT-file, Platform: simulated, Created by: tpu-train simulate";
    let mut header = [b' '; 128];
    header[..TEXT.len()].copy_from_slice(TEXT);
    header[116..124].fill(0);
    header[124..].copy_from_slice(&[0x00, 0x01, b'I', b'M']);
    header
}

fn write_signal(out: &mut impl Write, name: &str, samples: &[i16]) -> io::Result<()> {
    let bytes = 8 * samples.len() as u32;
    write_matrix_head(out, name, samples.len() as u32, 8 + bytes)?;
    write_words(out, &[MI_DOUBLE, bytes])?;
    let mut block = Vec::with_capacity(8 * 4096);
    for part in samples.chunks(4096) {
        block.clear();
        block.extend(part.iter().flat_map(|&sample| (f64::from(sample) / 2048.0).to_le_bytes()));
        out.write_all(&block)?;
    }
    Ok(())
}

fn write_scalar(out: &mut impl Write, name: &str, value: u16) -> io::Result<()> {
    write_matrix_head(out, name, 1, 8)?;
    write_words(out, &[2 << 16 | MI_UINT16, u32::from(value)])
}

/// The tag of a matrix of shape (1, `columns`), its flags, dimensions and name; `rest` bytes follow.
fn write_matrix_head(out: &mut impl Write, name: &str, columns: u32, rest: u32) -> io::Result<()> {
    debug_assert!(name.len() <= 4, "a name of at most four letters makes a small element");
    write_words(out, &[MI_MATRIX, 16 + 16 + 8 + rest])?;
    write_words(out, &[MI_UINT32, 8, MX_DOUBLE_CLASS, 0])?;
    write_words(out, &[MI_INT32, 8, 1, columns])?;
    let mut letters = [0; 4];
    letters[..name.len()].copy_from_slice(name.as_bytes());
    write_words(out, &[(name.len() as u32) << 16 | MI_INT8, u32::from_le_bytes(letters)])
}

fn write_words(out: &mut impl Write, words: &[u32]) -> io::Result<()> {
    words.iter().try_for_each(|word| out.write_all(&word.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_laid_out_as_in_the_data_set() {
        let mut file = Vec::new();
        write_mat(&mut file, &[Variable::Scalar("fs", 8000)]).unwrap();
        assert_eq!(&file[116..128], b"\0\0\0\0\0\0\0\0\0\x01IM");
        assert_eq!(file[128..132], MI_COMPRESSED.to_le_bytes());
        let mut inflated = Vec::new();
        io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&file[136..]), &mut inflated).unwrap();
        let words: Vec<u32> =
            inflated.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        // As read from a record of the data set.
        assert_eq!(words, [14, 48, 6, 8, 6, 0, 5, 8, 1, 1, 0x2_0001, 0x7366, 0x2_0004, 8000]);
    }
}
