//! Who still uses a tree that is to go: processes with files of it open or mapped, or with their directories in it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Serialize;

use crate::endpoint::overlay::{Place, ours};
use crate::endpoint::{Error, Result};
use crate::sys::mount;

/// A process that uses a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Survivor {
    /// Its id.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// How it does: `has … open`, `has its working directory in …`.
    pub how: String,
}

/// Who uses the topmost mount at `at`, and what is mounted inside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users {
    /// The processes, in whichever mount namespace.
    pub survivors: Vec<Survivor>,
    /// The places of mounts inside it.
    pub mounts: Vec<PathBuf>,
    /// Where else it is bound, or a part of it.
    pub binds: Vec<PathBuf>,
    /// The loop devices that have a file of it, whoever set them up.
    pub loops: Vec<Loop>,
}

/// A loop device, and its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loop {
    /// `/dev/loop0`.
    pub device: PathBuf,
    /// The file that it shows.
    pub file: PathBuf,
}

impl Users {
    /// Nobody and nothing.
    pub fn is_empty(&self) -> bool {
        self.survivors.is_empty() && self.mounts.is_empty() && self.binds.is_empty() && self.loops.is_empty()
    }
}

/// Which uses of a tree count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// All.
    All,
    /// Those of what has a name: what has none, as of a tree that was taken away before, stays what it is for whoever has it.
    Named,
}

/// Who uses the tree that shows at `at`: the topmost mount there, or the directory itself if nothing is mounted on it. This process
/// is left out. Costs a few calls if nobody uses the mount; otherwise all of `/proc` is read. Processes of other users are seen by
/// root only.
pub fn users(at: &Path, counts: Counts) -> Result<Users> {
    let Ok(meta) = at.symlink_metadata() else { return Ok(Users::default()) };
    if !meta.is_dir() {
        return Ok(Users::default());
    }
    // A mount above `at` is not the one that is asked about: everybody may use that.
    let mount = ours::mounted_on(at)?;
    let binds = ours::bound_elsewhere(at)?;
    if mount.is_some() && matches!(mount::is_used(at), Ok(Some(false) | None)) {
        return Ok(Users { binds, ..Users::default() });
    }
    let mounts = ours::inside(at)?.into_iter().map(|mounted| mounted.dir).collect();
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let survivors = pids.filter(|&pid| pid != own).filter_map(|pid| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let how = match mount {
            Some(mount) => {
                let counts_it = |link: &Path| counts == Counts::All || has_name(link);
                how_it_uses(&process, |link| mount_of(link) == Some(mount) && counts_it(link), at, counts)
            }
            None if sees_our_mounts(&process) => {
                how_it_uses(&process, |link| leads_below(link, at), at, counts)
            }
            None => None,
        };
        Some(Survivor { pid, name: name_of(pid), how: how? })
    });
    let loops = loops_below(at, counts);
    Ok(Users { survivors: survivors.collect(), mounts, binds, loops })
}

/// The loop devices whose files lie below `at`: the kernel has these open, and no process.
fn loops_below(at: &Path, counts: Counts) -> Vec<Loop> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut loops: Vec<_> = devices
        .filter_map(|entry| {
            let text = fs::read(entry.path().join("loop/backing_file")).ok()?;
            let file = PathBuf::from(std::ffi::OsStr::from_bytes(text.strip_suffix(b"\n")?));
            let counts_it = counts == Counts::All || !is_gone(&file);
            let device = Path::new("/dev").join(entry.file_name());
            (counts_it && file.starts_with(at)).then_some(Loop { device, file })
        })
        .collect();
    loops.sort_by(|a, b| a.device.cmp(&b.device));
    loops
}

/// Whether the kernel says of a path that nothing has that name any more.
fn is_gone(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b" (deleted)")
}

/// The processes in mount namespaces of their own that see a mount of this copy: where it was made for one command, these are what
/// the command has started. Those of other users are seen by root only.
pub fn in_private(place: &Place<'_>) -> Result<Vec<Survivor>> {
    let pids = mount::others_that_see(|mounted| ours::is_of_copy(place, mounted));
    let pids = pids.map_err(Error::io("read", "the tables of mounts"))?;
    let survivor = |pid| Survivor { pid, name: name_of(pid), how: format!("sees {}", place.at().display()) };
    Ok(pids.into_iter().map(survivor).collect())
}

/// The processes that were started with this in their environment, and are not this one.
pub fn with_variable(variable: &str) -> Vec<Survivor> {
    let own = std::process::id();
    let has_it = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|one| one == variable.as_bytes())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found = pids.filter(|pid| *pid != own && has_it(pid));
    found.map(|pid| Survivor { pid, name: name_of(pid), how: format!("has {variable}") }).collect()
}

/// The first way in which a process uses what `is_in` says of its links.
fn how_it_uses(process: &Path, is_in: impl Fn(&Path) -> bool, at: &Path, counts: Counts) -> Option<String> {
    let links = [("cwd", "its working directory"), ("root", "its root directory"), ("exe", "its program")];
    for (link, what) in links {
        let link = process.join(link);
        if is_in(&link) {
            return Some(format!("has {what} in it: {}", fs::read_link(link).unwrap_or_default().display()));
        }
    }
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        if is_in(&entry.path()) {
            return Some(format!("has {} open", fs::read_link(entry.path()).unwrap_or_default().display()));
        }
    }
    mapped_below(process, at, counts).map(|path| format!("has {} mapped", path.display()))
}

fn leads_below(link: &Path, at: &Path) -> bool {
    fs::read_link(link).is_ok_and(|path| path.starts_with(at))
}

/// The mount that a process' link leads into, if it may be followed. Of a descriptor it is written down, which is safe where
/// opening it would wait for a pipe's other end.
fn mount_of(link: &Path) -> Option<u64> {
    if link.parent().is_some_and(|folder| folder.ends_with("fd")) {
        let info = link.parent()?.with_file_name("fdinfo").join(link.file_name()?);
        let text = fs::read_to_string(info).ok()?;
        return text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    }
    let fd = rustix::fs::open(link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    mount::mount_id(fd.as_fd()).ok()
}

/// Whether what a process' link leads to has a name; yes if it can not be asked.
fn has_name(link: &Path) -> bool {
    let opened = rustix::fs::open(link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.and_then(rustix::fs::fstat).map_or(true, |stat| stat.st_nlink > 0)
}

/// Mappings have no descriptor to ask: those of processes that see the same mounts are told by their path.
fn mapped_below(process: &Path, at: &Path, counts: Counts) -> Option<PathBuf> {
    if !sees_our_mounts(process) {
        return None;
    }
    let maps = fs::read(process.join("maps")).ok()?;
    let paths = maps.split(|&b| b == b'\n').filter_map(|line| {
        let start = line.iter().position(|&b| b == b'/')?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(&line[start..])))
    });
    paths.into_iter().find(|path| path.starts_with(at) && (counts == Counts::All || !is_gone(path)))
}

/// Whether its paths are ours.
fn sees_our_mounts(process: &Path) -> bool {
    let namespace = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    namespace(process).is_some_and(|theirs| Some(theirs) == namespace(Path::new("/proc/self")))
}

fn name_of(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned()
}

/// How long killed processes are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills these processes and waits until they are gone.
///
/// # Errors
/// [`Error::Refused`] for a process that this one descends from, and for those that are not gone after some seconds: the kernel
/// ends none that waits for a disk or for a server; [`Error::Denied`] for one that may not be killed.
pub fn kill(survivors: &[Survivor]) -> Result<()> {
    let ancestors = ancestors();
    if let Some(own) = survivors.iter().find(|survivor| ancestors.contains(&survivor.pid)) {
        return Err(Error::Refused {
            op: "kill",
            subject: format!("{} ({})", own.name, own.pid),
            why: format!("this command was started from it, and it {}", own.how),
            hint: Some("cd /".into()),
        });
    }
    let mut killed = Vec::new();
    for survivor in survivors {
        killed.extend(kill_one(survivor)?.map(|fd| (survivor, fd)));
    }
    let until = Instant::now() + PATIENCE;
    killed.retain(|(_, fd)| !ends(fd, until));
    match killed.first() {
        None => Ok(()),
        Some((first, _)) => {
            let left: Vec<_> = killed.iter().map(|(one, _)| format!("{} ({})", one.name, one.pid)).collect();
            Err(Error::Refused {
                op: "kill",
                subject: left.join(", "),
                why: "it was sent SIGKILL and is not gone: it waits for a disk or a server, where the kernel ends nobody".into(),
                hint: Some(format!("cat /proc/{}/wchan says for what; then the same command again", first.pid)),
            })
        }
    }
}

/// Sends the signal; `None` if the process is gone already.
fn kill_one(survivor: &Survivor) -> Result<Option<OwnedFd>> {
    let subject = || format!("{} ({})", survivor.name, survivor.pid);
    let Some(pid) = Pid::from_raw(survivor.pid as i32) else { return Ok(None) };
    let gone = |errno| errno == rustix::io::Errno::SRCH;
    let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(errno) if gone(errno) => return Ok(None),
        other => other.map_err(Error::io("kill", subject()))?,
    };
    // The id may have been given to another process since it was found.
    if name_of(survivor.pid) != survivor.name {
        return Ok(None);
    }
    match rustix::process::pidfd_send_signal(&fd, Signal::KILL) {
        Err(errno) if gone(errno) => Ok(None),
        other => other.map_err(Error::io("kill", subject())).map(|()| Some(fd)),
    }
}

/// Waits until the process has ended: it has nothing open then, though nobody may have asked yet how it ended.
fn ends(fd: &OwnedFd, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => return false,
            Ok(_) => return true,
        }
    }
}

/// The ids of the processes that this one descends from.
fn ancestors() -> Vec<u32> {
    let parent = |pid: &u32| {
        let stat = super::owner::stat_of(*pid)?;
        (stat.parent != 0).then_some(stat.parent)
    };
    std::iter::successors(Some(std::process::id()), parent).skip(1).collect()
}
