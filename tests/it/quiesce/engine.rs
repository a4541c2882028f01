//! An engine of containers as Docker's, which has forgotten what it told whom: who told a container to stop has to know that.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::sync::{Arc, Mutex};

use super::*;

/// It is told to end, and does once there is a file `may-end`.
const INSIDE: &str = r#"trap 'while [ ! -e "$0/may-end" ]; do sleep 0.05; done; exit 0' TERM; echo begun >> "$0/begun"; while :; do sleep 0.05; done"#;

#[derive(Default)]
struct Container {
    process: Option<Child>,
    unanswered: Vec<UnixStream>,
}

impl Container {
    fn pid(&mut self) -> Option<i32> {
        let process = self.process.as_mut()?;
        process.try_wait().expect("asked").is_none().then(|| i32::try_from(process.id()).expect("small"))
    }

    fn start(&mut self, root: &Path) {
        if self.pid().is_none() {
            let started = Command::new("sh").args(["-c", INSIDE]).arg(root).stdin(Stdio::null()).spawn();
            self.process = Some(started.expect("it starts"));
        }
    }

    fn answers(&mut self, root: &Path, mut stream: UnixStream) {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).unwrap_or_default();
        let question = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let question = question.lines().next().unwrap_or_default();
        let said = if question.contains("/version ") {
            r#"{"Components":[{"Name":"Engine"}]}"#.to_owned()
        } else if question.contains("/json ") {
            let (status, pid) = self.pid().map_or(("exited", 0), |pid| ("running", pid));
            format!(
                r#"{{"Id":"abc","Name":"/node","State":{{"Status":"{status}","Pid":{pid},"ExitCode":0}}}}"#
            )
        } else if question.contains("/stop?") {
            self.pid().into_iter().for_each(|pid| kill(pid, rustix::process::Signal::TERM));
            return self.unanswered.push(stream);
        } else if question.contains("/start ") {
            self.start(root);
            String::new()
        } else {
            String::new() // Of events.
        };
        let length = said.len();
        // Who asked may be gone.
        let _ =
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{said}").as_bytes());
    }
}

struct Engine<'a> {
    lab: &'a Lab,
    container: Arc<Mutex<Container>>,
}

impl<'a> Engine<'a> {
    /// One whose container runs.
    fn new(lab: &'a Lab) -> Self {
        let listener = UnixListener::bind(lab.root().join("engine")).expect("bound");
        let container = Arc::new(Mutex::new(Container::default()));
        let (root, all) = (lab.root().to_owned(), Arc::clone(&container));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                all.lock().expect("whole").answers(&root, stream);
            }
        });
        let engine = Self { lab, container };
        engine.container.lock().expect("whole").start(lab.root());
        waits("the container", || lab.n_begun() == 1);
        engine
    }

    fn pid(&self) -> Option<i32> {
        self.container.lock().expect("whole").pid()
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        // It would have the container started again.
        for guard in guards(&self.lab.root().join("state")) {
            kill(guard, rustix::process::Signal::KILL);
        }
        if let Some(mut process) =
            self.container.lock().ok().and_then(|mut container| container.process.take())
        {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn a_container_that_is_late_is_started_when_it_has_stopped_though_its_engine_has_forgotten_that_it_was_told()
{
    ground!("btrfs");
    let lab = Lab::new("");
    let engine = Engine::new(&lab);
    lab.write(
        "[job.node]\ndatasets = [\"ROOT/mnt/node\"]\n[job.node.quiesce]\nstop_within = \"300ms\"\n\
         [[job.node.quiesce.service]]\ncontainer = \"node\"\nengine = \"docker\"\nsocket = \"ROOT/engine\"\n",
    );
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("container node did not stop within 300ms"), "{said}");
    // Its guard is gone, too: whoever comes next waits for it, and knows it to stop.
    for guard in guards(&lab.root().join("state")) {
        kill(guard, rustix::process::Signal::KILL);
    }
    waits("the guard's end", || guards(&lab.root().join("state")).is_empty());
    let (_, said) = lab.ends(5, "job recover node");
    assert!(said.contains("is stopping still"), "{said}");
    let before = engine.pid();
    assert!(lab.lease().exists() && before.is_some());
    fs::write(lab.root().join("may-end"), "").expect("written");
    waits("the container's end", || engine.pid() != before);
    lab.ends(0, "job recover node");
    waits("the container", || lab.n_begun() == 2);
    assert!(engine.pid().is_some() && !lab.lease().exists());
}
