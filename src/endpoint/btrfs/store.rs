//! One btrfs filesystem: its top level and the `.cowsnap` directory there.
