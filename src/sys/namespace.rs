//! Namespaces: mounts and users of this process' own.

use std::io;

use rustix::thread::UnshareFlags;

/// Leaves the namespaces of these kinds for new ones. For users, this process may have one thread only.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "descriptors stay shared with other threads");
    // SAFETY: what makes unshare unsafe is a descriptor table of the thread's own, which the line above excludes.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Makes this process root's equal in namespaces of its own, for users and for mounts. It stays the user that it is; of others'
/// files it sees that they are somebody else's.
///
/// EPERM: the machine lets no ordinary user do this. EINVAL: there are several threads.
pub fn own_users_and_mounts() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    let flags = rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

/// Whether system calls of this process are filtered (seccomp), as they are in most containers.
pub fn has_filter() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nSeccomp:\t2"))
}

/// Whether this process is in a user namespace that does not have all users.
pub fn has_users_of_its_own() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

/// The maps of users and of groups of this process's namespace, as `/proc/self/uid_map` and `gid_map` have them.
pub fn id_maps() -> io::Result<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(path);
    Ok((read("/proc/self/uid_map")?, read("/proc/self/gid_map")?))
}
