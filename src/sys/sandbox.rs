//! A command that is shut off: from other processes, from the network, and from writing to this machine's files.
//!
//! It keeps a rehearsal from doing harm by accident. It is no prison for who is root in it: block devices can be opened.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::fs::{CWD, Mode};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, move_mount,
    open_tree,
};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::sys::namespace;

/// Directories that are empty in each sandbox, and may be written to: those that programs take for granted.
const SCRATCH: [(&CStr, u16); 4] =
    [(c"/tmp", 0o1777), (c"/var/tmp", 0o1777), (c"/run", 0o755), (c"/dev/shm", 0o1777)];

/// What writing to would change for the whole machine.
const OF_THE_MACHINE: [&CStr; 2] = [c"/proc/sys", c"/proc/sysrq-trigger"];

/// Who runs a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
    /// The home directory.
    pub home: PathBuf,
}

impl Ids {
    /// Of the user of that name, with all groups; `None` if there is none.
    ///
    /// # Errors
    /// The machine's list of users can not be read.
    pub fn of(name: &str) -> io::Result<Option<Self>> {
        let Some(user) = nix::unistd::User::from_name(name)? else { return Ok(None) };
        let name = CString::new(name)?;
        let groups = nix::unistd::getgrouplist(&name, user.gid)?;
        let groups = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
        Ok(Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups, home: user.dir }))
    }
}

/// What a command that is shut off may reach.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// Trees that may be written to, and where each shows, whatever is there else: those within others after these.
    pub shown: Vec<(PathBuf, PathBuf)>,
    /// More directories that are empty, beside /tmp, /var/tmp, /run and /dev/shm. They must be there.
    pub scratch: Vec<PathBuf>,
    /// Whether it has the machine's network. Else it has a loopback of its own.
    pub network: bool,
    /// Who it is; else who this process is.
    pub user: Option<Ids>,
}

impl Sandbox {
    /// Starts the command as the first of processes that see no others. All that it starts is killed when it ends; it is killed when
    /// this thread ends. Needs CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// What the kernel refuses, before the command runs.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut inside = Inside::new(self)?;
        // SAFETY: between fork and exec, `shut_off` makes system calls alone, on texts that were made before, and allocates nothing.
        unsafe { command.pre_exec(move || inside.shut_off()) };
        let own = rustix::fs::open(
            c"/proc/self/ns/pid",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        namespace::unshare(UnshareFlags::NEWPID)?;
        let child = command.spawn();
        // Else no other process could be started once the first one has ended.
        rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        child
    }
}

/// What is done in the child, ready to be done without a heap.
struct Inside {
    shown: Vec<(CString, CString)>,
    scratch: Vec<CString>,
    /// Directories to be made where they are not there: those in which trees show.
    dirs: Vec<CString>,
    /// Filled in the child.
    trees: Vec<OwnedFd>,
    network: bool,
    user: Option<Ids>,
}

impl Inside {
    fn new(sandbox: &Sandbox) -> io::Result<Self> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
        let mut dirs = Vec::new();
        for (_, at) in &sandbox.shown {
            let all: Vec<_> = at.ancestors().filter(|dir| dir.parent().is_some()).collect();
            dirs.extend(all.into_iter().rev().map(text).collect::<io::Result<Vec<_>>>()?);
        }
        Ok(Self {
            shown: sandbox
                .shown
                .iter()
                .map(|(tree, at)| Ok((text(tree)?, text(at)?)))
                .collect::<io::Result<_>>()?,
            scratch: sandbox.scratch.iter().map(|dir| text(dir)).collect::<io::Result<_>>()?,
            dirs,
            trees: Vec::with_capacity(sandbox.shown.len()),
            network: sandbox.network,
            user: sandbox.user.clone(),
        })
    }

    fn shut_off(&mut self) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::process::setsid()?;
        let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC;
        if !self.network {
            flags |= UnshareFlags::NEWNET;
        }
        namespace::unshare(flags)?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        self.mounts()?;
        if !self.network {
            loopback_up()?;
        }
        if let Some(user) = &self.user {
            become_user(user)?;
        }
        Ok(nix::sys::signal::SigSet::empty().thread_set_mask()?)
    }

    fn mounts(&mut self) -> io::Result<()> {
        for (tree, _) in &self.shown {
            self.trees.push(bind(tree)?);
        }
        only_read(CWD, c"/", libc::AT_RECURSIVE as u32)?;
        let given = SCRATCH.into_iter().filter(|(dir, _)| rustix::fs::stat(*dir).is_ok());
        for (dir, mode) in given.chain(self.scratch.iter().map(|dir| (dir.as_c_str(), 0o755))) {
            mount(c"none", dir, c"tmpfs", MountFlags::NODEV | MountFlags::NOSUID, None)?;
            rustix::fs::chmod(dir, Mode::from_raw_mode(mode.into()))?;
        }
        for dir in &self.dirs {
            // Those that are there, or that nobody may make, are looked at when a tree is to show in them.
            let _ = rustix::fs::mkdir(dir.as_c_str(), Mode::from_raw_mode(0o755));
        }
        for (tree, (_, at)) in self.trees.iter().zip(&self.shown) {
            move_mount(tree, c"", CWD, at.as_c_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        mount(c"proc", c"/proc", c"proc", flags, None)?;
        for path in OF_THE_MACHINE {
            if rustix::fs::stat(path).is_ok() {
                let tree = bind(path)?;
                only_read(&tree, c"", libc::AT_EMPTY_PATH as u32)?;
                move_mount(&tree, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            }
        }
        rustix::process::chdir(c"/")?;
        Ok(())
    }
}

fn bind(path: &CStr) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

fn only_read(at: impl AsFd, path: &CStr, flags: u32) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: mount_setattr(2) reads the path, a NUL-terminated text, and `size` bytes of the attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A new network namespace has a loopback that is down.
fn loopback_up() -> io::Result<()> {
    // SAFETY: an ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: socket(2) takes numbers; ioctl(2) reads the request, which outlives the call; the descriptor is this function's own.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        match libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request) {
            ..0 => Err(io::Error::last_os_error()),
            0.. => Ok(()),
        }
    }
}

fn become_user(user: &Ids) -> io::Result<()> {
    // SAFETY: setgroups(2) reads as many groups as it is told; all three are system calls of the only thread of this process.
    let done = unsafe {
        libc::setgroups(user.groups.len(), user.groups.as_ptr()) == 0
            && libc::setresgid(user.gid, user.gid, user.gid) == 0
            && libc::setresuid(user.uid, user.uid, user.uid) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
