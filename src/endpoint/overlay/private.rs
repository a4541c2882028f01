//! Whether a home is one user's, on one machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::endpoint::{Error, Result};
use crate::model::quoted;

/// That nobody else can put anything into the home: what lies there says what is mounted and destroyed.
///
/// # Errors
/// [`Error::Denied`].
pub(super) fn check_owner(dir: &Path) -> Result<()> {
    let meta = fs::metadata(dir).map_err(Error::io("examine", dir.display()))?;
    let own = rustix::process::geteuid().as_raw();
    let lacking = match (meta.uid(), meta.mode() & 0o022) {
        (uid, 0) if uid == own => return Ok(()),
        (uid, _) if uid != own => {
            format!("it belongs to user {uid}, who could have anything mounted and destroyed")
        }
        _ => "others may write to it, who could have anything mounted and destroyed".into(),
    };
    let hint = match meta.uid() == own {
        true => format!("chmod go-w {}", quoted(dir.display())),
        false => format!("--home DIR of your own; or run it as its user: setpriv --reuid {} …", meta.uid()),
    };
    Err(Error::Denied {
        op: "use overlay home",
        subject: dir.display().to_string(),
        lacking,
        hint: Some(hint),
    })
}

/// The numbers of filesystems that several machines may have mounted (`linux/magic.h`): NFS, SMB, CIFS, SMB2, AFS, Ceph, 9P.
const SHARED: [u32; 7] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x5346_414f, 0x00c3_6400, 0x0102_1997];

/// That locks keep everybody out who could come: processes of this machine.
pub(super) fn check_is_local(dir: &Path) -> Result<()> {
    let found = rustix::fs::statfs(dir).map_err(Error::io("examine", dir.display()))?;
    match is_shared(found.f_type as u32) {
        false => Ok(()),
        true => Err(Error::Denied {
            op: "make overlay home",
            subject: dir.display().to_string(),
            lacking: "it is on a network filesystem: its locks, owners and mounts would be those of one machine alone".into(),
            hint: Some("--home DIR on a disk of this machine: /var/tmp/$USER-overlays, say".into()),
        }),
    }
}

fn is_shared(magic: u32) -> bool {
    SHARED.contains(&magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_on_a_disk_of_this_machine() {
        assert!(is_shared(0x6969) && is_shared(0xff53_4d42));
        for (magic, name) in
            [(0xef53, "ext4"), (0x9123_683e, "btrfs"), (0x5846_5342, "xfs"), (0x0102_1994, "tmpfs")]
        {
            assert!(!is_shared(magic), "{name}");
        }
    }
}
