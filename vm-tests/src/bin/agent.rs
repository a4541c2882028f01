//! The guest's side: runs what the host asks for, over the virtio-serial port. systemd starts it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read, Result};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use vm_tests::channel::{Frame, Kind, PORT};

/// A guest that nobody has spoken to for so long powers off: a host that was killed can not.
const FORGOTTEN: Duration = Duration::from_secs(4 * 3600);

type Commands = Arc<Mutex<BTreeMap<u64, Pid>>>;

fn main() -> Result<()> {
    let path = format!("/dev/virtio-ports/{PORT}");
    let port = loop {
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(port) => break port,
            Err(_) => std::thread::sleep(Duration::from_millis(50)), // udev has not made the link yet.
        }
    };
    let out = Arc::new(Mutex::new(port.try_clone()?));
    let commands = Commands::default();
    let mut port = BufReader::new(Patient { port, heard: Instant::now() });
    loop {
        let frame = Frame::read(&mut port)?;
        match frame.kind {
            Kind::Hello => {
                lock(&commands).values().for_each(|group| end(*group));
                send(&out, frame);
            }
            Kind::Run => run(frame, &out, &commands),
            Kind::Kill => {
                if let Some(group) = lock(&commands).get(&frame.id) {
                    end(*group);
                }
            }
            Kind::Out | Kind::Exit => {}
        }
    }
}

/// The port, for which nobody at the other end is not the end.
struct Patient {
    port: File,
    heard: Instant,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.port.read(buffer) {
                Ok(0) => {}
                Ok(n) => {
                    self.heard = Instant::now();
                    return Ok(n);
                }
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
            if self.heard.elapsed() > FORGOTTEN {
                let _ = Command::new("systemctl").args(["poweroff", "--force"]).status();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn run(frame: Frame, out: &Arc<Mutex<File>>, commands: &Commands) {
    let id = frame.id;
    let script = String::from_utf8_lossy(&frame.bytes).into_owned();
    // Both outputs are one pipe, in the order in which they were written.
    let (mut reader, writer) = match std::io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return finish(out, id, &error.to_string()),
    };
    let child = writer.try_clone().and_then(|errors| {
        Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(errors)
            .process_group(0)
            .spawn()
    });
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return finish(out, id, &error.to_string()),
    };
    let group = Pid::from_child(&child);
    lock(commands).insert(id, group);
    let (out, commands) = (Arc::clone(out), Arc::clone(commands));
    std::thread::spawn(move || {
        let pump = std::thread::spawn({
            let out = Arc::clone(&out);
            move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(n @ 1..) = reader.read(&mut buffer) {
                    send(&out, Frame { kind: Kind::Out, id, bytes: buffer[..n].to_vec() });
                }
            }
        });
        let status = child.wait();
        // What it left in the background may hold its output open: the command is over all the same, after a moment.
        let over = Instant::now();
        while !pump.is_finished() && over.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(5));
        }
        lock(&commands).remove(&id);
        let code = match status {
            Ok(status) => status.code().unwrap_or_else(|| -status.signal().unwrap_or(99)).to_string(),
            Err(error) => error.to_string(),
        };
        send(&out, Frame { kind: Kind::Exit, id, bytes: code.into_bytes() });
    });
}

/// Ends a command that could not begin.
fn finish(out: &Arc<Mutex<File>>, id: u64, why: &str) {
    send(out, Frame { kind: Kind::Out, id, bytes: format!("agent: {why}\n").into_bytes() });
    send(out, Frame { kind: Kind::Exit, id, bytes: b"127".to_vec() });
}

/// A host that went away reads nothing: its frames are lost, and the next session begins with `hello`.
fn send(out: &Arc<Mutex<File>>, frame: Frame) {
    let _ = frame.write(&mut *lock(out));
}

fn end(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
}

fn lock<T>(shared: &Arc<Mutex<T>>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
