//! A process that is known by the program it runs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::quiesce::process::{Process, field};

/// What the kernel adds to the name of a program's file that has been replaced since.
const REPLACED: &[u8] = b" (deleted)";

/// The one process that runs the program `exe` and was given `argument`, if one does; those that it has begun itself are not counted.
///
/// # Errors
/// There are several, and nobody can say which.
pub fn find(exe: &Path, argument: Option<&str>) -> Result<Option<Process>, String> {
    let exe = exe.canonicalize().unwrap_or_else(|_| exe.to_owned());
    let told = |error: io::Error| format!("/proc: {error}");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").map_err(told)? {
        let name = entry.map_err(told)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if is_of(pid, &exe, argument) {
            found.insert(pid, field(pid, 4).and_then(|parent| i32::try_from(parent).ok()));
        }
    }
    let is_first = |parent: &Option<i32>| parent.is_none_or(|parent| !found.contains_key(&parent));
    let first: Vec<_> = found.iter().filter(|(_, parent)| is_first(parent)).map(|(&pid, _)| pid).collect();
    match first.as_slice() {
        [] => Ok(None),
        [pid] => Ok(Process::of(*pid)),
        all => {
            let all: Vec<_> = all.iter().map(ToString::to_string).collect();
            let which = all.join(", ");
            Err(format!(
                "processes {which} run {}: name an argument that one of them alone has",
                exe.display()
            ))
        }
    }
}

/// Whether a process runs it here, and not in a container, whose paths are others.
fn is_of(pid: i32, exe: &Path, argument: Option<&str>) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let Some(program) = program(&process) else { return false };
    let is_same = |path: &[u8]| path == exe.as_os_str().as_bytes();
    let bytes = program.as_os_str().as_bytes();
    if !is_same(bytes) && !bytes.strip_suffix(REPLACED).is_some_and(is_same) {
        return false;
    }
    if super::process::is_in_a_container(pid) {
        return false;
    }
    let Some(argument) = argument else { return true };
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).skip(1).any(|word| OsStr::from_bytes(word) == argument)
}

/// Of one whose first thread has ended, another thread says it.
fn program(process: &Path) -> Option<PathBuf> {
    match fs::read_link(process.join("exe")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let threads = fs::read_dir(process.join("task")).ok()?;
            threads.flatten().find_map(|thread| fs::read_link(thread.path().join("exe")).ok())
        }
        link => link.ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn started(exe: &Path, seconds: &str) -> Child {
        let mut command = Command::new(exe);
        command.arg(seconds).stdin(Stdio::null()).spawn().expect("it starts")
    }

    fn ended(mut child: Child) {
        child.kill().and_then(|()| child.wait()).expect("killed");
    }

    #[test]
    fn a_process_is_known_by_its_program_and_an_argument_and_two_are_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let sleep = folder.path().join("node");
        fs::copy("/bin/sleep", &sleep).expect("copied");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&sleep, &link).expect("made");
        assert!(find(&sleep, None).expect("looked").is_none());
        let one = started(&sleep, "601");
        let pid = i32::try_from(one.id()).expect("a number");
        crate::quiesce::service::eventually(None, false, || Ok(find(&sleep, None)?.is_some()))
            .expect("there");
        assert_eq!(find(&link, None).expect("looked"), Process::of(pid));
        assert_eq!(find(&sleep, Some("601")).expect("looked"), Process::of(pid));
        assert!(find(&sleep, Some("60")).expect("looked").is_none(), "a part of an argument");
        let two = started(&sleep, "602");
        let both = || find(&sleep, Some("602")).map(|found| found.is_some());
        crate::quiesce::service::eventually(None, false, both).expect("there");
        let error = find(&sleep, None).expect_err("two run");
        assert!(error.contains("name an argument"), "{error}");
        // Its file is replaced by an update.
        fs::remove_file(&sleep).expect("removed");
        assert_eq!(find(&sleep, Some("601")).expect("looked"), Process::of(pid));
        ended(one);
        ended(two);
        assert!(find(&sleep, None).expect("looked").is_none());
    }

    #[test]
    fn what_a_process_has_begun_itself_is_not_another_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let shell = folder.path().join("node");
        fs::copy("/bin/sh", &shell).expect("copied");
        let up = folder.path().join("up");
        let line = format!("({0} -c 'read x'; :) <&0 & echo > {1}; read x", shell.display(), up.display());
        let mut command = Command::new(&shell);
        let mut child = command.args(["-c", &line]).stdin(Stdio::piped()).spawn().expect("it starts");
        while !up.exists() {
            std::thread::yield_now();
        }
        let pid = i32::try_from(child.id()).expect("a number");
        assert_eq!(find(&shell, None).expect("one that counts"), Process::of(pid));
        drop(child.stdin.take());
        child.kill().and_then(|()| child.wait()).expect("killed");
    }
}
