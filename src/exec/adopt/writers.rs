//! Processes that could change a tree while it is copied: a copy of a running node is corrupt.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::exec::adopt::scan::{Kind, Tree};

/// A process that has a file of a tree open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Its process id.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// Finds the processes that have a file of `tree` open or mapped for writing, in containers too: files are told by
/// device and inode, not by path. Without CAP_SYS_PTRACE, other users' processes are not seen.
pub fn writers(tree: &Tree) -> Vec<Writer> {
    let files: HashSet<u64> =
        tree.entries.iter().filter(|e| e.kind != Kind::Directory).map(|e| e.stamp.inode).collect();
    let own = std::process::id();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let writes =
        |pid: u32| open_for_writing(pid, tree.device, &files).or_else(|| mapped(pid, tree.device, &files));
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| Some(Writer { pid, path: writes(pid)?, name: name_of(pid) }))
        .collect()
}

fn open_for_writing(pid: u32, device: u64, files: &HashSet<u64>) -> Option<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    for fd in fs::read_dir(process.join("fd")).ok()?.flatten() {
        let Ok(meta) = fs::metadata(fd.path()) else { continue };
        if meta.dev() != device || !files.contains(&meta.ino()) {
            continue;
        }
        let info = fs::read_to_string(process.join("fdinfo").join(fd.file_name())).unwrap_or_default();
        if flags(&info).is_none_or(|flags| flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32) {
            return Some(fs::read_link(fd.path()).unwrap_or_else(|_| fd.path()));
        }
    }
    None
}

/// The open flags in a `fdinfo`, which are octal.
fn flags(info: &str) -> Option<u32> {
    let line = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// A shared writable mapping outlives its descriptor.
fn mapped(pid: u32, device: u64, files: &HashSet<u64>) -> Option<PathBuf> {
    let maps = fs::read(format!("/proc/{pid}/maps")).ok()?;
    let maps = String::from_utf8_lossy(&maps);
    maps.lines().find_map(|line| writable_mapping(line, device, files))
}

/// `7f00-7f01 rw-s 00000000 fe:00 10018962   /srv/chain/db`
fn writable_mapping(line: &str, device: u64, files: &HashSet<u64>) -> Option<PathBuf> {
    let mut fields = line.split_ascii_whitespace();
    let rights = fields.nth(1)?;
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let same = rustix::fs::makedev(number(major)?, number(minor)?) == device;
    let inode: u64 = fields.next()?.parse().ok()?;
    let path = Path::new(line.split_once('/').map_or("a mapping", |_| &line[line.find('/').unwrap_or(0)..]));
    (rights.starts_with("rw") && rights.ends_with('s') && same && files.contains(&inode)).then(|| path.into())
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_writable_mappings_of_these_files_count() {
        let device = rustix::fs::makedev(0xfe, 0);
        let files = HashSet::from([42]);
        let line =
            |rights: &str, inode: u64| format!("7f00-7f01 {rights} 00000000 fe:00 {inode}   /srv/a db");
        let found = |line: String| writable_mapping(&line, device, &files);
        assert_eq!(found(line("rw-s", 42)), Some("/srv/a db".into()));
        assert_eq!(found(line("rw-p", 42)), None);
        assert_eq!(found(line("r--s", 42)), None);
        assert_eq!(found(line("rw-s", 43)), None);
        assert_eq!(found("7f00-7f01 rw-p 00000000 00:00 0".into()), None);
    }

    #[test]
    fn open_flags_are_octal() {
        assert_eq!(flags("pos:\t0\nflags:\t0100002\nmnt_id:\t29\n"), Some(0o100_002));
        assert_eq!(flags(""), None);
    }
}
