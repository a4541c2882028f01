//! Where a pidfile is in truth, and who has led there.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::io::Errno;

/// The first line of a pidfile is no longer.
const MAX_LINE: u64 = 64;
/// As many as the kernel follows.
const MAX_LINKS: usize = 40;
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// A path without its links.
#[derive(Debug)]
pub struct Resolved {
    /// Where it leads, be there something or not.
    pub path: PathBuf,
    /// By what the file itself is called: the name that was given, in its true folder, and those that links lead to.
    pub names: BTreeSet<PathBuf>,
    /// The links on the way, and whose they are.
    pub links: Vec<(PathBuf, u32)>,
}

/// Follows the links of an absolute path. What is not there is taken by its name.
pub fn resolve(path: &Path) -> Resolved {
    let (mut real, mut names, mut links) = (PathBuf::from("/"), BTreeSet::new(), Vec::new());
    let mut todo: Vec<OsString> = backwards(path);
    while let Some(name) = todo.pop() {
        if name == OsStr::new("..") {
            real.pop();
            continue;
        }
        real.push(&name);
        if todo.is_empty() {
            names.insert(real.clone());
        }
        let link = fs::symlink_metadata(&real).ok().filter(|meta| meta.is_symlink());
        let link = link.filter(|_| links.len() < MAX_LINKS);
        let Some((meta, target)) = link.zip(fs::read_link(&real).ok()) else { continue };
        links.push((real.clone(), meta.uid()));
        match target.is_absolute() {
            true => real = PathBuf::from("/"),
            false => drop(real.pop()),
        }
        todo.extend(backwards(&target));
    }
    Resolved { path: real, names, links }
}

fn backwards(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    parts.collect()
}

/// What a pidfile says, and who has a say in that.
#[derive(Debug)]
pub struct Said {
    /// Its first line.
    pub line: String,
    /// Of the file.
    pub meta: fs::Metadata,
    /// It did not outlive the machine's last start.
    pub is_in_memory: bool,
    /// The links that lead to it.
    pub links: Vec<(PathBuf, u32)>,
}

/// Reads it. Of a regular file: a pipe would be waited for.
///
/// # Errors
/// No file, or one that can not be read.
pub fn read(path: &Path) -> io::Result<Option<Said>> {
    let Resolved { path, links, .. } = resolve(path);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Who changes a link at this moment leads nowhere.
    let file = match openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT) => return Ok(None),
        opened => File::from(opened?),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let is_in_memory = [TMPFS, RAMFS].contains(&(fstatfs(&file)?.f_type as u64));
    let mut bytes = Vec::new();
    file.take(MAX_LINE).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    Ok(Some(Said { line, meta, is_in_memory, links }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_and_what_is_not_there_yet_is_called_as_it_will_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("there");
        fs::create_dir(root.join("run")).expect("made");
        symlink("run", root.join("var")).expect("made");
        symlink("../run/node/true.pid", root.join("var/link.pid")).expect("made");
        let before = resolve(&root.join("var/node/pid"));
        assert_eq!((before.path, before.links.len()), (root.join("run/node/pid"), 1));
        fs::create_dir(root.join("run/node")).expect("made");
        assert_eq!(resolve(&root.join("var/node/pid")).path, root.join("run/node/pid"));
        let linked = resolve(&root.join("var/link.pid"));
        assert_eq!(linked.path, root.join("run/node/true.pid"));
        assert_eq!(
            linked.names.into_iter().collect::<Vec<_>>(),
            [root.join("run/link.pid"), root.join("run/node/true.pid")]
        );
        symlink("loop", root.join("loop")).expect("made");
        assert_eq!(resolve(&root.join("loop")).links.len(), MAX_LINKS);
        assert!(read(&root.join("loop")).is_err());
        assert!(read(&root.join("var/link.pid")).expect("it is not there").is_none());
        fs::write(root.join("run/node/true.pid"), " 7 \n8").expect("written");
        let found = read(&root.join("var/link.pid")).expect("read").expect("it is there");
        assert_eq!((found.line.as_str(), found.links.len()), ("7", 2));
    }
}
