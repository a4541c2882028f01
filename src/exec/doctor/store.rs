//! What dead processes left in the store of a btrfs filesystem.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::Finding;
use super::unconfirmed::WHAT;
use crate::endpoint::btrfs::store::{STORE_DIR, Store};
use crate::endpoint::btrfs::{CHECKPOINT, InPart, left_in_part, meta};
use crate::endpoint::dir::wait_for_lock;
use crate::endpoint::{Error, Result};
use crate::model::SnapshotName;
use crate::model::name::UNCONFIRMED;

/// Examines the store of the filesystem that holds `path`.
///
/// # Errors
/// As [`Store::open_as_it_is`].
pub fn store(path: &Path) -> Result<Vec<Finding<'static>>> {
    let store = Store::open_as_it_is(path)?;
    let mut found = dead_staging(&store);
    found.extend(unconfirmed(&store));
    // While an operation runs, what is said about a snapshot may be there before the snapshot is.
    if entries(&folder(&store).join("staging")).is_empty() {
        found.extend(stray_meta(&store));
    }
    Ok(found)
}

/// What tells the filesystem that holds `path` from others.
///
/// # Errors
/// As [`Store::open_as_it_is`].
pub fn filesystem(path: &Path) -> Result<[u8; 16]> {
    Ok(Store::open_as_it_is(path)?.fsid())
}

/// The store's directory, reached through the descriptor of the top level.
fn folder(store: &Store) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", store.top().as_raw_fd())).join(STORE_DIR)
}

/// How the directory is called where people see it.
fn shown(store: &Store, path: &Path) -> String {
    let below = path.strip_prefix(folder(store)).unwrap_or(path);
    Path::new(STORE_DIR).join(below).display().to_string()
        + " on the filesystem of "
        + &store.opened_by().display().to_string()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    found.sort();
    found
}

/// Staging directories whose process is gone: receives and sets of snapshots that were neither completed nor taken back.
fn dead_staging(store: &Arc<Store>) -> Vec<Finding<'static>> {
    let dead = entries(&folder(store).join("staging")).into_iter().filter(|path| is_unlocked(path));
    let finding = |path: PathBuf| {
        let name = path.file_name().map(OsStr::to_owned).unwrap_or_default();
        let what = match name.to_string_lossy().starts_with("commit-") {
            true => "an operation that died as it was completed; the next use of the filesystem completes it"
                .into(),
            false => of_staging(left_in_part(store, &path)),
        };
        // Somebody may have taken it up as it was looked at, or have come to its end.
        if !is_unlocked(&path) {
            return None;
        }
        let opened_by = store.opened_by().to_owned();
        let found = Finding::problem(what, shown(store, &path)).since_change_of(&path);
        Some(found.repaired_by(move || Ok(recover(&opened_by, &name)?)))
    };
    dead.filter_map(finding).collect()
}

fn of_staging(left: Option<(SnapshotName, InPart)>) -> String {
    let Some((name, left)) = left else { return "staging of an operation that died".into() };
    let how = match left {
        InPart::GoesOn(bytes) => format!(
            "{bytes} bytes of its stream; the next cowsnap replicate goes on with it, if the source still sends the same"
        ),
        InPart::Damaged => {
            "and what is kept of that is damaged; the next cowsnap replicate begins anew".into()
        }
        InPart::Homeless => {
            "and the history of its dataset is not there; it is kept in case that comes back".into()
        }
    };
    format!("@{name} was received in part, {how}")
}

/// Whether nobody has a lock on the directory.
fn is_unlocked(path: &Path) -> bool {
    File::open(path)
        .is_ok_and(|folder| rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok())
}

/// Opening the store for use is what clears it; here is only looked whether it did.
fn recover(path: &Path, name: &OsStr) -> Result<()> {
    let store = Store::open_as_it_is(path)?;
    forget(&store, name)?;
    drop(store);
    let store = Store::open(path)?;
    let left = folder(&store).join("staging").join(name);
    match left.exists() {
        true => Err(Error::Refused {
            op: "clear",
            subject: shown(&store, &left),
            why: "something in it can not be removed".into(),
            hint: Some("RUST_LOG=cowsnap=debug cowsnap doctor --fix".into()),
        }),
        false => Ok(()),
    }
}

/// Gives up what could have been gone on with, unless somebody does.
fn forget(store: &Store, name: &OsStr) -> Result<()> {
    let dir = folder(store).join("staging").join(name);
    let Ok(locked) = File::open(&dir) else { return Ok(()) };
    if rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    match fs::remove_file(dir.join(CHECKPOINT)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("give up", shown(store, &dir))(error))
        }
        _ => Ok(()),
    }
}

/// Those of all datasets that there are and were.
fn unconfirmed(store: &Store) -> Vec<Finding<'static>> {
    let homes = entries(&folder(store).join("datasets")).into_iter();
    let all = homes
        .flat_map(|home| entries(&home.join("snap")))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(UNCONFIRMED)));
    all.map(|path| Finding::note(WHAT, shown(store, &path)).since_change_of(&path)).collect()
}

/// What is said about snapshots that do not exist: somebody destroyed them with another tool, or was killed before it was taken away. It
/// means nothing, and is no problem, unless somebody holds what is gone: that nothing of ours destroys.
fn stray_meta(store: &Arc<Store>) -> Vec<Finding<'static>> {
    let mut found = Vec::new();
    for home in entries(&folder(store).join("datasets")) {
        for path in entries(&home.join("meta")) {
            let Some(name) = snapshot_of(&path) else { continue };
            let snapshot = home.join("snap").join(&name);
            if snapshot.symlink_metadata().is_ok() {
                continue;
            }
            let kept = Arc::clone(store);
            let finding = stray(&home, &name, shown(store, &path)).since_change_of(&path);
            found.push(finding.repaired_by(move || Ok(remove_note(&kept, &path, &snapshot)?)));
        }
    }
    found
}

/// What is to be said of the notes at `place` on the snapshot `name`, which is gone.
fn stray(home: &Path, name: &OsStr, place: String) -> Finding<'static> {
    let holders = holders(home, name);
    let name = name.display();
    match holders.is_empty() {
        true => Finding::note(format!("notes on the snapshot {name}, which does not exist"), place),
        false => {
            let holders = holders.join(", ");
            Finding::problem(format!("the snapshot {name} is held by {holders}, and is gone"), place)
        }
    }
}

/// Who holds the snapshot; nobody by notes that can not be read.
fn holders(home: &Path, name: &OsStr) -> Vec<String> {
    let said = || {
        let dir = File::open(home.join("meta")).ok()?;
        meta::read_any(dir.as_fd(), &name.to_str()?.parse().ok()?).ok()?
    };
    said().map(|said| said.holds.keys().map(ToString::to_string).collect()).unwrap_or_default()
}

/// The snapshot that a file of `meta` is about; `None` for one that is being written.
fn snapshot_of(path: &Path) -> Option<OsString> {
    let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
    (!name.starts_with('%')).then(|| name.into())
}

fn remove_note(store: &Store, note: &Path, snapshot: &Path) -> Result<()> {
    let subject = shown(store, note);
    // The dataset's lock: nobody makes the snapshot meanwhile.
    let home = note.parent().and_then(Path::parent).unwrap_or(note);
    let locked = File::open(home).map_err(Error::io("open", &subject))?.into();
    wait_for_lock(&locked, &subject)?;
    if snapshot.symlink_metadata().is_ok() {
        return Ok(());
    }
    fs::remove_file(note).map_err(Error::io("remove", subject))
}
