//! Files of which a layer has only some blocks, made whole for the kernel: in a tree beside the layer's, which goes right above it
//! wherever something else than mode `fuse` opens the layer.
//!
//! **Invariant:** the layer stays what was committed. What is made here follows from it and from what it lies on, so that it can be
//! taken away while nothing lies on it, and made again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, OFlags, linkat, utimensat};

use super::commit::sync_dir;
use super::data::Content;
use super::links::{dress, make_dirs, times_of};
use super::manifest::{self, Data, Line, Size};
use super::merge::{self, Shown};
use super::owners;
use super::scan::{Sparse, scan, sync_filesystem};
use super::staging::Staging;
use super::store::{Layer, difference};
use super::tree::{Stack, Tree};
use crate::endpoint::overlay::files::look_like;
use crate::endpoint::overlay::home::Home;
use crate::endpoint::{Error, Result, beneath};
use crate::model::overlay::Xattrs;
use crate::sys::interrupt;

/// In a layer's directory.
const WHOLE: &str = "whole";
/// In that one: the blake3 of the manifest beside it.
const SEAL: &str = "seal";

/// Whether a layer of these entries has files that the kernel can not read.
pub(super) fn is_needed(lines: &[Line], xattrs: Xattrs) -> bool {
    lines.iter().any(|line| lacks_data(line, xattrs))
}

fn lacks_data(line: &Line, xattrs: Xattrs) -> bool {
    match line.data {
        Data::Blocks => true,
        // With marks that anybody can set, the kernel follows none that leads to another file's data.
        Data::Metacopy => xattrs == Xattrs::User,
        Data::Plain | Data::Sparse => false,
    }
}

impl Layer {
    /// The directories that show this layer to the kernel, the topmost first.
    ///
    /// # Errors
    /// [`Error::Refused`] if it has files that [`make_whole`] was not asked for yet.
    pub fn kernel_dirs(&self) -> Result<Vec<PathBuf>> {
        let whole = self.whole().join("tree");
        match self.record().blocks {
            false => Ok(vec![self.tree_dir()]),
            true if whole.is_dir() => Ok(vec![whole, self.tree_dir()]),
            true => Err(Error::Refused {
                op: "open layer",
                subject: self.label(),
                why: "files of which it has only blocks were not made whole".into(),
                hint: Some("cowsnap overlay reset, of the overlay that lies on it, makes them whole".into()),
            }),
        }
    }

    /// How many bytes the files have that [`make_whole`] would make; 0 if there are none, or it was done.
    ///
    /// # Errors
    /// As [`Layer::manifest`].
    pub fn to_be_made_whole(&self) -> Result<u64> {
        if !self.record().blocks || self.whole().exists() {
            return Ok(0);
        }
        let lines = self.manifest()?;
        let sizes = lines.iter().filter(|line| lacks_data(line, self.record().xattrs)).map(|line| line.size);
        Ok(sizes.map(|size| if let Size::Bytes(bytes) = size { bytes } else { 0 }).sum())
    }

    /// Opens what [`Layer::kernel_dirs`] names.
    pub fn kernel_trees(&self) -> Result<Vec<Tree>> {
        let xattrs = self.record().xattrs;
        let open = |dir: PathBuf| Tree::open(&dir, &dir.with_file_name("blocks"), xattrs);
        self.kernel_dirs()?.into_iter().map(open).collect()
    }

    fn whole(&self) -> PathBuf {
        self.dir().join(WHOLE)
    }

    /// Compares what was made whole with what was written down of it then; that there is nothing is fine.
    pub(super) fn verify_whole(&self) -> Result<()> {
        let dir = self.whole();
        if !dir.exists() {
            return Ok(());
        }
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read(&path).map_err(Error::io("read", path.display()))
        };
        let corrupt = |why: String| self.corrupt(format!("{WHOLE}: {why}"));
        let text = read("manifest")?;
        if read(SEAL)? != blake3::hash(&text).to_hex().as_bytes() {
            return Err(corrupt("its manifest is not the one that was written".into()));
        }
        let wanted = manifest::parse(&text).map_err(|bad| corrupt(bad.to_string()))?;
        let tree = Tree::open(&dir.join("tree"), &dir.join("blocks"), self.record().xattrs)?;
        let mut found = scan(&tree, Sparse::As(&wanted))?;
        owners::as_seen_in(self.record().ids.as_ref(), &mut found, &wanted)?;
        difference(&wanted, &found).map_or(Ok(()), |why| Err(corrupt(why)))
    }
}

/// Makes whole what a layer has of files of which only some blocks are in it, for those that can not read it as it is. Done once;
/// where filesystems share blocks, it costs those that are in the layer. `base` is the directory below its lowest layer.
///
/// Killed at any instant, all of it is there, or nothing that anybody sees.
///
/// # Errors
/// [`Error::Corrupt`] for a layer that is not what was committed, what can not be read or written. Nothing is left then.
pub fn make_whole(home: &Home, layer: &Layer, base: &Path) -> Result<()> {
    if !layer.record().blocks || layer.whole().exists() {
        return Ok(());
    }
    layer.verify()?;
    let xattrs = layer.record().xattrs;
    let staging = Staging::new(home)?;
    let mut trees = vec![Tree::open(&staging.tree(), &staging.blocks(), xattrs)?];
    for below in layer.chain(home)? {
        trees.push(below.tree()?);
    }
    trees.push(Tree::base(base, xattrs)?);
    let mut making = Making { stack: Stack::new(trees), first: HashMap::new() };
    let lines = layer.manifest()?;
    for line in lines.iter().filter(|line| lacks_data(line, xattrs)) {
        interrupt::check().map_err(Error::io("make whole", layer.label()))?;
        making.entry(line)?;
    }
    let (from, to) = (layer.tree_dir(), staging.tree());
    look_like(&from, &to).map_err(Error::io("copy the attributes of", from.display()))?;
    let mut made = scan(making.stack.tree(0), Sparse::WithHoles)?;
    owners::as_seen_in(layer.record().ids.as_ref(), &mut made, &lines)?;
    let text = manifest::to_text(&made);
    for (name, bytes) in
        [("manifest", text.as_bytes()), (SEAL, blake3::hash(text.as_bytes()).to_hex().as_bytes())]
    {
        let path = staging.dir().join(name);
        fs::write(&path, bytes).map_err(Error::io("write", path.display()))?;
    }
    sync_filesystem(staging.dir())?;
    let _lock = home.lock()?;
    if !layer.whole().exists() {
        // If the layer was destroyed meanwhile, there is no directory that this could go into.
        staging.become_that(&layer.whole())?;
        sync_dir(layer.dir())?;
    }
    Ok(())
}

struct Making<'a> {
    /// What is made, then what it is made of: the layer, and what that lies on.
    stack: Stack,
    /// The first name of each file that has several.
    first: HashMap<u32, &'a [u8]>,
}

impl<'a> Making<'a> {
    fn entry(&mut self, line: &'a Line) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("make whole", manifest::escaped(&line.path))(error);
        let errno = |error: rustix::io::Errno| failed(error.into());
        let (dir, name) = beneath::split(&line.path);
        make_dirs(&self.stack, dir)?;
        let made = self.stack.tree(0);
        let times = made.node(dir).map_err(failed)?.map(|node| times_of(&node));
        let dir = beneath::open_dir(made.root(), dir).map_err(errno)?;
        match line.group.and_then(|group| self.first.get(&group).copied()) {
            Some(first) => {
                let (from, old) = beneath::split(first);
                let from = beneath::open_dir(made.root(), from).map_err(errno)?;
                linkat(&from, old, &dir, name, AtFlags::empty()).map_err(errno)?;
            }
            None => self.file(&line.path, dir.as_fd(), name)?,
        }
        if let Some(group) = line.group {
            self.first.entry(group).or_insert(&line.path);
        }
        times.map_or(Ok(()), |times| utimensat(&dir, ".", &times, AtFlags::empty())).map_err(errno)
    }

    /// Makes the file `name` in `dir` what shows at `path` of the layer and those below.
    fn file(&self, path: &[u8], dir: std::os::fd::BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("make whole", path.escape_ascii())(error);
        let missing = || Error::Corrupt {
            what: "layer",
            why: format!("{}: the file below, which has its data, is missing", path.escape_ascii()),
            source: None,
        };
        let Shown::File(parts) = merge::resolve(&self.stack, 1, path).map_err(failed)? else {
            return Err(missing());
        };
        let node = self.stack.node(&parts[0]).map_err(failed)?.ok_or_else(missing)?;
        let content = Content::open(&self.stack, &parts, node.size())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = File::from(beneath::open(dir, name, flags).map_err(|errno| failed(errno.into()))?);
        content.copy_to(&file).map_err(failed)?;
        dress(dir, name, &node).map_err(|errno| failed(errno.into()))
    }
}
