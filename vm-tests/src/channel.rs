//! What host and agent say to each other over the virtio-serial port: frames of a kind, a number and bytes.
//!
//! A frame is a line `KIND ID LENGTH` and LENGTH bytes after it. The host sends `hello`, `run` and `kill`, the agent `hello`,
//! `out` and `exit`. ID is the host's number of a command, or of the session for `hello`: what the agent says before it has
//! answered `hello` belongs to an earlier session.

use std::io::{self, BufRead, Write};

/// The port's name in the guest: `/dev/virtio-ports/NAME`.
pub const PORT: &str = "cowsnap.agent";

const MAX_LENGTH: usize = 16 << 20;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A session begins; the agent ends what an earlier one left running, and answers with the same.
    Hello,
    /// Run this text with `sh -c`.
    Run,
    /// End the command and all that it started.
    Kill,
    /// What a command wrote, standard output and standard error together.
    Out,
    /// A command's end: its exit code, or minus the signal, in decimal.
    Exit,
}

const NAMES: [(Kind, &str); 5] = [
    (Kind::Hello, "hello"),
    (Kind::Run, "run"),
    (Kind::Kill, "kill"),
    (Kind::Out, "out"),
    (Kind::Exit, "exit"),
];

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is about.
    pub kind: Kind,
    /// Of which command.
    pub id: u64,
    /// The text or the output.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// Writes it with one call, so that threads that share a lock do not interleave.
    ///
    /// # Errors
    /// What writing fails with.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let name = NAMES.iter().find(|(kind, _)| *kind == self.kind).expect("every kind has a name").1;
        let mut frame = format!("{name} {} {}\n", self.id, self.bytes.len()).into_bytes();
        frame.extend(&self.bytes);
        to.write_all(&frame)?;
        to.flush()
    }

    /// Reads the next one. Lines that are no head (the rest of a frame cut off by an earlier session's end) are passed over.
    ///
    /// # Errors
    /// What reading fails with; the end of the input is `UnexpectedEof`.
    pub fn read(from: &mut impl BufRead) -> io::Result<Self> {
        loop {
            let mut line = Vec::new();
            if from.read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((kind, id, length)) = std::str::from_utf8(&line).ok().and_then(parse_head) else {
                continue;
            };
            let mut bytes = vec![0; length];
            from.read_exact(&mut bytes)?;
            return Ok(Self { kind, id, bytes });
        }
    }
}

fn parse_head(line: &str) -> Option<(Kind, u64, usize)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let kind = NAMES.iter().find(|(_, n)| *n == name)?.0;
    let id = words.next()?.parse().ok()?;
    let length = words.next()?.parse().ok().filter(|length| *length <= MAX_LENGTH)?;
    words.next().is_none().then_some((kind, id, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_rubbish_is_passed_over() {
        let mut wire = b"half a frame\nrun x 3\nout 1 99999999999\n".to_vec();
        let frames = [
            Frame { kind: Kind::Run, id: 7, bytes: b"echo a\nout 1 2\n".to_vec() },
            Frame { kind: Kind::Exit, id: u64::MAX, bytes: b"-9".to_vec() },
            Frame { kind: Kind::Out, id: 0, bytes: vec![0, 10, 255] },
        ];
        for frame in &frames {
            frame.write(&mut wire).expect("a Vec");
        }
        let mut from = io::Cursor::new(wire);
        for frame in &frames {
            assert_eq!(Frame::read(&mut from).expect("a frame"), *frame);
        }
        assert_eq!(Frame::read(&mut from).expect_err("the end").kind(), io::ErrorKind::UnexpectedEof);
    }
}
