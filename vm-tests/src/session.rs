use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::channel::{Frame, Kind};
use crate::image::tail;
use crate::{Error, Result};

type Waiting = Arc<Mutex<BTreeMap<u64, Sender<Frame>>>>;

/// The line to a guest's agent. Several commands may run at once.
pub struct Session {
    port: UnixStream,
    console: PathBuf,
    waiting: Waiting,
    next: u64,
}

/// What a command left: its exit code (minus the signal's number if one ended it) and all that it wrote.
#[derive(Clone, Debug)]
pub struct Finished {
    /// 0 is success.
    pub code: i32,
    /// Standard output and standard error as they came.
    pub output: Vec<u8>,
}

impl Finished {
    /// The output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// A command in the guest that is not waited for.
pub struct Running {
    id: u64,
    frames: Receiver<Frame>,
    port: UnixStream,
    console: PathBuf,
}

impl Session {
    /// Speaks to the agent behind `socket`, once it is up; `alive` is asked meanwhile and ends the wait if it says no.
    ///
    /// # Errors
    /// [`Error::Hung`] after `limit`, [`Error::Gone`] if the guest is not alive any more.
    pub fn open(
        socket: &Path,
        console: &Path,
        limit: Duration,
        mut alive: impl FnMut() -> bool,
    ) -> Result<Self> {
        let began = Instant::now();
        let gone = || Error::Gone { console: console.into(), tail: tail(console, 40) };
        let wait = |alive: &mut dyn FnMut() -> bool| {
            if !alive() {
                return Err(gone());
            }
            if began.elapsed() > limit {
                let what = "answer".into();
                return Err(Error::Hung { what, limit, console: console.into(), tail: tail(console, 40) });
            }
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        };
        let mut port = loop {
            match UnixStream::connect(socket) {
                Ok(port) => break port,
                Err(_) => wait(&mut alive)?,
            }
        };
        let id = u64::from(std::process::id()) << 32 | began.elapsed().subsec_nanos() as u64;
        Frame { kind: Kind::Hello, id, bytes: Vec::new() }.write(&mut port).map_err(|_| gone())?;

        let waiting = Waiting::default();
        let (up, is_up) = channel();
        waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, up);
        let reader = port.try_clone().map_err(Error::host("share the agent's line"))?;
        std::thread::spawn({
            let waiting = Arc::clone(&waiting);
            move || hand_out(reader, &waiting)
        });
        loop {
            match is_up.try_recv() {
                Ok(frame) if frame.kind == Kind::Hello => break,
                Ok(_) => {}
                Err(_) => wait(&mut alive)?,
            }
        }
        Ok(Self { port, console: console.into(), waiting, next: 1 })
    }

    /// Starts `script` with `sh -c` and does not wait.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn start(&mut self, script: &str) -> Result<Running> {
        let id = self.next;
        self.next += 1;
        let (to, frames) = channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, to);
        let frame = Frame { kind: Kind::Run, id, bytes: script.into() };
        frame
            .write(&mut self.port)
            .map_err(|_| Error::Gone { console: self.console.clone(), tail: tail(&self.console, 40) })?;
        let port = self.port.try_clone().map_err(Error::host("share the agent's line"))?;
        Ok(Running { id, frames, port, console: self.console.clone() })
    }

    /// Runs `script` with `sh -c` to its end.
    ///
    /// # Errors
    /// [`Error::Hung`] after `limit` (the command is killed), [`Error::Gone`]. That the command failed is no error.
    pub fn run(&mut self, script: &str, limit: Duration) -> Result<Finished> {
        self.start(script)?.finish(limit)
    }
}

/// Gives each frame to whom it is for. What is for nobody belongs to an earlier session.
fn hand_out(from: UnixStream, waiting: &Waiting) {
    let mut from = BufReader::new(from);
    while let Ok(frame) = Frame::read(&mut from) {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if frame.kind == Kind::Hello {
            // What was said before this answer was not for this session.
            waiting.retain(|id, _| *id == frame.id);
        }
        let is_over = frame.kind == Kind::Exit;
        let id = frame.id;
        if let Some(to) = waiting.get(&id) {
            let _ = to.send(frame);
        }
        if is_over {
            waiting.remove(&id);
        }
    }
    // Whoever still waits learns by its closed channel that the guest is gone.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

impl Running {
    /// The next piece of output; `None` when the command is over, with its exit code in `code`.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn next(&mut self, limit: Duration) -> Result<Piece> {
        match self.frames.recv_timeout(limit) {
            Ok(Frame { kind: Kind::Out, bytes, .. }) => Ok(Piece::Output(bytes)),
            Ok(frame) => Ok(Piece::Over(String::from_utf8_lossy(&frame.bytes).parse().unwrap_or(127))),
            Err(RecvTimeoutError::Timeout) => {
                let (console, tail) = (self.console.clone(), tail(&self.console, 40));
                Err(Error::Hung { what: "finish a command".into(), limit, console, tail })
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Gone { console: self.console.clone(), tail: tail(&self.console, 40) })
            }
        }
    }

    /// Waits for its end, and kills it at `limit`.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        let began = Instant::now();
        let mut output = Vec::new();
        loop {
            match self.next(limit.saturating_sub(began.elapsed())) {
                Ok(Piece::Output(bytes)) => output.extend(bytes),
                Ok(Piece::Over(code)) => return Ok(Finished { code, output }),
                Err(Error::Hung { what, console, tail, .. }) => {
                    self.kill();
                    let said = String::from_utf8_lossy(&output);
                    let tail = format!("{tail}\n--- the command had written:\n{said}");
                    return Err(Error::Hung { what, limit, console, tail });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Kills it and all that it started.
    pub fn kill(&mut self) {
        let _ = Frame { kind: Kind::Kill, id: self.id, bytes: Vec::new() }.write(&mut self.port);
        let _ = self.port.flush();
    }
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes as it wrote them.
    Output(Vec<u8>),
    /// Its exit code: nothing comes after it.
    Over(i32),
}
