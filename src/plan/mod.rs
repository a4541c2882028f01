//! Verbs decided: pure functions of model values and `now`.
//!
//! **Invariant:** nothing here reads a clock, opens a file, starts a process or touches the network.

pub mod archive;
pub mod beat;
pub mod common;
pub mod fan;
pub mod health;
pub mod metrics;
pub mod overlay;
pub mod quiesce;
pub mod replicate;
pub mod restore;
pub mod retain;
pub mod schedule;
pub mod trigger;
pub mod verify;
