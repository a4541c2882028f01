//! cowsnap's own copy-on-write filesystem: read-only layers below one that is written to, block by block.
//!
//! ```text
//! adapter   the one place that knows the kernel's requests, and fuser: requests in, answers out
//! serve     the mode: starts the process of an overlay and tells it what to show; probe: whether that can be
//! daemon    the process that serves an overlay's mounts; control: what is said to it over its socket
//! tree      the filesystem without a kernel: look up, list, read attributes; copy_up, change, rename, file, reset are its parts
//! nodes     which node is which file, and under what names it is known
//! stack     what a stack of layers shows of a name
//! source    a file's bytes: whole, or blocks over what lies below; map: which blocks
//! root, io  calls on paths below a directory; whole reads and writes
//! ```
//!
//! **Invariant:** nothing here writes to a lower layer: each is opened for reading only, and what is written to is copied up first.

pub mod adapter;
mod change;
pub mod control;
mod copy_up;
pub mod daemon;
mod file;
pub(super) mod io;
mod list;
pub mod map;
mod nodes;
pub mod probe;
mod rename;
mod reset;
mod root;
pub mod serve;
mod source;
mod spot;
mod stack;
mod tree;

pub use rustix::io::Errno;

pub use change::{Caller, New};
pub use daemon::take_down;
pub use file::Opened;
pub use list::Listed;
pub use stack::Prefix;
pub use tree::{Attr, Changing, Layers, Lower, Options, SetAttr, Time, Tree};

/// What the calls of this module return: an error is the number that the caller of the filesystem gets.
pub type Fallible<T> = std::result::Result<T, Errno>;
