//! Plain-text tables: aligned columns, two blanks apart, a rule under the headers.
//!
//! ```
//! use tpu_train::report::table::{Align, Table};
//! let mut table = Table::new(&[("file", Align::Left), ("windows", Align::Right)]);
//! table.row(["ECGPCG0003", "24"]);
//! assert_eq!(table.to_string(), "file        windows\n----------  -------\nECGPCG0003       24\n");
//! ```

use std::fmt;

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// A table; `Display` draws it.
#[derive(Clone, Debug)]
pub struct Table {
    aligns: Vec<Align>,
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
enum Line {
    Cells(Vec<String>),
    Rule,
}

impl Table {
    /// A table of these columns; no header line is drawn if all names are empty.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let aligns = columns.iter().map(|&(_, align)| align).collect();
        let mut table = Self { aligns, lines: Vec::new() };
        if columns.iter().any(|(name, _)| !name.is_empty()) {
            table.row(columns.iter().map(|&(name, _)| name));
            table.rule();
        }
        table
    }

    /// Adds a row. Missing cells are empty, surplus ones are dropped.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.aligns.len(), String::new());
        self.lines.push(Line::Cells(cells));
    }

    /// Adds a rule.
    pub fn rule(&mut self) {
        self.lines.push(Line::Rule);
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = vec![1; self.aligns.len()];
        for line in &self.lines {
            if let Line::Cells(cells) = line {
                for (width, cell) in widths.iter_mut().zip(cells) {
                    *width = (*width).max(cell.chars().count());
                }
            }
        }
        widths
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for line in &self.lines {
            let cells: Vec<String> = match line {
                Line::Rule => widths.iter().map(|&width| "-".repeat(width)).collect(),
                Line::Cells(cells) => cells
                    .iter()
                    .zip(&widths)
                    .zip(&self.aligns)
                    .map(|((cell, &width), align)| match align {
                        Align::Left => format!("{cell:<width$}"),
                        Align::Right => format!("{cell:>width$}"),
                    })
                    .collect(),
            };
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Shortens names to at most `width` characters, by cutting their ends, or, where that would make two of them
/// look the same, their middles.
pub fn shorten_all(names: &[&str], width: usize) -> Vec<String> {
    let cut: Vec<String> = names.iter().map(|name| shorten(name, width)).collect();
    let ambiguous = |index: usize| {
        cut.iter()
            .enumerate()
            .any(|(other, name)| other != index && *name == cut[index] && names[other] != names[index])
    };
    (0..names.len())
        .map(|index| if ambiguous(index) { shorten_middle(names[index], width) } else { cut[index].clone() })
        .collect()
}

/// Cuts the end of a text that is longer than `width` characters, and says so by `…`.
pub fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

fn shorten_middle(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let tail = width.saturating_sub(1) / 2;
    let head: String = text.chars().take(width.saturating_sub(1) - tail).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_at_the_end_unless_that_makes_them_alike() {
        assert_eq!(shorten_all(&["short", "rather a long name"], 9), ["short", "rather a…"]);
        assert_eq!(shorten_all(&["subject number 1", "subject number 2"], 9), ["subj…er 1", "subj…er 2"]);
        assert_eq!(shorten("größer als äußerst", 8), "größer…");
    }
}
