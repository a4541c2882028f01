//! What was changed in a clone: it is compared with what it was made of. On btrfs, only directories are looked at in which something is younger than the
//! clone; elsewhere, both trees are.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::endpoint::btrfs::touched;
use crate::endpoint::overlay::layer::{Origins, Stack, Tree, set_apart};
use crate::endpoint::overlay::{Generation, Place, Serve};
use crate::endpoint::{Error, Result, beneath};
use crate::model::quoted;
use crate::sys::btrfs::get_subvol_info;

use super::Native;
use super::view::View;

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
    if !Native.is_shown(place)? {
        return Err(Error::Refused {
            op: "compare overlay",
            subject: place.record.name.to_string(),
            why: format!("nothing shows at {}", place.at().display()),
            hint: Some(format!("cowsnap overlay mount {}", quoted(&place.record.name))),
        });
    }
    let xattrs = place.record.options.xattrs;
    let view = View::take(place.overlay, generation)?;
    let tree = view.tree(xattrs)?;
    let base = match view.origin(xattrs)? {
        Some(origin) => origin,
        None => Tree::base(&Native.base(place.overlay, place.record)?, xattrs)?,
    };
    let told = match view.clone().map_or(Ok(None), |clone| Told::of(&base, &tree, clone.as_fd())) {
        Err(error @ Error::Interrupted { .. }) => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "both trees are looked through");
            None
        }
        Ok(told) => told,
    };
    let tree = set_apart(&base, tree, told.as_ref().map(|told| told as &dyn Origins))?;
    Ok(Look { stack: Stack::new(vec![tree, base]), _view: view })
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
        // A mount of its own can not be asked, a directory that is opened can.
        let open =
            |tree: &Tree| beneath::open_dir(tree.root(), b"").map_err(Error::io("open", "a subvolume"));
        let (base, view) = (open(base)?, open(view)?);
        let (Ok(source), Ok(info)) = (get_subvol_info(base.as_fd()), get_subvol_info(clone)) else {
            return Ok(None);
        };
        if info.parent_uuid != source.uuid {
            return Ok(None);
        }
        let mut inodes = touched::inodes_since(view.as_fd(), info.otransid)?;
        // What the base changed meanwhile is another difference.
        inodes.extend(touched::inodes_since(base.as_fd(), info.otransid)?);
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

impl Origins for Told {
    fn may_differ(&self, dir: &[u8]) -> bool {
        self.dirs.contains(dir)
    }

    fn names(&self, inode: u64) -> Result<Option<Vec<Vec<u8>>>> {
        touched::names(self.base.as_fd(), inode)
    }
}
