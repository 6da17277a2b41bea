//! Pictures for event files: a confusion matrix.
//!
//! ```
//! let png = tpu_train::events::image::confusion_matrix(&[vec![5, 1], vec![0, 7]]);
//! assert_eq!(&png.bytes[1..4], b"PNG");
//! ```

use super::font;
use super::png::{Canvas, Rgb};
use super::summary::PngImage;

const SCALE: usize = 2;
const MARGIN: usize = 12;
const LINE: usize = font::HEIGHT * SCALE;
const LEAST_CELL: usize = 44;
const CELL_PADDING: usize = 16;

const PAPER: Rgb = [255, 255, 255];
const INK: Rgb = [38, 38, 38];
const FAINT: Rgb = [176, 186, 196];
const GRID: Rgb = [222, 226, 230];
/// The colour of a class that is always recognised; cells fade from paper to it.
const FULL: Rgb = [8, 69, 148];

/// Where the parts of the picture lie, in pixels.
struct Frame {
    cell: usize,
    left: usize,
    top: usize,
}

/// A confusion matrix: a row a true class, a column a predicted one, numbered from 0 as the model's outputs are.
///
/// `counts` is square. A cell is the darker the larger its share of its row, so that rare classes are as
/// readable as common ones; a zero is drawn faintly.
pub fn confusion_matrix(counts: &[Vec<u64>]) -> PngImage {
    let classes = counts.len();
    let longest = counts.iter().flatten().map(|count| count.to_string().len()).max().unwrap_or(1);
    let cell = LEAST_CELL.max(longest * font::ADVANCE * SCALE + CELL_PADDING);
    let row_labels = classes.to_string().len() * font::ADVANCE * SCALE;
    let frame =
        Frame { cell, left: text_width("true") + row_labels + 3 * MARGIN, top: 2 * LINE + 3 * MARGIN };
    let (width, height) = (frame.left + classes * cell + 1 + MARGIN, frame.top + classes * cell + 1 + MARGIN);
    let mut canvas = Canvas::new(width.max(frame.left + text_width("predicted") + MARGIN), height, PAPER);
    draw_axes(&mut canvas, &frame, classes);
    for (row, counts) in counts.iter().enumerate() {
        let total: u64 = counts.iter().sum();
        for (column, &count) in counts.iter().enumerate() {
            draw_cell(&mut canvas, &frame, (row, column), count, total);
        }
    }
    canvas.encode()
}

fn draw_axes(canvas: &mut Canvas, frame: &Frame, classes: usize) {
    let side = classes * frame.cell;
    draw_centred(canvas, frame.left, MARGIN, side.max(text_width("predicted")), "predicted", INK);
    draw_text(canvas, MARGIN, frame.top + (side.saturating_sub(LINE)) / 2, "true", INK);
    for class in 0..classes {
        let label = class.to_string();
        let offset = class * frame.cell;
        draw_centred(canvas, frame.left + offset, 2 * MARGIN + LINE, frame.cell, &label, INK);
        let x = frame.left - MARGIN - text_width(&label);
        draw_text(canvas, x, frame.top + offset + (frame.cell - LINE) / 2, &label, INK);
    }
    canvas.fill(frame.left, frame.top, side + 1, side + 1, GRID);
}

fn draw_cell(canvas: &mut Canvas, frame: &Frame, (row, column): (usize, usize), count: u64, total: u64) {
    let share = if total == 0 { 0.0 } else { count as f64 / total as f64 };
    let (x, y) = (frame.left + column * frame.cell, frame.top + row * frame.cell);
    canvas.fill(x + 1, y + 1, frame.cell - 1, frame.cell - 1, fade(share));
    let ink = match count {
        0 => FAINT,
        _ if share > 0.42 => PAPER,
        _ => INK,
    };
    draw_centred(canvas, x, y + (frame.cell - LINE) / 2, frame.cell, &count.to_string(), ink);
}

/// From paper at 0 to [`FULL`] at 1; the square root lets small shares show.
fn fade(share: f64) -> Rgb {
    let mix = share.sqrt();
    std::array::from_fn(|channel| {
        let (from, to) = (f64::from(PAPER[channel]), f64::from(FULL[channel]));
        (from + (to - from) * mix).round() as u8
    })
}

fn text_width(text: &str) -> usize {
    (text.chars().count() * font::ADVANCE).saturating_sub(1) * SCALE
}

fn draw_centred(canvas: &mut Canvas, x: usize, y: usize, width: usize, text: &str, color: Rgb) {
    draw_text(canvas, x + width.saturating_sub(text_width(text)) / 2, y, text, color);
}

fn draw_text(canvas: &mut Canvas, x: usize, y: usize, text: &str, color: Rgb) {
    for (index, character) in text.chars().enumerate() {
        let left = x + index * font::ADVANCE * SCALE;
        for (row, bits) in font::glyph(character).into_iter().enumerate() {
            for column in (0..font::WIDTH).filter(|column| bits >> (font::WIDTH - 1 - column) & 1 == 1) {
                canvas.fill(left + column * SCALE, y + row * SCALE, SCALE, SCALE, color);
            }
        }
    }
}
