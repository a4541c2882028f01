//! Renaming: over whiteouts, of directories that are merged, and of two names for each other.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{RenameFlags, XattrFlags};

use super::change::Slot;
use super::copy_up::absolute;
use super::stack::{Where, is_dir};
use super::tree::{Attr, Changing, Names, Options};
use super::{Errno, Fallible};

/// One side of a renaming.
struct Side<'a> {
    parent: u64,
    name: &'a OsStr,
    dir: Where,
    path: PathBuf,
    node: Option<Attr>,
}

impl Changing<'_> {
    /// Renames; `flags` are those of renameat2(2).
    pub fn rename(
        &self,
        (parent, name): (u64, &OsStr),
        (to_parent, to_name): (u64, &OsStr),
        flags: RenameFlags,
    ) -> Fallible<()> {
        if flags.contains(RenameFlags::WHITEOUT)
            || flags.contains(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE)
        {
            return Err(Errno::INVAL);
        }
        let mut names = self.names();
        let from = names.side(parent, name, &self.options, true)?;
        let to = names.side(to_parent, to_name, &self.options, false)?;
        let node = from.node.ok_or(Errno::NOENT)?;
        if let Some(there) = &to.node {
            if flags.contains(RenameFlags::NOREPLACE) {
                return Err(Errno::EXIST);
            }
            if there.number == node.number {
                return Ok(());
            }
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            return names.exchange(&from, &to, &self.options);
        }
        names.replace(&from, &to, &node, &self.options)
    }
}

impl Names {
    /// Brings what a name means, if anything, to the upper layer; what will be replaced stays where it is.
    fn side<'a>(
        &mut self,
        parent: u64,
        name: &'a OsStr,
        options: &Options,
        moves: bool,
    ) -> Fallible<Side<'a>> {
        let node = match self.lookup(parent, name) {
            Err(Errno::NOENT) => None,
            node => Some(node?),
        };
        if let Some(node) = node.filter(|_| moves) {
            self.copy_up(node.number, options)?;
        }
        let (dir, place) = self.writable_dir(parent, options)?;
        Ok(Side { parent, name, dir: place, path: dir.join(name), node })
    }

    fn replace(&mut self, from: &Side<'_>, to: &Side<'_>, node: &Attr, options: &Options) -> Fallible<()> {
        if let Some(there) = &to.node {
            self.check_replaceable(node, there)?;
            self.untie(there, options)?;
            self.keep_if_last(there.number)?;
        }
        self.settle(node, to)?;
        let covered = self.stack.find_below(&from.dir, from.name)?.is_some();
        let upper = &self.stack.upper;
        match (self.slot(&to.path)?, is_dir(&node.stat)) {
            (Slot::Free, _) | (Slot::Taken | Slot::Whiteout, false) => {
                let flags = if covered { RenameFlags::WHITEOUT } else { RenameFlags::empty() };
                upper.rename(&from.path, upper, &to.path, flags)?;
            }
            (Slot::Whiteout, true) => {
                upper.rename(&from.path, upper, &to.path, RenameFlags::EXCHANGE)?;
                if !covered {
                    upper.unlink(&from.path)?;
                }
            }
            (Slot::Taken, true) => {
                upper.rename(&from.path, upper, &to.path, RenameFlags::EXCHANGE)?;
                if covered {
                    self.cover_dir(&from.path)?;
                } else {
                    self.remove_dir(&from.path)?;
                }
            }
        }
        if let Some(there) = &to.node {
            self.gone(there.number, to.parent, to.name);
        }
        self.moved(node.number, from, to);
        Ok(())
    }

    fn check_replaceable(&self, node: &Attr, there: &Attr) -> Fallible<()> {
        match (is_dir(&node.stat), is_dir(&there.stat)) {
            (true, false) => Err(Errno::NOTDIR),
            (false, true) => Err(Errno::ISDIR),
            (false, false) => Ok(()),
            (true, true) => match self.stack.list(&self.nodes.place(there.number)?)?.is_empty() {
                true => Ok(()),
                false => Err(Errno::NOTEMPTY),
            },
        }
    }

    /// Says in a directory's marks what it is merged with wherever it is going, if anything.
    fn settle(&mut self, node: &Attr, to: &Side<'_>) -> Fallible<()> {
        if !is_dir(&node.stat) {
            return Ok(());
        }
        let path = self.nodes.path(node.number)?;
        let known = self.nodes.get(node.number)?;
        if let (Some(view), false) = (&known.view, known.lowers.is_empty()) {
            let view = absolute(view);
            return self.mark(&path, "redirect", &view);
        }
        if self.stack.find_below(&to.dir, to.name)?.is_some_and(|found| is_dir(&found.stat)) {
            return self.mark(&path, "opaque", b"y");
        }
        Ok(())
    }

    /// Sets a mark of a directory, even if its owner may not write to it.
    fn mark(&self, path: &Path, mark: &str, value: &[u8]) -> Fallible<()> {
        let (upper, mark) = (&self.stack.upper, self.stack.prefix.mark(mark));
        match upper.set_xattr(path, &mark, value, XattrFlags::empty()) {
            Err(Errno::ACCESS) => {
                let mode = upper.stat(path)?.st_mode;
                upper.chmod(path, mode | 0o200)?;
                let set = upper.set_xattr(path, &mark, value, XattrFlags::empty());
                upper.chmod(path, mode)?;
                set
            }
            set => set,
        }
    }

    fn exchange(&mut self, from: &Side<'_>, to: &Side<'_>, options: &Options) -> Fallible<()> {
        let (one, other) = (from.node.ok_or(Errno::NOENT)?, to.node.ok_or(Errno::NOENT)?);
        self.copy_up(other.number, options)?;
        self.settle(&one, to)?;
        self.settle(&other, from)?;
        let upper = &self.stack.upper;
        upper.rename(&from.path, upper, &to.path, RenameFlags::EXCHANGE)?;
        self.moved(one.number, from, to);
        self.moved(other.number, to, from);
        Ok(())
    }

    fn moved(&mut self, number: u64, from: &Side<'_>, to: &Side<'_>) {
        self.nodes.gain_place(number, to.parent, to.name);
        self.nodes.lose_place(number, from.parent, from.name);
    }
}
