//! The file that holds a pool's filesystem.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, IFlags, RenameFlags};

use super::record::Pool;
use crate::endpoint::{Error, Result};
use crate::model::{Guid, quoted};
use crate::sys;

/// The smallest pool in bytes: below it, btrfs has no room for metadata twice and a few snapshots.
pub const MIN_SIZE: u64 = 256 << 20;
/// Sizes are multiples of this, so that the loop device may have blocks of 4 KiB.
const GRAIN: u64 = 4096;

/// What a btrfs superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// The filesystem's uuid.
    pub fsid: Guid,
    /// How large the filesystem is, in bytes.
    pub total: u64,
    /// How much of it is used, in bytes, as of the last commit.
    pub used: u64,
}

/// Reads the superblock of an image; `None` if it holds no btrfs.
///
/// # Errors
/// A file that can not be opened or read.
pub fn superblock(image: &Path) -> io::Result<Option<Superblock>> {
    const AT: u64 = 64 << 10;
    let mut block = [0; 0x80];
    match File::open(image)?.read_exact_at(&mut block, AT) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let u64_at = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
    if &block[0x40..0x48] != b"_BHRfS_M" {
        return Ok(None);
    }
    let fsid = Guid(block[0x20..0x30].try_into().expect("sixteen bytes"));
    Ok(Some(Superblock { fsid, total: u64_at(0x70), used: u64_at(0x78) }))
}

/// Rounds a size down to what an image can have.
///
/// # Errors
/// [`Error::Refused`] if it is too small.
pub(super) fn usable_size(name: &str, size: u64) -> Result<u64> {
    if size >= MIN_SIZE {
        return Ok(size / GRAIN * GRAIN);
    }
    Err(Error::Refused {
        op: "make pool",
        subject: name.into(),
        why: format!("{size} bytes are too few; a pool has at least {}", super::size::human(MIN_SIZE)),
        hint: Some(format!("cowsnap pool create {} --size 256M", quoted(name))),
    })
}

/// Where an image is while it is made: a name that nobody else gives, since it holds the new uuid.
pub(super) fn staging(pool: &Pool) -> PathBuf {
    pool.image.with_file_name(format!(".{}.{}.new", pool.name, pool.fsid))
}

/// Makes the sparse file, under its staging name.
pub(super) fn create(pool: &Pool, size: u64) -> Result<()> {
    let path = staging(pool);
    let make = || -> io::Result<()> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
        if rustix::fs::fstatfs(&file)?.f_type as i64 == sys::btrfs::SUPER_MAGIC {
            // Copy-on-write below copy-on-write fragments both. Only an empty file can be told.
            rustix::fs::ioctl_setflags(&file, IFlags::NOCOW)?;
        }
        file.set_len(size)
    };
    make().map_err(Error::io("create image", path.display()))
}

/// Makes the filesystem in the file.
///
/// Metadata is kept twice: the file's own filesystem does not notice a flipped bit, and one in a tree's root would take
/// whole datasets with it. Data is kept once: its checksums notice damage, and a replica repairs it.
pub(super) fn format(pool: &Pool) -> Result<()> {
    let path = staging(pool);
    let failed = |source| Error::Io { op: "run mkfs.btrfs on", subject: path.display().to_string(), source };
    let output = mkfs()
        .args(["-q", "-K", "-m", "dup", "-d", "single", "-L", &pool.name, "-U", &pool.fsid.to_string(), "--"])
        .arg(&path)
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_mkfs(&pool.name)),
        other => other.map_err(failed)?,
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        return Err(failed(io::Error::other(format!("{}: {words}", output.status))));
    }
    File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("sync", path.display()))
}

/// `mkfs.btrfs`, also where a login's PATH does not lead to it.
pub(crate) fn mkfs() -> Command {
    let mut paths = std::env::var_os("PATH").unwrap_or_default();
    paths.push(":/usr/local/sbin:/usr/sbin:/sbin");
    let mut command = Command::new("mkfs.btrfs");
    command.env("PATH", paths);
    command
}

fn no_mkfs(name: &str) -> Error {
    Error::Denied {
        op: "make pool",
        subject: name.into(),
        lacking: "mkfs.btrfs is not installed".into(),
        hint: Some("apt-get install btrfs-progs (or your system's package of that name)".into()),
    }
}

/// Gives the image its name.
///
/// # Errors
/// [`Error::Exists`] if something has that name.
pub(super) fn place(pool: &Pool) -> Result<()> {
    match rustix::fs::renameat_with(CWD, staging(pool), CWD, &pool.image, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => return Err(taken(&pool.image)),
        other => other.map_err(Error::io("create image", pool.image.display()))?,
    }
    super::registry::sync_folder(pool.image.parent().unwrap_or(Path::new("/")))
}

/// That there is a file of the image's name already.
pub(super) fn taken(image: &Path) -> Error {
    Error::Exists {
        what: "image",
        subject: image.display().to_string(),
        hint: Some("choose another name or --dir, or move the file away".into()),
    }
}

/// Whether the file at the pool's image is the pool's, by the uuid inside; `None` if there is no file.
pub(crate) fn is_ours(pool: &Pool) -> Result<Option<bool>> {
    match superblock(&pool.image) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read image", pool.image.display())(error)),
        Ok(found) => Ok(Some(found.is_some_and(|block| block.fsid == pool.fsid))),
    }
}

/// Removes the image, finished or not, and nothing that is not this pool's.
pub(super) fn remove(pool: &Pool) -> Result<()> {
    let staging = staging(pool);
    let gone = |path: &Path| match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove image", path.display())(error))
        }
        _ => Ok(()),
    };
    gone(&staging)?;
    match is_ours(pool)? {
        Some(true) => gone(&pool.image),
        Some(false) | None => Ok(()),
    }
}

/// How many bytes of the host's disk the image takes now; `None` if there is no file.
pub(crate) fn real_bytes(image: &Path) -> Option<u64> {
    fs::metadata(image).ok().map(|meta| meta.blocks() * 512)
}

/// How many bytes the host has for the image to grow into.
pub(crate) fn host_free(image: &Path) -> io::Result<u64> {
    let host = rustix::fs::statvfs(image.parent().unwrap_or(Path::new("/")))?;
    Ok(host.f_bavail.saturating_mul(host.f_frsize))
}
