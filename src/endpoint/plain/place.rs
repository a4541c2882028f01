//! A finished tree gets its name; what had it keeps another.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{AtFlags, RenameFlags, Stat, Timespec, Timestamps, fstat, fsync, statat};
use rustix::io::Errno;

use crate::endpoint::dir::open_beneath;
use crate::endpoint::plain::{Staging, TREE, There, refused};
use crate::endpoint::{Error, Result};
use crate::model::VersionRef;

impl Staging<'_> {
    /// Gives the tree its name. What stands there is renamed if `replace` says so: to what is answered.
    ///
    /// # Errors
    /// [`Error::Refused`] if something stands there and may not be replaced. What was made stays then.
    pub fn put_in_place(mut self, replace: bool) -> Result<Option<PathBuf>> {
        let target = self.target;
        let there = target.there()?;
        let tree = open_beneath(self.fd(), Path::new(TREE)).map_err(target.io("open what is to be"))?;
        let times = times_of(&tree).map_err(target.io("examine what is to be"))?;
        let kept = match there {
            There::Nothing | There::Empty => {
                self.rename_tree().map_err(|errno| match errno {
                    Errno::NOTEMPTY | Errno::EXIST => in_the_way(&target.path),
                    errno => target.io("rename what was restored to")(errno),
                })?;
                None
            }
            There::Something if !replace => return Err(in_the_way(&target.path)),
            There::Something => Some(self.exchange()?),
        };
        // Some filesystems take a new parent for a change.
        rustix::fs::futimens(&tree, &times).map_err(target.io("set the times of"))?;
        fsync(&tree).and_then(|()| fsync(&target.parent)).map_err(target.io("write the directory of"))?;
        self.clear()?;
        Ok(kept)
    }

    /// The version that a process which ended then has put in the place of what was there, and what that is to be called: what is left is to
    /// [clear](Self::clear) up.
    pub fn in_place(&self) -> Option<(&VersionRef, PathBuf)> {
        let name = OsStr::from_bytes(self.state.keep_as.as_ref()?);
        let parent = &self.target.parent;
        let stat = |dir: BorrowedFd<'_>, name: &OsStr| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let is_ours = |stat: &Stat| stat.st_ino == self.state.inode;
        let there = stat(parent.as_fd(), &self.target.name).is_some_and(|there| is_ours(&there));
        // Beside it there must be what it was exchanged for: else it is another directory of the same number.
        let exchanged = match stat(self.fd(), OsStr::new(TREE)) {
            Some(tree) => !is_ours(&tree),
            None => stat(parent.as_fd(), name).is_some(),
        };
        let holds = self.state.holds.as_ref().filter(|_| self.state.applying.is_none())?;
        (there && exchanged).then(|| (holds, self.target.path.with_file_name(name)))
    }

    fn rename_tree(&self) -> Result<(), Errno> {
        // A directory never takes the place of one that holds something.
        rustix::fs::renameat(&self.fd, TREE, &self.target.parent, &self.target.name)
    }

    /// Puts the tree in the place of what is there, and gives that another name.
    fn exchange(&mut self) -> Result<PathBuf> {
        let name = self.free_name()?;
        self.state.keep_as = Some(name.as_bytes().to_vec());
        self.write_state()?;
        let (target, parent) = (self.target, &self.target.parent);
        match rustix::fs::renameat_with(&self.fd, TREE, parent, &target.name, RenameFlags::EXCHANGE) {
            Ok(()) => self.finish_exchange()?,
            // Not every filesystem exchanges: for a moment, nothing is there.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let kept =
                    rustix::fs::renameat_with(parent, &target.name, parent, &name, RenameFlags::NOREPLACE);
                match kept {
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                        rustix::fs::renameat(parent, &target.name, parent, &name)
                    }
                    done => done,
                }
                .and_then(|()| self.rename_tree())
                .map_err(target.io("replace"))?;
            }
            Err(errno) => return Err(target.io("replace")(errno)),
        }
        Ok(target.path.with_file_name(name))
    }

    /// What was exchanged for the tree by a process that ended then gets the name that it is to be kept under.
    pub(super) fn finish_exchange(&self) -> Result<()> {
        let Some(name) = self.state.keep_as.as_ref().map(|bytes| OsStr::from_bytes(bytes)) else {
            return Ok(());
        };
        let target = self.target;
        let is_there = match rustix::fs::statat(&self.fd, TREE, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => false,
            found => found.map(|_| true).map_err(target.io("examine what is beside"))?,
        };
        if !is_there || self.tree_is_ours() {
            return Ok(());
        }
        // A directory never takes the place of one that holds something, and the name was free.
        rustix::fs::renameat(self.fd.as_fd(), TREE, &target.parent, name)
            .map_err(target.io("keep what was"))?;
        fsync(&target.parent).map_err(target.io("write the directory of"))
    }

    fn free_name(&self) -> Result<OsString> {
        let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        for nth in 1.. {
            let mut name = self.target.name.as_bytes().to_vec();
            name.truncate(200);
            name.extend(format!(".before-restore-{time}").bytes());
            if nth > 1 {
                name.extend(format!("-{nth}").bytes());
            }
            let name = OsString::from_vec(name);
            match rustix::fs::statat(&self.target.parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(name),
                found => found.map(drop).map_err(self.target.io("look for a free name beside"))?,
            }
        }
        unreachable!("some name is free")
    }
}

fn times_of(directory: &OwnedFd) -> Result<Timestamps, Errno> {
    let stat = fstat(directory)?;
    let time = |sec, nsec| Timespec { tv_sec: sec, tv_nsec: nsec as i64 };
    Ok(Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    })
}

/// What stands where a tree is to be.
pub fn in_the_way(path: &std::path::Path) -> Error {
    let hint = format!(
        "cowsnap restore SOURCE --to {} --replace (keeps what is there under another name)",
        crate::model::quoted(path.display())
    );
    refused(path, "it is not empty".into(), Some(hint))
}
