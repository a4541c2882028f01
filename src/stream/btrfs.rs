//! The btrfs send stream, one command at a time.
