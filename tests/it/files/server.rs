//! A small HTTP server on loopback, with ranges and with faults.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What goes wrong with the next so many requests for a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An answer of that status.
    Status(u16),
    /// The connection is closed in the midst of the body.
    Cut,
    /// The connection is closed after so many bytes; of a whole file, each time after so many more.
    After(usize),
    /// The connection is closed without an answer.
    Reset,
    /// Other bytes than those of the file.
    Damage,
    /// Another part than was asked for.
    OtherPart,
    /// The last byte comes after so many milliseconds.
    Slow(u64),
}

#[derive(Debug, Default)]
pub struct State {
    pub files: BTreeMap<String, Vec<u8>>,
    /// The ETag of all files.
    pub etag: String,
    /// What is said of what is not there: a status, and a page with it; 0 is 404.
    pub absent: u16,
    pub no_ranges: bool,
    pub no_length: bool,
    /// Each with how many requests it is for.
    pub faults: Vec<(Fault, usize)>,
    /// Redirects, from path to path.
    pub moved: BTreeMap<String, String>,
    /// After so many bytes of ranges the files change.
    pub changes: bool,
    /// The ranges that were answered in full: path, first byte, length.
    pub given: Vec<(String, u64, u64)>,
    /// What is said to be the length of a file, unless it is 0.
    pub says_length: u64,
    /// How often a whole file was asked for, and not a part.
    pub n_whole: u64,
    /// How often [`Fault::After`] has come.
    pub n_after: usize,
    /// Milliseconds before each answer with more than a byte.
    pub delay: u64,
}

pub struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let files = files.iter().map(|(name, bytes)| (format!("/{name}"), bytes.clone())).collect();
        let state = State { files, etag: "\"one\"".into(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// How many bytes of a file were given in ranges of more than one.
    pub fn given(&self, name: &str) -> u64 {
        let name = format!("/{name}");
        self.state()
            .given
            .iter()
            .filter(|(path, _, len)| *path == name && *len > 1)
            .map(|(_, _, len)| len)
            .sum()
    }
}

struct Request {
    path: String,
    range: Option<(u64, u64)>,
    if_range: Option<String>,
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|len| *len > 0)?;
    let path = line.split(' ').nth(1)?.split('?').next()?.to_owned();
    let mut request = Request { path, range: None, if_range: None };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|len| *len > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Some(request);
        }
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
                request.range = Some((from.parse().ok()?, to.parse().ok()?));
            }
            "if-range" => request.if_range = Some(value.to_owned()),
            _ => {}
        }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
    while let Some(request) = read(&mut reader) {
        if answer(&stream, &request, state).is_none() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

/// `None` closes the connection.
fn answer(mut stream: &TcpStream, request: &Request, state: &Mutex<State>) -> Option<()> {
    let mut locked = state.lock().expect("not poisoned");
    let plain = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n{more}\r\n");
    if let Some(to) = locked.moved.get(&request.path) {
        return stream.write_all(plain("302 Found", &format!("location: {to}\r\n")).as_bytes()).ok();
    }
    let Some(bytes) = locked.files.get(&request.path).cloned() else {
        let page = "<html>welcome</html>";
        let absent = match locked.absent {
            0 => plain("404 Not Found", ""),
            200 => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len()),
            status => plain(&format!("{status} No"), ""),
        };
        return stream.write_all(absent.as_bytes()).ok();
    };
    let is_probe = request.range == Some((0, 0));
    let fault = if is_probe || request.path.contains(".json") { None } else { take(&mut locked.faults) };
    let etag = locked.etag.clone();
    if locked.changes && !is_probe && request.range.is_some_and(|(from, _)| from > 0) {
        locked.etag = "\"two\"".into();
    }
    let is_same = request.if_range.as_ref().is_none_or(|condition| *condition == etag);
    let range = request.range.filter(|_| is_same && !locked.no_ranges);
    locked.n_whole += u64::from(request.range.is_none() && !request.path.contains(".json"));
    locked.n_after += usize::from(matches!(fault, Some(Fault::After(_))));
    let (n_after, says_length) = (locked.n_after, locked.says_length);
    let (no_length, delay) = (locked.no_length, locked.delay);
    if let Some((from, to)) = range.filter(|_| fault.is_none()) {
        locked.given.push((request.path.clone(), from, to - from + 1));
    }
    drop(locked);
    let len = bytes.len() as u64;
    let (mut head, mut body) = match range {
        Some((from, to)) if from < len => {
            let to = to.min(len - 1);
            let all = if says_length > 0 { says_length } else { len };
            let said = if fault == Some(Fault::OtherPart) { from + 1 } else { from };
            let head = format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {said}-{to}/{all}\r\n");
            (head, bytes[from as usize..=to as usize].to_vec())
        }
        Some(_) => return stream.write_all(plain("416 Range Not Satisfiable", "").as_bytes()).ok(),
        None => ("HTTP/1.1 200 OK\r\n".to_owned(), bytes),
    };
    match fault {
        Some(Fault::Status(status)) => {
            return stream.write_all(plain(&format!("{status} No"), "").as_bytes()).ok();
        }
        Some(Fault::Reset) => return None,
        Some(Fault::Damage) => body.iter_mut().for_each(|byte| *byte ^= 1),
        _ => {}
    }
    match no_length && range.is_none() {
        true => head += "connection: close\r\n",
        false => head += &format!("content-length: {}\r\n", body.len()),
    }
    head += &format!("etag: {etag}\r\n\r\n");
    if body.len() > 1 && delay > 0 {
        std::thread::sleep(Duration::from_millis(delay));
    }
    stream.write_all(head.as_bytes()).ok()?;
    match fault {
        Some(Fault::Cut) => {
            stream.write_all(&body[..body.len() / 2]).ok()?;
            return None;
        }
        Some(Fault::After(bytes)) => {
            let n = if range.is_some() { bytes } else { bytes * n_after };
            stream.write_all(&body[..n.min(body.len())]).ok()?;
            return None;
        }
        Some(Fault::Slow(millis)) => {
            stream.write_all(&body[..body.len() - 1]).ok()?;
            std::thread::sleep(Duration::from_millis(millis));
            stream.write_all(&body[body.len() - 1..]).ok()?;
        }
        _ => stream.write_all(&body).ok()?,
    }
    (!no_length || range.is_some()).then_some(())
}

fn take(faults: &mut Vec<(Fault, usize)>) -> Option<Fault> {
    let (fault, left) = faults.first_mut()?;
    let fault = *fault;
    *left -= 1;
    if *left == 0 {
        faults.remove(0);
    }
    Some(fault)
}
