//! Names: rename, link, unlink, rmdir. Each may give a path another meaning, so caches hear of each.

use rustix::fs::{AtFlags, linkat, renameat, unlinkat};

use super::apply::Applier;
use super::fault::Fault;

impl Applier<'_> {
    pub(super) fn rename(&mut self, path: &[u8], to: &[u8]) -> Result<(), Fault> {
        self.forget_descriptors()?;
        let (from, into) = (self.tree.place(path)?, self.tree.place(to)?);
        renameat(&*from.dir, from.name, &*into.dir, into.name)?;
        self.tree.forget(path);
        self.tree.forget(to);
        Ok(())
    }

    pub(super) fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Fault> {
        let (from, into) = (self.tree.place(target)?, self.tree.place(path)?);
        Ok(linkat(&*from.dir, from.name, &*into.dir, into.name, AtFlags::empty())?)
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
