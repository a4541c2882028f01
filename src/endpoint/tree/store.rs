//! Where the snapshots of trees are kept: `.cowsnap-trees` beside them (docs/FORMAT-tree.md).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::endpoint::dir::{open_beneath, rename_new};
use crate::endpoint::tree::staging;
use crate::endpoint::{Error, Result};
use crate::model::quoted;

/// The directory that holds all that cowsnap keeps of the trees beside it. Left out of every snapshot.
pub const STORE_DIR: &str = ".cowsnap-trees";

/// The directory that trees stand in, and whose `.cowsnap-trees` keeps their versions.
#[derive(Debug)]
pub(super) struct Base {
    fd: OwnedFd,
    path: PathBuf,
    id: (u64, u64),
}

impl PartialEq for Base {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Base {
    /// Opens the directory `path`, which has no symbolic link in it any more.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::io("open", path.display()))?;
        let stat = rustix::fs::fstat(&fd).map_err(Error::io("examine", path.display()))?;
        Ok(Self { fd, path: path.into(), id: (stat.st_dev, stat.st_ino) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its filesystem's device number, and its inode.
    pub(super) fn id(&self) -> (u64, u64) {
        self.id
    }

    /// The filesystem's device number.
    pub(super) fn device(&self) -> u64 {
        self.id.0
    }

    /// The store, once what dead processes left in it is finished; `None` if there is none.
    pub(super) fn store(&self) -> Result<Option<Store>> {
        let store = Store::open(self)?;
        if let Some(store) = &store {
            staging::recover(store);
        }
        Ok(store)
    }

    /// The store, made if there is none.
    pub(super) fn store_or_made(&self) -> Result<Store> {
        if let Some(store) = self.store()? {
            return Ok(store);
        }
        let subject = self.path.join(STORE_DIR);
        match rustix::fs::mkdirat(&self.fd, STORE_DIR, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::ROFS) => return Err(read_only(&self.path)),
            Err(errno) => return Err(Error::io("create", subject.display())(errno)),
        }
        let store = Store::open(self)?.ok_or_else(|| Error::io("open", subject.display())(Errno::NOENT))?;
        store.inherit_nothing()?;
        Ok(store)
    }

    /// Removes the store if nothing is in it any more.
    pub(super) fn remove_if_empty(&self) {
        let remove = |path: &Path| rustix::fs::unlinkat(&self.fd, path, AtFlags::REMOVEDIR);
        let store = Path::new(STORE_DIR);
        let _ = remove(&store.join("staging"));
        // As long as there are trees in it, it stays.
        if !matches!(remove(&store.join("trees")), Err(Errno::NOTEMPTY | Errno::EXIST)) {
            let _ = remove(store);
        }
    }
}

fn read_only(path: &Path) -> Error {
    Error::Denied {
        op: "keep snapshots in",
        subject: path.display().to_string(),
        lacking: "the filesystem is mounted read-only".into(),
        hint: Some(format!("mount -o remount,rw {}", quoted(path.display()))),
    }
}

/// An open `.cowsnap-trees`.
#[derive(Debug)]
pub(super) struct Store {
    fd: OwnedFd,
    path: PathBuf,
}

impl Store {
    fn open(base: &Base) -> Result<Option<Self>> {
        let path = base.path.join(STORE_DIR);
        let fd = match open_beneath(base.fd(), Path::new(STORE_DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("open", path.display()))?,
        };
        let store = Self { fd, path };
        store.check_is_ours()?;
        Ok(Some(store))
    }

    /// What the store says is done and believed: nobody else may write there.
    fn check_is_ours(&self) -> Result<()> {
        let stat = rustix::fs::fstat(&self.fd).map_err(self.io("examine", ""))?;
        let ours = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
        if ours && stat.st_mode & 0o022 == 0 {
            return Ok(());
        }
        let shown = quoted(self.path.display());
        Err(Error::Denied {
            op: "use",
            subject: self.path.display().to_string(),
            lacking: format!("it can be written by others (uid {})", stat.st_uid),
            hint: Some(format!(
                "run it as that user; or look at what is in it, and if all is well: chown root: {shown}; chmod 700 {shown}"
            )),
        })
    }

    /// Takes away what a directory gets from the one that it is made in: ACLs would reach into every copy.
    fn inherit_nothing(&self) -> Result<()> {
        for name in ["system.posix_acl_default", "system.posix_acl_access"] {
            match rustix::fs::fremovexattr(&self.fd, name) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(self.io("create", "")(errno)),
            }
        }
        rustix::fs::fchmod(&self.fd, Mode::RWXU).map_err(self.io("create", ""))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The directory `path` of the store; `None` if it is not there.
    pub(super) fn find(&self, path: impl AsRef<Path>) -> Result<Option<OwnedFd>> {
        match open_beneath(self.fd(), path.as_ref()) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("open", path.as_ref().display())(error)),
        }
    }

    /// The directory `path` of the store, made with all above it if it is not there.
    pub(super) fn make(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        let mut so_far = PathBuf::new();
        for component in path.as_ref() {
            so_far.push(component);
            match rustix::fs::mkdirat(&self.fd, &so_far, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(Errno::ROFS) => return Err(read_only(&self.path)),
                Err(errno) => return Err(self.io("create", so_far.display())(errno)),
            }
        }
        open_beneath(self.fd(), &so_far).map_err(self.io("open", so_far.display()))
    }

    /// Whether the directory that is open as `fd` is still what `path` leads to.
    pub(super) fn is_at(&self, fd: &OwnedFd, path: &Path) -> Result<bool> {
        let ours = rustix::fs::fstat(fd).map_err(self.io("examine", path.display()))?.st_ino;
        let now = rustix::fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW);
        Ok(now.is_ok_and(|now| now.st_ino == ours))
    }

    /// Renames a directory of the store, never over another.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        rename_new((self.fd(), from.as_os_str()), (self.fd(), to.as_os_str()))
            .map_err(self.io("rename", from.display()))
    }

    /// Brings all that was written to disk.
    pub(super) fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.fd).map_err(self.io("sync", ""))
    }

    /// Why nothing can be kept here: names can neither be exchanged nor given only if they are free.
    pub(super) fn can_not_rename(&self, errno: Errno) -> Error {
        Error::Refused {
            op: "snapshot",
            subject: self.path.with_file_name("").display().to_string(),
            why: format!(
                "its filesystem can not exchange names, as ZFS before 2.2 (renameat2: {})",
                io::Error::from(errno)
            ),
            hint: Some("snapshot the dataset that the directory is in".into()),
        }
    }

    /// Wraps what the kernel said about something of the store.
    pub(super) fn io<S: ToString, E: Into<io::Error>>(
        &self,
        op: &'static str,
        subject: S,
    ) -> impl FnOnce(E) -> Error {
        let subject = subject.to_string();
        let path = if subject.is_empty() { self.path.clone() } else { self.path.join(subject) };
        Error::io(op, path.display().to_string())
    }
}

/// Whether `path` goes through a place where snapshots are kept, of trees or of btrfs.
pub(super) fn is_inside(path: &Path) -> bool {
    path.iter().any(|component| component == OsStr::new(STORE_DIR) || component == OsStr::new(".cowsnap"))
}
