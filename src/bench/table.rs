//! How do rows of words line up under their headings, in a terminal and in Markdown?

/// A table whose rows can be printed one by one, as they come: the widths are known from the start.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
}

#[derive(Debug, Clone)]
struct Column {
    heading: String,
    width: usize,
}

/// Between two columns.
const GAP: &str = "  ";

impl Table {
    /// Columns as wide as their headings, or as wide as said. The first is set to the left, the others to the right.
    #[must_use]
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, usize)>) -> Self {
        let columns = columns.into_iter().map(|(heading, width)| Column {
            heading: heading.to_owned(),
            width: width.max(heading.chars().count()),
        });
        Self { columns: columns.collect() }
    }

    /// Columns as wide as what is in them.
    #[must_use]
    pub fn fitting(headings: &[String], rows: &[Vec<String>]) -> Self {
        let width =
            |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        let columns = headings.iter().enumerate();
        Self::new(columns.map(|(at, heading)| (heading.as_str(), width(at).unwrap_or(0))))
    }

    /// The headings, and a line beneath.
    #[must_use]
    pub fn head(&self) -> String {
        let headings: Vec<&str> = self.columns.iter().map(|column| column.heading.as_str()).collect();
        let rules: Vec<String> = self.columns.iter().map(|column| "─".repeat(column.width)).collect();
        format!("{}\n{}", self.row(&headings), self.row(&rules))
    }

    /// One row.
    #[must_use]
    pub fn row(&self, cells: &[impl AsRef<str>]) -> String {
        let cells = self.columns.iter().zip(cells).enumerate().map(|(at, (column, cell))| {
            let (cell, width) = (cell.as_ref(), column.width);
            if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

/// The same as a table of a Markdown document.
#[must_use]
pub fn markdown(headings: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|{}\n", "---|".repeat(headings.len()));
    [line(headings), rule].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn numbers_stand_under_one_another() {
        let table = Table::new([("size", 6), ("first", 7), ("x", 0)]);
        assert_eq!(table.head(), "size      first  x\n──────  ───────  ─");
        assert_eq!(table.row(&["4 KiB", "35.0 µs", "1"]), "4 KiB   35.0 µs  1");
        assert_eq!(table.row(&["1 GiB", "1.60 s", ""]), "1 GiB    1.60 s");
    }

    #[test]
    fn columns_fit_what_is_in_them() {
        let rows = [cells(&["a long name", "1"]), cells(&["b", "12.5 ms"])];
        let table = Table::fitting(&cells(&["what", "time"]), &rows);
        assert_eq!(table.row(&rows[1]), "b            12.5 ms");
    }

    #[test]
    fn markdown_has_a_rule_below_its_headings() {
        let text = markdown(&cells(&["what", "time"]), &[cells(&["a", "1"])]);
        assert_eq!(text, "| what | time |\n|---|---|\n| a | 1 |\n");
    }
}
