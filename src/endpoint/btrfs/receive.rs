//! Applies a btrfs send stream below a directory descriptor.
