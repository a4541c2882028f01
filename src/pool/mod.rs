//! Embedded pools: a sparse file, a loop device, and btrfs on it, for machines whose disks are ext4 or XFS.
//!
//! A pool is what its record `<state>/pools/NAME.json` says: the image, and the uuid of the filesystem in it. Everything
//! else (whether it is attached, mounted, how full) is read from the kernel each time.

mod record;
mod registry;

pub use record::Pool;
pub use registry::Registry;
