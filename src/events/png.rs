//! A PNG encoder for RGB pictures: one zlib stream, no filters (PNG specification, third edition).

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};

use super::summary::PngImage;

const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
const EIGHT_BIT_RGB: [u8; 5] = [8, 2, 0, 0, 0];

/// A colour: red, green, blue.
pub(super) type Rgb = [u8; 3];

/// A picture in memory.
#[derive(Clone, Debug)]
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<Rgb>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize, background: Rgb) -> Self {
        Self { width, height, pixels: vec![background; width * height] }
    }

    /// Fills a rectangle; what lies outside the picture is left out.
    pub(super) fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, color: Rgb) {
        let (right, bottom) = ((x + width).min(self.width), (y + height).min(self.height));
        for row in y..bottom {
            for column in x..right {
                self.pixels[row * self.width + column] = color;
            }
        }
    }

    /// The picture as a PNG file.
    pub(super) fn encode(&self) -> PngImage {
        let (width, height) = (self.width as u32, self.height as u32);
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &EIGHT_BIT_RGB].concat();
        let mut bytes = SIGNATURE.to_vec();
        chunk(&mut bytes, b"IHDR", &header);
        chunk(&mut bytes, b"IDAT", &self.deflated());
        chunk(&mut bytes, b"IEND", &[]);
        PngImage { bytes, width, height }
    }

    fn deflated(&self) -> Vec<u8> {
        let mut rows = Vec::with_capacity(self.height * (1 + 3 * self.width));
        for row in self.pixels.chunks(self.width) {
            rows.push(0); // filter: none
            rows.extend(row.iter().flatten());
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&rows).and_then(|()| encoder.finish()).expect("writing to memory does not fail")
    }
}

fn chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    file.extend_from_slice(&(data.len() as u32).to_be_bytes());
    file.extend_from_slice(kind);
    file.extend_from_slice(data);
    file.extend_from_slice(&crc.sum().to_be_bytes());
}
