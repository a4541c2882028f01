//! Overlays decided: which mode, what may be reaped, and which layers stay.

pub mod choose;
pub mod prune;
pub mod reap;
