//! Back to the layers below: the upper layer is exchanged for another one while the filesystem is in use.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLockWriteGuard};

use rustix::fs::FileType;

use super::nodes::{FileId, Node, ROOT, id_of};
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
    /// Goes on with other layers. If those below are the same, what was not changed stays known.
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
    /// Costs a look at each node that is known, and work for those that were changed.
    fn reset(&mut self, fresh: Self) -> Fallible<Outdated> {
        let mut outdated = self.outdated()?;
        let same_lowers = self.stack.has_lowers_of(&fresh.stack)?;
        let all_suspect = !same_lowers || self.has_moved_dirs();
        let suspects: Vec<u64> = (self.nodes.all())
            .filter(|(number, node)| {
                **number != ROOT && (all_suspect || node.upper || node.places.is_empty())
            })
            .map(|(number, _)| *number)
            .collect();
        let (mut retired, mut back, mut lost) = (Vec::<FileId>::new(), Vec::new(), Vec::new());
        for number in suspects {
            let node = self.nodes.get(number)?;
            if node.upper {
                outdated.nodes.push(number);
            }
            if !same_lowers {
                outdated.names.extend(node.places.iter().filter(|(dir, _)| *dir == ROOT).cloned());
            }
            let in_use = node.upper && !node.is_dir() && node.opens > 0;
            if in_use && let Some(piece) = node.lowers.first() {
                retired.push(id_of(&self.stack.lowers[piece.layer].root.stat(&piece.path)?));
            }
            match same_lowers && !in_use && self.is_in_its_place(number) {
                true => back.push(number),
                false => lost.push(number),
            }
        }
        self.go_back(&back)?;
        let committed = fresh.stack.has_below(&self.stack.upper)?;
        self.lose(&lost, same_lowers);
        if committed {
            self.keep_from_writing(&lost);
        }
        self.nodes.grow_older(&retired);
        if !same_lowers {
            self.links = None;
        }
        (self.stack, self.work, self.blocks) = (fresh.stack, fresh.work, fresh.blocks);
        (self.next_work, self.next_map) = (fresh.next_work, fresh.next_map);
        let root = self.stack.root();
        self.nodes.set_root(&root);
        for (_, node) in self.nodes.all() {
            (node.bare, node.heritage) = (false, None);
        }
        Ok(outdated)
    }

    /// Whether the node is where the layers below have it.
    fn is_in_its_place(&self, number: u64) -> bool {
        let Ok(node) = self.nodes.get(number) else { return false };
        let below = node.view.as_ref().filter(|_| !node.lowers.is_empty());
        below.is_some_and(|view| self.nodes.path(number).is_ok_and(|path| path == *view))
    }

    /// Whether a directory of the layers below was moved: then all that is in it is elsewhere, though it was not changed.
    fn has_moved_dirs(&mut self) -> bool {
        let is_merged = |node: &Node| node.upper && node.is_dir() && !node.lowers.is_empty();
        let merged = self.nodes.all().filter(|(number, node)| **number != ROOT && is_merged(node));
        let merged: Vec<u64> = merged.map(|(number, _)| *number).collect();
        merged.into_iter().any(|number| !self.is_in_its_place(number))
    }

    /// Nodes that are again what the layers below have.
    fn go_back(&mut self, back: &[u64]) -> Fallible<()> {
        for number in back {
            let node = self.nodes.get_mut(*number)?;
            if node.upper {
                (node.upper, node.partial, node.data, node.opens, node.writers) = (false, None, None, 0, 0);
            }
        }
        Ok(())
    }

    /// Nodes that are not what the layers below have at their place become files without names.
    fn lose(&mut self, lost: &[u64], same_lowers: bool) {
        // As long as all have their names, each is found by its path.
        lost.iter().for_each(|number| self.orphan(*number));
        lost.iter().for_each(|number| self.nodes.lose_places(*number));
        for number in lost {
            if let Ok(node) = self.nodes.get_mut(*number) {
                node.lost = true;
                if !same_lowers {
                    // Its pieces are named by layers that are others now.
                    (node.lowers, node.view) = (Arc::new([]), None);
                }
            }
            self.nodes.drop_unused(*number);
        }
    }

    /// Of what is open in a layer that nobody writes to any more, a change finds nothing to copy: EIO.
    fn keep_from_writing(&mut self, lost: &[u64]) {
        for number in lost {
            if let Ok(node) = self.nodes.get_mut(*number) {
                (node.upper, node.partial) = (false, None);
            }
        }
    }

    /// Keeps hold of an upper file, or of one that is open, while its name still leads there.
    fn orphan(&mut self, number: u64) {
        let orphan = match self.spot(number) {
            Ok(super::spot::Spot::Named(root, path)) => root.open_at(&path, rustix::fs::OFlags::PATH).ok(),
            _ => None,
        };
        if let (Some(orphan), Ok(node)) = (orphan, self.nodes.get_mut(number))
            && (node.upper || node.opens > 0)
        {
            node.orphan = Some(Arc::new(orphan));
        }
    }

    /// All that the upper layer has, as a kernel knows it.
    fn outdated(&mut self) -> Fallible<Outdated> {
        let mut known: HashMap<(u64, OsString), u64> = HashMap::new();
        for (number, node) in self.nodes.all().filter(|(_, node)| node.upper) {
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
