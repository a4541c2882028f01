//! A command that is shut off: from other processes, from the network, and from writing to this machine's files.
//!
//! It keeps a rehearsal from doing harm by accident. It is no prison for who is root in it: block devices can be opened.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Uid, statx};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, move_mount,
    open_tree,
};
use rustix::process::{PidfdFlags, Signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::sys::namespace;

/// Directories that are empty in each sandbox, and may be written to: those that programs take for granted, as these do, whatever they are here.
const SCRATCH: [(&str, u32); 4] =
    [("/tmp", ANYBODY), ("/var/tmp", ANYBODY), ("/run", 0o755), ("/dev/shm", ANYBODY)];

/// Anybody may make what is there, and nobody take away another's.
const ANYBODY: u32 = 0o1777;

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

    /// The user's number.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

/// What a command that is shut off may reach.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// Trees that may be written to, and where each shows, whatever is there else. None at "/".
    pub shown: Vec<(PathBuf, PathBuf)>,
    /// More directories that are empty, beside /tmp, /var/tmp, /run and /dev/shm.
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
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::open(c"/proc/self/ns/pid", flags, Mode::empty())?;
        namespace::unshare(UnshareFlags::NEWPID)?;
        let child = command.spawn();
        // Else no other process could be started once the first one has ended.
        match rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID)) {
            Ok(()) => child,
            Err(error) => {
                if let Ok(mut child) = child {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                Err(error.into())
            }
        }
    }
}

/// What is done in the child, ready to be done without a heap.
struct Inside {
    /// The process that starts it: readable once that is gone.
    parent: OwnedFd,
    /// Sockets at which services of the machine listen, and named pipes that somebody has open.
    ends: Vec<End>,
    /// What is mounted, those within others after these.
    places: Vec<Place>,
    /// What names servers' addresses, where that is hidden else, and the directories that it is in.
    resolver: Option<(CString, Vec<CString>)>,
    network: bool,
    user: Option<Ids>,
}

/// Where somebody hears, who is not to. Who made it said where it is, and that may be something else by now, or here.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    at: CString,
    what: Hears,
}

/// What there has to be, or nothing is done there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hears {
    Socket,
    /// This pipe, and no other.
    Pipe(Identity),
}

/// Of a file: its device and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Identity(u32, u32, u64);

/// What a file is, by what the kernel knows already: a file server that does not answer is not asked.
fn known(
    dir: impl AsFd,
    path: impl rustix::path::Arg,
    flags: AtFlags,
) -> rustix::io::Result<(FileType, Identity)> {
    let known = statx(dir, path, flags | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::INO)?;
    let identity = Identity(known.stx_dev_major, known.stx_dev_minor, known.stx_ino);
    Ok((FileType::from_raw_mode(known.stx_mode.into()), identity))
}

impl End {
    /// It, if it is what it has to be; `None` if it is gone by now, is something else here, or can not be reached from here.
    fn opened(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::open(self.at.as_c_str(), flags, Mode::empty()) {
            Err(error @ (Errno::NOMEM | Errno::MFILE | Errno::NFILE)) => return Err(error.into()),
            Err(_) => return Ok(None),
            Ok(file) => file,
        };
        let (kind, identity) = known(&file, c"", AtFlags::EMPTY_PATH)?;
        let is_it = match self.what {
            Hears::Socket => kind == FileType::Socket,
            Hears::Pipe(pipe) => kind == FileType::Fifo && identity == pipe,
        };
        Ok(is_it.then_some(file))
    }

    /// Nobody hears there any more.
    fn shut(&self) -> io::Result<()> {
        let Some(file) = self.opened()? else { return Ok(()) };
        match move_mount(&bind(c"/dev/null")?, c"", &file, c"", FROM_DESCRIPTOR | ONTO_DESCRIPTOR) {
            // It is gone since.
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Something that shows in the sandbox alone.
struct Place {
    at: CString,
    /// Directories to be made where they are not there, the topmost first.
    dirs: Vec<CString>,
    what: What,
}

enum What {
    /// A tree that is somewhere else; its mount, once it has been opened in the child.
    Tree(CString, Option<OwnedFd>),
    /// An empty directory in memory, of that mode, user and group.
    Empty(u32, u32, u32),
}

impl Place {
    fn new(at: &Path, what: What) -> io::Result<Self> {
        Ok(Self { at: text(at)?, dirs: all_of(at)?, what })
    }

    /// One that is empty, and of whom what is there is of.
    fn empty(at: &Path) -> io::Result<Self> {
        let what = match at.symlink_metadata() {
            Ok(meta) if meta.is_dir() => What::Empty(meta.mode() & 0o7777, meta.uid(), meta.gid()),
            _ => What::Empty(0o755, 0, 0),
        };
        Self::new(at, what)
    }

    fn mount(&self) -> io::Result<()> {
        make(&self.dirs);
        let at = self.at.as_c_str();
        match &self.what {
            What::Tree(_, None) => Err(io::ErrorKind::NotFound.into()),
            What::Tree(_, Some(tree)) => {
                Ok(move_mount(tree, c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
            }
            &What::Empty(mode, uid, gid) => {
                mount(c"none", at, c"tmpfs", MountFlags::NODEV | MountFlags::NOSUID, None)?;
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::chown(at, Some(uid), Some(gid))?;
                Ok(rustix::fs::chmod(at, Mode::from_raw_mode(mode))?)
            }
        }
    }
}

/// The directory and all that it is in, the topmost first.
fn all_of(dir: &Path) -> io::Result<Vec<CString>> {
    let dirs: Vec<_> = dir.ancestors().filter(|dir| dir.parent().is_some()).collect();
    dirs.into_iter().rev().map(text).collect()
}

/// Makes directories where they are not there. Whether that could be done is seen when something is to be mounted there.
fn make(dirs: &[CString]) {
    for dir in dirs {
        let _ = rustix::fs::mkdir(dir.as_c_str(), Mode::from_raw_mode(0o755));
    }
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

impl Inside {
    fn new(sandbox: &Sandbox) -> io::Result<Self> {
        let mut places = Vec::new();
        for (dir, mode) in SCRATCH.iter().map(|(dir, mode)| (Path::new(dir), *mode)) {
            if dir.is_dir() {
                places.push(Place::new(dir, What::Empty(mode, 0, 0))?);
            }
        }
        for dir in &sandbox.scratch {
            places.push(Place::empty(dir)?);
        }
        for (tree, at) in &sandbox.shown {
            places.push(Place::new(at, What::Tree(text(tree)?, None))?);
        }
        // A stable sort: of two at one place, a tree is mounted last, and shows.
        places.sort_by_key(|place| place.dirs.len());
        let parent = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        let resolver = if sandbox.network { resolver()? } else { None };
        let user = sandbox.user.clone();
        let ends = sockets()?.into_iter().chain(pipes()?).collect();
        Ok(Self { parent, ends, places, resolver, network: sandbox.network, user })
    }

    fn shut_off(&mut self) -> io::Result<()> {
        self.ends_with_its_parent()?;
        rustix::process::setsid()?;
        let _ = rustix::process::umask(Mode::from_raw_mode(0o022));
        let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
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
            rustix::thread::set_no_new_privs(true)?;
            // The kernel forgets it when a process becomes another user's.
            self.ends_with_its_parent()?;
        }
        Ok(nix::sys::signal::SigSet::empty().thread_set_mask()?)
    }

    fn ends_with_its_parent(&self) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // Its number is none here: it is of another namespace.
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut [PollFd::new(&self.parent, PollFlags::IN)], Some(&now))? {
            0 => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn mounts(&mut self) -> io::Result<()> {
        for place in &mut self.places {
            if let What::Tree(path, tree) = &mut place.what {
                *tree = Some(bind(path)?);
            }
        }
        let resolver = self.resolver.as_ref().and_then(|(file, _)| bind(file).ok());
        for end in &self.ends {
            end.shut()?;
        }
        only_read(CWD, c"/", libc::AT_RECURSIVE as u32)?;
        for place in &self.places {
            place.mount()?;
        }
        if let (Some(tree), Some((at, dirs))) = (&resolver, &self.resolver) {
            make(dirs);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            if rustix::fs::open(at.as_c_str(), flags, Mode::from_raw_mode(0o644)).is_ok() {
                move_mount(tree, c"", CWD, at.as_c_str(), FROM_DESCRIPTOR)?;
            }
        }
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        mount(c"proc", c"/proc", c"proc", flags, None)?;
        for path in OF_THE_MACHINE {
            if rustix::fs::stat(path).is_ok() {
                let tree = bind(path)?;
                only_read(&tree, c"", libc::AT_EMPTY_PATH as u32)?;
                move_mount(&tree, c"", CWD, path, FROM_DESCRIPTOR)?;
            }
        }
        Ok(rustix::process::chdir(c"/")?)
    }
}

const FROM_DESCRIPTOR: MoveMountFlags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
const ONTO_DESCRIPTOR: MoveMountFlags = MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;

/// Where processes of this network namespace listen in the file system. A mount that is only read keeps nobody from talking to them.
fn sockets() -> io::Result<Vec<End>> {
    let table = std::fs::read("/proc/net/unix")?;
    let lines = table.split(|&byte| byte == b'\n').skip(1);
    // Num RefCount Protocol Flags Type St Inode Path
    let path = |line: &[u8]| {
        let start = line.iter().position(|&byte| byte == b'/')?;
        line[start..].starts_with(b"/").then(|| line[start..].to_vec())
    };
    let mut found: Vec<_> = lines.filter_map(path).collect();
    found.sort();
    found.dedup();
    let is_socket = |path: &Vec<u8>| {
        let path = Path::new(OsStr::from_bytes(path));
        path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket())
    };
    found
        .into_iter()
        .filter(is_socket)
        .map(|path| Ok(End { at: CString::new(path)?, what: Hears::Socket }))
        .collect()
}

/// Named pipes that processes have open: what is written to one is read, though its file system can only be read. Of one that nobody has open, nobody hears.
/// Each where its process sees it: in another mount namespace that may be something else here.
fn pipes() -> io::Result<Vec<End>> {
    let is_number = |name: &OsStr| name.as_bytes().iter().all(u8::is_ascii_digit);
    let processes = std::fs::read_dir("/proc")?.flatten().filter(|entry| is_number(&entry.file_name()));
    // A process may be gone by now.
    let open = processes.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok()).flatten();
    let mut found = Vec::new();
    for file in open.flatten().map(|file| file.path()) {
        let Ok((FileType::Fifo, pipe)) = known(CWD, &file, AtFlags::empty()) else { continue };
        // That of one that has no name is none.
        let path = std::fs::read_link(&file).ok().filter(|path| path.is_absolute());
        if let Some(path) = path {
            found.push(End { at: text(&path)?, what: Hears::Pipe(pipe) });
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// What /etc/resolv.conf stands for, where that lies in what is hidden.
fn resolver() -> io::Result<Option<(CString, Vec<CString>)>> {
    let Ok(path) = std::fs::canonicalize("/etc/resolv.conf") else { return Ok(None) };
    if !SCRATCH.iter().any(|(dir, _)| path.starts_with(dir)) {
        return Ok(None);
    }
    let dirs = path.parent().map_or(Ok(Vec::new()), all_of)?;
    Ok(Some((text(&path)?, dirs)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(path: &Path) {
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0).expect("made");
    }

    #[test]
    fn only_what_is_the_same_pipe_here_is_shut() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        pipe(&path);
        let _open = std::fs::File::options().read(true).write(true).open(&path).expect("opened");
        let is_it = |end: &End| end.at.as_bytes() == path.as_os_str().as_bytes();
        let found = pipes().expect("looked").into_iter().find(is_it).expect("it is open");
        let is_open = || found.opened().expect("looked").is_some();
        assert!(is_open());
        // As in another mount namespace: the same path, and something else there.
        let aside = folder.path().join("aside");
        std::fs::rename(&path, &aside).expect("renamed");
        assert!(!is_open(), "nothing is there");
        std::fs::write(&path, "a file of somebody's").expect("written");
        assert!(!is_open(), "a file");
        std::fs::remove_file(&path).expect("removed");
        pipe(&path);
        assert!(!is_open(), "another pipe");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&aside, &path).expect("linked");
        assert!(!is_open(), "a link");
        std::fs::remove_file(&path).expect("removed");
        std::fs::rename(&aside, &path).expect("renamed");
        assert!(is_open());
    }

    #[test]
    fn what_is_no_socket_any_more_is_not_shut() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let end = End { at: text(&path).expect("a path"), what: Hears::Socket };
        assert!(end.opened().expect("looked").is_some());
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "a file").expect("written");
        assert!(end.opened().expect("looked").is_none());
    }
}
