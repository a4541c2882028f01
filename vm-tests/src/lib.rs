//! Boots a machine that has ZFS, and runs cowsnap's tests in it.
//!
//! The host's side is three values, each made from the one before it: an [`Image`] (a small Debian, built once and kept),
//! a [`Machine`] (what is plugged into it), and a [`Guest`] (one that runs). `src/bin/vm.rs` is the program that
//! `scripts/test --vm` calls, `src/bin/agent.rs` is what answers in the guest, and `tests/power_cut` pulls the plug.
//!
//! ```no_run
//! # fn main() -> vm_tests::Result<()> {
//! use std::{path::Path, time::Duration};
//! use vm_tests::{Image, Machine, Payload, Variant};
//!
//! let payload = Payload::new(Path::new("target/debug/vm-agent"));
//! let mut guest = Machine::new(Image::ready(Variant::Stable)?, payload).boot()?;
//! let done = guest.run("zfs version", Duration::from_secs(60))?;
//! assert_eq!(done.code, 0, "{}", done.text());
//! guest.kill(); // Dropping it does the same.
//! # Ok(())
//! # }
//! ```

pub mod channel;

mod accelerator;
mod error;
mod guest;
mod image;
mod machine;
mod payload;
mod session;
pub mod suite;
mod volatile;

pub use error::{Error, Result};
pub use guest::Guest;
pub use image::{Image, Variant};
pub use machine::{Drive, Machine};
pub use payload::Payload;
pub use session::{Finished, Piece, Running, Session};
pub use volatile::{Cut, Random, SECTOR, VolatileDisk};
