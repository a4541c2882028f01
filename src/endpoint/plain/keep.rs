//! What an increment needs of its base, set aside before the tree is changed: shared where the filesystem can, else copied.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::endpoint::beneath::{check, open, split};
use crate::endpoint::btrfs::receive::Needs;
use crate::endpoint::dir::open_beneath;
use crate::endpoint::plain::{BASE, Staging, TREE};
use crate::endpoint::tree::remove_all;
use crate::endpoint::{Error, Result};
use crate::sys::interrupt;

const CHUNK: usize = 1 << 20;

impl Staging<'_> {
    /// Makes `base`, with a file for each of `needs`, by its place there.
    pub(super) fn set_aside(&self, needs: &Needs) -> Result<()> {
        remove_all(self.fd(), Path::new(BASE)).map_err(self.target.io("clear up beside"))?;
        if needs.is_empty() {
            return Ok(());
        }
        rustix::fs::mkdirat(self.fd(), BASE, Mode::RWXU)
            .map_err(self.target.io("make a directory beside"))?;
        let open = |name| open_beneath(self.fd(), Path::new(name));
        let (tree, base) = (open(TREE), open(BASE));
        let (tree, base) =
            (tree.map_err(self.target.io("open"))?, base.map_err(self.target.io("open what is beside"))?);
        for (number, ((_, path), range)) in needs.iter().enumerate() {
            interrupt::check().map_err(|_| Error::Interrupted {
                op: "restore to",
                subject: self.target.path.display().to_string(),
            })?;
            let from = regular(tree.as_fd(), path)?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to = rustix::fs::openat(&base, number.to_string(), flags, Mode::RUSR | Mode::WUSR)
                .map_err(self.target.io("keep files of the base beside"))?;
            set_aside(from, to, range.clone())
                .map_err(Error::io("keep of the base", path.escape_ascii().to_string()))?;
        }
        Ok(())
    }
}

/// The regular file `path` of the tree.
fn regular(tree: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let corrupt = |why: &str| Error::Corrupt {
        what: "btrfs stream",
        why: format!("it clones from {}: {why}", path.escape_ascii()),
        source: None,
    };
    check(path).map_err(corrupt)?;
    let missing = |error: rustix::io::Errno| corrupt(&format!("which its base does not have ({error})"));
    let (above, name) = split(path);
    let above = open(tree, above, OFlags::RDONLY | OFlags::DIRECTORY).map_err(missing)?;
    // Nothing else is opened: opening a device or a FIFO acts on it.
    let mode = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(corrupt("which is no regular file"));
    }
    open(above.as_fd(), name, OFlags::RDONLY | OFlags::NONBLOCK).map_err(missing)
}

/// Makes `to` equal to `from` within `range`.
fn set_aside(from: OwnedFd, to: OwnedFd, range: Range<u64>) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    let (from, to) = (File::from(from), File::from(to));
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = range.start;
    while at < range.end.min(len) {
        interrupt::check()?;
        let wanted = (range.end.min(len) - at).min(CHUNK as u64) as usize;
        let n = from.read_at(&mut buffer[..wanted], at)?;
        if n == 0 {
            break;
        }
        if buffer[..n].iter().any(|&byte| byte != 0) {
            to.write_all_at(&buffer[..n], at)?;
        }
        at += n as u64;
    }
    Ok(())
}
