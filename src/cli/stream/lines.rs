//! Standard output for many lines.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};

use crate::{Error, Result};

/// Standard output for many lines. A pipe that was closed ends it, and is no error.
pub struct Lines(BufWriter<io::StdoutLock<'static>>);

impl Lines {
    pub fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }

    /// Prints a line; `false` if nobody reads on.
    pub fn print(&mut self, line: impl Display) -> Result<bool> {
        still_read(writeln!(self.0, "{line}"))
    }

    pub fn finish(mut self) -> Result<()> {
        still_read(self.0.flush()).map(drop)
    }
}

fn still_read(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("write to", "standard output")(error)),
    }
}

/// Names and what they stand for, one a line.
pub fn table(lines: &[(&str, String)]) -> String {
    lines.iter().map(|(key, value)| format!("{key:<10} {value}\n")).collect()
}

/// Without what would move a terminal's cursor.
pub fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}
