//! The `zfs` and `zpool` programs, for what no library call can do: lists, properties, mounts of datasets, comparisons.
//!
//! Names go through the argument vector, never through a shell. What is printed is asked for in fixed columns, without
//! headings, numbers unrounded, in the C locale.

use std::ffi::OsStr;
use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::list::number;
use crate::endpoint::{Error, Result};
use crate::sys::interrupt;

/// Where the programs are, beside what PATH says: an ordinary user's PATH may lack them.
const USUAL_PLACES: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Why a program did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be started.
    Missing(&'static str, io::Error),
    /// What it said on standard error.
    Said(String),
}

impl Failure {
    /// As an error: `op` was attempted on `subject`.
    pub(super) fn into_error(self, op: &'static str, subject: impl ToString) -> Error {
        let subject = subject.to_string();
        match self {
            Self::Missing(program, why) if why.kind() == io::ErrorKind::NotFound => Error::Denied {
                op,
                subject,
                lacking: format!("zfs: the program {program} was not found"),
                hint: Some("install OpenZFS: apt-get install zfsutils-linux".into()),
            },
            Self::Missing(program, why) => Error::io("run", program)(why),
            Self::Said(words) => of_words(op, subject, words),
        }
    }
}

/// The programs' words for what they have no exit codes for.
fn of_words(op: &'static str, subject: String, words: String) -> Error {
    let says = |text: &str| words.to_lowercase().contains(text);
    if says("dataset does not exist") || says("no such pool") {
        return Error::NotFound { what: "dataset", subject, hint: None };
    }
    if says("permission denied") || says("delegated permission is needed") || says("operation not permitted")
    {
        return Error::Denied { op, subject, lacking: words, hint: Some("run it as root".into()) };
    }
    if says("modules cannot be") || says("modules are not loaded") {
        return Error::Denied { op, subject, lacking: words, hint: Some("modprobe zfs".into()) };
    }
    Error::io(op, subject)(io::Error::other(words))
}

/// Runs `zfs` and returns what it prints.
pub(super) fn zfs<S: AsRef<OsStr>>(args: &[S]) -> Result<Vec<u8>, Failure> {
    printed("zfs", args)
}

fn command<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = path;
    places.push(":");
    places.push(USUAL_PLACES);
    let mut command = Command::new(program);
    command.args(args).env("PATH", places).env("LC_ALL", "C").env_remove("ZFS_COLOR").stdin(Stdio::null());
    command
}

fn words_of(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    let words: Vec<_> = words.split_whitespace().collect();
    match words.is_empty() {
        true => format!("it ended with {}", output.status),
        false => words.join(" "),
    }
}

/// Runs `zpool` and returns what it prints.
pub(super) fn zpool<S: AsRef<OsStr>>(args: &[S]) -> Result<Vec<u8>, Failure> {
    printed("zpool", args)
}

fn printed<S: AsRef<OsStr>>(program: &'static str, args: &[S]) -> Result<Vec<u8>, Failure> {
    let output = command(program, args).output().map_err(|why| Failure::Missing(program, why))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(Failure::Said(words_of(&output))),
    }
}

/// As [`zfs`], until a signal comes, and for no longer than `patience`: one that hangs with its pool is left behind.
pub(super) fn zfs_within<S: AsRef<OsStr>>(args: &[S], patience: Duration) -> Result<Vec<u8>, Failure> {
    within("zfs", command("zfs", args), patience)
}

/// As [`zfs_within`], of `zpool`.
pub(super) fn zpool_within<S: AsRef<OsStr>>(args: &[S], patience: Duration) -> Result<Vec<u8>, Failure> {
    within("zpool", command("zpool", args), patience)
}

fn within(program: &'static str, mut command: Command, patience: Duration) -> Result<Vec<u8>, Failure> {
    let failed = |why| Failure::Missing(program, why);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let pidfd = pidfd.map_err(|why| failed(why.into()))?;
    let (done, answer) = mpsc::channel();
    // Whoever reads what it prints waits for it as long as it takes.
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let until = Instant::now() + patience;
    let output = loop {
        let why = match answer.recv_timeout(Duration::from_millis(50)) {
            Ok(output) => break output.map_err(failed)?,
            Err(_) => interrupt::check().err(),
        };
        let too_long =
            || io::Error::new(io::ErrorKind::TimedOut, "it does not answer; zpool status says more");
        if let Some(why) = why.or_else(|| (Instant::now() > until).then(too_long)) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            return Err(failed(why));
        }
    };
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(Failure::Said(words_of(&output))),
    }
}

/// Runs `zpool` until it is done, a signal comes, or `left` asks, of which the answer says how much there is to do yet, the same or nothing at
/// all for all of `patience`.
pub(super) fn zpool_while_it_gets_on(
    args: &[&str],
    (op, subject): (&'static str, &str),
    patience: Duration,
    left: &[&str],
) -> Result<()> {
    let start = |args, stdout: Stdio| {
        let started = command("zpool", args).stdout(stdout).stderr(Stdio::piped()).spawn();
        started.map_err(|why| Failure::Missing("zpool", why).into_error(op, subject))
    };
    let child = start(args, Stdio::null())?;
    let output = wait(child, (op, subject), patience, || start(left, Stdio::piped()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::Said(words_of(&output)).into_error(op, subject)),
    }
}

/// A program that only looks, and is ended with the value: that changes nothing.
struct Looking(Option<Child>);

impl Looking {
    fn has_ended(&mut self) -> io::Result<bool> {
        self.0.as_mut().map_or(Ok(true), |child| Ok(child.try_wait()?.is_some()))
    }

    /// What it printed, once it has ended.
    fn output(mut self) -> io::Result<Output> {
        self.0.take().expect("it is taken once").wait_with_output()
    }
}

impl Drop for Looking {
    /// Who waits for a pool that hangs does not end: that is not waited for long.
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        let _ = child.kill();
        for _ in 0..100 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn wait(
    child: Child,
    (op, subject): (&'static str, &str),
    patience: Duration,
    ask: impl Fn() -> Result<Child>,
) -> Result<Output> {
    let io = |error| Error::io(op, subject)(error);
    let (mut child, mut asked) = (Looking(Some(child)), None::<Looking>);
    let mut pause = Duration::from_millis(1);
    let mut seen = (None, Instant::now());
    let mut looked = Instant::now();
    while !child.has_ended().map_err(io)? {
        interrupt::check().map_err(|_| Error::Interrupted { op, subject: subject.into() })?;
        let has_answered = asked.as_mut().map_or(Ok(false), Looking::has_ended).map_err(io)?;
        match asked.take() {
            None if looked.elapsed() >= patience / 10 => asked = Some(Looking(Some(ask()?))),
            None => {}
            Some(looking) if !has_answered => asked = Some(looking),
            Some(looking) => {
                let now = left(&looking.output().map_err(io)?, (op, subject))?;
                looked = Instant::now();
                if seen.0 != Some(now) {
                    seen = (Some(now), looked);
                }
            }
        }
        if seen.1.elapsed() > patience {
            let why = "it is destroyed, and nothing of the space that its pool frees has come back";
            return Err(io(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    child.output().map_err(io)
}

fn left(output: &Output, (op, subject): (&'static str, &str)) -> Result<u64> {
    match output.status.success() {
        true => number(String::from_utf8_lossy(&output.stdout).trim()),
        false => Err(Failure::Said(words_of(output)).into_error(op, subject)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn class(words: &str) -> Class {
        Failure::Said(words.into()).into_error("list", "tank/a b").class()
    }

    fn running(program: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", program]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
    }

    #[test]
    fn what_does_not_get_on_is_not_waited_for_and_what_does_is() {
        let (patience, waiting) = (Duration::from_millis(300), || running("exec sleep 3"));
        let what = ("wait for", "x");
        let stuck = wait(waiting(), what, patience, || Ok(running("echo 7"))).expect_err("it stands still");
        assert!(stuck.class() == Class::Unreachable && stuck.to_string().contains('x'), "{stuck}");
        // Who asks does not come back either.
        let hangs = wait(waiting(), what, patience, || Ok(running("exec sleep 1000"))).expect_err("it hangs");
        assert!(hangs.class() == Class::Unreachable, "{hangs}");
        let patience = Duration::from_secs(2);
        let gets_on = || Ok(running("date +%s%N"));
        assert!(wait(waiting(), what, patience, gets_on).expect("it ends").status.success());
        let failed = || Ok(running("echo 'no such pool' >&2; exit 1"));
        let failed = wait(waiting(), what, patience, failed).expect_err("it says so");
        assert_eq!(failed.class(), Class::Usage, "{failed}");
    }

    #[test]
    fn who_only_asks_waits_for_no_pool_that_hangs() {
        let of = |program: &str, patience| {
            let mut command = Command::new("sh");
            command.args(["-c", program]).stdin(Stdio::null());
            within("zfs", command, patience)
        };
        let long = Duration::from_secs(60);
        // More than a pipe holds.
        assert_eq!(of("head -c 200000 /dev/zero", long).expect("it answers").len(), 200_000);
        assert!(matches!(of("echo no >&2; exit 1", long), Err(Failure::Said(words)) if words == "no"));
        let hangs = of("exec sleep 1000", Duration::from_millis(100)).expect_err("it hangs");
        assert_eq!(hangs.into_error("list", "tank/a b").class(), Class::Unreachable);
    }

    #[test]
    fn the_words_of_the_program_decide_the_class() {
        assert_eq!(class("cannot open 'tank/a b': dataset does not exist"), Class::Usage);
        assert_eq!(class("cannot open 'tank': no such pool"), Class::Usage);
        assert_eq!(class("cannot mount 'tank/a b': permission denied"), Class::Denied);
        assert_eq!(class("The ZFS modules are not loaded. Try running '/sbin/modprobe zfs'"), Class::Denied);
        assert_eq!(class("something new"), Class::Internal);
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_a_hint() {
        let missing = Failure::Missing("zfs", io::Error::from_raw_os_error(libc::ENOENT));
        let error = missing.into_error("list", "tank/a b");
        assert_eq!(error.to_string(), "cannot list tank/a b: zfs: the program zfs was not found");
        assert!(error.hint().is_some_and(|hint| hint.contains("zfsutils-linux")));
    }

    #[test]
    fn arguments_arrive_as_they_are() {
        let output = command("printf", &["[%s]", "tank/a b:c%d", "$(x)"]).output().expect("printf");
        assert_eq!(output.stdout, b"[tank/a b:c%d][$(x)]");
    }

    #[test]
    fn what_a_program_says_is_one_line() {
        let output = command("sh", &["-c", "echo 'a\n  b' >&2; exit 3"]).output().expect("sh");
        assert_eq!(words_of(&output), "a b");
        let output = command("sh", &["-c", "exit 3"]).output().expect("sh");
        assert_eq!(words_of(&output), "it ended with exit status: 3");
    }
}
