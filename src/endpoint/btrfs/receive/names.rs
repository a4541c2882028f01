//! Names: rename, link, unlink, rmdir. Each may give a path another meaning, so caches hear of each.
//!
//! Filesystems other than btrfs may take two names for one (letter case, ways to write an accent). So in a plain tree no name ever takes another's
//! place: a sender has taken away before what is replaced.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Dir, RenameFlags, linkat, renameat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::apply::Applier;
use super::fault::Fault;
use super::tree::Place;
use crate::endpoint::Error;

impl Applier<'_> {
    pub(super) fn rename(&mut self, path: &[u8], to: &[u8]) -> Result<(), Fault> {
        self.forget_descriptors()?;
        let (from, into) = (self.tree.place(path)?, self.tree.place(to)?);
        match self.plain {
            true => rename_new(&from, &into)?,
            false => renameat(&*from.dir, from.name, &*into.dir, into.name)?,
        }
        self.tree.forget(path);
        self.tree.forget(to);
        Ok(())
    }

    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Fault> {
        let (from, into) = (self.tree.place(target)?, self.tree.place(path)?);
        match linkat(&*from.dir, from.name, &*into.dir, into.name, AtFlags::empty()) {
            Err(Errno::EXIST) if self.plain => Err(taken(&into)),
            done => Ok(done?),
        }
    }

    pub(super) fn unlink(&mut self, path: &[u8]) -> Result<(), Fault> {
        self.forget_descriptors()?;
        let place = self.tree.place(path)?;
        Ok(unlinkat(&*place.dir, place.name, AtFlags::empty())?)
    }

    pub(super) fn rmdir(&mut self, path: &[u8]) -> Result<(), Fault> {
        self.forget_descriptors()?;
        let place = self.tree.place(path)?;
        unlinkat(&*place.dir, place.name, AtFlags::REMOVEDIR)?;
        self.tree.forget(path);
        Ok(())
    }

    /// Closes the files that were opened by a path, which may soon be another file's.
    fn forget_descriptors(&mut self) -> Result<(), Fault> {
        self.sources.forget_own();
        self.leave()
    }
}

/// Renames, never over something that is there.
fn rename_new(from: &Place<'_>, into: &Place<'_>) -> Result<(), Fault> {
    match renameat_with(&*from.dir, from.name, &*into.dir, into.name, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => Err(taken(into)),
        // Not every filesystem can do that in one step. Nobody else is at work in the staging directory.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match statat(&*into.dir, into.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(taken(into)),
                Err(Errno::NOENT) => Ok(renameat(&*from.dir, from.name, &*into.dir, into.name)?),
                Err(error) => Err(error.into()),
            }
        }
        done => Ok(done?),
    }
}

/// Why something can not be called so in a plain tree: its directory has just that name, which no sender would give twice, or one that the
/// filesystem takes for it.
pub(super) fn taken(place: &Place<'_>) -> Fault {
    taken_in(&*place.dir, place.name)
}

fn taken_in(dir: impl AsFd, name: &[u8]) -> Fault {
    match has(dir, name) {
        Err(error) => error.into(),
        Ok(true) => Errno::EXIST.into(),
        Ok(false) => Fault::Endpoint(Error::Refused {
            op: "apply",
            subject: format!("the stream: {}", name.escape_ascii()),
            why: "the target's filesystem takes two names for one, and one of the two files would be lost".into(),
            hint: Some("restore to a btrfs dataset, or to a directory of a filesystem that tells letters' cases apart".into()),
        }),
    }
}

/// Whether there is an entry of exactly that name.
fn has(dir: impl AsFd, name: &[u8]) -> Result<bool, Errno> {
    for entry in Dir::read_from(dir)? {
        if entry?.file_name().to_bytes() == name {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;
    use crate::stream::btrfs::Command;

    #[test]
    fn a_name_that_is_there_under_another_spelling_is_the_filesystems_doing_and_one_that_is_there_the_streams()
     {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("Makefile"), "x").expect("writes");
        let dir = std::fs::File::open(folder.path()).expect("opens");
        let error = |name| taken_in(&dir, name).at_plain(7, &Command::End, false);
        let (folded, twice) = (error(b"makefile"), error(b"Makefile"));
        assert!(folded.to_string().contains("takes two names for one"), "{folded}");
        assert_eq!((folded.class(), twice.class()), (Class::Conflict, Class::Corrupt));
    }
}
