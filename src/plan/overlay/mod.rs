//! Overlays decided: which mode, and what may be reaped.

pub mod choose;
pub mod reap;
