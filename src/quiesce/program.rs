//! A process that is known by the program it runs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::model::Service;
use crate::quiesce::process::{Process, field};
use crate::quiesce::{Error, Result};
use crate::sys::sandbox::Ids;

/// What the kernel adds to the name of a program's file that has been replaced since.
const REPLACED: &[u8] = b" (deleted)";

/// The one process that runs the program `exe`, was given `argument`, is `user`'s and has begun `since` then, if one does; those that it has begun itself are not counted.
///
/// # Errors
/// There are several, and nobody can say which; no user is called so.
pub fn find(
    exe: &Path,
    argument: Option<&str>,
    user: Option<&str>,
    since: Option<u64>,
) -> Result<Option<Process>, String> {
    let told = |error: io::Error| format!("/proc: {error}");
    let wanted = Wanted { exe: Exe::of(exe), argument, user: user.map(number).transpose()? };
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").map_err(told)? {
        let name = entry.map_err(told)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let is_since =
            || since.is_none_or(|tick| Process::of(pid).is_some_and(|process| process.is_since(tick)));
        if wanted.is_of(pid) && is_since() {
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
                "processes {which} run {}: name an argument that one of them alone has, or its user",
                exe.display()
            ))
        }
    }
}

/// That it can be told whether that runs: of a program that is no file here, and that nobody runs, the name may be wrong.
///
/// # Errors
/// [`Error::NoProgram`].
pub fn is_known(service: &Service) -> Result<()> {
    let Service::Program { exe, argument, user, .. } = service else { return Ok(()) };
    let (is_file, is_there) = match fs::metadata(exe) {
        Ok(meta) => (meta.is_file(), true),
        Err(error) => {
            (!matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory), false)
        }
    };
    // It may have been replaced, or removed, since.
    match is_file || find(exe, argument.as_deref(), user.as_deref(), None).is_ok_and(|found| found.is_some())
    {
        true => Ok(()),
        false => {
            let what = match is_there {
                true => format!("{} is no file", exe.display()),
                false => format!("there is no file {}", exe.display()),
            };
            Err(Error::NoProgram { service: service.to_string(), what })
        }
    }
}

fn number(user: &str) -> Result<u32, String> {
    let found = Ids::of(user).map_err(|error| format!("user {user}: {error}"))?;
    found.map(|ids| ids.uid()).ok_or_else(|| format!("no user is called {user}"))
}

/// What a process is known by.
struct Wanted<'a> {
    exe: Exe,
    argument: Option<&'a str>,
    user: Option<u32>,
}

/// A program's file: by its inode, whatever path a process knows it by; and by its path, if it has been replaced since a process began.
struct Exe {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl Exe {
    fn of(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Self { inode: inode(&path), path }
    }

    /// Whether a process, or one of its threads, runs it.
    fn is_of(&self, process: &Path) -> bool {
        let Ok(link) = fs::read_link(process.join("exe")) else { return false };
        if self.inode.is_some() && inode(&process.join("exe")) == self.inode {
            return true;
        }
        let is_replaced = link.as_os_str().as_bytes().strip_suffix(REPLACED);
        // A path is the same thing only where the root is.
        is_replaced.is_some_and(|path| path == self.path.as_os_str().as_bytes())
            && inode(&process.join("root")) == inode(Path::new("/"))
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

impl Wanted<'_> {
    /// Whether a process is such a one, and is not in a container.
    fn is_of(&self, pid: i32) -> bool {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let is_whose = || {
            let owner = fs::metadata(&process).ok().map(|meta| meta.uid());
            self.user.is_none_or(|user| owner == Some(user))
        };
        if !self.runs(&process) || super::process::is_in_a_container(pid) || !is_whose() {
            return false;
        }
        let Some(argument) = self.argument else { return true };
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).skip(1).any(|word| OsStr::from_bytes(word) == argument)
    }

    /// Of one whose first thread has ended, another thread says it.
    fn runs(&self, process: &Path) -> bool {
        match fs::read_link(process.join("exe")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
                threads.into_iter().any(|thread| self.exe.is_of(&thread.path()))
            }
            link => link.is_ok() && self.exe.is_of(process),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn find(exe: &Path, argument: Option<&str>) -> Result<Option<Process>, String> {
        super::find(exe, argument, None, None)
    }

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
        let known = |argument: &str| {
            let (exe, argument) = (sleep.clone(), Some(argument.to_owned()));
            is_known(&Service::Program { exe, argument, user: None, start: vec!["true".into()] })
        };
        assert!(known("601").is_ok());
        ended(one);
        ended(two);
        assert!(find(&sleep, None).expect("looked").is_none());
        let error = known("601").expect_err("neither a file nor a process");
        assert_eq!(error.class(), crate::Class::Usage);
        fs::copy("/bin/sleep", &sleep).expect("copied");
        assert!(known("601").is_ok());
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

    #[test]
    fn another_file_of_that_path_another_user_s_process_and_one_that_began_earlier_are_not_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (sleep, name) = (folder.path().join("node"), folder.path().join("name"));
        fs::copy("/bin/sleep", &sleep).expect("copied");
        // The same file, by whatever name it was begun.
        fs::hard_link(&sleep, &name).expect("linked");
        let one = started(&name, "601");
        let pid = i32::try_from(one.id()).expect("a number");
        crate::quiesce::service::eventually(None, false, || Ok(find(&sleep, None)?.is_some()))
            .expect("there");
        let process = Process::of(pid).expect("it is there");
        let since = |tick| super::find(&sleep, None, None, Some(tick)).expect("looked");
        assert_eq!(since(0), Some(process.clone()));
        assert_eq!(since(crate::quiesce::process::now().expect("a clock") + 1), None);
        let of = |user: &str| super::find(&sleep, None, Some(user), None);
        assert!(of("no-such-user").is_err_and(|why| why.contains("no user is called")));
        let root = of("root").expect("looked");
        assert_eq!(root.is_some(), rustix::process::geteuid().is_root());
        assert!(of("daemon").is_ok_and(|found| found.is_none()));
        // Another file takes its place; the one that runs has another name.
        fs::remove_file(&sleep).expect("removed");
        fs::copy("/bin/sleep", &sleep).expect("copied");
        assert!(find(&sleep, None).expect("looked").is_none());
        ended(one);
    }
}
