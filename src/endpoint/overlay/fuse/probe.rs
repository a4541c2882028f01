//! Whether a filesystem can be served here, and what to grant if not.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Errno;
use crate::endpoint::overlay::probe::may_not_mount;
use crate::sys::mount;

const DEVICE: &str = "/dev/fuse";

/// Why no FUSE filesystem can be mounted by this process, with what would help; `None` if one can.
pub fn unusable() -> Option<String> {
    if let Err(error) = File::options().read(true).write(true).open(DEVICE) {
        return Some(match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
                format!("there is no {DEVICE} (modprobe fuse; in a container: --device {DEVICE})")
            }
            Some(Errno::PERM) => {
                format!("{DEVICE} may not be opened here (in a container: --device {DEVICE})")
            }
            Some(Errno::ACCESS) if rustix::process::geteuid().is_root() => format!(
                "{DEVICE} may not be opened here: it is mounted nodev, or a security module denies it (mount -o remount,dev)"
            ),
            Some(Errno::ACCESS) => format!("{DEVICE} may not be opened by this user (chmod 666 {DEVICE})"),
            _ => format!("{DEVICE} can not be opened: {error}"),
        });
    }
    match mount::may_mount("fuse") {
        Ok(()) => None,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => {
            Some("the kernel has no FUSE (modprobe fuse)".into())
        }
        Err(error)
            if rustix::process::geteuid().is_root() || Errno::from_io_error(&error) == Some(Errno::NOSYS) =>
        {
            Some(may_not_mount(&error))
        }
        Err(_) => no_helper(),
    }
}

/// Who may not mount has it done by fusermount3, which runs as root.
fn no_helper() -> Option<String> {
    if std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("NoNewPrivs:\t1")) {
        return Some(
            "this process may not mount, and fusermount3 can not for it (no_new_privs is set)".into(),
        );
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/bin"), PathBuf::from("/sbin")]);
    let found = places.map(|dir| dir.join("fusermount3")).find_map(|file| file.metadata().ok());
    match found {
        None => Some("this process may not mount, and there is no fusermount3 (apt install fuse3)".into()),
        // Root may be nobody in this user namespace.
        Some(meta) if meta.uid() != 0 => {
            Some("this process may not mount, and fusermount3 is not root's in the user namespace that it is in".into())
        }
        Some(meta) if meta.permissions().mode() & libc::S_ISUID == 0 => Some(
            "this process may not mount, and fusermount3 does not run as root (chmod u+s $(command -v fusermount3))".into(),
        ),
        Some(_) => nameless(),
    }
}

/// What `getent` answers if it finds nothing.
const NOT_FOUND: i32 = 2;

/// What fusermount3 asks for first: the user's name, wherever the machine has names from.
fn nameless() -> Option<String> {
    let user = rustix::process::getuid().as_raw();
    let mut getent = Command::new("getent");
    getent
        .args(["passwd", &user.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Where that can not be asked, fusermount3 says it itself.
    (getent.status().ok()?.code() == Some(NOT_FOUND)).then(|| {
        format!(
            "this process may not mount, and fusermount3 does so only for a user who has a name: {user} has none (useradd --no-create-home --uid {user} NAME; in a container, in its image)"
        )
    })
}
