//! `cowsnap daemon`, through the program: it is started as systemd would, spoken to over its sockets, and disturbed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::ground::{self, ground, waits};
use crate::job::Lab;

mod first;
mod http;
mod podman;
mod run;

/// Longer than anything here takes on a machine that is ten times as slow.
const LONG: Duration = Duration::from_secs(120);

/// Every year: due when there is no snapshot, and then not for long.
const YEARLY: &str =
    "[job.node]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\nschedule = \"0 0 1 1 *\"\n";

/// A job that waits in its midst, until there is a file `go`; `after` says that it has come to its end.
const SLOW: &str = "[job.slow]\ndatasets = [\"FS/node\"]\n[job.slow.flush]\ncommand = [\"FS/../wait\"]\nafter = [\"/usr/bin/touch\", \"FS/../after\"]\n";

/// Until it is told to go on, or the test is over, which takes the folder away.
const WAIT: &str = "#!/bin/sh\ncd \"$(dirname \"$0\")\" && touch waits && while [ -e waits ] && [ ! -e go ]; do sleep 0.05; done\n";

/// A daemon that runs, and is told to end with the test.
struct Daemon<'a> {
    lab: &'a Lab,
    child: Child,
    notified: Notified,
    said: Arc<Mutex<String>>,
}

/// What it tells systemd.
struct Notified {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Notified {
    fn at(path: PathBuf) -> Self {
        // Of a daemon before.
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(path).expect("bound");
        socket.set_read_timeout(Some(LONG)).expect("set");
        Self { socket, heard: Vec::new() }
    }

    /// Waits for a notice that is so, and answers it.
    fn until(&mut self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut bytes = [0; 8192];
        loop {
            let n = self.socket.recv(&mut bytes).unwrap_or_else(|e| panic!("{what}: {e}: {:?}", self.heard));
            let said = String::from_utf8(bytes[..n].to_vec()).expect("utf-8");
            self.heard.push(said.clone());
            if is_so(&said) {
                return said;
            }
        }
    }
}

impl<'a> Daemon<'a> {
    /// Ready, with these options.
    fn start(lab: &'a Lab, options: &str) -> Self {
        Self::by(lab, ground::cowsnap(&lab.fs.outside().join("state")), options)
    }

    /// By a command whose last word is the program.
    fn by(lab: &'a Lab, mut command: Command, options: &str) -> Self {
        let root = lab.fs.outside();
        let mut notified = Notified::at(root.join("notify"));
        command.args(["daemon", "--listen"]).arg(root.join("socket"));
        command.args(options.split_whitespace().map(|word| lab.placed(word)));
        command.env("COWSNAP_CONFIG", &lab.config).env("NOTIFY_SOCKET", root.join("notify"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (its, from) = (said.clone(), BufReader::new(child.stderr.take().expect("piped")));
        // What a job has started may have it open for longer than the test lasts.
        std::thread::spawn(move || {
            from.lines().map_while(Result::ok).for_each(|line| *its.lock().expect("whole") += &(line + "\n"));
        });
        notified.until("it is ready", |said| said.starts_with("READY=1\n"));
        Self { lab, child, notified, said }
    }

    fn said(&self) -> String {
        self.said.lock().expect("whole").clone()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is there");
    }

    /// Over its socket.
    fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let stream = UnixStream::connect(self.lab.fs.outside().join("socket")).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("set");
        let (status, text) = exchange(stream, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Asks for a run, once the one before has ended, which is a moment after its snapshot is there.
    fn runs(&self, job: &str) {
        waits("that a run begins", || match self.ask("POST", &format!("/jobs/{job}/run")).0 {
            409 => false,
            status => {
                assert_eq!(status, 202);
                true
            }
        });
    }

    fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask("GET", path);
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// Whatever the status.
    fn get_any(&self, path: &str) -> Value {
        self.ask("GET", path).1
    }

    /// One number of what it measures.
    fn measured(&self, series: &str) -> f64 {
        let text = self.get("/metrics");
        let samples = crate::know::metrics::parsed(text.as_str().expect("a text"));
        *samples.get(series).unwrap_or_else(|| panic!("no {series} in {text}"))
    }

    /// Has it take up the configuration as it is now; answers what it says then.
    fn reload(&mut self) -> String {
        self.signal(Signal::HUP);
        self.notified.until("it reloads", |said| said.starts_with("RELOADING=1\nMONOTONIC_USEC="));
        self.notified.until("it is ready again", |said| said.starts_with("READY=1\n"))
    }

    /// Ends it, and waits.
    fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.notified.until("it stops", |said| said == "STOPPING=1");
        self.child.wait().expect("it ends")
    }

    /// Its jobs' processes.
    fn children(&self) -> Vec<Pid> {
        children_of(self.pid())
    }

    fn n_snapshots(&self) -> usize {
        self.lab.snapshots("node").len()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let left = self.children();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Those that are there; one may be gone when this is read.
fn children_of(parent: Pid) -> Vec<Pid> {
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let names =
        fs::read_dir("/proc").expect("read").flatten().filter_map(|e| e.file_name().into_string().ok());
    let is_its = |pid: &String| {
        let text = stat(pid);
        let mut rest = text.rsplit(") ").next().unwrap_or_default().split(' ');
        rest.nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent.as_raw_nonzero().get())
    };
    let pids = names.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).filter(is_its);
    pids.filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Sends it, and answers the status and the body of what comes back.
fn exchange(mut stream: impl Read + Write, request: &str) -> (u16, String) {
    // It may have answered, and gone, before all of it is sent.
    let _ = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).expect("utf-8");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer to {request:?}: {text:?}")), body.to_owned())
}

/// A lab with the dataset `node`.
fn lab(config: &str) -> Lab {
    let lab = Lab::new(config);
    lab.ends(0, "create FS/node");
    let wait = lab.fs.outside().join("wait");
    fs::write(&wait, WAIT).expect("written");
    fs::set_permissions(&wait, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("changed");
    lab
}

/// A file of the lab's.
fn file(lab: &Lab, name: &str) -> PathBuf {
    lab.fs.outside().join(name)
}
