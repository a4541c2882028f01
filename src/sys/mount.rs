//! The mount API: detached mounts, attaching, moving beneath, unmounting.
