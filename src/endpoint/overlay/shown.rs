//! A copy's place: what is mounted there put in place of what was, or, where nothing may be mounted, a tree exchanged for another.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::endpoint::overlay::files::look_like;
use crate::endpoint::overlay::kernel::restrictions;
use crate::endpoint::overlay::{Generation, Place, Swapped, ours};
use crate::endpoint::{Error, Result};
use crate::model::overlay::Record;
use crate::model::quoted;
use crate::sys::mount::{self, Detached};

/// The option of a record whose trees are the places themselves, as nothing may be mounted; its only value is `true`.
pub const EXCHANGED: &str = "exchanged";

/// Shows a mount at the copy's place.
pub(super) fn attach(place: &Place<'_>, mounted: &Detached) -> Result<()> {
    mount::attach(mounted, place.at()).map_err(|error| match Errno::from_io_error(&error) {
        // Who may make a mount, and not attach it, is kept from that by a security module.
        Some(Errno::ACCESS | Errno::PERM) => Error::Denied {
            op: "mount an overlay at",
            subject: place.at().display().to_string(),
            lacking: "a security module denies mounts to this process".into(),
            hint: Some(
                "in a container: --security-opt apparmor=unconfined, or label=disable for SELinux".into(),
            ),
        },
        _ => Error::io("mount an overlay at", place.at().display())(error),
    })
}

/// Shows a mount instead of what shows: whoever looks sees one of the two. After an error, the old one still shows.
pub(super) fn replace(place: &Place<'_>, mounted: &Detached) -> Result<Swapped> {
    let at = place.at();
    let shown = ours::at(place)?;
    let Some((_, stale)) = shown.split_last() else {
        attach(place, mounted)?;
        return Ok(Swapped { atomic: false, old: None });
    };
    // A swap that was killed half-way left what it was to show beneath: as fresh as what it is replaced by now.
    for _ in stale {
        mount::unmount_lazily(at).map_err(Error::io("unmount", at.display()))?;
    }
    let old = pin(at)?;
    let beneath = mount::attach_beneath(mounted, at);
    mount::unmount_lazily(at).map_err(Error::io("unmount", at.display()))?;
    match beneath {
        Ok(()) => Ok(Swapped { atomic: true, old: Some(old) }),
        // A kernel before 6.5, or a mount that can have none beneath.
        Err(_) => {
            attach(place, mounted)?;
            Ok(Swapped { atomic: false, old: Some(old) })
        }
    }
}

/// Keeps a mount from being torn down while the descriptor is there.
fn pin(at: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(at, flags, Mode::empty()).map_err(Error::io("open", at.display()))
}

/// A bind of the tree `tree` that allows what its base does. What is mounted in it later stays there.
pub(super) fn bound(place: &Place<'_>, tree: impl AsFd) -> Result<Detached> {
    let denied = |error: io::Error| match Errno::from_io_error(&error) {
        Some(Errno::PERM) => Error::Denied {
            op: "mount",
            subject: format!("overlay {} at {}", place.record.name, place.at().display()),
            lacking: "this process may not mount".into(),
            hint: Some("run it as the user who made the overlay, or as root".into()),
        },
        _ => Error::io("mount an overlay at", place.at().display())(error),
    };
    restricted(place, mount::bind(tree.as_fd()).map_err(denied)?)
}

/// A mount that allows from now on what the base does. What is mounted in it later stays there.
pub(super) fn restricted(place: &Place<'_>, mounted: Detached) -> Result<Detached> {
    let base = place.lower.last().expect("an overlay has a base");
    mount::restrict_private(&mounted, restrictions(base)?)
        .map_err(Error::io("mount an overlay at", place.at().display()))?;
    Ok(mounted)
}

/// Whether the places of this overlay are its trees themselves.
fn is_exchanged(record: &Record) -> bool {
    record.options.more.contains_key(EXCHANGED)
}

/// Puts the tree of `generation` where nothing of the copy shows. The directory that is there is kept, and comes back.
fn exchange_in(place: &Place<'_>, generation: &Generation) -> Result<()> {
    let at = place.at();
    fs::create_dir_all(at).map_err(Error::io("make directory", at.display()))?;
    let is_empty = fs::read_dir(at).map_err(Error::io("list", at.display()))?.next().is_none();
    if !is_empty {
        return Err(Error::Refused {
            op: "show an overlay at",
            subject: at.display().to_string(),
            why: "something else is there, and would be hidden".into(),
            hint: Some(format!("ls -la {}", quoted(at.display()))),
        });
    }
    let tree = tree_of(place, generation);
    exchange(place, generation, &tree)?;
    keep_own(place, &tree)
}

/// Shows the tree of `generation`, by a bind mount or an exchange.
pub(super) fn show_tree(place: &Place<'_>, generation: &Generation) -> Result<()> {
    if is_exchanged(place.record) {
        return exchange_in(place, generation);
    }
    attach(place, &bound(place, open_tree(&tree_of(place, generation))?)?)
}

/// Shows the tree of `generation` instead of what shows.
pub(super) fn replace_by_tree(place: &Place<'_>, generation: &Generation) -> Result<Swapped> {
    let tree = tree_of(place, generation);
    if !is_exchanged(place.record) {
        return replace(place, &bound(place, open_tree(&tree)?)?);
    }
    let Some(old) = generation_at(place)? else {
        exchange_in(place, generation)?;
        return Ok(Swapped { atomic: false, old: None });
    };
    settle(place, &old)?;
    exchange(place, generation, &tree)?;
    // It is the old one now, and goes with its generation.
    let aside = tree_of(place, &old);
    fs::rename(&tree, &aside).map_err(Error::io("set aside", tree.display()))?;
    Ok(Swapped { atomic: true, old: None })
}

/// Takes the tree out of sight, whichever way it shows.
pub(super) fn take_down(place: &Place<'_>) -> Result<()> {
    if !is_exchanged(place.record) {
        return ours::take_down(place);
    }
    let Some(generation) = generation_at(place)? else { return Ok(()) };
    settle(place, &generation)?;
    let own = own_dir(place);
    if !own.is_dir() {
        fs::create_dir(&own).map_err(Error::io("make directory", own.display()))?;
        let above = place.at().parent().unwrap_or(Path::new("/"));
        look_like(above, &own).map_err(Error::io("copy the attributes of", above.display()))?;
    }
    put(place, &own)?;
    let tree = tree_of(place, &generation);
    if tree.exists() {
        // An exchange that was killed left the one before it here.
        let aside = generation.dir().join("old");
        fs::rename(&tree, &aside).map_err(Error::io("set aside", tree.display()))?;
    }
    fs::rename(&own, &tree).map_err(Error::io("set aside", own.display()))
}

/// Where the tree of a generation is while it does not show by an exchange. The name says whose it is.
pub(super) fn tree_of(place: &Place<'_>, generation: &Generation) -> PathBuf {
    generation.dir().join(place.source(Some(generation.number)).as_file_name())
}

fn open_tree(tree: &Path) -> Result<OwnedFd> {
    pin(tree)
}

/// An exchange that was killed left the place's own directory where the tree was.
fn settle(place: &Place<'_>, shown: &Generation) -> Result<()> {
    let left = tree_of(place, shown);
    match left.exists() && !own_dir(place).exists() {
        true => keep_own(place, &left),
        false => Ok(()),
    }
}

fn keep_own(place: &Place<'_>, dir: &Path) -> Result<()> {
    fs::rename(dir, own_dir(place)).map_err(Error::io("keep", dir.display()))
}

/// Whether something of the copy shows.
pub(super) fn is_shown(place: &Place<'_>) -> Result<bool> {
    match is_exchanged(place.record) {
        true => Ok(generation_at(place)?.is_some()),
        false => Ok(!ours::at(place)?.is_empty()),
    }
}

/// The generation whose tree the place is.
fn generation_at(place: &Place<'_>) -> Result<Option<Generation>> {
    let Ok(meta) = fs::symlink_metadata(place.at()) else { return Ok(None) };
    let identity = identity_of(&meta);
    for number in place.overlay.generations(place.copy.number)? {
        let generation = place.overlay.generation(place.copy.number, number);
        if fs::read_to_string(identity_file(&generation)).is_ok_and(|written| written == identity) {
            return Ok(Some(generation));
        }
    }
    Ok(None)
}

fn identity_of(meta: &fs::Metadata) -> String {
    format!("{}:{}", meta.dev(), meta.ino())
}

fn identity_file(generation: &Generation) -> PathBuf {
    generation.dir().join("identity")
}

/// Where the directory that was at the place before the overlay waits.
fn own_dir(place: &Place<'_>) -> PathBuf {
    place.overlay.dir().join(place.copy.number.to_string()).join("place")
}

/// Exchanges the place for `tree`. Which it is is written down before: only what we put there is ever taken away.
fn exchange(place: &Place<'_>, generation: &Generation, tree: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(tree).map_err(Error::io("examine", tree.display()))?;
    let file = identity_file(generation);
    fs::write(&file, identity_of(&meta)).map_err(Error::io("write", file.display()))?;
    put(place, tree)
}

fn put(place: &Place<'_>, with: &Path) -> Result<()> {
    let at = place.at();
    rustix::fs::renameat_with(CWD, with, CWD, at, RenameFlags::EXCHANGE).map_err(|errno| match errno {
        Errno::XDEV => Error::Refused {
            op: "show an overlay at",
            subject: at.display().to_string(),
            why: format!(
                "the home {} is on another filesystem, and this process may not mount",
                place.overlay.home().dir().display()
            ),
            hint: Some(format!(
                "cowsnap overlay --home DIR …, with a DIR on the filesystem of {}; or run it as root",
                quoted(at.display())
            )),
        },
        errno => Error::io("show an overlay at", at.display())(errno),
    })
}
