//! Embedded pools: a sparse file, a loop device, btrfs.
