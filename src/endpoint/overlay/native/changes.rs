//! What was changed in a clone: it is compared with what it was made of. On btrfs, only directories are looked at in which something is younger than the
//! clone; elsewhere, both trees are.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::endpoint::btrfs::touched;
use crate::endpoint::overlay::layer::{Origins, Stack, Tree, set_apart, set_apart_of_another};
use crate::endpoint::overlay::{Generation, Place, Serve};
use crate::endpoint::{Error, Result, beneath};
use crate::model::overlay::{LayerId, Xattrs};
use crate::model::quoted;
use crate::sys::btrfs::get_subvol_info;

use super::Native;
use super::stacks;
use super::view::{View, tree_of};

/// What a copy shows at one instant, as a layer upon what the clone was made of. The snapshot goes with the value.
#[derive(Debug)]
pub struct Look {
    stack: Stack,
    // After the trees that are open in it.
    _view: View,
}

impl Look {
    /// The layer, and the base.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }
}

/// Looks at a copy.
///
/// # Errors
/// [`Error::Refused`] if the copy does not show; what can not be read.
pub fn look(place: &Place<'_>, generation: &Generation) -> Result<Look> {
    let xattrs = place.record.options.xattrs;
    let view = view(place, generation)?;
    let tree = view.tree(xattrs)?;
    let base = match view.origin(xattrs)? {
        Some(origin) => origin,
        None => Tree::base(&Native.base(place.overlay, place.record)?, xattrs)?,
    };
    let told = told(view.clone().map_or(Ok(None), |clone| Told::of(&base, &tree, clone.as_fd())))?;
    let tree = set_apart(&base, tree, told.as_ref().map(|told| told as &dyn Origins))?;
    Ok(Look { stack: Stack::new(vec![tree, base]), _view: view })
}

/// Looks at a copy beside what its layers up to `top` show, which were [put together](super::put_together).
///
/// # Errors
/// As [`look`].
pub fn look_since(place: &Place<'_>, generation: &Generation, top: LayerId) -> Result<Look> {
    let xattrs = place.record.options.xattrs;
    let view = view(place, generation)?;
    let tree = view.tree(xattrs)?;
    let stack = stacks::open(place.overlay, top)?;
    let base = tree_of(&stack, xattrs)?;
    let told = match view.clone() {
        Some(clone) => told(
            since_parted(&view, clone.as_fd(), stack.as_fd(), xattrs)
                .and_then(|since| since.map_or(Ok(None), |since| Told::since(&base, &tree, since))),
        )?,
        None => None,
    };
    let tree = set_apart_of_another(&base, tree, told.as_ref().map(|told| told as &dyn Origins))?;
    Ok(Look { stack: Stack::new(vec![tree, base]), _view: view })
}

/// The transaction in which the clone and the tree of layers `stack` were one still: both come from the base.
fn since_parted(
    view: &View,
    clone: BorrowedFd<'_>,
    stack: BorrowedFd<'_>,
    xattrs: Xattrs,
) -> Result<Option<u64>> {
    let own = view.origin(xattrs)?;
    let own = own.as_ref().map(Tree::root).map(|root| beneath::open_dir(root, b""));
    let own = own.transpose().map_err(Error::io("open", "a subvolume"))?;
    let made = |root: BorrowedFd<'_>| get_subvol_info(root).ok().map(|info| info.otransid);
    let all = [Some(clone), Some(stack), own.as_ref().map(AsFd::as_fd)].into_iter().flatten();
    Ok(all.map(made).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min()))
}

/// What can not be told is found by walking.
fn told(told: Result<Option<Told>>) -> Result<Option<Told>> {
    match told {
        Err(error @ Error::Interrupted { .. }) => Err(error),
        Err(error) => {
            tracing::debug!(%error, "both trees are looked through");
            Ok(None)
        }
        Ok(told) => Ok(told),
    }
}

fn view(place: &Place<'_>, generation: &Generation) -> Result<View> {
    if !Native.is_shown(place)? {
        return Err(Error::Refused {
            op: "compare overlay",
            subject: place.record.name.to_string(),
            why: format!("nothing shows at {}", place.at().display()),
            hint: Some(format!("cowsnap overlay mount {}", quoted(&place.record.name))),
        });
    }
    View::take(place.overlay, generation)
}

/// What btrfs tells.
struct Told {
    base: OwnedFd,
    /// Directories of the clone in which something may differ, or below which.
    dirs: HashSet<Vec<u8>>,
}

impl Told {
    /// `None` if it tells nothing: it is another filesystem, or not a clone of that base. `view` is a snapshot of the clone.
    fn of(base: &Tree, view: &Tree, clone: BorrowedFd<'_>) -> Result<Option<Self>> {
        let source = open(base)?;
        let (Ok(source), Ok(info)) = (get_subvol_info(source.as_fd()), get_subvol_info(clone)) else {
            return Ok(None);
        };
        match info.parent_uuid == source.uuid {
            true => Self::since(base, view, info.otransid),
            false => Ok(None),
        }
    }

    /// Of two that were the same in the transaction `since`.
    fn since(base: &Tree, view: &Tree, since: u64) -> Result<Option<Self>> {
        let (base, view) = (open(base)?, open(view)?);
        let mut inodes = touched::inodes_since(view.as_fd(), since)?;
        // What the base changed meanwhile is another difference.
        inodes.extend(touched::inodes_since(base.as_fd(), since)?);
        touched::leave_out_read(&mut inodes, view.as_fd(), base.as_fd())?;
        let mut dirs = HashSet::new();
        for inode in inodes {
            let Some(names) = touched::names(view.as_fd(), inode)? else { return Ok(None) };
            for mut name in names {
                while dirs.insert(name.clone()) && !name.is_empty() {
                    let end = name.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                    name.truncate(end);
                }
            }
        }
        Ok(Some(Self { base, dirs }))
    }
}

/// A mount of its own can not be asked, a directory that is opened can.
fn open(tree: &Tree) -> Result<OwnedFd> {
    beneath::open_dir(tree.root(), b"").map_err(Error::io("open", "a subvolume"))
}

impl Origins for Told {
    fn may_differ(&self, dir: &[u8]) -> bool {
        self.dirs.contains(dir)
    }

    fn names(&self, inode: u64) -> Result<Option<Vec<Vec<u8>>>> {
        touched::names(self.base.as_fd(), inode)
    }
}
