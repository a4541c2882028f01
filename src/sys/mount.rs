//! The mount API: detached mounts, attaching, moving beneath, unmounting (kernel-notes/mount-api.md).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

/// A mount that nobody sees: it goes with its descriptor unless it is attached.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Detached> for OwnedFd {
    fn from(detached: Detached) -> Self {
        detached.0
    }
}

/// Mounts a filesystem without attaching it anywhere. Needs CAP_SYS_ADMIN.
pub fn detached(kind: &str, source: &Path, options: &[(&str, &str)]) -> io::Result<Detached> {
    detached_as(kind, source, options, Restrict { nodev: true, nosuid: true, ..Restrict::default() })
}

/// The filesystem itself is only read, not just through this mount. A snapshot of ZFS can be mounted a second time by those alone who say so
/// (`zpl_mount_impl`, 2.1: EBUSY).
pub const READ_ONLY: &[(&str, &str)] = &[("ro", "")];

/// As [`detached`], with these restrictions and no others. An option without a value is a flag.
pub fn detached_as(
    kind: &str,
    source: &Path,
    options: &[(&str, &str)],
    restrict: Restrict,
) -> io::Result<Detached> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", source)?;
    for (key, value) in options {
        match value.is_empty() {
            true => rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?,
            false => rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let mount = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(restrict.bits() as u32),
    )?;
    Ok(Detached(mount))
}

/// Why a filesystem could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("{source}{}{log}", if log.is_empty() { "" } else { ": " })]
pub struct Failed {
    /// What the call said.
    pub source: io::Error,
    /// What the filesystem said about it, in its own words; empty if it said nothing.
    pub log: String,
}

/// What overlayfs puts together.
#[derive(Debug)]
pub struct Overlay<'a> {
    /// What `/proc/self/mountinfo` shows as its source.
    pub source: &'a str,
    /// The directories that are only read, the topmost first.
    pub lower: &'a [PathBuf],
    /// Where the changes go, and the filesystem's own directory beside it; `None` for an overlay that is only read.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// Everything else: `volatile` …, with its value.
    pub options: &'a [(&'a str, Option<&'a str>)],
}

/// Puts an overlay together without attaching it anywhere.
///
/// Paths may be of any bytes and any length: where the kernel would not take one as it is, it gets a descriptor's.
pub fn overlay(overlay: &Overlay<'_>, restrict: Restrict) -> Result<Detached, Failed> {
    let context =
        configured(overlay, Lower::EachByItself).or_else(|error| match error.source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::INVAL.raw_os_error() => {
                // What a kernel that takes either way says to the second is about the same directories.
                configured(overlay, Lower::AllAtOnce)
            }
            _ => Err(error),
        })?;
    let mount = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(restrict.bits() as u32),
    );
    mount.map(Detached).map_err(|error| Failed { source: error.into(), log: log_of(&context) })
}

/// How overlayfs is told the directories that are only read.
#[derive(Clone, Copy)]
enum Lower {
    /// As it can be since 6.7; an earlier one finds out when all is put together, and says EINVAL.
    EachByItself,
    AllAtOnce,
}

fn configured(overlay: &Overlay<'_>, how: Lower) -> Result<OwnedFd, Failed> {
    let failed = |source: rustix::io::Errno| Failed { source: source.into(), log: String::new() };
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    match configure(&context, overlay, how) {
        Ok(()) => Ok(context),
        Err(source) => Err(Failed { source, log: log_of(&context) }),
    }
}

fn configure(context: &OwnedFd, overlay: &Overlay<'_>, how: Lower) -> io::Result<()> {
    let mut kept = Vec::new();
    rustix::mount::fsconfig_set_string(context, "source", overlay.source)?;
    match how {
        Lower::EachByItself => {
            for dir in overlay.lower {
                let dir = as_the_kernel_takes(dir, &mut kept)?;
                rustix::mount::fsconfig_set_string(context, "lowerdir+", &dir)?;
            }
        }
        Lower::AllAtOnce => {
            let all = in_one_text(overlay.lower, &mut kept)?;
            rustix::mount::fsconfig_set_string(context, "lowerdir", &all)?;
        }
    }
    if let Some((upper, work)) = overlay.upper {
        for (key, dir) in [("upperdir", upper), ("workdir", work)] {
            let dir = as_the_kernel_takes(dir, &mut kept)?;
            rustix::mount::fsconfig_set_string(context, key, &dir)?;
        }
    }
    for (key, value) in overlay.options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(context, *key, *value)?,
            None => rustix::mount::fsconfig_set_flag(context, *key)?,
        }
    }
    Ok(rustix::mount::fsconfig_create(context)?)
}

/// The directories as `lowerdir` takes them: by their own names, or by their descriptors' (put into `kept`), which are shorter.
fn in_one_text(dirs: &[PathBuf], kept: &mut Vec<OwnedFd>) -> io::Result<OsString> {
    let names: io::Result<Vec<_>> = dirs.iter().map(|dir| as_the_kernel_takes(dir, kept)).collect();
    let mut text = joined(&names?);
    if text.len() > MAX_VALUE {
        let names: io::Result<Vec<_>> = dirs.iter().map(|dir| by_descriptor(dir, kept)).collect();
        text = joined(&names?);
    }
    match text.len() {
        0..=MAX_VALUE => Ok(text),
        _ => Err(io::Error::new(
            io::ErrorKind::ArgumentListTooLong,
            format!("{} layers are more than a kernel before 6.7 takes", dirs.len()),
        )),
    }
}

fn joined(names: &[PathBuf]) -> OsString {
    let names: Vec<&OsStr> = names.iter().map(|name| name.as_os_str()).collect();
    names.join(OsStr::new(":"))
}

/// The longest text that fsconfig takes.
const MAX_VALUE: usize = 255;

/// `dir` itself, or the name of a descriptor of it (put into `kept`): overlayfs splits at colons, and reads backslashes.
fn as_the_kernel_takes(dir: &Path, kept: &mut Vec<OwnedFd>) -> io::Result<PathBuf> {
    let bytes = dir.as_os_str().as_bytes();
    if bytes.len() <= MAX_VALUE && !bytes.iter().any(|byte| b":,\\".contains(byte)) {
        return Ok(dir.to_owned());
    }
    by_descriptor(dir, kept)
}

fn by_descriptor(dir: &Path, kept: &mut Vec<OwnedFd>) -> io::Result<PathBuf> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, rustix::fs::Mode::empty())?;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    kept.push(fd);
    Ok(name.into())
}

/// What a filesystem that is being mounted has said, its lines joined: each comes with a letter for its kind and a space.
fn log_of(context: &OwnedFd) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut buffer = vec![0; 4096];
    while let Ok(len @ 1..) = rustix::io::read(context, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..len]);
        lines.push(line.trim_end().chars().skip(2).collect());
    }
    lines.join("; ")
}

/// Whether this process may mount a filesystem of this kind in its mount namespace; the error says what is lacking (EPERM, ENODEV).
pub fn may_mount(kind: &str) -> io::Result<()> {
    Ok(rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map(drop)?)
}

/// Lets nobody write to the filesystem that is mounted at `dir`, or lets them again.
///
/// EBUSY: something has a file open for writing, through whichever mount of it.
pub fn set_filesystem_readonly(dir: &Path, readonly: bool) -> io::Result<()> {
    let flags = rustix::mount::FsPickFlags::FSPICK_CLOEXEC | rustix::mount::FsPickFlags::FSPICK_NO_AUTOMOUNT;
    let context = rustix::mount::fspick(rustix::fs::CWD, dir, flags)?;
    rustix::mount::fsconfig_set_flag(&context, if readonly { "ro" } else { "rw" })?;
    Ok(rustix::mount::fsconfig_reconfigure(&context)?)
}

/// Whether somebody uses the mount at `dir`: has a file of it open or mapped, a working directory in it, something mounted
/// in it. One call, however many processes there are. `None`: nothing is mounted there any more.
///
/// It asks the kernel to take away the mount at the second time of asking if nobody used it in between, and uses it at once.
pub fn is_used(dir: &Path) -> io::Result<Option<bool>> {
    let touch = || {
        rustix::fs::open(
            dir,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
    };
    // An earlier asker may have died before it used the mount.
    drop(touch()?);
    let asked = rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW | UnmountFlags::EXPIRE);
    drop(touch()?);
    match asked {
        Err(rustix::io::Errno::AGAIN) => Ok(Some(false)),
        Err(rustix::io::Errno::BUSY) => Ok(Some(true)),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(None),
    }
}

/// Gives this process mounts of its own: what it mounts from now on, nobody else sees. What others mount, it sees.
pub fn own_namespace() -> io::Result<()> {
    crate::sys::namespace::unshare(rustix::thread::UnshareFlags::NEWNS)?;
    let flags = rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

/// A detached bind mount of the directory `tree`, without what is mounted below it.
pub fn bind(tree: BorrowedFd<'_>) -> io::Result<Detached> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(Detached(rustix::mount::open_tree(tree, "", flags)?))
}

/// What a mount forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Restrict {
    /// Nothing is written through it.
    pub readonly: bool,
    /// Device files do not work.
    pub nodev: bool,
    /// Set-user-id bits and capabilities of programs do not work.
    pub nosuid: bool,
    /// No program is started from it.
    pub noexec: bool,
}

impl Restrict {
    fn bits(self) -> u64 {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        bit(self.readonly, libc::MOUNT_ATTR_RDONLY)
            | bit(self.nodev, libc::MOUNT_ATTR_NODEV)
            | bit(self.nosuid, libc::MOUNT_ATTR_NOSUID)
            | bit(self.noexec, libc::MOUNT_ATTR_NOEXEC)
    }

    fn flags(self) -> MountFlags {
        let flag = |on: bool, flag: MountFlags| if on { flag } else { MountFlags::empty() };
        flag(self.readonly, MountFlags::RDONLY)
            | flag(self.nodev, MountFlags::NODEV)
            | flag(self.nosuid, MountFlags::NOSUID)
            | flag(self.noexec, MountFlags::NOEXEC)
    }
}

/// Adds restrictions to a mount (kernel 5.12).
pub fn restrict(mount: &Detached, restrict: Restrict) -> io::Result<()> {
    set_attributes(mount, restrict, 0)
}

/// As [`restrict`]; and what is mounted in this mount from now on does not show in the one that it is a bind of.
pub fn restrict_private(mount: &Detached, restrict: Restrict) -> io::Result<()> {
    set_attributes(mount, restrict, libc::MS_PRIVATE)
}

fn set_attributes(mount: &Detached, restrict: Restrict, propagation: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: restrict.bits(), attr_clr: 0, propagation, userns_fd: 0 };
    change_attributes(mount.as_fd(), &attributes)
}

fn change_attributes(mounted: BorrowedFd<'_>, attributes: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: mount_setattr(2) reads the path, an empty NUL-terminated text, and `size` bytes of the attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mounted.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a detached mount visible at `dir`.
pub fn attach(mount: &Detached, dir: &Path) -> io::Result<()> {
    move_to(mount, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Puts a detached mount under the topmost one at `dir`; it shows when that one goes (kernel 6.5).
pub fn attach_beneath(mount: &Detached, dir: &Path) -> io::Result<()> {
    move_to(mount, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_BENEATH)
}

fn move_to(mount: &Detached, dir: &Path, flags: MoveMountFlags) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount.as_fd(), "", rustix::fs::CWD, dir, flags)?)
}

/// Mounts a filesystem at `dir` in one call, for a kind that the new mount API does not know.
pub fn mount_at(kind: &str, source: &str, dir: &Path, restrict: Restrict) -> io::Result<()> {
    Ok(rustix::mount::mount(source, dir, kind, restrict.flags(), None)?)
}

/// Puts the new mount under the old one at `dir` and takes that away: whoever looks sees one of the two.
pub fn exchange(new: &Detached, dir: &Path) -> io::Result<()> {
    if attach_beneath(new, dir).is_ok() {
        return unmount_lazily(dir);
    }
    // A kernel before 6.5, or a mount that can not have one beneath: for an instant nothing is mounted.
    unmount_lazily(dir)?;
    attach(new, dir)
}

/// Unmounts the topmost mount at `dir`. A symbolic link is not followed.
pub fn unmount(dir: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW)?)
}

/// Takes the topmost mount at `dir` out of sight at once; it goes when its last user does.
pub fn unmount_lazily(dir: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount's id, as [`mount_id`] tells it.
    pub id: u64,
    /// The id of the mount that it is mounted in.
    pub parent: u64,
    /// What this mount's peers tell it of, and it tells them: `shared:N`, `master:N`.
    pub groups: Vec<String>,
    /// The filesystem's device number, `major:minor`.
    pub device: String,
    /// What of the filesystem is mounted: a path below its top level, with a `/` in front.
    pub root: PathBuf,
    /// Where.
    pub dir: PathBuf,
    /// The mount's own options: `ro`, `nodev` …
    pub options: Vec<String>,
    /// `btrfs`, `ext4` …
    pub kind: String,
    /// The device or what stands for one.
    pub source: PathBuf,
}

impl MountInfo {
    /// What this mount forbids.
    pub fn restrictions(&self) -> Restrict {
        let has = |option: &str| self.options.iter().any(|o| o == option);
        Restrict { readonly: has("ro"), nodev: has("nodev"), nosuid: has("nosuid"), noexec: has("noexec") }
    }
}

/// All mounts that this process sees, in the order in which they were made.
pub fn mounts() -> io::Result<Vec<MountInfo>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mounts that other processes have and this one has not, as far as it may look: of each namespace once, with a process
/// of it.
pub fn mounts_of_others() -> io::Result<Vec<(u32, MountInfo)>> {
    let mut seen = vec![std::fs::read_link("/proc/self/ns/mnt")?];
    let mut all = Vec::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that may not be looked at, or has ended.
        let Ok(namespace) = std::fs::read_link(process.path().join("ns/mnt")) else { continue };
        let Ok(table) = std::fs::read(process.path().join("mountinfo")) else { continue };
        if !seen.contains(&namespace) {
            seen.push(namespace);
            all.extend(parse(&table).into_iter().map(|info| (id, info)));
        }
    }
    Ok(all)
}

/// The processes in other mount namespaces that see a mount of which `is_it` is true, as far as this one may look.
pub fn others_that_see(is_it: impl Fn(&MountInfo) -> bool) -> io::Result<Vec<u32>> {
    let own = std::fs::read_link("/proc/self/ns/mnt")?;
    let sees = |process: &std::path::Path| {
        let is_other = std::fs::read_link(process.join("ns/mnt")).is_ok_and(|theirs| theirs != own);
        is_other
            && std::fs::read(process.join("mountinfo")).is_ok_and(|table| parse(&table).iter().any(&is_it))
    };
    let processes = std::fs::read_dir("/proc")?.flatten();
    let ids = processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    Ok(ids.filter(|(_, path)| sees(path)).map(|(id, _)| id).collect())
}

fn parse(table: &[u8]) -> Vec<MountInfo> {
    table.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue` (proc_pid_mountinfo(5)).
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|&b| b == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = text(fields.next()?);
    let (root, dir) = (unescape(fields.next()?), unescape(fields.next()?));
    let options = text(fields.next()?).split(',').map(str::to_owned).collect();
    let groups = fields.by_ref().take_while(|&field| field != b"-").map(text).collect();
    let (kind, source) = (text(fields.next()?), unescape(fields.next()?));
    Some(MountInfo { id, parent, groups, device, root, dir, options, kind, source })
}

/// Space, tab, newline and backslash come as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = || u8::from_str_radix(std::str::from_utf8(tail.get(..3)?).ok()?, 8).ok();
        match (first, octal()) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// The id of the mount that `fd` was opened through (kernel 3.15, by its fdinfo).
pub fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo names no mnt_id"))
}

/// Whether `path` is `base` or stands below it, compared component by component.
pub fn is_within(path: &Path, base: &Path) -> bool {
    path == base || path.starts_with(base) || base.as_os_str() == OsStr::from_bytes(b"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_with_optional_fields_and_escapes_is_read() {
        let line =
            b"36 35 0:47 /a\\040b /mnt/x\\134y rw,nosuid master:1 shared:2 - btrfs /dev/loop\\0111 rw,subvol=/a";
        let info = parse_line(line).expect("a line");
        assert_eq!((info.id, info.parent, info.device.as_str()), (36, 35, "0:47"));
        assert_eq!(info.groups, ["master:1", "shared:2"]);
        assert_eq!((info.root.as_path(), info.dir.as_path()), (Path::new("/a b"), Path::new("/mnt/x\\y")));
        assert_eq!((info.kind.as_str(), info.source.as_path()), ("btrfs", Path::new("/dev/loop\t1")));
        assert_eq!(info.restrictions(), Restrict { nosuid: true, ..Restrict::default() });
    }

    #[test]
    fn a_line_that_ends_early_is_left_out() {
        assert_eq!(parse_line(b"36 35 0:47 /a /b rw - btrfs"), None);
        assert_eq!(parse_line(b""), None);
    }

    #[test]
    fn lower_directories_in_one_text_are_names_or_descriptors_and_not_too_many() {
        let text = |dirs: &[&str]| {
            let (mut kept, dirs): (_, Vec<_>) = (Vec::new(), dirs.iter().map(PathBuf::from).collect());
            let text = in_one_text(&dirs, &mut kept).map(|text| text.into_string().expect("UTF-8"));
            (text.map_err(|error| error.to_string()), kept.len())
        };
        assert_eq!(text(&["/usr", "/etc"]), (Ok("/usr:/etc".into()), 0));
        let long = format!("/{}", "./".repeat(80));
        let (by_descriptors, n) = text(&[&long, "/etc", &long]);
        let by_descriptors = by_descriptors.expect("short enough");
        let all_are = by_descriptors.split(':').all(|name| name.starts_with("/proc/self/fd/"));
        assert!(all_are && n == 3, "{by_descriptors}");
        let (many, _) = text(&["/usr/share/doc"; 40]);
        assert_eq!(many, Err("40 layers are more than a kernel before 6.7 takes".into()));
    }

    #[test]
    fn every_process_sees_its_root_mounted() {
        assert!(mounts().expect("mountinfo").iter().any(|m| m.dir == Path::new("/")));
    }
}
