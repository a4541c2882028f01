//! The `zfs` and `zpool` programs, for what no library call can do: lists, properties, mounts of datasets, comparisons.
//!
//! Names go through the argument vector, never through a shell. What is printed is asked for in fixed columns, without
//! headings, numbers unrounded, in the C locale.

use std::ffi::OsStr;
use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

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

/// Runs `zpool` for as long as it takes, or until a signal comes.
pub(super) fn zpool_until_done<S: AsRef<OsStr>>(args: &[S], op: &'static str, subject: &str) -> Result<()> {
    let started = command("zpool", args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = started.map_err(|why| Failure::Missing("zpool", why).into_error(op, subject))?;
    let output = wait(child, op, subject)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::Said(words_of(&output)).into_error(op, subject)),
    }
}

fn wait(mut child: Child, op: &'static str, subject: &str) -> Result<Output> {
    let mut pause = Duration::from_millis(1);
    while child.try_wait().map_err(Error::io(op, subject))?.is_none() {
        if interrupt::check().is_err() {
            // It only waits: ending it changes nothing.
            child.kill().and_then(|()| child.wait()).map_err(Error::io(op, subject))?;
            return Err(Error::Interrupted { op, subject: subject.into() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    child.wait_with_output().map_err(Error::io(op, subject))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn class(words: &str) -> Class {
        Failure::Said(words.into()).into_error("list", "tank/a b").class()
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
