//! Brings a version back: receives what is missing, clones, mounts.
