//! Mounting and unmounting: by this process where it may, else by `fusermount3`, which runs as root.

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::Mount;
use crate::endpoint::overlay::fuse::take_down;
use crate::sys::{child, mount};

/// A filesystem that is mounted: its requests can be read from `device`.
#[derive(Debug)]
pub(super) struct Placed {
    at: PathBuf,
    /// The mount's id, by which it is told from what others mount in its place.
    id: Option<u64>,
}

impl Placed {
    /// Mounts, and says where its requests are read.
    pub(super) fn new(dir: &Path, how: &Mount) -> io::Result<(Self, OwnedFd)> {
        let at = dir.canonicalize()?;
        let opened = File::options().read(true).write(true).open("/dev/fuse")?;
        let device = match directly(&at, how, opened) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => by_helper(&at, how)?,
            device => device?,
        };
        let id = id_at(&at);
        Ok((Self { at, id }, device))
    }

    /// Unmounts it if it is still there: EBUSY if somebody uses it.
    pub(super) fn unmount(&self) -> io::Result<()> {
        if !self.is_there() {
            return Ok(());
        }
        match mount::unmount(&self.at) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => take_down(&self.at),
            unmounted => unmounted,
        }
    }

    /// Takes it out of sight if it is still there; it goes when its last user does.
    pub(super) fn detach(&self) -> io::Result<()> {
        if self.is_there() { take_down(&self.at) } else { Ok(()) }
    }

    /// Whether it is what shows at its place: what somebody else mounted there is let be.
    fn is_there(&self) -> bool {
        self.id.is_none() || id_at(&self.at) == self.id
    }
}

/// The id of what is mounted at `at`, or of what that is in.
pub(in super::super) fn id_at(at: &Path) -> Option<u64> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(at, flags, rustix::fs::Mode::empty()).ok()?;
    mount::mount_id(fd.as_fd()).ok()
}

/// EPERM: this process may not mount.
fn directly(at: &Path, how: &Mount, device: File) -> io::Result<OwnedFd> {
    let fd = device.as_raw_fd().to_string();
    let root_mode = format!("{:o}", at.metadata()?.mode());
    let user = rustix::process::getuid().as_raw().to_string();
    let group = rustix::process::getgid().as_raw().to_string();
    let mut options = vec![
        ("fd", fd.as_str()),
        ("rootmode", root_mode.as_str()),
        ("user_id", user.as_str()),
        ("group_id", group.as_str()),
        ("default_permissions", ""),
    ];
    options.extend(how.others.then_some(("allow_other", "")));
    let detached = mount::detached_as("fuse", Path::new(&how.source), &options, how.restrict)?;
    mount::attach(&detached, at)?;
    Ok(device.into())
}

fn by_helper(at: &Path, how: &Mount) -> io::Result<OwnedFd> {
    let restrict = how.restrict;
    let mut options = vec![format!("fsname={}", how.source), "subtype=cowsnap".into()];
    let flags = [
        ("default_permissions", true),
        ("allow_other", how.others),
        ("dev", !restrict.nodev),
        ("suid", !restrict.nosuid),
        ("noexec", restrict.noexec),
        ("ro", restrict.readonly),
    ];
    options.extend(flags.iter().filter(|(_, is_so)| *is_so).map(|(flag, _)| (*flag).to_owned()));
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(helper());
    command.args(["-o", &options.join(","), "--"]).arg(at);
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    child::keep_open(&mut command, theirs.into());
    let failed = |why: String| io::Error::other(format!("fusermount3: {why}"));
    let mut started = command.spawn().map_err(|error| failed(error.to_string()))?;
    drop(command); // It has the other end, which must go with the one who is asked.
    let device = received(&ours);
    let mut said = String::new();
    if let Some(mut stderr) = started.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    let status = started.wait()?;
    device.map_err(|_| failed(if said.is_empty() { status.to_string() } else { said.trim().to_owned() }))
}

/// `fusermount3`, also where PATH does not lead to it.
fn helper() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/bin".into(), "/sbin".into()]);
    let mut found = places.map(|dir| dir.join("fusermount3"));
    found.find(|file| file.is_file()).unwrap_or_else(|| "fusermount3".into())
}

/// The device, as a descriptor that comes through a socket.
fn received(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptors.next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
