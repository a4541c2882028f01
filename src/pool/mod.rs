//! Embedded pools: a sparse file, a loop device, and btrfs on it, for machines whose disks are ext4 or XFS.
//!
//! A pool is what its record `<state>/pools/NAME.json` says: the image, and the uuid of the filesystem in it. Everything
//! else (whether it is attached, mounted, how full) is read from the kernel each time.

mod adopt;
mod adoption;
mod change;
mod check;
mod check_adoptions;
mod create;
mod device;
mod image;
mod mounting;
mod mounts;
mod record;
mod registry;
pub mod size;
mod status;
mod swap;

pub use adopt::{Plan as AdoptPlan, Request as AdoptRequest, adopt, plan as plan_adoption};
pub use adoption::{Adoption, Phase};
pub use change::{check_growth, destroy, grow};
pub use check::check;
pub use create::{New, Step, create, plan, remove_unfinished};
pub use image::MIN_SIZE;
pub use mounting::{mount, unmount};
pub use mounts::User;
pub use record::Pool;
pub use registry::Registry;
pub use status::{Loss, Status, loss, status};
pub use swap::{discard_old, undo};
