//! Streams of btrfs as a plain tree: a directory on whatever filesystem, without versions.
//!
//! What is not finished stands beside its place, as `.NAME.cowsnap-restoring`, which nobody but its owner may enter: a [`Staging`]. There
//! a full stream makes the tree, and each increment changes it, so that what an increment needs of its base is set aside before.
//!
//! **Invariant:** what is in the staging directory is only cleared away if it is what a restore has made there; what a restore replaces is
//! renamed, never destroyed.

mod ground;
mod keep;
mod place;
mod state;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, fstat, syncfs};
use rustix::io::Errno;

use crate::endpoint::btrfs::receive::{self, Needs, Origin};
use crate::endpoint::dir::{list, lock, open_beneath, remove_at, write_at};
use crate::endpoint::tree::remove_all;
use crate::endpoint::{Error, Result};
use crate::model::{Guid, VersionRef};
use crate::sys::mount;

pub use place::in_the_way;
pub use state::Lack;
use state::State;

/// The tree in the making, in the staging directory.
const TREE: &str = "tree";
/// What is kept of the tree as it was before the increment that is applied.
const BASE: &str = "base";
const STATE: &str = "state";

/// How often to look whether somebody is at work in a staging directory, and how long between.
const TRIES: u32 = 50;
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Where a tree is to stand.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    parent: OwnedFd,
    name: OsString,
}

/// What stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// Nothing.
    Nothing,
    /// A directory with nothing in it.
    Empty,
    /// A directory that holds something.
    Something,
}

/// The tree in the making. If the process ends, it stays for who restores the same next.
#[derive(Debug)]
pub struct Staging<'t> {
    target: &'t Target,
    id: OsString,
    fd: OwnedFd,
    state: State,
    trusted: Option<Vec<String>>,
}

impl Target {
    /// The directory `path`, whether it is there or not. Symbolic links on the way are followed now and never again.
    ///
    /// # Errors
    /// No directory above it; something else than a directory in its place; a mount point.
    pub fn open(path: &Path) -> Result<Self> {
        let real = match path.canonicalize() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => above(path)?,
            found => found.map_err(Error::io("open", path.display()))?,
        };
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(refused(path, "it is the root of all".into(), None));
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent =
            rustix::fs::open(parent, flags, Mode::empty()).map_err(Error::io("open", parent.display()))?;
        let target = Self { path: real.clone(), parent, name: name.to_owned() };
        if target.is_mount_point()? {
            let hint = Some(format!("--to {}", crate::model::quoted(real.join("NAME").display())));
            return Err(refused(path, "it is a mount point, which nothing can be renamed to".into(), hint));
        }
        target.there().map(|_| target)
    }

    /// Its path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands there.
    ///
    /// # Errors
    /// Something else than a directory.
    pub fn there(&self) -> Result<There> {
        let directory = match open_beneath(self.parent.as_fd(), Path::new(&self.name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(There::Nothing),
            found => found.map_err(Error::io("open", self.path.display()))?,
        };
        let names = list(directory.as_fd()).map_err(Error::io("list", self.path.display()))?;
        Ok(if names.is_empty() { There::Empty } else { There::Something })
    }

    fn is_mount_point(&self) -> Result<bool> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let io = |error: std::io::Error| Error::io("examine", self.path.display())(error);
        match rustix::fs::openat(&self.parent, &self.name, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(io(error.into())),
            Ok(fd) => {
                let parent = mount::mount_id(self.parent.as_fd()).map_err(io)?;
                Ok(mount::mount_id(fd.as_fd()).map_err(io)? != parent)
            }
        }
    }

    /// The staging directory, for oneself: whose process was killed may still be about to end.
    fn locked(&self, id: &OsStr) -> Result<Option<OwnedFd>> {
        for _ in 0..TRIES {
            let locked = lock(self.parent.as_fd(), id).map_err(self.io("lock the staging directory of"))?;
            if locked.is_some() {
                return Ok(locked);
            }
            std::thread::sleep(TRY_AGAIN);
        }
        Ok(None)
    }

    /// What the staging directory beside it is called.
    fn staging_name(&self) -> OsString {
        let named = |name: &OsStr| {
            let mut id = OsString::from(".");
            id.push(name);
            id.push(".cowsnap-restoring");
            id
        };
        match named(&self.name) {
            id if id.len() <= 255 => id,
            _ => named(OsStr::new(&blake3::hash(self.name.as_encoded_bytes()).to_hex()[..32])),
        }
    }

    fn io<E: Into<std::io::Error>>(&self, op: &'static str) -> impl FnOnce(E) -> Error {
        Error::io(op, self.path.display())
    }
}

fn above(path: &Path) -> Result<PathBuf> {
    let missing = || Error::NotFound { what: "directory", subject: path.display().to_string(), hint: None };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(missing()) };
    match parent.canonicalize() {
        Ok(real) if real.is_dir() => Ok(real.join(name)),
        _ => Err(missing()),
    }
}

fn refused(path: &Path, why: String, hint: Option<String>) -> Error {
    Error::Refused { op: "restore to", subject: path.display().to_string(), why, hint }
}

impl<'t> Staging<'t> {
    /// What a restore that was broken off has made for `target` so far, taken over; `None` if there is nothing. Nothing is changed.
    ///
    /// # Errors
    /// Somebody is at work there; something else stands there, or what somebody else has made.
    pub fn find(target: &'t Target) -> Result<Option<Self>> {
        let id = target.staging_name();
        match rustix::fs::statat(&target.parent, &id, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.map_err(target.io("examine what is beside"))?,
        };
        let Some(fd) = target.locked(&id)? else {
            let why = "another process is restoring to it".into();
            return Err(refused(&target.path, why, Some("wait for it, and try again".into())));
        };
        let foreign = |why: String| {
            let shown = target.path.with_file_name(&id);
            refused(&target.path, format!("{} is in the way: {why}", shown.display()), None)
        };
        let stat = fstat(&fd).map_err(target.io("examine what is beside"))?;
        if !state::is_own(&stat) {
            return Err(foreign("somebody else has made it, or others may write to it".into()));
        }
        let names = list(fd.as_fd()).map_err(target.io("list what is beside"))?;
        let known = [TREE, BASE, STATE, "%state"];
        if let Some(name) = names.iter().find(|name| !known.iter().any(|known| name == known)) {
            return Err(foreign(format!("no restore has put {} there", name.display())));
        }
        let state = match State::read(fd.as_fd())? {
            Some(state) => state,
            None if names.iter().all(|name| name == "%state") => State::default(),
            None => return Err(foreign("it does not say what it is".into())),
        };
        Ok(Some(Self { target, id, fd, state, trusted: None }))
    }

    /// Makes a place for the tree of `target`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(target: &'t Target) -> Result<Self> {
        rustix::fs::mkdirat(&target.parent, target.staging_name(), Mode::RWXU)
            .map_err(target.io("make a staging directory beside"))?;
        match Self::find(target)? {
            Some(staging) => Ok(staging),
            None => Err(refused(&target.path, "its staging directory is gone".into(), None)),
        }
    }

    /// The version that the tree has the content of; `None` before there is one, and in the midst of a stream.
    pub fn holds(&self) -> Option<&VersionRef> {
        self.state.holds.as_ref().filter(|_| self.state.applying.is_none() && self.tree_is_ours())
    }

    /// One of these keys has signed what is applied from now on: who applies it looks. `None` if nobody does.
    pub fn trusting(&mut self, keys: Option<Vec<String>>) {
        self.trusted = keys;
    }

    /// Whether all that was applied was found to be signed by one of `keys`.
    pub fn was_signed_by(&self, keys: &[String]) -> bool {
        self.state.signed.as_ref().is_some_and(|by| by.iter().all(|key| keys.contains(key)))
    }

    /// Who signed all that will have been applied.
    fn signed(&self) -> Option<Vec<String>> {
        let (before, now) = (self.state.signed.clone(), self.trusted.clone()?);
        let mut all = if self.state.holds.is_some() { before? } else { Vec::new() };
        all.extend(now);
        all.sort();
        all.dedup();
        Some(all)
    }

    /// What the filesystem can not hold of what was applied.
    pub fn lacks(&self) -> &[Lack] {
        &self.state.lacks
    }

    /// Clears away all that was made. What was exchanged for it gets the name that it is to be kept under.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear(self) -> Result<()> {
        self.finish_exchange()?;
        // The state goes last: without it, nobody would know whose the rest is.
        for name in [TREE, BASE] {
            remove_all(self.fd.as_fd(), Path::new(name)).map_err(self.target.io("clear up beside"))?;
        }
        for name in ["%state", STATE] {
            remove_at(self.fd.as_fd(), OsStr::new(name)).map_err(self.target.io("clear up beside"))?;
        }
        rustix::fs::unlinkat(&self.target.parent, &self.id, AtFlags::REMOVEDIR)
            .map_err(self.target.io("clear up beside"))
    }

    /// Reads an increment to its end and sets aside what of the tree it will need as it is now.
    ///
    /// # Errors
    /// As [`receive::needs`]; a stream that needs a version that the tree is not.
    pub fn prepare(&mut self, stream: &mut dyn std::io::Read) -> Result<Needs> {
        let needs = receive::needs(stream)?;
        let holds = self.holds().map(|version| version.guid);
        let other = needs.keys().find(|((uuid, _), _)| Some(Guid(*uuid)) != holds);
        if let Some(((uuid, _), path)) = other {
            let why = format!(
                "the stream clones {} from the snapshot {}, and a plain tree has no snapshot but the base",
                path.escape_ascii(),
                Guid(*uuid)
            );
            return Err(refused(&self.target.path, why, Some("send without --clone-source".into())));
        }
        self.set_aside(&needs)?;
        Ok(needs)
    }

    /// Applies the stream of `version` to the tree, which is empty or has the content of its base; with what an increment needs of that.
    /// Once `stream` has ended without an error, and all is on disk, the tree [holds](Self::holds) it.
    ///
    /// # Errors
    /// As [`receive::apply`]. The tree is of no use then.
    pub fn apply(
        &mut self,
        version: &VersionRef,
        needs: &Needs,
        stream: &mut dyn std::io::Read,
    ) -> Result<()> {
        self.state.applying = Some(version.guid);
        self.write_state()?;
        let held = self.state.holds.as_ref().map(|version| version.guid);
        let mut ground = ground::Here::new(self.fd.as_fd(), version.guid, held, needs);
        let applied = receive::apply(stream, &mut ground, OsStr::new(TREE), None)?;
        let lacks = ground.into_lacks();
        syncfs(&applied.subvolume).map_err(self.target.io("write what is to be"))?;
        self.state.inode = fstat(&applied.subvolume).map_err(self.target.io("examine what is to be"))?.st_ino;
        state::add(&mut self.state.lacks, lacks);
        self.state.signed = self.signed();
        (self.state.holds, self.state.applying) = (Some(version.clone()), None);
        self.write_state()?;
        remove_all(self.fd.as_fd(), Path::new(BASE)).map_err(self.target.io("clear up beside"))
    }

    fn write_state(&self) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.state).expect("its keys are texts");
        write_at(self.fd.as_fd(), OsStr::new(STATE), &bytes).map_err(self.target.io("write beside"))
    }

    /// Whether what is called the tree is the one that was made here.
    fn tree_is_ours(&self) -> bool {
        let found = rustix::fs::statat(&self.fd, TREE, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| found.st_ino == self.state.inode)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a stream's first command says, against what it was announced as.
fn expect(origin: &Origin, guid: Guid, held: Option<Guid>) -> Result<()> {
    let base = origin.base.map(|(uuid, _)| Guid(uuid));
    if Guid(origin.uuid) != guid {
        let why = format!("it was announced as {guid} and is {}", Guid(origin.uuid));
        return Err(Error::Corrupt { what: "btrfs stream", why, source: None });
    }
    match base == held {
        true => Ok(()),
        false => Err(Error::Refused {
            op: "apply",
            subject: format!("the stream of {guid}"),
            why: format!("it builds upon {}, and the tree is {}", words(base), words(held)),
            hint: None,
        }),
    }
}

fn words(guid: Option<Guid>) -> String {
    guid.map_or_else(|| "nothing".to_owned(), |guid| guid.to_string())
}
