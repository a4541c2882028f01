//! Sends a version as a container or raw.
