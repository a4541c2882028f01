//! What uses a dataset that is to be destroyed. The kernel says it of the dataset alone, which can go only after its
//! snapshots; so it is looked for before the first of them goes.

use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::mounted;
use crate::endpoint::{Error, Result};
use crate::model::quoted;
use crate::sys::mount;

/// Says why not if `dataset` could not be destroyed even without its snapshots, as far as that can be seen while it is mounted
/// where its properties say.
///
/// # Errors
/// [`Error::Refused`].
pub(super) fn check(dataset: &Dataset) -> Result<()> {
    if dataset.name().within_pool().is_none() {
        return Err(dataset.refused("destroy", "it is the pool itself".into(), None));
    }
    match dataset.is_volume()? {
        true => check_device(dataset),
        false => check_mounts(dataset),
    }
}

/// Mounts that are not taken down with the dataset: in other places, or of a part of it.
fn check_mounts(dataset: &Dataset) -> Result<()> {
    let meant = PathBuf::from(dataset.get("mountpoint")?);
    let mounts = mounted::mounts_of(dataset.name().as_str())?;
    match mounts.iter().find(|info| info.dir != meant || info.root != Path::new("/")) {
        None => Ok(()),
        Some(info) => {
            let dir = info.dir.display();
            let hint = format!("umount {}", quoted(&dir));
            Err(dataset.refused("destroy", format!("it is mounted at {dir}"), Some(hint)))
        }
    }
}

/// Mounts that other processes have in namespaces of their own, once it is mounted in this one no more.
///
/// # Errors
/// [`Error::Refused`].
pub(super) fn check_other_namespaces(dataset: &Dataset) -> Result<()> {
    let others = mount::mounts_of_others().map_err(Error::io("read", "the tables of mounts"))?;
    let is_it =
        |info: &mount::MountInfo| info.kind == "zfs" && info.source == Path::new(dataset.name().as_str());
    match others.iter().find(|(_, info)| is_it(info)) {
        None => Ok(()),
        Some((process, info)) => {
            let why = format!(
                "it is mounted at {} in the mount namespace of process {process}",
                info.dir.display()
            );
            let hint = format!("nsenter -t {process} -m umount {}", quoted(info.dir.display()));
            Err(dataset.refused("destroy", why, Some(hint)))
        }
    }
}

/// Processes that have something of it open, or stand in it: then it can not be unmounted.
///
/// # Errors
/// [`Error::Refused`].
pub(super) fn check_open_files(dataset: &Dataset) -> Result<()> {
    for info in mounted::mounts_of(dataset.name().as_str())? {
        let Ok(root) = info.dir.metadata() else { continue };
        if let Some(process) = whoever_has_open(|file| file.dev() == root.dev()) {
            let why = format!("the process {process} uses what is in {}", info.dir.display());
            let hint = Some(format!("fuser -vm {}", quoted(info.dir.display())));
            return Err(dataset.refused("destroy", why, hint));
        }
    }
    Ok(())
}

fn check_device(dataset: &Dataset) -> Result<()> {
    let device = Path::new("/dev/zvol").join(dataset.name().as_str().replace(' ', "+")); // As udev writes it.
    // Where there is no device, nobody has opened it by that name.
    let Some(found) = device.metadata().ok().filter(|found| found.file_type().is_block_device()) else {
        return Ok(());
    };
    let hint = || Some(format!("fuser -v {}", quoted(device.display())));
    if let Some(process) = opened_by(&found) {
        let why = format!("the process {process} has its device open");
        return Err(dataset.refused("destroy", why, hint()));
    }
    // The kernel itself uses it: mounted, swapped to, part of another device.
    let alone = OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_NONBLOCK).open(&device);
    match alone {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            Err(dataset.refused("destroy", "its device is in use".into(), hint()))
        }
        _ => Ok(()),
    }
}

/// A process, of those that this one may look at, that has the device open.
fn opened_by(device: &Metadata) -> Option<String> {
    whoever_has_open(|file| file.file_type().is_block_device() && file.rdev() == device.rdev())
}

/// A process, of those that this one may look at, that has a file of which that `is` so open, or as a directory of its own.
fn whoever_has_open(is: impl Fn(&Metadata) -> bool) -> Option<String> {
    let is_it = |path: PathBuf| path.metadata().is_ok_and(|file| is(&file));
    let has_it = |process: &Path| {
        let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        ["cwd", "root", "exe"].iter().any(|name| is_it(process.join(name)))
            || open.map(|file| file.path()).any(is_it)
    };
    let is_number =
        |process: &std::fs::DirEntry| process.file_name().to_string_lossy().parse::<u32>().is_ok();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = processes.filter(is_number).find(|process| has_it(&process.path()))?;
    Some(process.file_name().to_string_lossy().into_owned())
}
