//! Paths below a directory that never leave it: no `..`, no symbolic link, no other filesystem.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// The longest path that is resolved in one call, in bytes.
const PATH_STEP: usize = 4000;

/// What makes `path` one that could lead out, or that nobody can have made; `Ok` for a relative path of sound components.
pub(crate) fn check(path: &[u8]) -> Result<(), &'static str> {
    match path.first() {
        None => return Err("an empty path"),
        Some(b'/') => return Err("an absolute path"),
        Some(_) => {}
    }
    for component in path.split(|&b| b == b'/') {
        match component {
            b"" => return Err("an empty component in a path"),
            b"." | b".." => return Err("a . or .. in a path"),
            _ if component.len() > 255 => return Err("a name of more than 255 bytes"),
            _ if component.contains(&0) => return Err("a NUL in a path"),
            _ => {}
        }
    }
    Ok(())
}

/// The directory part of a path, which is empty for the root, and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        None => (b"", path),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
    }
}

/// Opens the directory at `path` beneath `root`; the root itself for an empty path.
pub(crate) fn open_dir(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens what is at `path` beneath `root`, in steps where the path is longer than the kernel takes. A symbolic link at its end is
/// not followed either.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut rest = path;
    let mut stood: Option<OwnedFd> = None;
    while rest.len() > PATH_STEP {
        // Components are at most 255 bytes long, so there is a slash.
        let slash = rest[..PATH_STEP].iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?;
        let from = stood.as_ref().map_or(root, |fd| fd.as_fd());
        stood = Some(step(from, &rest[..slash], OFlags::RDONLY | OFlags::DIRECTORY)?);
        rest = &rest[slash + 1..];
    }
    step(stood.as_ref().map_or(root, |fd| fd.as_fd()), rest, flags)
}

fn step(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o600) } else { Mode::empty() };
    loop {
        // AGAIN: a rename elsewhere raced with the walk.
        match openat2(from, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_lead_out_is_named() {
        for bad in ["", "/etc", "a//b", "a/", ".", "..", "a/../b", "a/.", "a\0b"] {
            assert!(check(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(check(&[b'x'; 256]).is_err());
        for good in ["a", "a/b", "...", "a b", "..a/b.."] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn links_are_not_followed_and_long_paths_are_walked() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = std::fs::File::open(folder.path()).expect("opens");
        std::os::unix::fs::symlink("/etc", folder.path().join("out")).expect("a link");
        for path in ["out", "out/passwd", "../x", "/etc"] {
            assert!(open(root.as_fd(), path.as_bytes(), OFlags::RDONLY).is_err(), "{path}");
        }
        let name = "n".repeat(250);
        let mut path = Vec::new();
        for _ in 0..20 {
            let dir = open_dir(root.as_fd(), &path).expect("opens");
            rustix::fs::mkdirat(&dir, name.as_str(), Mode::RWXU).expect("mkdir");
            path.extend(if path.is_empty() { name.clone() } else { format!("/{name}") }.bytes());
        }
        assert!(path.len() > 4096 && open_dir(root.as_fd(), &path).is_ok());
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }
}
