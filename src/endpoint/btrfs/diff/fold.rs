//! Folds the commands of a send stream without data into which node was where before, and where it is now.
//!
//! The kernel moves nodes through names of its own (`o257-7-0`) to get them past each other. So nothing is believed of a
//! single command: all are played on a tree of nodes, of which only those exist here that a command has named.

use std::collections::{BTreeMap, HashSet};

use crate::stream::btrfs::Command;

/// A node's number in [`Fold`].
type Id = usize;
const ROOT: Id = 0;

/// What happened to a node that has not been made or destroyed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Touched {
    /// Ranges were written.
    pub data: bool,
    /// A size was set, maybe the one that it had.
    pub size: bool,
    /// Owners, modes or times were set, maybe those that it had.
    pub metadata: bool,
    /// Extended attributes or flags were set.
    pub attributes: bool,
}

#[derive(Debug, Default)]
struct Node {
    /// Where it was: its parent then, and its name there. `None` for the root and for what is new.
    home: Option<(Id, Vec<u8>)>,
    is_new: bool,
    /// Where it is now. Never empty, but for destroyed nodes and the root.
    places: Vec<(Id, Vec<u8>)>,
    /// Children that differ from the old ones; `None`: that name is free now.
    children: BTreeMap<Vec<u8>, Option<Id>>,
    touched: Touched,
}

/// One node's story.
#[derive(Debug, PartialEq, Eq)]
pub enum Story {
    /// It is new, at this path.
    Added(Vec<u8>),
    /// It was at this path, and is gone.
    Destroyed(Vec<u8>),
    /// It was at the first path and another node, which is new, is in its place, now called the second path.
    Replaced(Vec<u8>, Vec<u8>),
    /// It was at the first path and was moved to the second.
    Renamed(Vec<u8>, Vec<u8>, Touched),
    /// It is where it was: at the first path then, at the second now (a directory above may have moved).
    Kept(Vec<u8>, Vec<u8>, Touched),
}

/// The tree as far as commands have named it.
pub struct Fold {
    nodes: Vec<Node>,
}

impl Default for Fold {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

/// A command names a path that the commands before it have taken away.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream names {}, which is not there at that point", path.escape_ascii())]
pub struct Lost {
    path: Vec<u8>,
}

impl Fold {
    /// Plays one command.
    pub fn play(&mut self, command: &Command<'_>) -> Result<(), Lost> {
        match *command {
            Command::Mkfile { path, .. }
            | Command::Mkdir { path, .. }
            | Command::Mknod { path, .. }
            | Command::Mkfifo { path, .. }
            | Command::Mksock { path, .. }
            | Command::Symlink { path, .. } => self.make(path),
            Command::Rename { path, to } => self.rename(path, to),
            Command::Link { path, target } => self.find(target).and_then(|node| self.place(node, path)),
            Command::Unlink { path } | Command::Rmdir { path } => self.detach(path).map(drop),
            Command::Write { path, .. }
            | Command::Clone { path, .. }
            | Command::UpdateExtent { path, .. }
            | Command::Fallocate { path, .. }
            | Command::EncodedWrite { path, .. } => self.touch(path, |touched| touched.data = true),
            Command::Truncate { path, .. } => self.touch(path, |touched| touched.size = true),
            Command::Chmod { path, .. } | Command::Chown { path, .. } | Command::Utimes { path, .. } => {
                self.touch(path, |touched| touched.metadata = true)
            }
            Command::SetXattr { path, .. }
            | Command::RemoveXattr { path, .. }
            | Command::Fileattr { path, .. }
            | Command::EnableVerity { path, .. } => self.touch(path, |touched| touched.attributes = true),
            Command::Subvol { .. } | Command::Snapshot { .. } | Command::End => Ok(()),
        }
    }

    /// What it comes to. A new node with several names is told once per name.
    pub fn stories(&self) -> Vec<Story> {
        let mut stories = Vec::new();
        let gone = self.nodes.iter().filter(|node| node.places.is_empty());
        let vacated: HashSet<_> = gone.filter_map(|node| node.home.as_ref()).collect();
        for (id, node) in self.nodes.iter().enumerate() {
            match &node.home {
                _ if id == ROOT => stories.push(Story::Kept(Vec::new(), Vec::new(), node.touched)),
                None => self.tell_new(node, &vacated, &mut stories),
                Some(home) => self.tell_old(node, home, &mut stories),
            }
        }
        stories
    }

    fn tell_new(&self, node: &Node, vacated: &HashSet<&(Id, Vec<u8>)>, stories: &mut Vec<Story>) {
        let added = node.places.iter().filter(|place| !vacated.contains(place));
        stories.extend(added.map(|place| Story::Added(self.path_now(place))));
    }

    fn tell_old(&self, node: &Node, home: &(Id, Vec<u8>), stories: &mut Vec<Story>) {
        let before = self.path_before(home);
        let Some(first) = node.places.first() else {
            let successor = self.nodes[home.0].children.get(&home.1).copied().flatten();
            stories.push(match successor.filter(|&id| self.nodes[id].is_new) {
                Some(_) => Story::Replaced(before, self.path_now(home)),
                None => Story::Destroyed(before),
            });
            return;
        };
        let stays = node.places.contains(home);
        let here = if stays { home } else { first };
        stories.push(match stays {
            true => Story::Kept(before, self.path_now(here), node.touched),
            false => Story::Renamed(before, self.path_now(here), node.touched),
        });
        let others = node.places.iter().filter(|place| *place != here);
        stories.extend(others.map(|place| Story::Added(self.path_now(place))));
    }

    fn path_now(&self, (parent, name): &(Id, Vec<u8>)) -> Vec<u8> {
        match self.nodes[*parent].places.first() {
            Some(place) => join(self.path_now(place), name),
            None => name.clone(),
        }
    }

    fn path_before(&self, (parent, name): &(Id, Vec<u8>)) -> Vec<u8> {
        match &self.nodes[*parent].home {
            Some(home) => join(self.path_before(home), name),
            None => name.clone(),
        }
    }

    /// The node at `path`. One that no command has named before is an old one that is where it was.
    fn find(&mut self, path: &[u8]) -> Result<Id, Lost> {
        let mut at = ROOT;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            at = match self.nodes[at].children.get(name) {
                Some(Some(child)) => *child,
                Some(None) => return Err(Lost { path: path.into() }),
                None if self.nodes[at].is_new => return Err(Lost { path: path.into() }),
                None => self.meet(at, name),
            };
        }
        Ok(at)
    }

    fn meet(&mut self, parent: Id, name: &[u8]) -> Id {
        let home = (parent, name.to_vec());
        let node = Node { home: Some(home.clone()), places: vec![home], ..Node::default() };
        self.push(node, parent, name)
    }

    fn push(&mut self, node: Node, parent: Id, name: &[u8]) -> Id {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.nodes[parent].children.insert(name.into(), Some(id));
        id
    }

    fn make(&mut self, path: &[u8]) -> Result<(), Lost> {
        let (parent, name) = self.parent_of(path)?;
        let node = Node { is_new: true, places: vec![(parent, name.into())], ..Node::default() };
        self.push(node, parent, name);
        Ok(())
    }

    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<(Id, &'p [u8]), Lost> {
        match path.iter().rposition(|&b| b == b'/') {
            Some(slash) => Ok((self.find(&path[..slash])?, &path[slash + 1..])),
            None if path.is_empty() => Err(Lost { path: Vec::new() }),
            None => Ok((ROOT, path)),
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), Lost> {
        let node = self.detach(from)?;
        self.place(node, to)
    }

    fn place(&mut self, node: Id, path: &[u8]) -> Result<(), Lost> {
        let (parent, name) = self.parent_of(path)?;
        if let Some(Some(replaced)) = self.nodes[parent].children.insert(name.into(), Some(node)) {
            self.nodes[replaced].places.retain(|place| !(place.0 == parent && place.1 == name));
        }
        self.nodes[node].places.push((parent, name.into()));
        Ok(())
    }

    fn detach(&mut self, path: &[u8]) -> Result<Id, Lost> {
        let node = self.find(path)?;
        let (parent, name) = self.parent_of(path)?;
        self.nodes[parent].children.insert(name.into(), None);
        self.nodes[node].places.retain(|place| !(place.0 == parent && place.1 == name));
        Ok(node)
    }

    fn touch(&mut self, path: &[u8], how: impl FnOnce(&mut Touched)) -> Result<(), Lost> {
        let node = self.find(path)?;
        how(&mut self.nodes[node].touched);
        Ok(())
    }
}

fn join(mut path: Vec<u8>, name: &[u8]) -> Vec<u8> {
    path.push(b'/');
    path.extend(name);
    path
}
