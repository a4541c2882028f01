//! Back to the layers below: the upper layer is exchanged for another one while the filesystem is in use.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::RwLockWriteGuard;

use rustix::fs::FileType;

use super::nodes::{FileId, ROOT, id_of};
use super::tree::{Layers, Names, Tree};
use super::{Errno, Fallible};

/// What a kernel must be told to forget after a reset.
#[derive(Debug, Default)]
pub struct Outdated {
    /// Names that mean something else now: directory and name.
    pub names: Vec<(u64, OsString)>,
    /// Nodes whose attributes or data are others now.
    pub nodes: Vec<u64>,
}

impl Tree {
    /// Goes on with other layers; of those below, the old ones must be the last ones of the new.
    ///
    /// What is open stays what it was, for whoever has it open. Answers what a kernel still believes of the old tree.
    pub fn reset(&self, layers: &Layers) -> Fallible<Outdated> {
        self.reset_frozen(layers, &self.freeze())
    }

    /// As [`Tree::reset`], while the filesystem is frozen.
    pub fn reset_frozen(&self, layers: &Layers, _: &RwLockWriteGuard<'_, ()>) -> Fallible<Outdated> {
        let fresh = Names::open(layers)?;
        let mut names = self.names();
        names.reset(fresh)
    }

    /// How often files are open to be written to.
    pub fn writers(&self) -> u32 {
        self.names().nodes.all().map(|(_, node)| node.writers).sum()
    }

    /// How many files are open that are not as the layers below have them.
    pub fn busy(&self) -> usize {
        self.names().nodes.all().filter(|(_, node)| node.upper && node.opens > 0).count()
    }
}

impl Names {
    fn reset(&mut self, fresh: Self) -> Fallible<Outdated> {
        let mut outdated = self.outdated()?;
        let mut retired: Vec<FileId> = Vec::new();
        let mut natural: Vec<u64> = Vec::new();
        let numbers: Vec<u64> = self.nodes.all().map(|(number, _)| *number).collect();
        for number in numbers {
            let node = self.nodes.get(number)?;
            if number == ROOT {
                continue;
            }
            if node.upper {
                outdated.nodes.push(number);
            }
            let below = node.view.clone().filter(|_| !node.lowers.is_empty());
            let in_use = node.upper && !node.is_dir() && node.opens > 0;
            let stays = below.is_some_and(|view| self.nodes.path(number).is_ok_and(|path| path == view));
            if in_use && let Some(piece) = node.lowers.first() {
                retired.push(id_of(&self.stack.lowers[piece.layer].root.stat(&piece.path)?));
            }
            if stays && !in_use {
                natural.push(number);
            }
        }
        self.detach_but(&natural);
        self.nodes.grow_older(&retired);
        (self.stack, self.work, self.blocks) = (fresh.stack, fresh.work, fresh.blocks);
        (self.next_work, self.next_map) = (fresh.next_work, fresh.next_map);
        let root = self.stack.root();
        self.nodes.set_root(&root);
        Ok(outdated)
    }

    /// Nodes that are not what the layers below have at their place become files without names.
    fn detach_but(&mut self, natural: &[u64]) {
        let natural: std::collections::HashSet<u64> = natural.iter().copied().collect();
        let mut lost = Vec::new();
        for (number, node) in self.nodes.all() {
            if *number != ROOT && !natural.contains(number) {
                lost.push(*number);
            } else if *number != ROOT && node.upper {
                (node.upper, node.partial, node.data, node.opens, node.writers) = (false, None, None, 0, 0);
            }
        }
        for number in lost {
            self.orphan(number);
            self.nodes.lose_places(number);
            self.nodes.drop_unused(number);
        }
    }

    /// Keeps hold of an upper file while its name still leads there.
    fn orphan(&mut self, number: u64) {
        let orphan = match self.spot(number) {
            Ok(super::spot::Spot::Named(root, path)) => root.open_at(&path, rustix::fs::OFlags::PATH).ok(),
            _ => None,
        };
        if let (Some(orphan), Ok(node)) = (orphan, self.nodes.get_mut(number))
            && node.upper
        {
            node.orphan = Some(std::sync::Arc::new(orphan));
        }
    }

    /// All that the upper layer has, as a kernel knows it.
    fn outdated(&mut self) -> Fallible<Outdated> {
        let mut known: HashMap<(u64, OsString), u64> = HashMap::new();
        for (number, node) in self.nodes.all() {
            known.extend(node.places.iter().map(|(parent, name)| ((*parent, name.clone()), *number)));
        }
        let mut outdated = Outdated { names: Vec::new(), nodes: vec![ROOT] };
        self.collect(ROOT, Path::new(""), &known, &mut outdated)?;
        Ok(outdated)
    }

    fn collect(
        &mut self,
        number: u64,
        dir: &Path,
        known: &HashMap<(u64, OsString), u64>,
        outdated: &mut Outdated,
    ) -> Fallible<()> {
        for entry in self.stack.upper.list(dir)? {
            let name = OsString::from(OsStr::from_bytes(entry.file_name().to_bytes()));
            let node = known.get(&(number, name.clone())).copied();
            let path: PathBuf = dir.join(&name);
            let natural = node.is_some_and(|node| self.is_natural(node, &path));
            match node {
                Some(node) if entry.file_type() == FileType::Directory && natural => {
                    outdated.nodes.push(node);
                    self.collect(node, &path, known, outdated)?;
                }
                _ => {
                    outdated.nodes.extend(node);
                    outdated.names.push((number, name));
                }
            }
        }
        Ok(())
    }

    fn is_natural(&self, number: u64, path: &Path) -> bool {
        let node = self.nodes.get(number).map_err(|_| Errno::STALE);
        node.is_ok_and(|node| !node.lowers.is_empty() && node.view.as_deref() == Some(path))
    }
}
