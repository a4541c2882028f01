//! What is mounted where, and who uses it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::endpoint::{Error, Result};
use crate::sys::mount::{self, MountInfo};

/// All mounts that this process sees, in the order in which they were made.
pub(crate) fn all() -> Result<Vec<MountInfo>> {
    mount::mounts().map_err(Error::io("read", "/proc/self/mountinfo"))
}

/// The mounts at or below `folder`.
pub(crate) fn below(folder: &Path) -> Result<Vec<MountInfo>> {
    Ok(all()?.into_iter().filter(|mounted| mounted.dir.starts_with(folder)).collect())
}

/// A process that keeps something busy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct User {
    /// Its process id.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// What it uses.
    pub path: String,
}

/// The processes that have a file open, or their working or root directory, at or below one of `folders`.
///
/// By path: a process that sees the files under other paths, in a container, is not found.
pub(crate) fn users(folders: &[PathBuf]) -> Vec<User> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| {
        let path = open_paths(pid).into_iter().find(|p| folders.iter().any(|f| p.starts_with(f)))?;
        Some(User { pid, name: process_name(pid), path: path.display().to_string() })
    })
    .collect()
}

/// `litecoind (1234), tail (1240)`
pub(crate) fn list_users(users: &[User]) -> String {
    let mut names: Vec<_> =
        users.iter().take(5).map(|user| format!("{} ({})", user.name, user.pid)).collect();
    if users.len() > names.len() {
        names.push(format!("{} more", users.len() - names.len()));
    }
    names.join(", ")
}

/// A process' name, as `ps` shows it.
pub(crate) fn process_name(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned()
}

fn open_paths(pid: u32) -> Vec<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    let fixed = ["cwd", "root", "exe"].map(|name| process.join(name));
    let mut paths: Vec<_> = files.chain(fixed).filter_map(|link| fs::read_link(link).ok()).collect();
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    let mapped = maps.split(|&b| b == b'\n').filter_map(|line| line.splitn(2, |&b| b == b'/').nth(1));
    paths.extend(mapped.map(|path| Path::new("/").join(std::ffi::OsStr::from_bytes(path))));
    paths
}
