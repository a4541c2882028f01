//! One dataset of a btrfs filesystem: History, Endpoint and Backend.
