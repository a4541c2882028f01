//! The page of ZFS, as its reader follows it.

use crate::ground::ground;

/// The pools of the page go with it, whatever becomes of its commands.
struct Pools;

impl Drop for Pools {
    fn drop(&mut self) {
        for pool in ["tank", "vault"] {
            let _ = std::process::Command::new("zpool").args(["destroy", "-f", pool]).output();
        }
    }
}

#[test]
fn what_the_page_of_zfs_shows_is_so() {
    ground!("zfs");
    let _pools = Pools;
    crate::docs::run_page("docs/zfs.md");
}
