//! Calls on files and directories: openat2, clone ranges, encoded writes, attributes.
