//! Overlays through the program: made, reset, destroyed, run, reaped, and killed at every step.

mod below;
mod bytes;
mod calls;
mod containers;
mod copying;
mod denied;
mod faults;
mod full;
mod fuse;
mod json;
mod kept;
mod kernel;
pub mod killed;
pub mod lab;
mod links;
pub mod modes;
pub mod native;
mod neighbours;
mod open;
mod page;
mod programs;
mod reap;
mod run;
mod sigkill;
mod suites;
mod unfit;
mod waiting;
