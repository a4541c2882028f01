//! What is mounted where, and who uses it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::endpoint::{Error, Result};

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// The directory of the filesystem that is shown.
    pub root: PathBuf,
    /// Where it is shown.
    pub at: PathBuf,
    /// `btrfs`, `ext4` …
    pub kind: String,
    /// The device, where there is one.
    pub source: PathBuf,
}

/// All mounts that this process sees, in the order in which they were made.
pub(crate) fn all() -> Result<Vec<Mounted>> {
    let path = "/proc/self/mountinfo";
    let text = fs::read(path).map_err(Error::io("read", path))?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// The mounts at or below `folder`.
pub(crate) fn below(folder: &Path) -> Result<Vec<Mounted>> {
    Ok(all()?.into_iter().filter(|mounted| mounted.at.starts_with(folder)).collect())
}

/// `36 35 98:0 /root /mountpoint rw,noatime shared:1 - ext4 /dev/root rw`
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&b| b == b' ');
    let root = unescape(fields.nth(3)?);
    let at = unescape(fields.next()?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(after.next()?).into_owned();
    Some(Mounted { root, at, kind, source: unescape(after.next()?) })
}

/// The kernel writes space, tab, newline and backslash as `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |b: &u8| b.wrapping_sub(b'0') & 7;
        match tail {
            [a, b, c, tail @ ..] if first == b'\\' => {
                bytes.push(octal(a) << 6 | octal(b) << 3 | octal(c));
                rest = tail;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_line_is_read_with_its_optional_fields_and_escapes() {
        let line = br"36 35 98:0 /mnt1 /mnt/a\040b\134c rw,noatime master:1 shared:2 - btrfs /dev/loop3 rw,errors=continue";
        let mounted = parse(line).expect("a mount line");
        assert_eq!(mounted.root, Path::new("/mnt1"));
        assert_eq!(mounted.at, Path::new("/mnt/a b\\c"));
        assert_eq!((mounted.kind.as_str(), mounted.source.as_path()), ("btrfs", Path::new("/dev/loop3")));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 98:0 / /x rw"), None);
    }

    #[test]
    fn an_escape_that_is_cut_off_is_taken_as_it_stands() {
        assert_eq!(unescape(br"a\0"), Path::new(r"a\0"));
    }
}
