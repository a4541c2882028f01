//! What a peer's ssh prints for a person: handed on line by line, so that nothing in it acts on a terminal or passes for something else.

use std::io::Read;

/// The longest line that is handed on, in bytes; the rest of it is left out.
const MAX_LINE_LEN: usize = 1000;
/// The most lines that are handed on of one connection.
const MAX_LINES: usize = 1000;

/// Reads `from` to its end and hands each line to `hear`, behind `host`.
pub(super) fn hand_on(host: &str, mut from: impl Read, mut hear: impl FnMut(&str)) {
    let mut lines = Lines { line: Vec::new(), is_long: false, said: 0 };
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => lines.take(&buffer[..len], |line| hear(&format!("{host}: {line}"))),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    lines.take(b"\n", |line| hear(&format!("{host}: {line}")));
}

struct Lines {
    line: Vec<u8>, // Invariant: no longer than the longest line.
    is_long: bool,
    said: usize,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], mut say: impl FnMut(&str)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end(&mut say),
                _ if self.line.len() < MAX_LINE_LEN => self.line.push(byte),
                _ => self.is_long = true,
            }
        }
    }

    fn end(&mut self, say: &mut impl FnMut(&str)) {
        let line = std::mem::take(&mut self.line);
        let rest = if std::mem::take(&mut self.is_long) { " …" } else { "" };
        let shown = shown(String::from_utf8_lossy(&line).trim_end());
        if shown.is_empty() {
            return;
        }
        self.said += 1;
        match self.said {
            ..=MAX_LINES => say(&format!("{shown}{rest}")),
            n if n == MAX_LINES + 1 => say("(it says more, which is not shown)"),
            _ => {}
        }
    }
}

/// The text with what is no plain character written out.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let len = buf.len().min(1);
            self.0.read(&mut buf[..len])
        }
    }

    fn heard(bytes: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        hand_on("me@h", Slow(bytes), |line| all.push(line.to_owned()));
        let mut at_once = Vec::new();
        hand_on("me@h", bytes, |line| at_once.push(line.to_owned()));
        assert_eq!(all, at_once);
        all
    }

    #[test]
    fn each_line_says_whose_it_is_and_nothing_acts_on_a_terminal() {
        let said = heard(
            "it's \"C:\\x\"\r\n\n\u{1b}]0;title\u{7}\u{1b}[2Jx\té\u{202e}gnp\nno end \u{9b}1m".as_bytes(),
        );
        let wanted = [
            "me@h: it's \"C:\\x\"",
            "me@h: \\u{1b}]0;title\\u{7}\\u{1b}[2Jx\\té\\u{202e}gnp",
            "me@h: no end \\u{9b}1m",
        ];
        assert_eq!(said, wanted);
        assert_eq!(heard(b"a\xffb\rc\n"), ["me@h: a\u{fffd}b\\rc"]);
        assert!(heard(b"").is_empty() && heard(b"\n \r\n").is_empty());
    }

    #[test]
    fn a_line_and_all_lines_together_have_an_end() {
        let said = heard(&[&[b'x'; 5000][..], b"\ny\n"].concat());
        assert_eq!(said, [format!("me@h: {} …", "x".repeat(MAX_LINE_LEN)), "me@h: y".into()]);
        let said = heard(&b"z\n".repeat(MAX_LINES + 500));
        assert_eq!(said.len(), MAX_LINES + 1);
        assert!(said[MAX_LINES].contains("not shown"));
    }
}
