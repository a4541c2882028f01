//! A job's process: begun by a thread of its own, as that may hang, too, and waited for by it.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::daemon::{Message, spawn, whole};
use crate::{Error, Result, sys};

/// One that is there.
pub(super) struct Child {
    /// Since when.
    pub since: Instant,
    /// Somebody wants the job to be called once more when it is over.
    pub is_wanted_again: bool,
    stage: Arc<Mutex<Stage>>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, with that exit code.
    Exit(i32),
    /// With that exit code, which says that it failed, and with something new in the job's record: it has come to be a run.
    Failed(i32),
    /// By a signal.
    Killed(i32),
    /// It could not be begun.
    Never(String),
    /// It was not begun, as nobody wanted it any more.
    Unwanted,
}

/// Where it is. **Invariant:** nobody has waited for the process `At`, so that the number is nobody else's.
enum Stage {
    Begun { is_to_end: bool },
    At(Pid),
    Over,
}

impl Child {
    /// Begins it, if that `is_wanted` still; `tell` hears of its end, and of whether it has written a `record`.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn begin(
        job: &str,
        mut command: Command,
        is_wanted: impl FnOnce() -> bool + Send + 'static,
        record: Option<PathBuf>,
        tell: &Sender<Message>,
    ) -> Result<Self> {
        command.stdin(Stdio::null());
        // A terminal's signals would reach it a second time, which is to end at once.
        sys::child::own_session(&mut command);
        let stage = Arc::new(Mutex::new(Stage::Begun { is_to_end: false }));
        let (its, job, tell) = (stage.clone(), job.to_owned(), tell.clone());
        spawn("a job", move || {
            let how = match is_wanted() {
                true => live(&mut command, &its, record.as_deref())
                    .unwrap_or_else(|error| Ended::Never(whole(&error))),
                false => Ended::Unwanted,
            };
            // Nobody hears only when all is over.
            drop(tell.send(Message::Ended { job, how }));
        })?;
        Ok(Self { since: Instant::now(), is_wanted_again: false, stage })
    }

    /// Asks it to come to an end, once: a job starts what it has stopped, and cleans up.
    pub(super) fn end(&self) {
        match &mut *held(&self.stage) {
            Stage::Begun { is_to_end } => *is_to_end = true,
            // It has not been waited for, so it is there.
            Stage::At(pid) => {
                let _ = kill_process(*pid, Signal::TERM);
            }
            Stage::Over => {}
        }
    }
}

/// Begins it and waits for its end.
fn live(command: &mut Command, stage: &Mutex<Stage>, record: Option<&Path>) -> Result<Ended> {
    // Here and not where all jobs are called: the disk may not answer.
    let before = record.and_then(edition);
    let mut child = command.spawn().map_err(Error::io("run", "/proc/self/exe"))?;
    let pid = Pid::from_child(&child);
    if let Stage::Begun { is_to_end: true } = std::mem::replace(&mut *held(stage), Stage::At(pid)) {
        let _ = kill_process(pid, Signal::TERM);
    }
    while let Err(Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
    *held(stage) = Stage::Over;
    let status = child.wait().map_err(Error::io("wait for", format!("process {pid}")))?;
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) if code != 0 && record.and_then(edition) != before => Ended::Failed(code),
        (Some(code), _) => Ended::Exit(code),
        (None, signal) => Ended::Killed(signal.unwrap_or(0)),
    })
}

/// Which of the files it is that have that name one after the other: each is renamed to it when it is whole.
fn edition(path: &Path) -> Option<(u64, i64, i64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

fn held(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a daemon is told by whoever started it, and is nothing to a job.
const NOT_ITS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// This very program, even if there is another one in its place by now.
pub(super) fn this_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("cowsnap");
    for name in NOT_ITS {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    fn ends(command: &str, end: bool) -> Ended {
        let (tell, heard) = channel();
        let mut program = Command::new("/bin/sh");
        program.args(["-c", command]);
        let child = Child::begin("a", program, || true, None, &tell).expect("a thread");
        if end {
            child.end();
        }
        let message = heard.recv_timeout(Duration::from_secs(60)).expect("it ends");
        child.end(); // Nobody is there any more who could get it.
        match message {
            Message::Ended { job, how } if job == "a" => how,
            _ => panic!("something else"),
        }
    }

    #[test]
    fn the_end_of_a_process_is_told_however_it_ends() {
        assert_eq!(ends("exit 7", false), Ended::Exit(7));
        assert_eq!(ends("kill -9 $$", false), Ended::Killed(9));
        // Even if it is asked to before there is a process.
        assert_eq!(ends("while :; do sleep 0.05; done", true), Ended::Killed(15));
        let (tell, heard) = channel();
        let _child =
            Child::begin("a", Command::new("/no/such/program"), || true, None, &tell).expect("a thread");
        match heard.recv_timeout(Duration::from_secs(60)).expect("told") {
            Message::Ended { how: Ended::Never(why), .. } => assert!(why.contains("No such file"), "{why}"),
            _ => panic!("something else"),
        }
        let _child =
            Child::begin("a", Command::new("/no/such/program"), || false, None, &tell).expect("a thread");
        let message = heard.recv_timeout(Duration::from_secs(60)).expect("told");
        assert!(matches!(message, Message::Ended { how: Ended::Unwanted, .. }), "it was begun");
    }

    #[test]
    fn a_failure_that_was_written_down_is_told_from_one_that_was_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = folder.path().join("a.json");
        let ends = |command: &str| {
            let (tell, heard) = channel();
            let mut program = Command::new("/bin/sh");
            program.current_dir(folder.path()).args(["-c", command]);
            let record = Some(record.clone());
            let _child = Child::begin("a", program, || true, record, &tell).expect("a thread");
            match heard.recv_timeout(Duration::from_secs(60)).expect("it ends") {
                Message::Ended { how, .. } => how,
                _ => panic!("something else"),
            }
        };
        assert_eq!(ends("exit 2"), Ended::Exit(2));
        for _ in 0..3 {
            assert_eq!(ends("echo x > new; mv new a.json; exit 1"), Ended::Failed(1));
            assert_eq!(ends("exit 1"), Ended::Exit(1));
        }
        assert_eq!(ends("echo x > new; mv new a.json"), Ended::Exit(0));
    }
}
