//! One btrfs filesystem: its top level and the `.cowsnap` directory there (docs/FORMAT-btrfs-store.md).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::endpoint::btrfs::dataset::{self, Dataset};
use crate::endpoint::btrfs::{roots, staging};
pub(super) use crate::endpoint::dir::{
    list, numbered, open_beneath, read_at, remove_at, rename_new, write_at,
};
use crate::endpoint::{Error, Result};
use crate::model::{Guid, quoted};
use crate::sys::btrfs::{self, FIRST_FREE_OBJECTID, FS_TREE_OBJECTID, SubvolInfo};
use crate::sys::mount;

/// The directory at the top level that holds all that cowsnap keeps.
pub const STORE_DIR: &str = ".cowsnap";
const LONGEST_PLAIN_KEY: usize = 200;
const UUID_TREE_OBJECTID: u64 = 9;
const UUID_KEY_SUBVOL: u32 = 251;
const UUID_KEY_RECEIVED_SUBVOL: u32 = 252;

/// A btrfs filesystem, opened at its top level, whatever part of it is mounted.
#[derive(Debug)]
pub struct Store {
    anchor: OwnedFd,
    top: OwnedFd,
    fsid: [u8; 16],
    mounted_at: PathBuf,
}

/// A subvolume found by what it was sent as.
#[derive(Debug)]
pub struct Found {
    /// Its root directory.
    pub fd: OwnedFd,
    /// What the filesystem knows of it.
    pub info: SubvolInfo,
}

/// How a filesystem is opened: [`Store::open`] or [`Store::open_as_it_is`].
pub type Open = fn(&Path) -> Result<Arc<Store>>;

impl Store {
    /// Opens the filesystem that holds `path`, and finishes or clears away what dead processes left in its store.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such path, [`Error::Foreign`] if it is not on btrfs, [`Error::Denied`]
    /// without the privilege.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let store = Self::open_as_it_is(path)?;
        staging::recover(&store);
        Ok(store)
    }

    /// Opens the filesystem and touches nothing: for who only looks.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_as_it_is(path: &Path) -> Result<Arc<Self>> {
        Self::of(open_path(path)?, path)
    }

    /// As [`Store::open`], if no symbolic link leads to `path`, whoever puts one there meanwhile: behind one, nothing is touched.
    ///
    /// # Errors
    /// As [`Store::open`]; [`Error::Denied`] for a link.
    pub fn open_directly(path: &Path) -> Result<Arc<Self>> {
        let store = Self::of(open_path_directly(path)?, path)?;
        staging::recover(&store);
        Ok(store)
    }

    fn of(anchor: OwnedFd, path: &Path) -> Result<Arc<Self>> {
        check_is_btrfs(anchor.as_fd(), path)?;
        let fsid = btrfs::fs_info(anchor.as_fd()).map_err(Error::io("read", path.display()))?.fsid;
        let top = open_top(anchor.as_fd(), path)?;
        check_store_is_ours(top.as_fd(), path)?;
        Ok(Arc::new(Self { anchor, top, fsid, mounted_at: path.to_owned() }))
    }

    /// The top-level subvolume's root directory.
    pub fn top(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// A descriptor on the mount that the store was opened through; mounts are made from it.
    pub fn anchor(&self) -> BorrowedFd<'_> {
        self.anchor.as_fd()
    }

    /// Whether what was opened stands at the path that it was opened by: no link led to it, whatever is there by now. All work is done from
    /// what was opened, so nobody leads it elsewhere afterwards.
    pub fn is_opened_directly(&self) -> bool {
        let real = std::fs::read_link(format!("/proc/self/fd/{}", self.anchor.as_raw_fd()));
        real.is_ok_and(|real| real == self.mounted_at)
    }

    /// The path that the store was opened by.
    pub fn opened_by(&self) -> &Path {
        &self.mounted_at
    }

    /// The filesystem's uuid.
    pub fn fsid(&self) -> [u8; 16] {
        self.fsid
    }

    /// The dataset whose path below the top level is `path`, whether it exists or not. The empty path is the top level.
    pub fn dataset(self: &Arc<Self>, path: impl Into<PathBuf>) -> Dataset {
        Dataset::new(Arc::clone(self), path.into())
    }

    /// All datasets: live subvolumes, and those of which only history is left; by path.
    ///
    /// # Errors
    /// A tree that can not be searched.
    pub fn datasets(self: &Arc<Self>) -> Result<Vec<Dataset>> {
        let mut paths = self.live_paths()?;
        paths.extend(self.paths_with_history()?);
        paths.sort();
        paths.dedup();
        Ok(paths.into_iter().map(|path| self.dataset(path)).collect())
    }

    /// The paths below the top level of all subvolumes outside the store, sorted by id.
    fn live_paths(&self) -> Result<Vec<PathBuf>> {
        let mut paths = roots::Paths::new(self.top());
        let roots = roots::scan(self.top()).map_err(self.io("search", "the root tree"))?;
        let all: Vec<_> = roots.iter().filter_map(|root| paths.of(&roots, root)).collect();
        Ok(all.into_iter().filter(|path| !path.starts_with(STORE_DIR)).collect())
    }

    /// The paths of the datasets that have a directory in the store.
    pub(super) fn paths_with_history(&self) -> Result<Vec<PathBuf>> {
        let Some(datasets) = self.open_in_store("datasets")? else { return Ok(Vec::new()) };
        let names = list(datasets.as_fd()).map_err(self.io("list", "datasets"))?;
        let paths = names.iter().map(|name| read_at(datasets.as_fd(), Path::new(name).join("dataset")));
        let found = paths.filter_map(Result::ok).flatten();
        Ok(found.map(|bytes| PathBuf::from(OsString::from_vec(bytes))).collect())
    }

    /// The subvolume that was received from `uuid` at `ctransid`, or that is itself what was sent so. What was
    /// received comes first, as the kernel's own sender names a received subvolume by what it was received from.
    ///
    /// Sent onward or back, a received subvolume is named with the transaction of the middle man's copy
    /// (kernel-notes/btrfs-receive.md): where no transaction fits, one of that `uuid` is taken that is certainly unchanged.
    /// What was altered in the store is never taken for what it was.
    ///
    /// # Errors
    /// A tree that can not be searched, or a subvolume that can not be opened.
    pub fn find_received(&self, uuid: Guid, ctransid: u64) -> Result<Option<Found>> {
        let mut of_another_transaction = None;
        for (key, received) in [(UUID_KEY_RECEIVED_SUBVOL, true), (UUID_KEY_SUBVOL, false)] {
            for id in self.ids_by_uuid(uuid, key)? {
                // A subvolume destroyed since then is not what was looked for.
                let Ok(fd) = self.open_subvolume(id) else { continue };
                let info = btrfs::get_subvol_info(fd.as_fd()).map_err(self.io("read", "a subvolume"))?;
                let unchanged = info.readonly && !self.is_altered(&info, received);
                let exact = ctransid == if received { info.stransid } else { info.ctransid };
                // Its own transaction is new after any change; the one that it was received at stays.
                if exact && (unchanged || !received) {
                    return Ok(Some(Found { fd, info }));
                }
                if unchanged && of_another_transaction.is_none() {
                    of_another_transaction = Some(Found { fd, info });
                }
            }
        }
        Ok(of_another_transaction)
    }

    /// Whether content was changed after the subvolume became what its uuids say. Of what was received outside the store
    /// that can not be told: others mark it as received before the last of its data is written out.
    fn is_altered(&self, info: &SubvolInfo, received: bool) -> bool {
        let in_store = || {
            let dir = roots::Paths::new(self.top()).dir(info.parent_id, info.dir_id);
            info.parent_id == FS_TREE_OBJECTID && dir.is_some_and(|dir| dir.starts_with(STORE_DIR))
        };
        roots::Root::from(info.clone()).is_altered() && (!received || in_store())
    }

    fn ids_by_uuid(&self, uuid: Guid, kind: u32) -> Result<Vec<u64>> {
        let (low, high) = uuid.0.split_at(8);
        let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight of sixteen bytes"));
        let key = (half(low), kind, half(high));
        let range = btrfs::SearchKey { tree: UUID_TREE_OBJECTID, min: key, max: key, min_transid: 0 };
        let mut ids = Vec::new();
        let searched = btrfs::tree_search(self.top(), range, |item| {
            let chunks = item.data.chunks_exact(8);
            ids.extend(chunks.map(half));
            true
        });
        match searched {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()), // a fresh filesystem has none
            other => other.map(|()| ids).map_err(self.io("search", "the uuid tree")),
        }
    }

    /// Opens the root directory of the subvolume with that id.
    ///
    /// # Errors
    /// One that is being destroyed, or no privilege.
    pub fn open_subvolume(&self, id: u64) -> Result<OwnedFd> {
        match btrfs::open_by_id(self.top(), id, FIRST_FREE_OBJECTID) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.open_by_path_of(id),
            other => other.map_err(self.io("open", format!("subvolume {id}"))),
        }
    }

    fn open_by_path_of(&self, id: u64) -> Result<OwnedFd> {
        let roots = roots::scan(self.top()).map_err(self.io("search", "the root tree"))?;
        let root = roots.iter().find(|root| root.id == id);
        let path = root.and_then(|root| roots::Paths::new(self.top()).of(&roots, root));
        let path = path.ok_or_else(|| self.io("open", format!("subvolume {id}"))(Errno::NOENT))?;
        open_beneath(self.top(), &path).map_err(self.io("open", path.display()))
    }

    /// The directory `path` of the store; `None` if it is not there.
    pub(super) fn open_in_store(&self, path: impl AsRef<Path>) -> Result<Option<OwnedFd>> {
        let path = Path::new(STORE_DIR).join(path);
        match open_beneath(self.top(), &path) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("open", path.display())(error)),
        }
    }

    /// The directory `path` of the store, made with all above it if it is not there.
    pub(super) fn make_in_store(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        if let Some(fd) = self.open_in_store(&path)? {
            return Ok(fd);
        }
        let mut so_far = PathBuf::from(STORE_DIR);
        self.make_dir(&so_far)?;
        for component in path.as_ref() {
            so_far.push(component);
            self.make_dir(&so_far)?;
        }
        open_beneath(self.top(), &so_far).map_err(self.io("open", so_far.display()))
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        match rustix::fs::mkdirat(self.top(), path, Mode::RWXU) {
            Err(Errno::EXIST) => Ok(()),
            Err(Errno::ROFS) => Err(self.readonly("create", path.display())),
            other => other.map_err(self.io("create", path.display())),
        }
    }

    /// Wraps what the kernel said about something of this filesystem.
    pub(super) fn io<S: ToString, E: Into<io::Error>>(
        &self,
        op: &'static str,
        subject: S,
    ) -> impl FnOnce(E) -> Error {
        Error::io(op, format!("{} on the filesystem of {}", subject.to_string(), self.mounted_at.display()))
    }

    /// The refusal of a mount that can only be read.
    pub(super) fn readonly(&self, op: &'static str, subject: impl ToString) -> Error {
        Error::Denied {
            op,
            subject: subject.to_string(),
            lacking: "the filesystem is mounted read-only".into(),
            hint: Some(format!("mount -o remount,rw {}", quoted(self.mounted_at.display()))),
        }
    }
}

/// The directory name under `datasets/` of the dataset with that path: the path percent-encoded; if that is too long, a
/// prefix of it and the path's blake3. The top level itself is `%`.
pub fn key_of(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return "%".into();
    }
    let mut key = String::with_capacity(bytes.len() + 8);
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => key.push(byte.into()),
            _ => key.push_str(&format!("%{byte:02X}")),
        }
    }
    if key.len() <= LONGEST_PLAIN_KEY {
        return key;
    }
    let hash = blake3::hash(bytes).to_hex();
    format!("{}%%{}", &key[..LONGEST_PLAIN_KEY - 80], &hash[..64])
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    opened(rustix::fs::open(path, flags, Mode::empty()), path)
}

fn open_path_directly(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(Errno::LOOP) => Err(Error::Denied {
            op: "serve",
            subject: path.display().to_string(),
            lacking: "it is or lies behind a symbolic link".into(),
            hint: None,
        }),
        other => opened(other, path),
    }
}

fn opened(opened: rustix::io::Result<OwnedFd>, path: &Path) -> Result<OwnedFd> {
    match opened {
        Ok(fd) => Ok(fd),
        Err(Errno::NOENT) => {
            Err(Error::NotFound { what: "directory", subject: path.display().to_string(), hint: None })
        }
        Err(Errno::NOTDIR) => Err(dataset::no_directory(path)),
        Err(error) => Err(Error::io("open", path.display())(error)),
    }
}

/// Whether `path`, or what is nearest above it and there, is on btrfs.
///
/// # Errors
/// A path that can not be looked at.
pub fn is_on_btrfs(path: &Path) -> Result<bool> {
    for path in path.ancestors() {
        match rustix::fs::statfs(path) {
            #[expect(clippy::unnecessary_cast, reason = "the width of the field differs between machines")]
            Ok(found) => return Ok(found.f_type as i64 == btrfs::SUPER_MAGIC),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(Error::io("examine", path.display())(error)),
        }
    }
    Ok(false)
}

/// Whether the directory `path`, which is on btrfs, is the root of a subvolume.
///
/// # Errors
/// A path that can not be looked at.
pub fn is_subvolume(path: &Path) -> Result<bool> {
    let found = rustix::fs::stat(path).map_err(Error::io("examine", path.display()))?;
    Ok(found.st_ino == FIRST_FREE_OBJECTID)
}

fn check_is_btrfs(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let found = rustix::fs::fstatfs(fd).map_err(Error::io("examine", path.display()))?;
    if found.f_type as i64 == btrfs::SUPER_MAGIC {
        return Ok(());
    }
    Err(Error::Foreign {
        subject: path.display().to_string(),
        wanted: "btrfs subvolume",
        why: "it is on another kind of filesystem".into(),
        hint: Some(format!("cowsnap adopt {} --to POOL/NAME", quoted(path.display()))),
    })
}

/// What the store says is done and believed: nobody else may write there. The top level may be a user's.
fn check_store_is_ours(top: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let stat = match rustix::fs::statat(top, STORE_DIR, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(Error::io("examine the store of", path.display()))?,
    };
    let ours = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    if ours && stat.st_mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::Denied {
        op: "use the filesystem of",
        subject: path.display().to_string(),
        lacking: format!("{STORE_DIR} at its top level can be written by others (uid {})", stat.st_uid),
        hint: Some(format!(
            "look at what is in it; if all is well: chown root: {STORE_DIR}; chmod 700 {STORE_DIR}"
        )),
    })
}

/// By its handle, which costs one call and works below a mount of any subvolume; by a detached mount where
/// CAP_DAC_READ_SEARCH is missing (kernel-notes/btrfs-subvolumes.md).
fn open_top(anchor: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    match btrfs::open_by_id(anchor, FS_TREE_OBJECTID, FIRST_FREE_OBJECTID) {
        Ok(top) => Ok(top),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open_top_by_mount(anchor, path),
        Err(error) => Err(Error::io("open the top level of", path.display())(error)),
    }
}

fn open_top_by_mount(anchor: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let denied = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM) => Error::Denied {
            op: "open the top level of",
            subject: path.display().to_string(),
            lacking: "CAP_DAC_READ_SEARCH or CAP_SYS_ADMIN is needed".into(),
            hint: Some("run it as root; in a container, add the capability SYS_ADMIN".into()),
        },
        _ => Error::io("open the top level of", path.display())(error),
    };
    let id = mount::mount_id(anchor).map_err(denied)?;
    let visible = mount::mounts().map_err(denied)?.into_iter().find(|m| m.id == id);
    let visible = visible.ok_or_else(|| denied(io::Error::from_raw_os_error(libc::EPERM)))?;
    let detached = mount::detached("btrfs", &visible.source, &[("subvolid", "5")]).map_err(denied)?;
    let top = rustix::fs::openat(
        &detached,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    top.map_err(|error| denied(error.into()))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn keys_are_single_names_and_tell_paths_apart() {
        assert_eq!(key_of(Path::new("")), "%");
        assert_eq!(key_of(Path::new("chain/state 1")), "chain%2Fstate%201");
        assert_eq!(key_of(Path::new(OsStr::from_bytes(b"\xff%"))), "%FF%25");
        let long = |end: &str| key_of(Path::new(&format!("{}{end}", "d/".repeat(300))));
        assert!(long("a").len() <= 255 && long("a") != long("b"));
    }
}
