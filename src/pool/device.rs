//! Attaching an image to a loop device (docs/adr/0002-loop-devices.md).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::thread::CapabilitySet;

use crate::endpoint::{Error, Result};
use crate::sys::loopdev::{self, Attach, Status};

const CONTROL: &str = "/dev/loop-control";
/// How often another process may be faster in taking the device that was free.
const MAX_RACES: u32 = 64;

/// An attached loop device. It detaches itself when this is dropped, unless it is mounted by then.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    /// `/dev/loop3`
    pub path: PathBuf,
    /// Whether it bypasses the host's page cache.
    pub direct_io: bool,
}

/// Says what is missing for loop devices and mounts, before anything is made.
///
/// # Errors
/// [`Error::Denied`], with what to grant.
pub(crate) fn check_rights(op: &'static str, subject: &str) -> Result<()> {
    let denied = |lacking: String| Error::Denied {
        op,
        subject: subject.into(),
        lacking,
        hint: Some(
            "run it as root; in a container grant --cap-add SYS_ADMIN --device /dev/loop-control and \
             --device /dev/loop0 (and more, one for each pool)"
                .into(),
        ),
    };
    let capabilities =
        rustix::thread::capabilities(None).map_err(|e| denied(format!("no capabilities: {e}")))?;
    if !capabilities.effective.contains(CapabilitySet::SYS_ADMIN) {
        return Err(denied("the process has no CAP_SYS_ADMIN".into()));
    }
    match open_device(Path::new(CONTROL)) {
        Ok(_) => Ok(()),
        Err(error) => Err(denied(format!("{CONTROL}: {error}"))),
    }
}

/// The loop device that shows the image now, if one does.
pub(super) fn find(image: &Path) -> Result<Option<Device>> {
    let meta = match fs::metadata(image) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io("read image", image.display()))?,
    };
    for path in nodes() {
        if let Ok((file, Some(status))) = look(&path)
            && status.shows(meta.dev(), meta.ino())
        {
            return Ok(Some(Device { file, path, direct_io: status.direct_io }));
        }
    }
    Ok(None)
}

/// Attaches the image, or takes the device that shows it already: two devices on one file would corrupt it.
///
/// # Errors
/// [`Error::Denied`] if no loop device is to be had; [`Error::Io`].
pub(super) fn attach(image: &Path) -> Result<Device> {
    if let Some(device) = find(image)? {
        // Left by somebody's losetup: make sure that it goes with the mount.
        loopdev::set_autoclear(device.file.as_fd())
            .map_err(Error::io("set up loop device", device.path.display()))?;
        return Ok(device);
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .map_err(Error::io("open image", image.display()))?;
    for _ in 0..MAX_RACES {
        let device = free_device(image)?;
        match configure(&device.0, &file) {
            Ok(()) => return attached(device),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => continue,
            Err(error) => return Err(Error::io("attach image", image.display())(error)),
        }
    }
    Err(none_free(image, "other processes took each free one first".into()))
}

impl Device {
    /// Makes the device as large as its file is now.
    pub(super) fn grow(&self) -> Result<()> {
        loopdev::set_capacity(self.file.as_fd())
            .map_err(Error::io("enlarge loop device", self.path.display()))
    }
}

fn configure(device: &File, image: &File) -> io::Result<()> {
    let how = Attach { block_size: 4096, autoclear: true, direct_io: true };
    match loopdev::configure(device.as_fd(), image, how) {
        // A host whose blocks are larger than 4 KiB, or a kernel that refuses where others fall back.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            loopdev::configure(device.as_fd(), image, Attach { block_size: 0, direct_io: false, ..how })
        }
        other => other,
    }
}

fn attached((file, path): (File, PathBuf)) -> Result<Device> {
    let status =
        loopdev::status(file.as_fd()).map_err(Error::io("read the state of loop device", path.display()))?;
    let direct_io = status.is_some_and(|status| status.direct_io);
    tracing::debug!(device = %path.display(), direct_io, "attached");
    Ok(Device { file, path, direct_io })
}

/// A loop device to try: the one that the kernel offers, or, where a container has no node for it, any free one.
fn free_device(image: &Path) -> Result<(File, PathBuf)> {
    let denied = |error: io::Error| none_free(image, format!("{CONTROL}: {error}"));
    let control = open_device(Path::new(CONTROL)).map_err(denied)?;
    let number = loopdev::get_free(control.as_fd()).map_err(denied)?;
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let offered = open_device(&path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => make_node(&path, number).and_then(|()| open_device(&path)),
        _ => Err(error),
    });
    match offered {
        Ok(file) => Ok((file, path)),
        Err(error) => {
            first_free_node().ok_or_else(|| none_free(image, format!("{}: {error}", path.display())))
        }
    }
}

fn first_free_node() -> Option<(File, PathBuf)> {
    nodes().into_iter().find_map(|path| match look(&path) {
        // Opened again, for writing: a device configured through a read-only descriptor is read-only.
        Ok((_, None)) => Some((open_device(&path).ok()?, path)),
        _ => None,
    })
}

fn make_node(path: &Path, number: u32) -> io::Result<()> {
    let device = rustix::fs::makedev(loopdev::MAJOR, number);
    Ok(rustix::fs::mknodat(CWD, path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, device)?)
}

fn look(path: &Path) -> io::Result<(File, Option<Status>)> {
    let file = File::open(path)?;
    let status = loopdev::status(file.as_fd())?;
    Ok((file, status))
}

fn open_device(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// `/dev/loop0`, `/dev/loop1` …: the nodes that are here, in the order of their numbers.
fn nodes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let number = |name: &std::ffi::OsStr| name.to_str()?.strip_prefix("loop")?.parse::<u32>().ok();
    let mut numbers: Vec<_> = entries.filter_map(|entry| number(&entry.file_name())).collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|number| format!("/dev/loop{number}").into()).collect()
}

fn none_free(image: &Path, lacking: String) -> Error {
    Error::Denied {
        op: "attach image",
        subject: image.display().to_string(),
        lacking: format!("no loop device is to be had: {lacking}"),
        hint: Some("grant --device /dev/loop-control and a free --device /dev/loopN to the container".into()),
    }
}
