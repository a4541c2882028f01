//! One question over a Unix socket, in HTTP/1.1: what an engine of containers answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::quiesce::command;
use crate::sys::interrupt;

/// No line of an answer is longer, nor are there more of them before what it says.
const MAX_LINE: u64 = 16 << 10;
const MAX_LINES: usize = 128;
/// What it says is not longer.
const MAX_BODY: u64 = 8 << 20;
/// How often a signal is looked for while an answer is waited for.
const PIECE: Duration = Duration::from_millis(200);

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it went well, by HTTP's numbers.
    pub status: u16,
    /// What it says.
    pub body: Vec<u8>,
}

/// Asks, and ends at a signal if it may be `interrupted`; `sent` is called once the question can not be taken back. `None`: there is no answer when the time is over.
///
/// # Errors
/// Nobody listens, or what comes is no answer; a signal.
pub fn ask(
    socket: &Path,
    method: &str,
    path: &str,
    until: Instant,
    interrupted: bool,
    sent: &mut dyn FnMut(),
) -> Result<Option<Answer>, String> {
    let told = |error: io::Error| format!("{}: {error}", socket.display());
    let Some(mut stream) = connected(socket, until, interrupted).map_err(told)? else { return Ok(None) };
    stream.set_write_timeout(Some(Duration::from_secs(10))).map_err(told)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: engine\r\nUser-Agent: cowsnap\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(told)?;
    sent();
    stream.set_read_timeout(Some(PIECE)).map_err(told)?;
    match answer(BufReader::new(Patient { stream, until, interrupted })) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
        answer => answer.map(Some).map_err(told),
    }
}

/// Who listens may be stuck, with more that want to ask than it lets wait. `None`: the time is over.
fn connected(socket: &Path, until: Instant, interrupted: bool) -> io::Result<Option<UnixStream>> {
    loop {
        match crate::sys::socket::connect(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            connected => return connected.map(Some),
        }
        if interrupted {
            interrupt::check()?;
        }
        let left = command::left(until);
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(left.min(PIECE));
    }
}

/// Reads until the time is over, or a signal comes where that counts.
struct Patient {
    stream: UnixStream,
    until: Instant,
    interrupted: bool,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.interrupted {
                interrupt::check()?;
            }
            // Before each: who sends a byte now and then is not listened to for ever.
            if command::left(self.until).is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match self.stream.read(buffer) {
                Err(error)
                    if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {}
                read => return read,
            }
        }
    }
}

fn answer(mut from: impl BufRead) -> io::Result<Answer> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the answer is none: {why}"));
    let first = line(&mut from)?;
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|n| n.parse().ok());
    let status = status.ok_or_else(|| wrong(&format!("{first:?}")))?;
    let (mut length, mut is_chunked, mut n_lines) = (None, false, 0);
    loop {
        let header = line(&mut from)?;
        if header.is_empty() {
            break;
        }
        n_lines += 1;
        if n_lines > MAX_LINES {
            return Err(wrong("it has too many lines"));
        }
        let Some((key, value)) = header.split_once(':') else { return Err(wrong(&format!("{header:?}"))) };
        match key.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.trim().parse().map_err(|_| wrong("its length"))?),
            "transfer-encoding" => is_chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    match (status, is_chunked, length) {
        (100..200 | 204 | 304, ..) => {}
        (_, true, _) => loop {
            let size = line(&mut from)?;
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| wrong("a piece's length"))?;
            if size == 0 {
                break;
            }
            take(&mut from, size, &mut body)?;
            if !line(&mut from)?.is_empty() {
                return Err(wrong("a piece is longer than it says"));
            }
        },
        (_, false, Some(length)) => take(&mut from, length, &mut body)?,
        (_, false, None) => drop(from.take(MAX_BODY).read_to_end(&mut body)?),
    }
    Ok(Answer { status, body })
}

/// So many bytes more.
fn take(from: &mut impl BufRead, n: u64, body: &mut Vec<u8>) -> io::Result<()> {
    if n > MAX_BODY || body.len() as u64 + n > MAX_BODY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
    }
    match from.take(n).read_to_end(body)? as u64 == n {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Without its end.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn read(text: &str) -> io::Result<Answer> {
        answer(text.as_bytes())
    }

    #[test]
    fn an_answer_is_whole_or_none() {
        let said =
            |text: &str| read(text).map(|a| (a.status, String::from_utf8(a.body).expect("utf-8"))).ok();
        assert_eq!(said("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhix"), Some((200, "hi".into())));
        assert_eq!(said("HTTP/1.0 404 No\r\n\r\nall"), Some((404, "all".into())));
        assert_eq!(said("HTTP/1.1 204 No\r\n\r\n"), Some((204, String::new())));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n";
        assert_eq!(said(&format!("{chunked}2;x\r\nhi\r\n1\r\n!\r\n0\r\n\r\n")), Some((200, "hi!".into())));
        for wrong in [
            "",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nno\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhi",
        ] {
            assert_eq!(said(wrong), None, "{wrong:?}");
        }
        for wrong in ["2\r\nhi", "2\r\nhix\r\n0\r\n\r\n", "zz\r\n", "fffffffffffffff\r\nx", ""] {
            assert_eq!(said(&format!("{chunked}{wrong}")), None, "{wrong:?}");
        }
        assert!(read(&"x".repeat(1 << 20)).is_err());
        assert!(read(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(1000))).is_err());
    }

    #[test]
    fn who_says_nothing_is_not_waited_for_longer_than_that() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let soon = || Instant::now() + Duration::from_millis(1);
        assert!(ask(&socket, "GET", "/", soon(), true, &mut || ()).is_err());
        let _listener = UnixListener::bind(&socket).expect("bound");
        let mut n_sent = 0;
        assert_eq!(ask(&socket, "GET", "/", soon(), true, &mut || n_sent += 1), Ok(None));
        assert_eq!(n_sent, 1);
        // As many wait as may, and nobody is let in.
        let mut waiting = Vec::new();
        while let Ok(stream) = crate::sys::socket::connect(&socket) {
            waiting.push(stream);
        }
        assert_eq!(ask(&socket, "GET", "/", soon(), true, &mut || n_sent += 1), Ok(None));
        assert_eq!(n_sent, 1, "nothing was asked");
    }

    #[test]
    fn a_socket_s_path_is_no_longer_than_the_kernel_takes_and_is_connected_to() {
        use crate::sys::socket::connect;
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        assert!(connect(&folder.path().join("x".repeat(108))).is_err());
        assert_eq!(connect(&socket).expect_err("none").kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&socket).expect("bound");
        let mut stream = connect(&socket).expect("connected");
        stream.write_all(b"hello").expect("written");
        drop(stream);
        let mut heard = String::new();
        listener.accept().expect("it waits").0.read_to_string(&mut heard).expect("read");
        assert_eq!(heard, "hello");
    }
}
