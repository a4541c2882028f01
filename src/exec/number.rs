//! A number that a command prints, or that is in the JSON of an HTTP answer. What is no number is an error, and never counts as 0.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::plan::trigger::{Ask, Source};
use crate::sys::resolve::resolve;
use crate::sys::{child, interrupt};
use crate::{Error, Result};

/// More than a number and what stands around it.
const MOST_PRINTED: usize = 4 << 10;
/// How long what was killed may take to end.
const DYING: Duration = Duration::from_secs(2);
/// An answer may say more than what is asked for.
const MOST_ANSWERED: usize = 1 << 20;

/// Asks once.
///
/// # Errors
/// [`Class::Unreachable`](crate::error::Class) if nobody answers in time, or not with success; [`Error::Usage`] for what is no number.
pub fn ask(source: &Source) -> Result<i64> {
    let until = Instant::now() + source.within;
    let found = match &source.ask {
        Ask::Command(words) => printed(words, until)
            .and_then(|text| number(text.trim()).ok_or_else(|| Wrong::Strange(shown(text.as_bytes())))),
        Ask::Http { address, path, pointer } => {
            get(address, path, until).and_then(|body| pointed(&body, pointer))
        }
    };
    found.map_err(|wrong| match wrong {
        Wrong::Io(error) => Error::io("find out", source)(error),
        Wrong::Strange(what) => {
            Error::Usage { what: format!("cannot find out {source}: {what}"), hint: None }
        }
    })
}

/// Why there is no number.
#[derive(Debug)]
enum Wrong {
    Io(io::Error),
    Strange(String),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Out of reach, for now.
fn away(why: impl Into<String>) -> Wrong {
    Wrong::Io(io::Error::new(io::ErrorKind::TimedOut, why.into()))
}

fn too_late() -> Wrong {
    away("it took too long")
}

/// Whole, or the whole number below; one that is beyond all is the last one.
fn number(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<i128>() {
        return Some(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64);
    }
    let is_decimal = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    let number = text.parse::<f64>().ok().filter(|number| is_decimal && number.is_finite())?;
    Some(number.floor() as i64) // It saturates.
}

fn pointed(body: &[u8], pointer: &str) -> Result<i64, Wrong> {
    let json = serde_json::from_slice::<serde_json::Value>(body)
        .map_err(|error| Wrong::Strange(format!("the answer is no JSON: {error}: {}", shown(body))))?;
    match json.pointer(pointer) {
        Some(serde_json::Value::Number(found)) => {
            number(&found.to_string()).ok_or_else(|| Wrong::Strange(found.to_string()))
        }
        Some(other) => {
            Err(Wrong::Strange(format!("no number is there: {}", shown(other.to_string().as_bytes()))))
        }
        None => Err(Wrong::Strange(format!("nothing is there: {}", shown(body)))),
    }
}

/// The beginning of it, as one can print it.
fn shown(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(100).collect();
    format!("{text:?}")
}

/// What a command prints that ends with 0. It runs in a session of its own, and is killed with what it started if it takes too long or prints too much.
fn printed(words: &[String], until: Instant) -> Result<String, Wrong> {
    let [program, arguments @ ..] = words else { return Err(away("there is no command")) };
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped());
    child::own_session(&mut command);
    let mut running = command.spawn()?;
    let text = match read_all(&mut running, until) {
        Ok(text) => text,
        Err(wrong) => {
            // It fails only if nothing is left of the group.
            let _ = kill_process_group(Pid::from_child(&running), Signal::KILL);
            leave(&mut running);
            return Err(wrong);
        }
    };
    let status = running.wait()?;
    match status.success() {
        true => String::from_utf8(text).map_err(|error| Wrong::Strange(shown(error.as_bytes()))),
        false => Err(away(status.to_string())),
    }
}

/// Waits a moment for the end of what was killed: whoever waits for a disk that hangs does not end.
fn leave(killed: &mut Child) {
    let until = Instant::now() + DYING;
    while killed.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read_all(running: &mut Child, until: Instant) -> Result<Vec<u8>, Wrong> {
    let mut output = running.stdout.take().expect("it is piped");
    let (mut text, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        readable(&output, until)?;
        match output.read(&mut piece)? {
            0 => break,
            n => text.extend_from_slice(&piece[..n]),
        }
        if text.len() > MOST_PRINTED {
            return Err(Wrong::Strange(format!("it prints more than a number: {}", shown(&text))));
        }
    }
    // Who has closed its output may go on for ever.
    let pidfd = rustix::process::pidfd_open(Pid::from_child(running), rustix::process::PidfdFlags::empty());
    readable(pidfd.map_err(io::Error::from)?, until)?;
    Ok(text)
}

/// Waits in short pieces, so that a signal to this process is noticed.
fn readable(file: impl std::os::fd::AsFd, until: Instant) -> Result<(), Wrong> {
    loop {
        interrupt::check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(too_late());
        }
        let piece = left.min(Duration::from_millis(500));
        let time = Timespec { tv_sec: piece.as_secs() as i64, tv_nsec: piece.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&time)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

/// The body of what is answered with 200.
fn get(address: &str, path: &str, until: Instant) -> Result<Vec<u8>, Wrong> {
    let left = || {
        Some(until.saturating_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
            .ok_or_else(too_late)
    };
    let unreached = |error: io::Error| away(error.to_string());
    let mut last = away("the name has no address");
    for socket in resolve(address, left()?).map_err(unreached)? {
        match TcpStream::connect_timeout(&socket, left()?) {
            Ok(mut stream) => {
                stream.set_write_timeout(Some(left()?)).map_err(unreached)?;
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: cowsnap\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).map_err(unreached)?;
                return answer(stream, until);
            }
            Err(error) => last = unreached(error),
        }
    }
    Err(last)
}

/// Reads until the answer is whole: it says how long it is, or ends.
fn answer(mut stream: TcpStream, until: Instant) -> Result<Vec<u8>, Wrong> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 << 10]);
    loop {
        if let Some(answer) = Answer::parse(&bytes)?
            && let Some(body) = answer.body(false)?
        {
            return Ok(body);
        }
        readable(&stream, until)?;
        match stream.read(&mut piece).map_err(|error| away(error.to_string()))? {
            0 => break,
            n => bytes.extend_from_slice(&piece[..n]),
        }
        if bytes.len() > MOST_ANSWERED {
            return Err(Wrong::Strange(format!("the answer is longer than {MOST_ANSWERED} bytes")));
        }
    }
    let answer =
        Answer::parse(&bytes)?.ok_or_else(|| away(format!("the answer ends early: {}", shown(&bytes))))?;
    answer.body(true)?.ok_or_else(|| away("the answer ends early"))
}

/// How long the body of an answer is.
enum Length {
    Known(usize),
    Chunked,
    UntilTheEnd,
}

/// An answer whose head is there.
struct Answer<'a> {
    length: Length,
    rest: &'a [u8],
}

impl<'a> Answer<'a> {
    /// `None` as long as its head is not whole.
    fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Wrong> {
        let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        match status.strip_prefix("HTTP/1.").map(|rest| rest.split(' ').nth(1)) {
            Some(Some("200")) => {}
            Some(_) => return Err(away(format!("the answer is {}", shown(status.as_bytes())))),
            None => return Err(Wrong::Strange(format!("no answer by HTTP: {}", shown(bytes)))),
        }
        let mut length = Length::UntilTheEnd;
        for (key, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match key.to_ascii_lowercase().as_str() {
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => length = Length::Chunked,
                "transfer-encoding" | "content-encoding" if !value.eq_ignore_ascii_case("identity") => {
                    return Err(Wrong::Strange(format!(
                        "the answer is encoded: {}",
                        shown(value.as_bytes())
                    )));
                }
                "content-length" if !matches!(length, Length::Chunked) => {
                    let known = value.parse().ok().filter(|&known| known <= MOST_ANSWERED);
                    length = Length::Known(known.ok_or_else(|| {
                        Wrong::Strange(format!("an answer of {} bytes is too long", shown(value.as_bytes())))
                    })?);
                }
                _ => {}
            }
        }
        Ok(Some(Self { length, rest: &bytes[end + 4..] }))
    }

    /// `None` as long as it is not whole; `is_over` if nothing more comes.
    fn body(&self, is_over: bool) -> Result<Option<Vec<u8>>, Wrong> {
        match self.length {
            Length::Known(length) => Ok(self.rest.get(..length).map(<[u8]>::to_vec)),
            Length::UntilTheEnd => Ok(is_over.then(|| self.rest.to_vec())),
            Length::Chunked => chunks(self.rest),
        }
    }
}

fn chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, Wrong> {
    let strange = || Wrong::Strange("the pieces of the answer have no length".into());
    let mut body = Vec::new();
    loop {
        let Some(end) = find(rest, b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| strange())?;
        let length = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
        let length = length.ok().filter(|&length| length <= MOST_ANSWERED).ok_or_else(strange)?;
        if length == 0 {
            return Ok(Some(body));
        }
        let Some(piece) = rest.get(end + 2..end + 2 + length) else { return Ok(None) };
        body.extend_from_slice(piece);
        let Some(after) = rest.get(end + 2 + length..).filter(|after| after.len() >= 2) else {
            return Ok(None);
        };
        rest = after.strip_prefix(b"\r\n").ok_or_else(strange)?;
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::error::Class;

    fn command(words: &[&str], within: u64) -> Result<i64> {
        let words = words.iter().map(ToString::to_string).collect();
        ask(&Source { ask: Ask::Command(words), within: Duration::from_millis(within) })
    }

    fn shell(line: &str) -> Result<i64> {
        command(&["/bin/sh", "-c", line], 60_000)
    }

    /// What is found at `pointer` in an answer of these pieces.
    fn http(pointer: &str, pieces: &'static [&'static str], stays: bool) -> Result<i64> {
        http_within(60_000, pointer, pieces, stays)
    }

    fn http_within(within: u64, pointer: &str, pieces: &'static [&'static str], stays: bool) -> Result<i64> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let mut asked = [0; 4096];
            let n = stream.read(&mut asked).expect("asked");
            for piece in pieces {
                let _ = stream.write_all(piece.as_bytes());
            }
            if stays {
                let _ = stream.read(&mut [0; 1]); // Until the other one goes.
            }
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        let within = Duration::from_millis(within);
        let ask_it = Ask::Http { address: address.clone(), path: "/x?a=b".into(), pointer: pointer.into() };
        let found = ask(&Source { ask: ask_it, within });
        let asked = server.join().expect("served");
        assert!(
            asked.starts_with("GET /x?a=b HTTP/1.1\r\n") && asked.contains(&format!("Host: {address}\r\n"))
        );
        found
    }

    #[test]
    fn a_command_prints_one_number() {
        for (line, wanted) in [
            ("echo 5000", 5000),
            ("printf ' 7\\n\\n'", 7),
            ("echo -3", -3),
            ("echo 4999.9", 4999),
            ("echo -0.5", -1),
            ("echo 1e3", 1000),
            ("echo 99999999999999999999", i64::MAX),
            ("echo +12", 12),
        ] {
            assert_eq!(shell(line).expect(line), wanted, "{line}");
        }
    }

    #[test]
    fn what_is_no_number_is_an_error_and_never_0() {
        for line in [
            "echo",
            "true",
            "echo 5 6",
            "echo five",
            "echo NaN",
            "echo inf",
            "echo 0x10",
            "echo 1,000",
            "printf '\\377'",
            "yes",
        ] {
            let error = shell(line).expect_err(line);
            assert_eq!(error.class(), Class::Usage, "{line}: {error}");
        }
        for line in ["echo 5; exit 1", "kill -9 $$"] {
            assert_eq!(shell(line).expect_err(line).class(), Class::Unreachable, "{line}");
        }
        assert!(command(&["/no/such/program"], 1000).is_err());
    }

    #[test]
    fn who_takes_too_long_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let pid = folder.path().join("pid");
        let line = format!("sleep 1000 & echo $! > {}; echo 5; wait", pid.display());
        // A machine that has much to do may not come to start it within so long.
        let begun = (0..8).find_map(|n| {
            let error = command(&["/bin/sh", "-c", &line], 500 << n).expect_err("late");
            assert_eq!(error.class(), Class::Unreachable);
            std::fs::read_to_string(&pid).ok().filter(|text| text.ends_with('\n'))
        });
        let pid = begun.expect("it began");
        let is_dead = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            !stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        let until = Instant::now() + Duration::from_secs(20);
        while !is_dead() {
            assert!(Instant::now() < until, "it runs still");
            std::thread::sleep(Duration::from_millis(20));
        }
        // One that has closed its output is not waited for without end.
        let error = command(&["/bin/sh", "-c", "echo 5; exec >&-; sleep 1000"], 300).expect_err("late");
        assert_eq!(error.class(), Class::Unreachable);
    }

    #[test]
    fn a_number_is_found_in_json_however_its_length_is_said() {
        let body = r#"{"a":{"b.c":[1,{"n":5000.5}]},"s":"7","z":null}"#;
        assert_eq!(body.len(), 0x2f);
        const CLOSED: &[&str] =
            &["HTTP/1.0 200 OK\r\n\r\n", r#"{"a":{"b.c":[1,{"n":5000.5}]},"s":"7","z":null}"#];
        assert_eq!(http("/a/b.c/1/n", CLOSED, false).expect("a number"), 5000);
        // Who says how long it is may stay connected.
        const LENGTH: &[&str] = &["HTTP/1.1 200 OK\r\nconTENT-length: 2\r\n", "\r\n4", "2"];
        assert_eq!(http("", LENGTH, true).expect("a number"), 42);
        const CHUNKED: &[&str] = &[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\n{\"a\": ",
            "\r\n3\r\n17}\r\n",
            "0\r\n\r\n",
        ];
        assert_eq!(http("/a", CHUNKED, true).expect("a number"), 17);
        for (pointer, what) in [
            ("/s", "no number is there"),
            ("/z", "no number"),
            ("/x", "nothing is there"),
            ("/a", "no number"),
        ] {
            let error = http(pointer, CLOSED, false).expect_err(pointer);
            assert_eq!(error.class(), Class::Usage);
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn a_bad_answer_is_an_error_and_none_is_waited_for_in_vain() {
        const LATE: &[&str] = &["HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n42"];
        assert_eq!(http_within(3000, "", LATE, true).expect_err("late").class(), Class::Unreachable);
        assert_eq!(http("", LATE, false).expect_err("cut").class(), Class::Unreachable);
        assert_eq!(http("", &["HTTP/1.1 200 OK\r\n"], false).expect_err("cut").class(), Class::Unreachable);
        assert_eq!(
            http("", &["HTTP/1.1 503 Later\r\n\r\n5"], false).expect_err("503").class(),
            Class::Unreachable
        );
        assert_eq!(
            http("", &["HTTP/1.1 302 X\r\n\r\n5"], false).expect_err("302").class(),
            Class::Unreachable
        );
        const STRANGE: &[&[&str]] = &[
            &["HTTP/1.1 200 OK\r\n\r\n<html>"],
            &["SSH-2.0-x\r\n\r\n\r\n"],
            &["HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n55\r\n"],
            &["HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n5"],
        ];
        for pieces in STRANGE {
            assert_eq!(http("", pieces, false).expect_err(pieces[0]).class(), Class::Usage, "{pieces:?}");
        }
        let nobody = Ask::Http { address: "127.0.0.1:1".into(), path: "/".into(), pointer: String::new() };
        let error = ask(&Source { ask: nobody, within: Duration::from_secs(5) }).expect_err("nobody");
        assert_eq!(error.class(), Class::Unreachable);
    }
}
