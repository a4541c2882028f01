//! OpenZFS: the calls of `libzfs_core.so.3`, typed in and out. The only place that speaks to it.
//!
//! The library is opened at the first [`open`], so a machine without ZFS runs the program and a ZFS target says what is
//! missing. Seven calls go through libzetta's `ZfsLzc`, the others are made here on the same functions
//! (docs/adr/0003-zfs-calls.md).
//!
//! **Invariants:** a list of errors is read even when the call returns 0. Nothing here forces a receive. Nothing here
//! closes `/dev/zfs` again. Calls that send or receive block until the stream is through: they are made on a thread of
//! their own with signals blocked ([`super::interrupt::block_all_in_this_thread`]) and stopped by closing the pipe.

mod dataset;
mod errno;
mod failed;
mod hold;
mod nvlist;
mod receive;
mod send;
mod snapshot;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::OnceLock;

use libzetta::zfs::ZfsLzc;
use nvpair_sys::Missing;
use rustix::fs::{Mode, OFlags};

pub use dataset::{Kind, Prop};
pub use errno::Errno;
pub use failed::Failed;
pub use receive::{BEGIN_LEN, Receive, Received};
pub use send::SendFlags;
pub use snapshot::Bookmark;

/// The ZFS module's device.
const DEVICE: &str = "/dev/zfs";

/// OpenZFS, ready to be called from any thread.
#[derive(Debug)]
pub struct Lzc {
    zetta: ZfsLzc,
}

/// Why OpenZFS can not be called on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// A shared library can not be opened.
    #[error("zfs: {name} {}", if .why.is_absence() { "not found" } else { "can not be opened" })]
    Library {
        /// The library's name with its version.
        name: &'static str,
        /// What the dynamic linker says.
        #[source]
        why: Linker,
    },
    /// A function is missing from a shared library: it is too old.
    #[error("zfs: {library} has no {name}")]
    Symbol {
        /// The library's name with its version.
        library: &'static str,
        /// The function's name.
        name: &'static str,
    },
    /// The kernel module can not be reached.
    #[error("zfs: the kernel module does not answer: cannot open {DEVICE}")]
    Module(#[source] io::Error),
}

/// The words of the dynamic linker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Linker(pub String);

impl Linker {
    /// Whether the file is missing, rather than broken.
    fn is_absence(&self) -> bool {
        self.0.ends_with("No such file or directory")
    }
}

impl Unavailable {
    /// What would help.
    pub fn hint(&self) -> String {
        match self {
            Self::Library { .. } => "install OpenZFS: apt-get install zfsutils-linux".into(),
            Self::Symbol { .. } => "OpenZFS 2.0 or later is needed".into(),
            Self::Module(why) if why.kind() == io::ErrorKind::PermissionDenied => {
                "run it as root (CAP_SYS_ADMIN)".into()
            }
            Self::Module(_) => "modprobe zfs".into(),
        }
    }
}

impl From<&Missing> for Unavailable {
    fn from(missing: &Missing) -> Self {
        match missing {
            Missing::Library { soname, why } => Self::Library { name: soname, why: Linker(why.clone()) },
            Missing::Symbol { soname, name } => Self::Symbol { library: soname, name },
        }
    }
}

/// Opens the libraries and `/dev/zfs`, at the first call that succeeds.
pub fn open() -> Result<&'static Lzc, Unavailable> {
    static LZC: OnceLock<Lzc> = OnceLock::new();
    if let Some(lzc) = LZC.get() {
        return Ok(lzc);
    }
    // First the one that needs the other: its name is the one to be told.
    libzetta_zfs_core_sys::load()?;
    nvpair_sys::load()?;
    let zetta = ZfsLzc::new().map_err(|error| Unavailable::Module(init_error(error)))?;
    Ok(LZC.get_or_init(|| Lzc { zetta }))
}

fn init_error(error: libzetta::zfs::Error) -> io::Error {
    match error {
        libzetta::zfs::Error::LZCInitializationFailed(source) => source,
        other => io::Error::other(other.to_string()),
    }
}

/// The numbers of the descriptors without which the calls can not be made: those of `/dev/zfs` that are open here.
pub fn descriptors() -> io::Result<Vec<RawFd>> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(DEVICE)?.rdev();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/thread-self/fd")? {
        let entry = entry?;
        let is_device = std::fs::metadata(entry.path()).is_ok_and(|file| file.rdev() == device);
        found.extend(
            entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()).filter(|_| is_device),
        );
    }
    Ok(found)
}

/// A descriptor for holds that end with it: pass it to [`Lzc::hold`] and keep it open for as long as they shall last.
pub fn cleanup_fd() -> io::Result<OwnedFd> {
    // O_EXCL, as lzc_hold asks of a descriptor that holds end with.
    Ok(rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty())?)
}
