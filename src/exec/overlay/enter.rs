//! Mounts of this process' own, for a command whose tree nobody else sees; and what is left where the machine gives it none.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use crate::endpoint::overlay::{fuse, probe};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{Mode, Record};
use crate::sys::forked::forked;
use crate::sys::{mount, namespace};

/// Who sees a command's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The command, and what it starts.
    ByItAlone,
    /// All processes of its user: nothing can be mounted for the command alone.
    ByTheUser,
}

/// The option of a record whose tree others see; its only value is `true`.
const SEEN: &str = "seen";

impl Seen {
    /// As a record has it among its options.
    pub(super) fn option(self) -> BTreeMap<String, serde_json::Value> {
        match self {
            Self::ByItAlone => BTreeMap::new(),
            Self::ByTheUser => BTreeMap::from([(SEEN.into(), true.into())]),
        }
    }

    /// What a record says.
    pub(super) fn of(record: &Record) -> Self {
        match record.options.more.contains_key(SEEN) {
            true => Self::ByTheUser,
            false => Self::ByItAlone,
        }
    }
}

/// How long the kernel may take to make namespaces.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives this process mounts of its own: as root directly, else in a user namespace, in which it stays the user that it is. To be called before
/// the home is opened, with one thread.
///
/// # Errors
/// [`Error::Denied`] if the machine allows neither.
pub fn alone() -> Result<()> {
    own_mounts()?.map_err(|error| denied(&error, None))
}

/// As [`alone`]; where neither is allowed, `mode` may be one that does without.
///
/// # Errors
/// [`Error::Denied`] if the machine allows nothing of this.
pub fn enter(mode: Option<Mode>) -> Result<Seen> {
    let Err(error) = own_mounts()? else { return Ok(Seen::ByItAlone) };
    let unfit = match mode {
        None | Some(Mode::Fuse) => fuse::probe::unusable(),
        Some(Mode::Reflink | Mode::Copy | Mode::Disabled) => None,
        Some(other) => Some(format!("mode {other} mounts (--mode fuse lets fusermount3 do that)")),
    };
    match unfit {
        None => Ok(Seen::ByTheUser),
        Some(unfit) => Err(denied(&error, Some(&unfit))),
    }
}

/// What the machine says that allows neither.
fn own_mounts() -> Result<io::Result<()>> {
    if probe::may_mount().is_ok() && mount::own_namespace().is_ok() {
        return Ok(Ok(()));
    }
    // Who is given a user namespace, and may do nothing in it, does not come out of it again: it is tried by another process.
    match tried().and_then(|()| namespace::own_users_and_mounts()) {
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EINVAL | libc::ENOSYS) => Ok(Err(error)),
            _ => Err(Error::io("make", "mounts for one command")(error)),
        },
        Ok(()) => Ok(Ok(())),
    }
}

/// Has another process do what this one is to do.
fn tried() -> io::Result<()> {
    let code = |error: io::Error| error.raw_os_error().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let ended = forked(PATIENCE, || namespace::own_users_and_mounts().map_or_else(code, |()| 0))?;
    match ended.ok_or(io::ErrorKind::TimedOut)?.code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.into())),
    }
}

fn denied(error: &io::Error, unfit: Option<&str>) -> Error {
    let (why, grant) = no_users(error, &|path| fs::read_to_string(path).ok());
    let neither = unfit.map(|unfit| format!("; nor is it done without: {unfit}")).unwrap_or_default();
    let or = if unfit.is_some() { "; or grant what that lacks" } else { "" };
    Error::Denied {
        op: "make",
        subject: "mounts for one command".into(),
        lacking: format!("this process may not mount, nor have a user namespace: {why} ({error}){neither}"),
        hint: Some(format!("{grant}{or}; or run it as root")),
    }
}

/// Why the kernel gives this process no user namespace, and what would make it; `read` reads files of `/proc`.
fn no_users(
    error: &std::io::Error,
    read: &dyn Fn(&'static str) -> Option<String>,
) -> (&'static str, &'static str) {
    let is = |path, value: &str| read(path).is_some_and(|text| text.trim() == value);
    if is("/proc/self/uid_map", "") {
        return (
            "its user has no id in the user namespace that it is in",
            "give it one when that is made: unshare --map-current-user, podman run --userns keep-id",
        );
    }
    if error.raw_os_error() == Some(libc::EINVAL) {
        return ("the kernel has none", "take a kernel with CONFIG_USER_NS");
    }
    let settings = [
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    if let Some((_, _, grant)) = settings.iter().find(|(path, value, _)| is(path, value)) {
        return ("a setting of the machine denies it", grant);
    }
    match error.raw_os_error() {
        Some(libc::ENOSPC) => ("there are as many as may be", "sysctl user.max_user_namespaces=10000"),
        _ if read("/proc/self/status").is_some_and(|status| status.contains("\nSeccomp:\t2")) => (
            "a filter of system calls denies it",
            "in a container: --security-opt seccomp=unconfined, or --cap-add SYS_ADMIN",
        ),
        _ => ("something denies it that is not to be seen, a chroot or a security module", "leave that"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_denies_a_user_namespace_is_named_with_what_to_grant() {
        let files = |set: &'static [(&'static str, &'static str)]| {
            move |path: &'static str| {
                set.iter().find(|(name, _)| path.ends_with(name)).map(|f| f.1.to_owned())
            }
        };
        let denied = |code, set| {
            let error = std::io::Error::from_raw_os_error(code);
            no_users(&error, &files(set)).1
        };
        assert!(denied(libc::EPERM, &[("uid_map", "")]).contains("--map-current-user"));
        assert!(denied(libc::EINVAL, &[]).contains("CONFIG_USER_NS"));
        assert_eq!(
            denied(libc::ENOSPC, &[("max_user_namespaces", "0\n")]),
            "sysctl user.max_user_namespaces=10000"
        );
        assert_eq!(denied(libc::ENOSPC, &[]), "sysctl user.max_user_namespaces=10000");
        assert_eq!(
            denied(libc::EPERM, &[("unprivileged_userns_clone", "0\n")]),
            "sysctl kernel.unprivileged_userns_clone=1"
        );
        let restricted = &[("unprivileged_userns_clone", "1\n"), ("restrict_unprivileged_userns", "1\n")];
        assert_eq!(denied(libc::EACCES, restricted), "sysctl kernel.apparmor_restrict_unprivileged_userns=0");
        assert!(denied(libc::EPERM, &[("status", "Name:\tx\nSeccomp:\t2\n")]).contains("seccomp=unconfined"));
        assert_eq!(denied(libc::EPERM, &[("status", "Name:\tx\nSeccomp:\t0\n")]), "leave that");
    }
}
