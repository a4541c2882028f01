//! Tables as operators read and cut them: aligned by spaces, no lines, a header in capitals.

use std::fmt;

use comfy_table::presets;

/// Rows under a header.
pub struct Table(comfy_table::Table, bool);

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_header(columns.to_vec());
        Self(table, true)
    }

    /// Adds a row.
    pub fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.0.add_row(cells.into_iter().map(|cell| printable(&cell.to_string())).collect::<Vec<_>>());
        self.1 = false;
    }
}

impl fmt::Display for Table {
    /// The table without blanks at the ends of lines; nothing at all if it has no rows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1 {
            return Ok(());
        }
        for line in self.0.lines() {
            writeln!(f, "{}", line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()))?;
        }
        Ok(())
    }
}

/// The text with its control characters escaped: a name can hold a line's end, or what moves a terminal's cursor.
fn printable(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// Control characters are escaped, but for the ends of lines: a text of several lines that names may be in.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// `1.4 GiB`
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_binary_units() {
        let shown = [0, 1023, 1024, 1 << 20, 1_610_612_736, u64::MAX].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.5 GiB", "16384.0 PiB"]);
    }

    #[test]
    fn a_name_can_not_end_a_line_or_move_the_cursor() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\nb\u{1b}[2J é"]);
        assert_eq!(table.to_string(), "NAME\na\\nb\\u{1b}[2J é\n");
    }

    #[test]
    fn a_table_has_no_blanks_at_either_side_and_none_has_no_header() {
        let mut table = Table::new(&["NAME", "X"]);
        assert_eq!(table.to_string(), "");
        table.row(["a", "bc"]);
        assert_eq!(table.to_string(), "NAME  X\na     bc\n");
    }
}
