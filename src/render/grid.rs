//! Tables that fit: names at the left, numbers at the right, and fewer numbers where there is little room.

use super::escape::push;
use super::table::{Layout, Style};

/// The narrowest column of names that still tells files apart.
const NAME_WIDTH_MIN: usize = 16;

/// Columns that a narrow table goes without, the first ones first.
const DISPENSABLE: [&str; 7] = [
    "opens", "fsync", "reads", "writes", "errors", "read", "written",
];

/// The column whose cells are red where a row says that something failed.
const ERRORS: &str = "errors";

/// One line of a table.
#[derive(Clone, Debug)]
pub(super) struct Row<const N: usize> {
    /// Escaped.
    pub(super) name: String,
    pub(super) cells: [String; N],
    pub(super) failed: bool,
}

/// Writes a table: `title` above the names, `head` above the numbers.
pub(super) fn grid<'a, const N: usize>(
    out: &mut String,
    title: &str,
    head: &[&str; N],
    rows: impl Iterator<Item = &'a Row<N>> + Clone,
    layout: Layout,
) {
    let widths = widths(head, rows.clone());
    let shown = columns(head, &widths, layout.width);
    let numbers: usize = shown.iter().map(|column| widths[*column] + 2).sum();
    let longest = rows.clone().map(|row| row.name.chars().count()).max();
    let room = layout.width.saturating_sub(numbers).max(NAME_WIDTH_MIN);
    let name_width = longest.unwrap_or(0).max(title.len()).min(room);
    let (bold, red, off) = match layout.style {
        Style::Plain => ("", "", ""),
        Style::Colour => ("\x1b[1m", "\x1b[31m", "\x1b[0m"),
    };
    push(out, format_args!("{bold}{title:<name_width$}"));
    for column in &shown {
        push(
            out,
            format_args!("  {:>width$}", head[*column], width = widths[*column]),
        );
    }
    push(out, format_args!("{off}\n"));
    for row in rows {
        push(
            out,
            format_args!("{:<name_width$}", shorten(&row.name, name_width)),
        );
        for column in &shown {
            let (on, off) = match row.failed && head[*column] == ERRORS {
                true => (red, off),
                false => ("", ""),
            };
            let (cell, width) = (&row.cells[*column], widths[*column]);
            push(out, format_args!("  {on}{cell:>width$}{off}"));
        }
        out.push('\n');
    }
}

fn widths<'a, const N: usize>(
    head: &[&str; N],
    rows: impl Iterator<Item = &'a Row<N>> + Clone,
) -> [usize; N] {
    std::array::from_fn(|column| {
        let cells = rows.clone().map(|row| row.cells[column].len());
        cells.max().unwrap_or(0).max(head[column].len())
    })
}

/// The columns that there is room for.
fn columns<const N: usize>(head: &[&str; N], widths: &[usize; N], width: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..N).collect();
    let needed = |shown: &[usize]| -> usize {
        let numbers: usize = shown.iter().map(|column| widths[*column] + 2).sum();
        numbers + NAME_WIDTH_MIN
    };
    for name in DISPENSABLE {
        if needed(&shown) <= width {
            break;
        }
        shown.retain(|column| head[*column] != name);
    }
    shown
}

/// Keeps the end of a long name: that is where paths differ.
fn shorten(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(length + 3 - width).collect();
    format!("...{tail}")
}
