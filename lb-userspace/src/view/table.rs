//! Aligned columns without boxes.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

/// Space between columns.
const GAP: &str = "  ";

/// How a cell stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Plain text.
    Plain,
    /// Less important than its neighbours.
    Faint,
    /// As it should be.
    Good,
    /// Wants attention, harms nobody.
    Notice,
    /// Wrong.
    Bad,
    /// A heading.
    Heading,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Faint => Style::new().dimmed(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Notice => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Heading => Style::new().bold(),
        }
    }

    /// `text` in this tone.
    #[must_use]
    pub fn paint(self, text: &str) -> String {
        let style = self.style();
        format!("{style}{text}{style:#}")
    }
}

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A cell: text in a tone.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in a tone. Control characters, which would move the cursor, are replaced.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        let text: String = text.into();
        let text = match text.contains(char::is_control) {
            true => text.replace(char::is_control, "\u{fffd}"),
            false => text,
        };
        Self { text, tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Rows under headings.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: one cell a column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text; every line ends in a newline, none in spaces.
    #[must_use]
    pub fn render(&self) -> String {
        let headings: Vec<Cell> =
            self.columns.iter().map(|(name, _)| Cell::toned(*name, Tone::Faint)).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = std::iter::once(&headings).chain(&self.rows);
                cells.filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            self.line(&mut text, row, &widths);
        }
        text
    }

    fn line(&self, text: &mut String, row: &[Cell], widths: &[usize]) {
        let used = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
        for (index, cell) in row.iter().take(used).enumerate() {
            let last = index + 1 == used;
            let align = self.columns.get(index).map_or(Align::Left, |(_, align)| *align);
            let width = widths.get(index).copied().unwrap_or_default();
            let padding = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let painted = cell.tone.paint(&cell.text);
            let gap = if index == 0 { "" } else { GAP };
            // Writing to a string does not fail.
            let _ = match (align, last) {
                (Align::Right, _) => write!(text, "{gap}{padding}{painted}"),
                (Align::Left, true) => write!(text, "{gap}{painted}"),
                (Align::Left, false) => write!(text, "{gap}{painted}{padding}"),
            };
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(table: &Table) -> String {
        anstream::adapter::strip_str(&table.render()).to_string()
    }

    #[test]
    fn columns_align_and_lines_end_without_spaces() {
        let mut table = Table::new(&[("NAME", Align::Left), ("FLOWS", Align::Right), ("WHY", Align::Left)]);
        table.row(["web-1".into(), "812".into(), "".into()]);
        table.row(["database-1".into(), "1,204,881".into(), Cell::toned("refused", Tone::Bad)]);
        insta::assert_snapshot!(plain(&table), @r"
        NAME            FLOWS  WHY
        web-1             812
        database-1  1,204,881  refused
        ");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&[("WHY", Align::Left)]);
        table.row(["a\x1b[2Jb\nc".into()]);
        assert!(!plain(&table).contains('\x1b'));
        assert_eq!(table.render().lines().count(), 2);
    }
}
