//! Images: a squashfs or an EROFS below kernel overlayfs, mounted as they are and never unpacked.
//!
//! The image is the base itself, or is made of it once, in the overlay's directory. Its loop device detaches itself with the last
//! mount of it, so that no death of ours leaves one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::endpoint::overlay::kernel::{Kernel, restrictions};
use crate::endpoint::overlay::{Entry, Generation, Home, Place, Serve, Swapped, base, ours};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Base, BaseKind, Mode, Record};
use crate::model::quoted;
use crate::sys::loopdev::{self, Attach};
use crate::sys::mount::{self, Restrict};
use crate::sys::namespace;

/// Serves [`Mode::Squashfs`] and [`Mode::Erofs`]: as kernel mode does, on an image.
#[derive(Debug)]
pub struct Image {
    mode: Mode,
    kind: &'static str,
    tool: &'static str,
    package: &'static str,
    make: fn(from: &Path, to: &Path) -> io::Result<Command>,
}

/// Serves [`Mode::Squashfs`].
pub static SQUASHFS: Image = Image {
    mode: Mode::Squashfs,
    kind: "squashfs",
    tool: "mksquashfs",
    package: "squashfs-tools",
    make: mksquashfs,
};
/// Serves [`Mode::Erofs`].
pub static EROFS: Image =
    Image { mode: Mode::Erofs, kind: "erofs", tool: "mkfs.erofs", package: "erofs-utils", make: mkfs_erofs };

/// Which mode serves the image in that file; `None` if it is none that is known.
pub fn kind_of(file: &mut File) -> io::Result<Option<Mode>> {
    let mut at = |offset, magic: [u8; 4]| -> io::Result<bool> {
        let mut found = [0; 4];
        file.seek(SeekFrom::Start(offset))?;
        match file.read_exact(&mut found) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            other => other.map(|()| found == magic),
        }
    };
    if at(0, *b"hsqs")? {
        return Ok(Some(Mode::Squashfs));
    }
    Ok(at(1024, 0xE0F5_E1E2_u32.to_le_bytes())?.then_some(Mode::Erofs))
}

/// The base that is the image in `file`, and the mode that serves it.
///
/// # Errors
/// [`Error::Foreign`] for a file that is no image.
pub fn of_file(file: &Path) -> Result<(Base, Mode)> {
    let file = file.canonicalize().map_err(Error::io("find", file.display()))?;
    let failed = || Error::io("read", file.display());
    let mut opened = File::open(&file).map_err(failed())?;
    let meta = opened.metadata().map_err(failed())?;
    let foreign = |why: &str| Error::Foreign {
        subject: file.display().to_string(),
        wanted: "directory, snapshot or image",
        why: why.into(),
        hint: None,
    };
    if !meta.is_file() {
        return Err(foreign("it is neither a directory nor a file"));
    }
    let mode = kind_of(&mut opened)
        .map_err(failed())?
        .ok_or_else(|| foreign("the file is neither a squashfs nor an EROFS image"))?;
    let identity = format!("{mode}:{}:{}:{}.{}", meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
    let path = file.as_path().into();
    Ok((Base { kind: BaseKind::Image, path, version: None, identity }, mode))
}

impl Serve for Image {
    fn check(&self, _: &Home, record: &Record) -> Result<()> {
        let base = &record.base;
        match base.kind {
            BaseKind::Image => {
                let (_, mode) = of_file(base.path.as_path())?;
                if mode != self.mode {
                    return Err(self.unfit(
                        record,
                        format!("the image is a {mode}"),
                        Some(format!("--mode {mode}")),
                    ));
                }
            }
            BaseKind::Dir => self.check_can_make(record)?,
            BaseKind::Snapshot | BaseKind::None => {
                let why = "an image is made of a directory, or is there already".into();
                return Err(self.unfit(record, why, Some("cowsnap overlay create … --mode auto".into())));
            }
        }
        check_may_attach(record)
    }

    fn base(&self, overlay: &Entry, record: &Record) -> Result<PathBuf> {
        let dir = overlay.base_dir();
        if ours::mounted_on(&dir)?.is_some() {
            return Ok(dir);
        }
        let (image, restrict) = match record.base.kind {
            BaseKind::Image => (record.base.path.as_path().to_owned(), self.check_same(record)?),
            _ => {
                let from = base::reach(overlay, record)?;
                (self.made(overlay, &from, record)?, restrictions(&from)?)
            }
        };
        fs::create_dir_all(&dir).map_err(Error::io("make directory", dir.display()))?;
        self.mount(&image, &dir, Restrict { readonly: true, ..restrict })?;
        Ok(dir)
    }

    fn show(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        Kernel.show(place, generation)
    }

    fn swap(&self, place: &Place<'_>, generation: &Generation) -> Result<Swapped> {
        Kernel.swap(place, generation)
    }

    fn freeze(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        Kernel.freeze(place, generation)
    }

    fn thaw(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        Kernel.thaw(place, generation)
    }

    fn take_down(&self, place: &Place<'_>) -> Result<()> {
        Kernel.take_down(place)
    }

    fn can_give_way(&self, _: &Place<'_>) -> Result<bool> {
        Ok(true)
    }

    fn base_down(&self, overlay: &Entry, record: &Record) -> Result<()> {
        Kernel.base_down(overlay, record)
    }
}

impl Image {
    fn check_can_make(&self, record: &Record) -> Result<()> {
        let found =
            Command::new(self.tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if let Err(error) = found {
            return Err(Error::Denied {
                op: "make overlay",
                subject: record.name.to_string(),
                lacking: format!("{} makes the image, and can not be started: {error}", self.tool),
                hint: Some(format!("apt-get install {0}, or: dnf install {0}", self.package)),
            });
        }
        // What is mounted does not show in an overlay; mkfs.erofs would take it in.
        match ours::inside(record.base.path.as_path())?.first() {
            Some(inside) if self.mode == Mode::Erofs => {
                let why =
                    format!("{} is mounted in the base, and would get into the image", inside.dir.display());
                Err(self.unfit(record, why, Some(format!("umount {}", quoted(inside.dir.display())))))
            }
            _ => Ok(()),
        }
    }

    /// The image is the one of which the overlay was made. What it says, it may not do.
    fn check_same(&self, record: &Record) -> Result<Restrict> {
        let path = record.base.path.as_path();
        if of_file(path)?.0.identity != record.base.identity {
            return Err(Error::Refused {
                op: "use base",
                subject: path.display().to_string(),
                why: "the image was changed since the overlay was made".into(),
                hint: Some(format!("cowsnap overlay destroy {}", quoted(&record.name))),
            });
        }
        Ok(Restrict { nodev: true, nosuid: true, ..Restrict::default() })
    }

    /// The image of the directory `from`, made if it is not there yet.
    fn made(&self, overlay: &Entry, from: &Path, record: &Record) -> Result<PathBuf> {
        let image = overlay.dir().join(format!("image.{}", self.kind));
        if image.exists() {
            return Ok(image);
        }
        let half = overlay.dir().join("image.making");
        match fs::remove_file(&half) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", half.display())(error));
            }
            _ => {}
        }
        let failed = || Error::io("start", self.tool);
        let output =
            (self.make)(from, &half).map_err(failed())?.stdin(Stdio::null()).output().map_err(failed())?;
        if !output.status.success() {
            let said = [output.stderr, output.stdout].concat();
            let said = String::from_utf8_lossy(&said);
            let said: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
            let why = format!("{} ended with {}: {}", self.tool, output.status, said.join("; "));
            return Err(self.unfit(record, why, None));
        }
        if !record.options.volatile {
            File::open(&half).and_then(|file| file.sync_all()).map_err(Error::io("sync", half.display()))?;
        }
        fs::rename(&half, &image).map_err(Error::io("rename", half.display()))?;
        Ok(image)
    }

    fn mount(&self, image: &Path, dir: &Path, restrict: Restrict) -> Result<()> {
        let failed = || Error::io("mount image", image.display());
        let (device, path) = attach(image)?;
        let mounted =
            mount::detached_as(self.kind, &path, mount::READ_ONLY, restrict).map_err(|error| match error
                .raw_os_error()
            {
                Some(libc::ENODEV) => Error::Denied {
                    op: "mount image",
                    subject: image.display().to_string(),
                    lacking: format!("the kernel has no {}", self.kind),
                    hint: Some(format!("modprobe {}", self.kind)),
                },
                _ => failed()(error),
            })?;
        mount::attach(&mounted, dir).map_err(failed())?;
        drop(device); // The mount keeps it attached from here on.
        Ok(())
    }

    fn unfit(&self, record: &Record, why: String, hint: Option<String>) -> Error {
        Error::Refused {
            op: "make overlay",
            subject: format!("{} in mode {}", record.name, self.mode),
            why,
            hint,
        }
    }
}

/// Read through a bind of the directory that has nothing mounted in it, which is the tool's working directory.
fn mksquashfs(from: &Path, to: &Path) -> io::Result<Command> {
    let from = File::open(from)?;
    let bare = mount::bind(from.as_fd())?;
    let mut command = Command::new("mksquashfs");
    command.arg(".").arg(to).args(["-noappend", "-no-progress", "-quiet", "-exit-on-error"]);
    command.args(["-comp", "zstd", "-Xcompression-level", "3"]);
    // A descriptor that goes with the exec: by then the working directory is there.
    command.current_dir(format!("/proc/self/fd/{}", bare.as_fd().as_raw_fd()));
    std::mem::forget(bare);
    Ok(command)
}

fn mkfs_erofs(from: &Path, to: &Path) -> io::Result<Command> {
    let mut command = Command::new("mkfs.erofs");
    command.args(["--quiet", "-zlz4"]).arg(to).arg(from);
    Ok(command)
}

/// How often another process may be faster in taking the device that was free.
const MAX_RACES: u32 = 64;

/// A loop device that shows the image, read-only. It detaches itself when the file is closed and nothing of it is mounted.
fn attach(image: &Path) -> Result<(File, PathBuf)> {
    let file = File::open(image).map_err(Error::io("open image", image.display()))?;
    let none = |what: &str, error: io::Error| Error::Denied {
        op: "attach image",
        subject: image.display().to_string(),
        lacking: format!("no loop device is to be had: {what}: {error}"),
        hint: Some("grant --device /dev/loop-control and a free --device /dev/loopN to the container".into()),
    };
    let control_path = "/dev/loop-control";
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
    let control = open(control_path.as_ref()).map_err(|error| none(control_path, error))?;
    for _ in 0..MAX_RACES {
        let number = loopdev::get_free(control.as_fd()).map_err(|error| none(control_path, error))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path).map_err(|error| none(&path.display().to_string(), error))?;
        let how = Attach { block_size: 0, autoclear: true, direct_io: false };
        match loopdev::configure(device.as_fd(), &file, how) {
            Ok(()) => return Ok((device, path)),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(Error::io("attach image", image.display())(error)),
        }
    }
    Err(none(control_path, io::Error::other("other processes took each free one first")))
}

fn check_may_attach(record: &Record) -> Result<()> {
    if rustix::process::geteuid().is_root() && !namespace::has_users_of_its_own() {
        return Ok(());
    }
    Err(Error::Denied {
        op: "make overlay",
        subject: format!("{} in mode {}", record.name, record.mode),
        lacking: "only root may attach loop devices".into(),
        hint: Some(
            "run it as root; in a container grant --cap-add SYS_ADMIN and --device /dev/loop-control".into(),
        ),
    })
}
